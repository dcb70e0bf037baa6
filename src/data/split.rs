//! Who is trained on, who chooses the network, who is reported: by the lists of a folder, or drawn from a seed.
//!
//! A patient never crosses splits. The labelled sets are prefixes of the training patients, so they are nested; a drawn
//! split is balanced over groups (vendors), and so is each prefix of its training patients.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rand::seq::SliceRandom as _;

use super::Split;
use super::array::Stored;
use super::lists::{self, Listed};
use super::source::{Entry, Order};
use crate::rng::stream;

/// A volume that may be used.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) name: String,
    pub(super) patient: String,
    pub(super) group: Option<String>,
    pub(super) image: Stored,
    pub(super) label: Option<Stored>,
}

impl Candidate {
    /// The volume in its split.
    pub(super) fn into_entry(self, split: Split) -> Entry {
        let Self { name, patient, group, image, label } = self;
        Entry { name, patient, split, image, label, group }
    }
}

/// Parts of training, validation and test, in any unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Shares(pub(super) [f64; 3]);

/// Leaves out volumes without labels, unless they are wanted: then they stay where no other volume of their patient has
/// a label.
pub(super) fn keep(candidates: Vec<Candidate>, unlabelled: bool, notes: &mut Vec<String>) -> Vec<Candidate> {
    let labelled: BTreeSet<String> =
        candidates.iter().filter(|c| c.label.is_some()).map(|c| c.patient.clone()).collect();
    let (mut without, mut mixed) = (BTreeSet::new(), Vec::new());
    let kept = candidates
        .into_iter()
        .filter(|candidate| {
            if candidate.label.is_some() {
                return true;
            }
            let is_mixed = labelled.contains(&candidate.patient);
            if is_mixed {
                mixed.push(candidate.name.clone());
            } else {
                without.insert(candidate.patient.clone());
            }
            unlabelled && !is_mixed
        })
        .collect();
    if !mixed.is_empty() {
        notes.push(format!(
            "{} volumes without a label are left out, because other volumes of their patients have one ({})",
            mixed.len(),
            few(mixed.iter())
        ));
    }
    if unlabelled && without.is_empty() {
        notes.push("data.unlabelled is true, but every patient has labels".into());
    }
    if !without.is_empty() {
        notes.push(format!(
            "{} patients have no labels ({}): {}",
            without.len(),
            few(without.iter()),
            if unlabelled {
                "they are trained on as unlabelled ones"
            } else {
                "they are left out; `data.unlabelled: true` trains on them, too"
            }
        ));
    }
    kept
}

/// The first few of many names.
pub(super) fn few<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let names: Vec<&str> = names.map(String::as_str).collect();
    let shown = names[..names.len().min(5)].join(", ");
    if names.len() > 5 { format!("{shown}, …") } else { shown }
}

/// The splits that the lists in `root` name; an entry is a volume, or a patient for all of its volumes. Without a list of
/// training slices these are shuffled by the seed.
pub(super) fn by_lists(
    root: &Path,
    candidates: &[Candidate],
    seed: u64,
    hash: &mut blake3::Hasher,
    found: &mut Vec<String>,
) -> (Vec<Entry>, Order) {
    let mut names: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, candidate) in candidates.iter().enumerate() {
        names.entry(candidate.name.clone()).or_default().push(at);
        if candidate.patient != candidate.name {
            names.entry(candidate.patient.clone()).or_default().push(at);
        }
    }
    let mut listed = Vec::new();
    let mut indices = Vec::new();
    for split in Split::ALL {
        let path = root.join(lists::file_name(split));
        let before = found.len();
        let entries = lists::read(&path, hash, found);
        if entries.is_empty() && found.len() == before {
            found.push(format!(
                "{} is empty: it names the volumes of the {} split",
                path.display(),
                split.name()
            ));
        }
        for (line, name) in entries {
            let Some(volumes) = names.get(&name) else {
                found.push(format!(
                    "{}:{line}: there is no volume or patient `{name}` in {}: correct the line or remove it",
                    path.display(),
                    root.display()
                ));
                continue;
            };
            for &at in volumes {
                let Candidate { name, patient, label, .. } = &candidates[at];
                if label.is_none() && split != Split::Train {
                    found.push(format!(
                        "{}:{line}: {name} has no label: only training volumes can do without",
                        path.display()
                    ));
                }
                listed.push(Listed { name: name.clone(), patient: patient.clone(), split });
                indices.push(at);
            }
        }
    }
    lists::check_patients(root, &listed, found);
    let slices = root.join(lists::SLICES);
    let mut entries: Vec<Entry> = listed
        .iter()
        .zip(&indices)
        .map(|(listed, &at)| candidates[at].clone().into_entry(listed.split))
        .collect();
    let order = if slices.is_file() {
        let order = lists::read_slices(&slices, &listed, hash, found);
        check_prefix(&order, &entries, found);
        order
    } else {
        hash.update(&seed.to_le_bytes());
        unlabelled_last(&mut entries);
        Order::Shuffled(seed)
    };
    (entries, order)
}

