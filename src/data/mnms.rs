//! M&Ms as downloaded: `OpenDataset/{Training/{Labeled,Unlabeled},Validation,Testing}/CODE/CODE_sa.nii.gz` with
//! `CODE_sa_gt.nii.gz`, all 4-D, and a CSV with vendor and the time points of end-diastole and end-systole.
//!
//! Columns of the CSV are found by name. Time points count from 0. Labels are 1 LV, 2 Myo, 3 RV and become those of ACDC.
//! Voxels stay where they lie in the file, whatever its direction cosines say: nothing here needs them. The official parts
//! are one pool, as in the paper: the split is that of lists in the folder, or drawn, balanced over vendors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use super::Split;
use super::acdc::{FRAMES, folder_of};
use super::array::Stored;
use super::lists;
use super::nifti;
use super::source::{Reading, Source, digits, look_at_all};
use super::split::{self, Candidate, Shares, few};
use super::table::Table;
use super::voxels::{Codes, Intensity};

/// Version of this reader, part of the content hash.
const READER: u32 = 1;
/// Folders below the root that are looked through.
const DEPTH: usize = 5;
/// Training, validation, test, as in the paper: 224, 64 and 32 of 320 patients.
const SHARES: Shares = Shares([7.0, 2.0, 1.0]);
/// The classes of the codes 1 LV, 2 Myo, 3 RV.
const CODES: [(i64, u8); 3] = [(1, 3), (2, 2), (3, 1)];

/// A patient of the CSV.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    vendor: String,
    /// End-diastole and end-systole, from 0; nothing where there are no labels.
    phases: Option<[usize; 2]>,
}

/// The files of a patient.
#[derive(Debug, Default)]
struct Files {
    image: Option<PathBuf>,
    label: Option<PathBuf>,
    /// In a folder `Unlabeled`, whose masks are empty.
    unlabelled: bool,
}

/// Finds the data set at `root`.
pub(super) fn open(root: &Path, seed: u64, unlabelled: bool) -> Result<Source> {
    let remedy = "set data.root (`--set data.root=DIR`) to the folder of M&Ms as downloaded, which holds OpenDataset/ and \
                  the CSV";
    ensure!(!root.as_os_str().is_empty(), "data.root is not set: {remedy}");
    ensure!(root.is_dir(), "data.root is {}, which is no folder: {remedy}", root.display());
    let mut walk = Walk::default();
    walk.folder(root, 0, false);
    ensure!(
        !walk.patients.is_empty(),
        "{} has no file CODE_sa.nii.gz in any folder: {remedy}",
        root.display()
    );
    let (csv, known) = information(&walk.tables, root)?;
    let mut notes = walk.notes;
    let mut found = Vec::new();
    let mut candidates = Vec::new();
    let mut unknown = Vec::new();
    for (code, files) in &walk.patients {
        let without = Known { vendor: String::new(), phases: None };
        match known.get(code).or(files.unlabelled.then_some(&without)) {
            Some(known) => match volumes_of(code, files, known, &mut notes) {
                Ok(volumes) => candidates.extend(volumes),
                Err(error) => found.push(format!("{error:#}")),
            },
            None => unknown.push(code.clone()),
        }
    }
    if !unknown.is_empty() {
        found.push(format!(
            "{} of {} patients have no row in {} ({}): use the CSV that came with the images",
            unknown.len(),
            walk.patients.len(),
            csv.display(),
            few(unknown.iter())
        ));
    }
    let absent: Vec<String> =
        known.keys().filter(|code| !walk.patients.contains_key(*code)).cloned().collect();
    if !absent.is_empty() {
        notes.push(format!("{} rows of the CSV have no images here ({})", absent.len(), few(absent.iter())));
    }
    let candidates = split::keep(candidates, unlabelled, &mut notes);
    let mut hash = blake3::Hasher::new();
    hash.update(format!("mnms reader={READER}").as_bytes());
    for Candidate { name, image, .. } in &candidates {
        let Stored::Nifti { frame, .. } = image else { continue };
        hash.update(format!("{name} {frame:?}\n").as_bytes());
    }
    let drawn = !root.join(lists::file_name(Split::Train)).is_file();
    let (entries, order) = if drawn {
        split::draw(candidates, SHARES, seed, &mut hash, &mut found)
    } else {
        split::by_lists(root, &candidates, seed, &mut hash, &mut found)
    };
    look_at_all(&entries, &mut hash, &mut found);
    Ok(Source {
        root: root.to_owned(),
        form: "M&Ms as downloaded",
        entries,
        order,
        reading: Reading { codes: Codes::new(CODES), ..Reading::cardiac(Intensity::MinMax) },
        rule: if drawn {
            format!("drawn 7:2:1 with data.seed {seed}, balanced over vendors")
        } else {
            format!("the lists in {}", root.display())
        },
        drawn,
        content: digits(&hash),
        notes,
        problems: found,
    })
}

