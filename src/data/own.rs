//! Sets of one's own: NIfTI or HDF5 files in a folder, with a card `dataset.yaml` that says what they are.

mod card;
mod pattern;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

pub(super) use card::Card;
pub(super) use pattern::Pattern;

use super::Split;
use super::acdc::folder_of;
use super::array::Stored;
use super::lists;
use super::source::{Reading, Source, digits, look_at_all};
use super::split::{self, Candidate, few};
use super::table::Table;

/// Version of this reader, part of the content hash.
const READER: u32 = 1;
/// The card's file.
pub(super) const CARD: &str = "dataset.yaml";

/// Finds the data set at `root`.
pub(super) fn open(root: &Path, seed: u64, unlabelled: bool) -> Result<Source> {
    let remedy = format!(
        "set data.root (`--set data.root=DIR`) to a folder with {CARD}; `sweep data card DIR --init` writes one to start from"
    );
    ensure!(!root.as_os_str().is_empty(), "data.root is not set: {remedy}");
    ensure!(root.is_dir(), "data.root is {}, which is no folder: {remedy}", root.display());
    ensure!(root.join(CARD).is_file(), "{} has no {CARD}: {remedy}", root.display());
    let card = Card::read(&root.join(CARD))?;
    let (mut found, mut notes) = (Vec::new(), Vec::new());
    let candidates = candidates(root, &card, &mut found)?;
    let candidates = split::keep(candidates, unlabelled, &mut notes);
    let mut hash = blake3::Hasher::new();
    hash.update(format!("own reader={READER} {}\n", card.deciding()?).as_bytes());
    for Candidate { name, patient, group, .. } in &candidates {
        hash.update(format!("{name}\t{patient}\t{}\n", group.as_deref().unwrap_or_default()).as_bytes());
    }
    let drawn = !root.join(lists::file_name(Split::Train)).is_file();
    let (entries, order) = if drawn {
        split::draw(candidates, card.shares(), seed, &mut hash, &mut found)
    } else {
        if card.has_split() {
            notes.push(format!("`split` of {CARD} is not used: the folder has lists"));
        }
        split::by_lists(root, &candidates, seed, &mut hash, &mut found)
    };
    look_at_all(&entries, &mut hash, &mut found);
    Ok(Source {
        root: root.to_owned(),
        form: "a set of one's own",
        entries,
        order,
        rule: if drawn {
            format!("drawn {} with data.seed {seed}", card.split_text())
        } else {
            format!("the lists in {}", root.display())
        },
        reading: Reading {
            classes: card.classes.clone(),
            codes: card.codes(),
            intensity: card.intensity,
            spacing: card.spacing,
        },
        drawn,
        content: digits(&hash),
        notes,
        problems: found,
    })
}

/// The volumes that the card's patterns find.
fn candidates(root: &Path, card: &Card, found: &mut Vec<String>) -> Result<Vec<Candidate>> {
    let mut matches = card.images.find(root);
    // In one folder, `{patient}.nii.gz` is also the name of `{patient}_gt.nii.gz`: a label is no image.
    let labels: BTreeSet<PathBuf> =
        matches.iter().map(|(captures, _)| root.join(card.labels.fill(captures))).collect();
    matches.retain(|(_, path)| card.images.dataset().is_some() || !labels.contains(path));
    ensure!(
        !matches.is_empty(),
        "no file of {} is named `{}`, as {CARD} has it",
        root.display(),
        card.images.text()
    );
    let groups = groups(root, card)?;
    let mut names = BTreeSet::new();
    let mut candidates = Vec::with_capacity(matches.len());
    let mut without_group = BTreeSet::new();
    for (captures, path) in matches {
        let name = captures.join();
        if !names.insert(name.clone()) {
            found.push(format!(
                "{} is the second volume that would be named {name}: rename it",
                path.display()
            ));
            continue;
        }
        let patient = captures.patient().to_owned();
        let group = groups.as_ref().and_then(|groups| groups.get(&patient).cloned());
        if groups.is_some() && group.is_none() {
            without_group.insert(patient.clone());
        }
        let label = root.join(card.labels.fill(&captures));
        let label = label.is_file().then(|| stored(label, card.labels.dataset()));
        candidates.push(Candidate {
            name,
            patient,
            group,
            image: stored(path, card.images.dataset()),
            label,
        });
    }
    if !without_group.is_empty() {
        found.push(format!(
            "{} patients have no row in the table that the split is balanced by ({})",
            without_group.len(),
            few(without_group.iter())
        ));
    }
    if candidates.iter().all(|candidate| candidate.label.is_none()) {
        found.push(format!("no image has a label named `{}`, as {CARD} has it", card.labels.text()));
    }
    Ok(candidates)
}