/// Labelled sets are prefixes: nobody without labels may stand before somebody with.
fn check_prefix(order: &Order, entries: &[Entry], found: &mut Vec<String>) {
    let Order::Listed { slices, place, .. } = order else { return };
    let mut without = None;
    for &(entry, _, line) in slices {
        let Entry { name, label, .. } = &entries[entry];
        match (&without, label) {
            (None, None) => without = Some(name),
            (Some(first), Some(_)) => {
                found.push(format!(
                    "{place}:{line}: {name} has labels and stands behind {first}, which has none: labelled sets are \
                     prefixes, so unlabelled patients come last"
                ));
                return;
            }
            _ => {}
        }
    }
}

/// Within the training split, labelled entries first.
fn unlabelled_last(entries: &mut [Entry]) {
    entries.sort_by_key(|entry| (entry.split, entry.label.is_none()));
}

/// Draws the split of `candidates` from `seed`: shares of the labelled patients, balanced over groups; who has no labels
/// is trained on, last.
pub(super) fn draw(
    candidates: Vec<Candidate>,
    shares: Shares,
    seed: u64,
    hash: &mut blake3::Hasher,
    found: &mut Vec<String>,
) -> (Vec<Entry>, Order) {
    let mut groups: BTreeMap<Option<&str>, BTreeSet<&str>> = BTreeMap::new();
    let mut without = BTreeSet::new();
    for Candidate { patient, group, label, .. } in &candidates {
        if label.is_some() {
            groups.entry(group.as_deref()).or_default().insert(patient);
        } else {
            without.insert(patient.as_str());
        }
    }
    let total: usize = groups.values().map(BTreeSet::len).sum();
    if total < 3 {
        found.push(format!(
            "{total} patients with labels are too few to be split into training, validation and test"
        ));
    }
    let mut order: Vec<(Split, String)> = place(&groups, shares, seed)
        .into_iter()
        .map(|(split, patient)| (split, patient.to_owned()))
        .collect();
    order.extend(without.into_iter().map(|patient| (Split::Train, patient.to_owned())));
    order.sort_by_key(|(split, _)| *split);
    let mut of: BTreeMap<String, Vec<Candidate>> = BTreeMap::new();
    for candidate in candidates {
        of.entry(candidate.patient.clone()).or_default().push(candidate);
    }
    let mut entries = Vec::new();
    hash.update(&seed.to_le_bytes());
    for (split, patient) in order {
        hash.update(format!("{} {patient}\n", split.name()).as_bytes());
        let mut volumes = of.remove(&patient).unwrap_or_default();
        volumes.sort_by(|a, b| a.name.cmp(&b.name));
        entries.extend(volumes.into_iter().map(|volume| volume.into_entry(split)));
    }
    unlabelled_last(&mut entries);
    (entries, Order::Shuffled(seed))
}