/// What a walk through the folders found.
#[derive(Default)]
struct Walk {
    patients: BTreeMap<String, Files>,
    tables: Vec<PathBuf>,
    notes: Vec<String>,
}

impl Walk {
    fn folder(&mut self, folder: &Path, depth: usize, unlabelled: bool) {
        for (name, path) in folder_of(folder) {
            let lower = name.to_ascii_lowercase();
            // A link could lead anywhere, and around in circles.
            if path.is_dir() && depth < DEPTH && !path.is_symlink() {
                let unlabelled = unlabelled || matches!(lower.as_str(), "unlabeled" | "unlabelled");
                self.folder(&path, depth + 1, unlabelled);
            } else if path.extension().is_some_and(|end| end.eq_ignore_ascii_case("csv")) {
                self.tables.push(path);
            } else if let Some((code, is_label)) = code_of(&name) {
                self.file(code.to_owned(), is_label, path, unlabelled);
            }
        }
    }

    fn file(&mut self, code: String, is_label: bool, path: PathBuf, unlabelled: bool) {
        let files = self.patients.entry(code).or_default();
        files.unlabelled |= unlabelled && !is_label;
        // The empty masks of unlabelled patients are none.
        if is_label && unlabelled {
            return;
        }
        let place = if is_label { &mut files.label } else { &mut files.image };
        match place {
            None => *place = Some(path),
            Some(first) => self.notes.push(format!(
                "{} is not used, because {} was found first",
                path.display(),
                first.display()
            )),
        }
    }
}

/// The patient of `CODE_sa.nii.gz` and `CODE_sa_gt.nii.gz`, and whether it is the mask.
fn code_of(name: &str) -> Option<(&str, bool)> {
    let stem = name.strip_suffix(".gz").unwrap_or(name).strip_suffix(".nii")?;
    let (code, is_label) = match stem.strip_suffix("_gt") {
        Some(stem) => (stem.strip_suffix("_sa")?, true),
        None => (stem.strip_suffix("_sa")?, false),
    };
    (!code.is_empty() && lists::no_name(code).is_none()).then_some((code, is_label))
}

/// The CSV among `tables` that has the columns, and its patients.
fn information(tables: &[PathBuf], root: &Path) -> Result<(PathBuf, BTreeMap<String, Known>)> {
    let mut reasons = Vec::new();
    for path in tables {
        let table = match Table::read(path) {
            Ok(table) => table,
            Err(error) => {
                reasons.push(format!("  {error:#}"));
                continue;
            }
        };
        match table.column("External code") {
            Ok(_) => {
                let known = patients_of(&table).with_context(|| path.display().to_string())?;
                return Ok((path.clone(), known));
            }
            Err(error) => reasons.push(format!("  {}: {error}", path.display())),
        }
    }
    bail!(
        "{} has no CSV with the columns External code, Vendor, ED and ES, which tells the time points: it is called \
         211230_M&Ms_Dataset_information_diagnosis_opendataset.csv{}{}",
        root.display(),
        if reasons.is_empty() { "" } else { "\n" },
        reasons.join("\n")
    )
}

/// The patients of the CSV.
fn patients_of(table: &Table) -> Result<BTreeMap<String, Known>> {
    let [code, vendor, diastole, systole] =
        ["External code", "Vendor", "ED", "ES"].map(|name| table.column(name));
    let (code, vendor, diastole, systole) = (code?, vendor?, diastole?, systole?);
    let mut patients = BTreeMap::new();
    for (line, row) in table.rows() {
        let time = |column: usize, name: &str| {
            // Some versions have them as `9.0`; empty where there are no labels.
            let text = row.get(column);
            let text = text.strip_suffix(".0").unwrap_or(text);
            if text.is_empty() {
                return Ok(None);
            }
            let shown: String = text.chars().take(40).collect();
            let number = text.parse::<usize>().ok().filter(|&t| t < 100_000);
            number
                .map(Some)
                .with_context(|| format!("line {line}: {name} is `{shown}`, which is no time point from 0"))
        };
        let (ed, es) = (time(diastole, "ED")?, time(systole, "ES")?);
        // Both the same: the row of a patient without labels.
        let phases = ed.zip(es).filter(|(ed, es)| ed != es).map(|(ed, es)| [ed, es]);
        let name = row.get(code);
        ensure!(!name.is_empty(), "line {line} has no External code");
        let known = Known { vendor: row.get(vendor).to_owned(), phases };
        let twice = patients.insert(name.to_owned(), known);
        ensure!(twice.is_none(), "line {line}: {name} has a row already");
    }
    Ok(patients)
}