fn stored(path: PathBuf, dataset: Option<&str>) -> Stored {
    match dataset {
        Some(dataset) => Stored::hdf5(path, dataset),
        None => Stored::Nifti { path, frame: None },
    }
}

/// What the split is balanced over, by patient.
fn groups(root: &Path, card: &Card) -> Result<Option<BTreeMap<String, String>>> {
    let Some(by) = &card.balance else { return Ok(None) };
    let path = root.join(&by.table);
    let table = Table::read(&path)?;
    let column = |name: &str| table.column(name).with_context(|| path.display().to_string());
    let (patient, group) = (column(&by.patient)?, column(&by.column)?);
    let groups = table.rows().map(|(_, row)| (row.get(patient).to_owned(), row.get(group).to_owned()));
    Ok(Some(groups.collect()))
}

/// Folders that images and labels are often kept in.
const FOLDERS: [(&str, &str); 5] =
    [("images", "labels"), ("imagesTr", "labelsTr"), ("images", "masks"), ("image", "label"), ("img", "seg")];

/// See [`super::survey::first_card`].
pub(super) fn first_card(root: &Path) -> Result<String> {
    let path = root.join(CARD);
    ensure!(!path.exists(), "{} is there already", path.display());
    ensure!(root.is_dir(), "{} is no folder", root.display());
    let folders =
        FOLDERS.iter().find(|(images, labels)| root.join(images).is_dir() && root.join(labels).is_dir());
    let (images, labels) = folders.copied().unwrap_or(("images", "labels"));
    let first = folder_of(&root.join(images)).into_iter().find_map(|(name, _)| {
        [".nii.gz", ".nii", ".h5", ".hdf5"].into_iter().find(|end| name.ends_with(end)).map(|end| (name, end))
    });
    let Some((name, end)) = first else {
        bail!(
            "{} has no folder of images with .nii.gz, .nii or .h5 files and one of labels beside it ({}): put them there",
            root.display(),
            FOLDERS.map(|(images, labels)| format!("{images}/ and {labels}/")).join(", ")
        );
    };
    // The image of one channel of a set in the form of nnU-Net.
    let (place, channel) = match name.strip_suffix(end) {
        Some(stem) if stem.ends_with("_0000") => ("{patient}", "_0000"),
        _ => ("{patient}", ""),
    };
    let is_hdf5 = end.starts_with(".h");
    let dataset = |name: &str| if is_hdf5 { format!("#{name}") } else { String::new() };
    let codes = if is_hdf5 { None } else { codes_of(&root.join(labels)) };
    let found = codes.as_ref().map_or_else(
        || "the codes of the labels, in this order".to_owned(),
        |codes| {
            format!(
                "found in a few labels: {}",
                codes.iter().map(i64::to_string).collect::<Vec<_>>().join(", ")
            )
        },
    );
    let count = codes.as_ref().map_or(2, BTreeSet::len).clamp(2, super::CLASSES);
    let names: Vec<String> = (1..count).map(|class| format!("class{class}")).collect();
    let root = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
    let name: String = root
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' })
        .collect();
    Ok(format!(
        "# What the files of this folder are. `sweep data check` of the folder says what is wrong.\n\
         name: {name}\n\n\
         # The background first, at most {} in all; {found}.\n\
         classes: [background, {}]\n\
         # Where codes are not 0, 1, 2 in the order of the classes, or are put together:\n\
         # codes: {{ 1: {first}, 2: {first} }}\n\n\
         # Volumes, slices along the last axis. All volumes of a patient are in one split; where a patient has several:\n\
         # images: {images}/{{patient}}_{{phase}}{channel}{end}{h5i}\n\
         images: {images}/{place}{channel}{end}{h5i}\n\
         labels: {labels}/{place}{end}{h5l}\n\n\
         # minmax (of each volume), given (in [0, 1] already), {{ percentiles: [1, 99] }} or {{ window: [-160, 240] }}\n\
         intensity: minmax\n\
         # mm between slices, rows and columns, where files do not say (HDF5):\n\
         # spacing: [10, 1.5, 1.5]\n\n\
         # Drawn by data.seed, unless train.list, val.list and test.list lie here; balanced over a column of a table:\n\
         # balance: {{ table: patients.csv, patient: ID, column: Vendor }}\n\
         split: {{ train: 70, val: 10, test: 20 }}\n",
        super::CLASSES,
        names.join(", "),
        first = names[0],
        h5i = dataset("image"),
        h5l = dataset("label"),
    ))
}