/// The split of each labelled patient, training patients in the order of the labelled prefixes.
fn place<'a>(
    groups: &BTreeMap<Option<&'a str>, BTreeSet<&'a str>>,
    shares: Shares,
    seed: u64,
) -> Vec<(Split, &'a str)> {
    let mut shuffled: Vec<Vec<&str>> = groups
        .iter()
        .map(|(group, patients)| {
            let mut patients: Vec<&str> = patients.iter().copied().collect();
            patients.shuffle(&mut stream(seed, &format!("split {}", group.unwrap_or_default()), 0));
            patients
        })
        .collect();
    let sizes: Vec<usize> = shuffled.iter().map(Vec::len).collect();
    let total: usize = sizes.iter().sum();
    let [_, val, test] = counts(total, shares);
    let mut placed = Vec::with_capacity(total);
    // The end of each group's row, so that the prefix of the training patients is what the shuffle began with.
    for (split, wanted) in [(Split::Test, test), (Split::Val, val)] {
        let left: Vec<usize> = shuffled.iter().map(Vec::len).collect();
        for (group, take) in apportion(wanted, &left).into_iter().enumerate() {
            let keep = shuffled[group].len() - take;
            placed.extend(shuffled[group].split_off(keep).into_iter().map(|patient| (split, patient)));
        }
    }
    // Evenly spread: the i-th of n stands at (i + ½)/n, so that every prefix has its share of each group.
    let mut train: Vec<(f64, usize, &str)> = Vec::new();
    for (group, patients) in shuffled.iter().enumerate() {
        let n = patients.len() as f64;
        train.extend(patients.iter().enumerate().map(|(i, patient)| ((i as f64 + 0.5) / n, group, *patient)));
    }
    train.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    train.into_iter().map(|(_, _, patient)| (Split::Train, patient)).chain(placed).collect()
}

/// Patients of each split: the nearest whole numbers, none empty where there are three or more.
fn counts(total: usize, Shares(shares): Shares) -> [usize; 3] {
    let sum: f64 = shares.iter().sum();
    let part = |share: f64| ((total as f64 * share / sum).round() as usize).max(1);
    let test = part(shares[2]).min(total.saturating_sub(2));
    let val = part(shares[1]).min(total.saturating_sub(1 + test));
    [total - val - test, val, test]
}

