//! How many networks each method has, beside the feature stream of MCSD.

use crate::spec::settings::{Method, Settings};

/// Networks of a method, in U-Nets; another network (a decoder, a Swin-Unet at its default width) counts by its
/// parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Networks {
    /// Those that learn.
    pub(super) learning: f64,
    /// Those in the result's file: teachers beside.
    pub(super) stored: f64,
}

impl Networks {
    /// Those of the method of `settings`.
    pub(super) fn of(settings: &Settings) -> Self {
        let of = |learning, stored| Self { learning, stored };
        match settings.method {
            Method::Supervised | Method::Unimatch | Method::Mcsd => of(1.0, 1.0),
            Method::MeanTeacher | Method::UaMt | Method::Bcp => of(1.0, 2.0),
            Method::Urpc => of(1.01, 1.01),
            Method::Cps => of(2.0, 2.0),
            Method::CrossTeaching => {
                let swin = 15.0 * (settings.swin.channels as f64 / 96.0).powi(2);
                of(1.0 + swin, 1.0 + swin)
            }
            Method::McNet => of(1.42, 1.42),
            Method::McNetPlus => of(1.77, 1.77),
            Method::ScSsl => of(3.0, 3.0),
        }
    }
}