/// The codes of the first few labels of a folder.
fn codes_of(folder: &Path) -> Option<BTreeSet<i64>> {
    let mut codes = BTreeSet::from([0]);
    let files = folder_of(folder).into_iter().filter(|(_, path)| pattern::is_nifti(path));
    for (_, path) in files.take(5) {
        let array = super::array::read(&Stored::Nifti { path, frame: None }).ok()?;
        codes.extend(array.values.iter().filter(|value| value.fract() == 0.0).map(|&value| value as i64));
        if codes.len() > 64 {
            return None;
        }
    }
    Some(codes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::nifti::{Header, write_image, write_labels};
    use crate::store::files;

    /// A folder with images and labels beside each other.
    fn folder(card: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let header = Header::new([4, 3, 2, 1], [1.0, 1.0, 5.0]).unwrap();
        for patient in ["a", "b", "c", "d"] {
            let path = |end: &str| dir.path().join(format!("{patient}{end}.nii.gz"));
            let image: Vec<f32> = (0..24).map(|v| v as f32).collect();
            write_image(&path(""), &header, &image).unwrap();
            write_labels(&path("_gt"), &header, &[[0; 12], [1; 12]].concat()).unwrap();
        }
        files::write_atomic(dir.path().join(CARD), card).unwrap();
        dir
    }

    const FLAT: &str = "name: flat\nclasses: [background, thing]\nimages: '{patient}.nii.gz'\nlabels: '{patient}_gt.nii.gz'\n";

    #[test]
    fn labels_beside_their_images_are_no_images() {
        let dir = folder(FLAT);
        let source = open(dir.path(), 0, false).unwrap();
        assert_eq!((source.entries.len(), source.problems.as_slice()), (4, &[][..]));
        let data = source.load(&|_, _| Ok(())).unwrap();
        assert_eq!(data.classes(), ["background", "thing"]);
        assert_eq!(data.cases()[0].spacing, Some([5.0, 1.0, 1.0]));
        assert_eq!((data.image(0)[23], data.label(0)[0], data.label(0)[12]), (1.0, 0, 1));
    }

    #[test]
    fn what_decides_the_content_is_what_is_read() {
        let dir = folder(FLAT);
        let content = |card: &str| {
            files::write_atomic(dir.path().join(CARD), card).unwrap();
            open(dir.path(), 0, false).unwrap().content
        };
        let first = content(FLAT);
        assert_eq!(content(&format!("# a comment\n{FLAT}description: x\n")), first, "words do not matter");
        for other in [
            "intensity: { window: [0, 5] }\n",
            "codes: { 1: 0, 2: 1 }\n",
            "split: { train: 2, val: 1, test: 1 }\n",
        ] {
            assert_ne!(content(&format!("{FLAT}{other}")), first, "{other}");
        }
    }

    #[test]
    fn what_the_card_does_not_fit_is_named() {
        let dir = folder(FLAT);
        let error = |card: &str| {
            files::write_atomic(dir.path().join(CARD), card).unwrap();
            let source = open(dir.path(), 0, false);
            format!("{:#}", source.and_then(|source| source.check()).unwrap_err())
        };
        assert!(
            error(&FLAT.replace("'{patient}.nii", "'im/{patient}.nii"))
                .contains("is named `im/{patient}.nii.gz`")
        );
        assert!(
            error(&FLAT.replace("_gt", "_mask"))
                .contains("no image has a label named `{patient}_mask.nii.gz`")
        );
        let balanced = format!("{FLAT}split: {{ balance: {{ table: t.csv, patient: ID, column: V }} }}\n");
        assert!(error(&balanced).contains("t.csv"));
        files::write_atomic(dir.path().join("t.csv"), "ID,V\na,x\nb,y\n").unwrap();
        assert!(
            error(&balanced)
                .contains("2 patients have no row in the table that the split is balanced by (c, d)")
        );
        let codes = format!("{FLAT}codes: {{ 7: thing }}\n");
        files::write_atomic(dir.path().join(CARD), &codes).unwrap();
        let error = open(dir.path(), 0, false).unwrap().load(&|_, _| Ok(())).unwrap_err().to_string();
        assert!(
            error.contains("a_gt.nii.gz has the label 1 at slice 2") && error.contains("labels are 0, 7"),
            "{error}"
        );
    }
}
