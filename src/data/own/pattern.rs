//! File names with places: `images/{patient}_{phase}.nii.gz`, and `volumes/{patient}.h5#image` for a dataset of an HDF5
//! file.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};

use crate::data::acdc::folder_of;
use crate::data::lists;

/// The place that every pattern has.
const PATIENT: &str = "patient";
/// Places of one pattern; each makes matching slower.
const MOST_PLACES: usize = 6;

/// A pattern of file names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::data) struct Pattern {
    text: String,
    /// Folders, then the file.
    parts: Vec<Vec<Piece>>,
    dataset: Option<String>,
}

/// A piece of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Place(String),
}

/// What stood at the places of a name, in the order of the pattern.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::data) struct Captures(Vec<(String, String)>);

impl Captures {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The patient.
    pub(in crate::data) fn patient(&self) -> &str {
        self.get(PATIENT).unwrap_or_default()
    }

    /// The name of the volume: everything joined.
    pub(in crate::data) fn join(&self) -> String {
        self.0.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>().join("_")
    }
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// A text that is none: names what is wrong with it.
    pub(in crate::data) fn parse(text: &str) -> Result<Self> {
        let (path, dataset) = match text.split_once('#') {
            Some((path, dataset)) => (path, Some(dataset.to_owned())),
            None => (text, None),
        };
        ensure!(
            !path.starts_with('/') && !path.contains('\\'),
            "it must be relative to the folder of the card"
        );
        let mut parts = Vec::new();
        let mut names = Vec::new();
        for part in path.split('/') {
            ensure!(
                !part.is_empty() && !part.starts_with('.'),
                "`{part}` leads out of the folder, or is hidden"
            );
            parts.push(pieces(part, &mut names)?);
        }
        ensure!(
            names.iter().any(|name| name == PATIENT),
            "it has no `{{patient}}`, which tells patients apart"
        );
        ensure!(names.len() <= MOST_PLACES, "it has more than {MOST_PLACES} places");
        let is_hdf5 = is_hdf5(Path::new(path));
        match &dataset {
            None if is_hdf5 => bail!("it names no dataset of the HDF5 file: write `{text}#image`"),
            Some(name) if !is_hdf5 => bail!("only HDF5 files (.h5) have a dataset `{name}`"),
            None if !is_nifti(Path::new(path)) => {
                bail!("files end in .nii, .nii.gz, .h5 or .hdf5");
            }
            _ => {}
        }
        Ok(Self { text: text.to_owned(), parts, dataset })
    }

    /// As it was written.
    pub(in crate::data) fn text(&self) -> &str {
        &self.text
    }

    /// The dataset of an HDF5 file.
    pub(in crate::data) fn dataset(&self) -> Option<&str> {
        self.dataset.as_deref()
    }

    /// The names of the places.
    pub(super) fn places(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().flatten().filter_map(|piece| match piece {
            Piece::Place(name) => Some(name.as_str()),
            Piece::Text(_) => None,
        })
    }

    /// The files below `root` with such names, sorted.
    pub(in crate::data) fn find(&self, root: &Path) -> Vec<(Captures, PathBuf)> {
        let mut found = vec![(Captures::default(), root.to_owned())];
        for (at, part) in self.parts.iter().enumerate() {
            let is_file = at + 1 == self.parts.len();
            let mut next = Vec::new();
            for (captures, folder) in found {
                for (name, path) in folder_of(&folder) {
                    let fits = if is_file { path.is_file() } else { path.is_dir() };
                    if !fits || lists::no_name(&name).is_some() {
                        continue;
                    }
                    let mut captures = captures.clone();
                    if capture(part, &name, &mut captures) {
                        next.push((captures, path));
                    }
                }
            }
            found = next;
        }
        found
    }

    /// The name with these values at its places.
    pub(in crate::data) fn fill(&self, captures: &Captures) -> PathBuf {
        let part = |pieces: &Vec<Piece>| -> String {
            let piece = |piece: &Piece| match piece {
                Piece::Text(text) => text.clone(),
                Piece::Place(name) => captures.get(name).unwrap_or_default().to_owned(),
            };
            pieces.iter().map(piece).collect()
        };
        self.parts.iter().map(part).collect()
    }
}

/// Whether a file is called as HDF5 files are.
pub(super) fn is_hdf5(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "h5" || end == "hdf5")
}

/// Whether a file is called as NIfTI files are, compressed or not.
pub(super) fn is_nifti(path: &Path) -> bool {
    let is_nii = |path: &Path| path.extension().is_some_and(|end| end == "nii");
    is_nii(path)
        || path.extension().is_some_and(|end| end == "gz")
            && path.file_stem().is_some_and(|stem| is_nii(Path::new(stem)))
}

