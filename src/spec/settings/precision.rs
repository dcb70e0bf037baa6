//! How exactly a GPU computes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How exactly a GPU computes convolutions and matrix products. Weights, statistics, losses and everything else are in single
/// precision, and so is all that a processor computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Single precision throughout.
    #[default]
    F32,
    /// Factors are rounded to 10 bits (TensorFloat-32), sums are in single precision.
    Tf32,
    /// Factors are rounded to 7 bits (bfloat16), sums are in single precision.
    Bf16,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
        })
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "f32" => Ok(Self::F32),
            "tf32" => Ok(Self::Tf32),
            "bf16" => Ok(Self::Bf16),
            _ => Err(format!("`{text}` is no precision: write `f32`, `tf32` or `bf16`")),
        }
    }
}
