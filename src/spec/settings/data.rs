//! Which data set, and where it lies.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A data set and where it lies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSettings {
    /// Which data set.
    pub name: DataName,
    /// Folder of the data set; unused by the phantom. Not part of any key: the content is.
    pub root: PathBuf,
    /// Patients of the phantom (split 70/10/20 %); unused by real data.
    pub patients: usize,
    /// Seed of the phantom, and of the split of M&Ms and of own sets without lists; unused by ACDC.
    pub seed: u64,
    /// Whether patients without labels (of M&Ms and own sets) join the training as unlabelled ones; else they are left out.
    #[serde(default)]
    pub unlabelled: bool,
}

/// The data sets that can be named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataName {
    /// The generated cardiac phantom.
    Phantom,
    /// ACDC, in the SSL4MIS HDF5 form or as downloaded.
    Acdc,
    /// M&Ms as downloaded.
    Mnms,
    /// A folder of NIfTI or HDF5 files with a card, `dataset.yaml`.
    Own,
}

impl DataName {
    /// The name as it stands in sweep files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Phantom => "phantom",
            Self::Acdc => "acdc",
            Self::Mnms => "mnms",
            Self::Own => "own",
        }
    }

    /// Whether the seed decides the split, where no lists do.
    pub const fn draws_split(self) -> bool {
        matches!(self, Self::Mnms | Self::Own)
    }
}
