//! Files of weights that trainings start from. In keys and settings of stages they are named by their content; their path is
//! only what a stage reads them by.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::spec::settings::{Method, Settings};
use crate::spec::{About, Complaint, Sweep};
use crate::store::files::content_of;

/// The setting.
const SETTING: &str = "swin.weights";

/// The content of each file, `blake3:…`, by its path as written.
#[derive(Clone, Debug, Default)]
pub(super) struct Weights(BTreeMap<PathBuf, String>);

impl Weights {
    /// Reads the files that points of `sweep` start from. One that cannot be read is complained of.
    pub(super) fn of(sweep: &Sweep, complaints: &mut Vec<Complaint>) -> Self {
        let mut known = BTreeMap::new();
        for (i, point) in sweep.points.iter().enumerate() {
            let Some(path) = path(&point.settings).filter(|path| !known.contains_key(*path)) else {
                continue;
            };
            let content = content_of(path).unwrap_or_else(|error| {
                let message = format!("`{SETTING}`: cannot read {}: {error}", path.display());
                let help = Some("leave it out to start from scratch".to_owned());
                complaints.push(Complaint {
                    about: About::Point(i, vec![SETTING.to_owned()]),
                    message,
                    help,
                });
                String::new()
            });
            known.insert(path.to_owned(), content);
        }
        Self(known)
    }

    /// The content of the file at `path`; none where no point starts from it.
    pub(super) fn content(&self, path: &Path) -> Option<&str> {
        self.0.get(path).map(String::as_str)
    }

    /// Puts the content in the place of the path; returns the path, absolute.
    pub(super) fn name(&self, settings: &mut Settings) -> Option<PathBuf> {
        let written = &settings.swin.weights;
        let content = self.content(written)?.into();
        let path = std::path::absolute(written).unwrap_or_else(|_| written.clone());
        settings.swin.weights = content;
        Some(path)
    }
}

/// The file that a point starts from.
fn path(settings: &Settings) -> Option<&Path> {
    let path = &settings.swin.weights;
    (settings.method == Method::CrossTeaching && !path.as_os_str().is_empty()).then_some(path)
}