/// The pieces of one part of a path; its places go to `names`.
fn pieces(part: &str, names: &mut Vec<String>) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut rest = part;
    while let Some(start) = rest.find('{') {
        let (text, from) = rest.split_at(start);
        let Some(end) = from.find('}') else { bail!("`{{` without `}}` in `{part}`") };
        let name = &from[1..end];
        let is_word = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        ensure!(is_word, "`{{{name}}}` is no place: write a word, such as `{{patient}}`");
        if !text.is_empty() {
            pieces.push(Piece::Text(text.to_owned()));
        }
        ensure!(
            !matches!(pieces.last(), Some(Piece::Place(_))),
            "nothing stands between two places in `{part}`: where would one end?"
        );
        pieces.push(Piece::Place(name.to_owned()));
        names.push(name.to_owned());
        rest = &from[end + 1..];
    }
    ensure!(!rest.contains('}'), "`}}` without `{{` in `{part}`");
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    Ok(pieces)
}

/// Whether `name` fits; where it does, what stood at the places is in `captures`. A place takes as much as it can, and at
/// least one character.
fn capture(pieces: &[Piece], name: &str, captures: &mut Captures) -> bool {
    match pieces {
        [] => name.is_empty(),
        [Piece::Text(text), rest @ ..] => {
            name.strip_prefix(text.as_str()).is_some_and(|name| capture(rest, name, captures))
        }
        [Piece::Place(place), rest @ ..] => {
            if let Some(known) = captures.get(place).map(str::to_owned) {
                return name.strip_prefix(&known).is_some_and(|name| capture(rest, name, captures));
            }
            let ends = name.char_indices().map(|(at, c)| at + c.len_utf8()).rev();
            // A value that begins with a point could be `..`, and stand alone in another pattern.
            for end in ends.filter(|_| !name.starts_with('.')) {
                captures.0.push((place.clone(), name[..end].to_owned()));
                if capture(rest, &name[end..], captures) {
                    return true;
                }
                captures.0.pop();
            }
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured(pattern: &str, name: &str) -> Option<Vec<String>> {
        let pattern = Pattern::parse(pattern).unwrap();
        let mut captures = Captures::default();
        let fits = capture(&pattern.parts[0], name, &mut captures);
        fits.then(|| captures.0.into_iter().map(|(_, value)| value).collect())
    }

    #[test]
    fn places_take_as_much_as_they_can() {
        assert_eq!(captured("{patient}_{phase}.nii.gz", "p_01_ED.nii.gz").unwrap(), ["p_01", "ED"]);
        assert_eq!(captured("{patient}.nii", "äö.nii").unwrap(), ["äö"]);
        assert_eq!(captured("a{patient}_{patient}.nii", "a7_7.nii").unwrap(), ["7"]);
        for (pattern, name) in [
            ("{patient}_{phase}.nii.gz", "_ED.nii.gz"),
            ("{patient}.nii", "x.nii.gz"),
            ("a{patient}_{patient}.nii", "a7_8.nii"),
            ("a{patient}.nii", "a...nii"),
        ] {
            assert_eq!(captured(pattern, name), None, "{pattern} {name}");
        }
    }

    #[test]
    fn what_is_no_pattern_says_why() {
        for (text, part) in [
            ("/data/{patient}.nii", "relative"),
            ("../{patient}.nii", "leads out"),
            ("a/../{patient}.nii", "leads out"),
            ("images/x.nii", "no `{patient}`"),
            ("{patient}{phase}.nii", "where would one end"),
            ("{patient", "without `}`"),
            ("{patient}}.nii", "without `{`"),
            ("{pat ient}.nii", "no place"),
            ("{patient}.png", "files end in"),
            ("{patient}.h5", "names no dataset"),
            ("{patient}.nii#image", "only HDF5"),
        ] {
            let error = Pattern::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_filled_pattern_is_the_name_that_it_was_read_off() {
        let images = Pattern::parse("img/{patient}/{phase}.nii.gz").unwrap();
        let labels = Pattern::parse("lab/{phase}-{patient}.nii.gz").unwrap();
        let captures = Captures(vec![("patient".into(), "p1".into()), ("phase".into(), "ED".into())]);
        assert_eq!(images.fill(&captures), Path::new("img/p1/ED.nii.gz"));
        assert_eq!(labels.fill(&captures), Path::new("lab/ED-p1.nii.gz"));
        assert_eq!((captures.patient(), captures.join()), ("p1", "p1_ED".to_owned()));
    }
}