/// `wanted` places over groups of these sizes by largest remainders: whole parts first, then the groups whose parts were
/// cut most, the larger and then the earlier of equals.
fn apportion(wanted: usize, sizes: &[usize]) -> Vec<usize> {
    let total: usize = sizes.iter().sum();
    if total == 0 {
        return vec![0; sizes.len()];
    }
    let wanted = wanted.min(total);
    let mut taken: Vec<usize> = sizes.iter().map(|&size| wanted * size / total).collect();
    let mut rest: Vec<usize> = (0..sizes.len()).collect();
    // Remainders are compared as whole numbers.
    rest.sort_by_key(|&group| {
        (std::cmp::Reverse((wanted * sizes[group]) % total), std::cmp::Reverse(sizes[group]), group)
    });
    let mut missing = wanted - taken.iter().sum::<usize>();
    for &group in rest.iter().cycle().take(2 * sizes.len()) {
        if missing > 0 && taken[group] < sizes[group] {
            taken[group] += 1;
            missing -= 1;
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patients(groups: &[(&str, usize)], without: usize) -> Vec<Candidate> {
        let candidate = |patient: String, group: Option<&str>, labelled: bool| {
            let stored = Stored::Nifti { path: format!("{patient}.nii").into(), frame: None };
            ["frame01", "frame02"].map(|frame| Candidate {
                name: format!("{patient}_{frame}"),
                patient: patient.clone(),
                group: group.map(str::to_owned),
                image: stored.clone(),
                label: labelled.then(|| stored.clone()),
            })
        };
        let labelled = groups.iter().flat_map(|&(group, n)| {
            (0..n).flat_map(move |i| candidate(format!("{group}{i:03}"), Some(group), true))
        });
        let unlabelled = (0..without).flat_map(|i| candidate(format!("Z{i:03}"), Some("C"), false));
        labelled.chain(unlabelled).collect()
    }

    fn drawn(candidates: Vec<Candidate>, shares: [f64; 3], seed: u64) -> (Vec<Entry>, String) {
        let (mut hash, mut found) = (blake3::Hasher::new(), Vec::new());
        let (entries, order) = draw(candidates, Shares(shares), seed, &mut hash, &mut found);
        assert!(matches!(order, Order::Shuffled(s) if s == seed) && found.is_empty(), "{found:?}");
        (entries, hash.finalize().to_string())
    }

    fn names(entries: &[Entry], split: Split) -> Vec<&str> {
        let mut names: Vec<&str> =
            entries.iter().filter(|e| e.split == split).map(|e| e.patient.as_str()).collect();
        names.dedup();
        names
    }

    /// The open release of M&Ms: vendors A to D.
    const MNMS: [(&str, usize); 4] = [("A", 95), ("B", 125), ("C", 50), ("D", 50)];

    #[test]
    fn three_hundred_and_twenty_patients_are_split_seven_two_one() {
        let (entries, _) = drawn(patients(&MNMS, 25), [7.0, 2.0, 1.0], 0);
        let count = |split| names(&entries, split).len();
        assert_eq!([Split::Train, Split::Val, Split::Test].map(count), [224 + 25, 64, 32]);
        let all: BTreeSet<&str> = Split::ALL.into_iter().flat_map(|split| names(&entries, split)).collect();
        assert_eq!(all.len(), 345, "everybody once, in one split");
    }

    #[test]
    fn splits_and_prefixes_are_balanced_over_groups() {
        let (entries, _) = drawn(patients(&MNMS, 0), [7.0, 2.0, 1.0], 0);
        for (split, total) in [(Split::Val, 64), (Split::Test, 32), (Split::Train, 224)] {
            let names = names(&entries, split);
            for (group, size) in MNMS {
                let exact = total as f64 * size as f64 / 320.0;
                let found = names.iter().filter(|name| name.starts_with(group)).count() as f64;
                assert!((found - exact).abs() <= 1.0, "{split:?}: {found} of {group}, {exact} expected");
            }
        }
        let train = names(&entries, Split::Train);
        for prefix in [4, 5, 10, 40] {
            for (group, size) in MNMS {
                let exact = prefix as f64 * size as f64 / 320.0;
                let found = train[..prefix].iter().filter(|name| name.starts_with(group)).count() as f64;
                assert!(
                    (found - exact).abs() < 1.5,
                    "the first {prefix}: {found} of {group}, {exact} expected"
                );
            }
        }
    }

    #[test]
    fn the_split_is_the_seeds_and_nothing_elses() {
        let (a, hash_a) = drawn(patients(&MNMS, 3), [70.0, 10.0, 20.0], 1);
        let mut turned = patients(&MNMS, 3);
        turned.reverse();
        let (b, hash_b) = drawn(turned, [70.0, 10.0, 20.0], 1);
        let all = |entries: &[Entry]| entries.iter().map(|e| (e.split, e.name.clone())).collect::<Vec<_>>();
        assert_eq!((all(&a), &hash_a), (all(&b), &hash_b), "the order of the files does not matter");
        let (c, hash_c) = drawn(patients(&MNMS, 3), [70.0, 10.0, 20.0], 2);
        assert!(all(&a) != all(&c) && hash_a != hash_c, "another seed, another split, another hash");
    }

    #[test]
    fn who_has_no_labels_is_trained_on_last() {
        let (entries, _) = drawn(patients(&[("A", 6)], 2), [70.0, 10.0, 20.0], 0);
        let train = names(&entries, Split::Train);
        assert_eq!(&train[train.len() - 2..], ["Z000", "Z001"]);
        assert!(entries.iter().all(|e| e.split == Split::Train || e.label.is_some()));
        let mut notes = Vec::new();
        assert_eq!(keep(patients(&[("A", 6)], 2), false, &mut notes).len(), 12, "left out unless wanted");
        assert!(notes[0].contains("2 patients have no labels (Z000, Z001)"), "{notes:?}");
    }

    #[test]
    fn no_split_is_empty_and_two_patients_are_too_few() {
        for n in 3..30 {
            let [train, val, test] = counts(n, Shares([70.0, 10.0, 20.0]));
            assert!(train > 0 && val > 0 && test > 0 && train + val + test == n, "{n} patients");
        }
        let mut found = Vec::new();
        draw(patients(&[("A", 2)], 0), Shares([7.0, 2.0, 1.0]), 0, &mut blake3::Hasher::new(), &mut found);
        assert!(found[0].contains("too few"), "{found:?}");
    }

    #[test]
    fn places_go_to_the_largest_remainders() {
        assert_eq!(apportion(32, &[95, 125, 50, 50]), [9, 13, 5, 5]);
        assert_eq!(apportion(3, &[1, 1, 1]), [1, 1, 1]);
        assert_eq!(apportion(2, &[0, 5]), [0, 2]);
        assert_eq!(apportion(9, &[2, 3]), [2, 3], "no more than there are");
    }
}