/// End-diastole and end-systole of a patient; of one without labels the first time point and the one a third of the cycle
/// later, about the end of systole.
fn volumes_of(code: &str, files: &Files, known: &Known, notes: &mut Vec<String>) -> Result<[Candidate; 2]> {
    let image = files.image.as_ref().with_context(|| {
        let mask = files.label.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        format!("{mask} is a mask without an image {code}_sa.nii.gz: fetch the patient again")
    })?;
    let header = nifti::read_header(image)?;
    let times = header.dims()[3];
    let label = files.label.as_ref().filter(|_| !files.unlabelled && known.phases.is_some());
    let phases = match known.phases {
        Some(phases) => phases,
        None if times > 1 => [0, (times / 3).max(1)],
        None => bail!("{} has one time point, and no labels: remove the patient", image.display()),
    };
    if let Some(beyond) = phases.iter().find(|&&t| t >= times) {
        bail!(
            "{} has the time points 0 to {}, but the CSV says {beyond}: use the CSV that came with the images",
            image.display(),
            times - 1
        );
    }
    if let Some(label) = label
        && label.parent() != image.parent()
    {
        notes.push(format!("{code}: its mask was found in another folder, {}", label.display()));
    }
    if label.is_none() && !files.unlabelled {
        notes.push(match known.phases {
            Some(_) => format!("{code}: its mask {code}_sa_gt.nii.gz is absent"),
            None => format!("{code}: ED and ES are the same in the CSV, which means that it has no labels"),
        });
    }
    let stored =
        |path: &PathBuf, phase: usize| Stored::Nifti { path: path.clone(), frame: Some(phases[phase]) };
    let volume = |phase: usize| Candidate {
        name: format!("{code}_{}", FRAMES[phase]),
        patient: code.to_owned(),
        group: (!known.vendor.is_empty()).then(|| known.vendor.clone()),
        image: stored(image, phase),
        label: label.map(|path| stored(path, phase)),
    };
    Ok([volume(0), volume(1)])
}

/// Whether a text is the CSV, for the tests with damaged ones.
#[cfg(test)]
pub(super) fn accepts_table(text: &str) -> bool {
    Table::parse(text).and_then(|table| patients_of(&table)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read_off_file_names() {
        assert_eq!(code_of("A0S9V9_sa.nii.gz"), Some(("A0S9V9", false)));
        assert_eq!(code_of("A0S9V9_sa_gt.nii"), Some(("A0S9V9", true)));
        for other in ["A0S9V9_4d.nii.gz", "_sa.nii.gz", "x_sa.txt", ".x_sa.nii"] {
            assert_eq!(code_of(other), None, "{other}");
        }
    }

    #[test]
    fn the_csv_is_read_by_column_name() {
        let read = |text: &str| patients_of(&Table::parse(text).unwrap());
        let full = ",External code,VendorName,Vendor,Centre,ED,ES,Age\n0,A0S9V9,Siemens,A,1,0,9,51\n1,Z,GE,C,4,0,0,\n";
        let short = "ES,ED,External code,Vendor,Centre\n9.0,0,A0S9V9,A,1\n,,Z,C,4\n";
        for text in [full, short] {
            let patients = read(text).unwrap();
            let expected = Known { vendor: "A".into(), phases: Some([0, 9]) };
            assert_eq!(patients["A0S9V9"], expected, "{text}");
            assert_eq!(patients["Z"].phases, None, "equal or absent time points: no labels");
        }
        for (text, part) in [
            ("External code,Vendor,ED\n", "no column `ES`"),
            ("External code,Vendor,ED,ES\nA,A,x,1\n", "line 2: ED is `x`"),
            ("External code,Vendor,ED,ES\n,A,0,1\n", "line 2 has no External code"),
            ("External code,Vendor,ED,ES\nA,A,0,1\nA,A,0,1\n", "line 3: A has a row already"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
