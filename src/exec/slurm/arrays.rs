//! Which stages go into one array, and what each array waits for.
//!
//! Stages of one kind that wait for the same are one array. Where each of them waits for one element of the same array
//! and no two for the same one, they take the indices of those elements, and each begins when its own is done
//! (`aftercorr`); all others wait until everything that they read is done (`afterok`). Slurm holds no more than a few
//! elements of an array against their own each, so those arrays are small, and what can do without is better off: an
//! evaluation that asks for what its training asks for follows it in the same element ([`New::follows`]).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::commands::ranges;
use crate::stage::StageKind;
use crate::store::key::Key;

/// An element of an array, by the number of the array in the executor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    pub(super) array: usize,
    pub(super) index: u32,
}

/// Stages for one element.
#[derive(Clone, Debug)]
pub(super) struct New {
    /// Those of the first task, and then what follows them.
    pub(super) keys: Vec<Key>,
    pub(super) kind: StageKind,
    /// How often they ran out of memory.
    pub(super) shortages: u32,
    /// The unfinished elements that they read.
    pub(super) after: Vec<After>,
    /// The tasks that ask for them.
    pub(super) tasks: Vec<usize>,
}

/// The one of `new` that stages of `kind` which wait for `after` can follow in its own element: the training of an
/// evaluation that waits for nothing beside it. Whether they ask for the same is another matter.
pub(super) fn leader(
    new: &[New],
    kind: StageKind,
    after: &[After],
    waits_for: &dyn Fn(Place) -> Vec<Place>,
) -> Option<usize> {
    if kind != StageKind::Evaluate {
        return None;
    }
    let mut trainings = after.iter().filter_map(|after| match *after {
        After::New(n) if new[n].kind == StageKind::Train => Some(n),
        _ => None,
    });
    let (Some(training), None) = (trainings.next(), trainings.next()) else { return None };
    let mut seen = vec![After::New(training)];
    let mut at = 0;
    while let Some(&next) = seen.get(at) {
        at += 1;
        let behind = match next {
            After::New(n) => new[n].after.clone(),
            After::Place(place) => waits_for(place).into_iter().map(After::Place).collect(),
        };
        for after in behind {
            if !seen.contains(&after) {
                seen.push(after);
            }
        }
    }
    after.iter().all(|after| seen.contains(after)).then_some(training)
}

/// What an element waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// An element that was submitted before.
    Place(Place),
    /// An earlier one of those that are packed together.
    New(usize),
}

/// What an array waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// Each element for all of these; for nothing where there is none.
    ForAll(Vec<Place>),
    /// Each element for that of the same index in this array.
    ForEach(usize),
}

/// An array to be submitted.
#[derive(Clone, Debug)]
pub(super) struct Packed {
    pub(super) kind: StageKind,
    pub(super) shortages: u32,
    /// Its elements: the index of each and its place in the list that was packed.
    pub(super) members: BTreeMap<u32, usize>,
    pub(super) waits: Waits,
}

/// Packs `new` into arrays with the numbers from `first` on, in an order in which each comes after those that it waits
/// for. `waits_for` gives what an element that was submitted before waits for; an array of a kind has at
/// most `most` elements, and of those that follow an array element by element at most `one_by_one`.
pub(super) fn pack(
    new: &[New],
    first: usize,
    (most, one_by_one): (&dyn Fn(StageKind) -> u32, u32),
    waits_for: &dyn Fn(Place) -> Vec<Place>,
) -> Vec<Packed> {
    let mut packed: Vec<Packed> = Vec::new();
    let mut places: Vec<Option<Place>> = vec![None; new.len()];
    // What each new element waits for, once its place is known.
    let mut behind: HashMap<Place, Vec<Place>> = HashMap::new();
    for level in levels(new) {
        let mut classes = Classes::default();
        for &n in &level {
            let after: BTreeSet<Place> = new[n]
                .after
                .iter()
                .filter_map(|after| match *after {
                    After::Place(place) => Some(place),
                    After::New(n) => places.get(n).copied().flatten(),
                })
                .collect();
            let known = |place| behind.get(&place).cloned().unwrap_or_else(|| waits_for(place));
            classes.add((new[n].kind, new[n].shortages), n, nearest(after, &known));
        }
        for ((kind, shortages), waits, members) in classes.finish() {
            for chunk in chunks(&members, &waits, most(kind), one_by_one) {
                let array = first + packed.len();
                for (&index, &n) in &chunk {
                    let place = Place { array, index };
                    places[n] = Some(place);
                    let own = match &waits {
                        Waits::ForAll(places) => places.clone(),
                        Waits::ForEach(parent) => vec![Place { array: *parent, index }],
                    };
                    behind.insert(place, own);
                }
                packed.push(Packed { kind, shortages, members: chunk, waits: waits.clone() });
            }
        }
    }
    packed
}

/// The new elements by how many others must be packed before them.
fn levels(new: &[New]) -> Vec<Vec<usize>> {
    let mut depth = vec![0; new.len()];
    let mut levels: Vec<Vec<usize>> = Vec::new();
    for (n, element) in new.iter().enumerate() {
        let behind = element.after.iter().filter_map(|after| match *after {
            After::New(other) if other < n => Some(depth[other] + 1),
            _ => None,
        });
        depth[n] = behind.max().unwrap_or(0);
        if levels.len() <= depth[n] {
            levels.resize(depth[n] + 1, Vec::new());
        }
        levels[depth[n]].push(n);
    }
    levels
}

/// Those of `after` that none of the others waits for anyway.
fn nearest(mut after: BTreeSet<Place>, waits_for: &dyn Fn(Place) -> Vec<Place>) -> Vec<Place> {
    if after.len() < 2 {
        return after.into_iter().collect();
    }
    let mut seen: BTreeSet<Place> = BTreeSet::new();
    let mut next: Vec<Place> = after.iter().flat_map(|&place| waits_for(place)).collect();
    while let Some(place) = next.pop() {
        if seen.insert(place) {
            next.extend(waits_for(place));
        }
    }
    after.retain(|place| !seen.contains(place));
    after.into_iter().collect()
}

/// What all elements of an array have in common: kind and shortages.
type Sort = (StageKind, u32);
/// Elements by their numbers, with the indices that they must have, where they must.
type Members = Vec<(Option<u32>, usize)>;

/// Elements of one level, those together that can be one array.
#[derive(Default)]
struct Classes {
    order: Vec<(Sort, Vec<Place>)>,
    members: HashMap<(Sort, Vec<Place>), Vec<usize>>,
}

impl Classes {
    fn add(&mut self, sort: Sort, n: usize, after: Vec<Place>) {
        let key = (sort, after);
        let members = self.members.entry(key.clone()).or_default();
        if members.is_empty() {
            self.order.push(key);
        }
        members.push(n);
    }

    /// Each class with what it waits for and, where they are given by that, the indices of its members.
    fn finish(mut self) -> Vec<(Sort, Waits, Members)> {
        let mut classes: Vec<(Sort, Waits, Members)> = Vec::new();
        let mut one_by_one: HashMap<(Sort, usize), usize> = HashMap::new();
        for key in self.order {
            let members = self.members.remove(&key).unwrap_or_default();
            let (sort, after) = key;
            if let (&[parent], &[member]) = (&after[..], &members[..]) {
                let at = *one_by_one.entry((sort, parent.array)).or_insert_with(|| {
                    classes.push((sort, Waits::ForEach(parent.array), Vec::new()));
                    classes.len() - 1
                });
                classes[at].2.push((Some(parent.index), member));
            } else {
                let members = members.into_iter().map(|member| (None, member)).collect();
                classes.push((sort, Waits::ForAll(after), members));
            }
        }
        for (_, waits, members) in &mut classes {
            // One alone waits for its parent by name, which says the same and keeps its index small.
            if let (&mut Waits::ForEach(array), &[(Some(index), member)]) = (&mut *waits, &members[..]) {
                *waits = Waits::ForAll(vec![Place { array, index }]);
                *members = vec![(None, member)];
            }
        }
        classes
    }
}

/// Cuts a class into arrays of at most `most` elements, or `one_by_one`.
fn chunks(
    members: &[(Option<u32>, usize)],
    waits: &Waits,
    most: u32,
    one_by_one: u32,
) -> Vec<BTreeMap<u32, usize>> {
    if let Waits::ForEach(_) = waits {
        // The indices are those of an array that was cut before.
        let chunk = |part: &[(Option<u32>, usize)]| part.iter().filter_map(|&(i, n)| Some((i?, n))).collect();
        return members.chunks(one_by_one.min(most).max(1) as usize).map(chunk).collect();
    }
    let chunk = |part: &[(Option<u32>, usize)]| (0..).zip(part.iter().map(|&(_, n)| n)).collect();
    members.chunks(most.max(1) as usize).map(chunk).collect()
}

/// The value of `--dependency`, given of each array its number in Slurm and how many elements it has; none where there is
/// nothing to wait for.
pub(super) fn dependency(waits: &Waits, array: &dyn Fn(usize) -> Option<(u64, usize)>) -> Option<String> {
    match waits {
        Waits::ForEach(parent) => Some(format!("aftercorr:{}", array(*parent)?.0)),
        Waits::ForAll(places) => {
            let mut by_array: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
            for place in places {
                by_array.entry(place.array).or_default().push(place.index);
            }
            let mut parts = Vec::new();
            for (number, indices) in by_array {
                let Some((id, elements)) = array(number) else { continue };
                if indices.len() == elements {
                    parts.push(id.to_string());
                } else {
                    parts.extend(indices.iter().map(|index| format!("{id}_{index}")));
                }
            }
            (!parts.is_empty()).then(|| format!("afterok:{}", parts.join(":")))
        }
    }
}

/// The value of `--array`.
pub(super) fn array(members: &BTreeMap<u32, Vec<Key>>, throttle: Option<u32>) -> String {
    let indices = ranges(members.keys().copied());
    throttle.map_or(indices.clone(), |most| format!("{indices}%{most}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(kind: StageKind, after: &[After]) -> New {
        New { keys: vec![], kind, shortages: 0, after: after.to_vec(), tasks: vec![0] }
    }

    /// Each array as `kind indices waits`.
    fn shown(packed: &[Packed]) -> Vec<String> {
        let ids = |array: usize| Some((100 + array as u64, packed.get(array).map_or(9, |p| p.members.len())));
        let one = |pack: &Packed| {
            let waits = dependency(&pack.waits, &ids).unwrap_or_default();
            format!("{} {} {waits}", pack.kind.name(), ranges(pack.members.keys().copied()))
        };
        packed.iter().map(one).collect()
    }

    #[test]
    fn a_sweep_becomes_a_few_arrays_that_wait_for_each_other() {
        use StageKind::{Evaluate, Features, Prepare, Pretrain, Train};
        let after = |numbers: &[usize]| numbers.iter().map(|&n| After::New(n)).collect::<Vec<_>>();
        let mut list = vec![
            new(Prepare, &[]),
            new(Pretrain, &after(&[0])),
            new(Features, &after(&[0, 1])),
            new(Features, &after(&[0, 1])),
        ];
        list.extend((0..3).map(|_| new(Train, &after(&[0, 1, 2, 3])))); // 4, 5, 6
        list.push(new(Train, &after(&[0]))); // 7: a baseline
        list.extend((4..8).map(|n| new(Evaluate, &after(&[0, 1, n]))));
        let packed = pack(&list, 0, (&|_| 1000, 10), &|_| vec![]);
        assert_eq!(
            shown(&packed),
            [
                "prepare 0 ",
                "pretrain 0 afterok:100",
                "train 0 afterok:100",
                "features 0-1 afterok:101",
                "evaluate 0 afterok:101:102", // of the baseline, which itself does not wait for the model
                "train 0-2 afterok:103",
                "evaluate 0-2 aftercorr:105",
            ]
        );
    }

    #[test]
    fn arrays_are_cut_at_the_largest_index_and_their_followers_with_them() {
        use StageKind::{Evaluate, Train};
        let mut list: Vec<New> = (0..5).map(|_| new(Train, &[])).collect();
        list.extend((0..5).map(|n| new(Evaluate, &[After::New(n)])));
        let packed = pack(&list, 0, (&|kind| if kind == Train { 2 } else { 9 }, 10), &|_| vec![]);
        assert_eq!(
            shown(&packed),
            [
                "train 0-1 ",
                "train 0-1 ",
                "train 0 ",
                "evaluate 0-1 aftercorr:100",
                "evaluate 0-1 aftercorr:101",
                "evaluate 0 afterok:102",
            ]
        );
    }

    #[test]
    fn several_that_read_the_same_element_wait_for_it_by_name_and_the_rest_one_by_one() {
        use StageKind::{Evaluate, Train};
        let parent = |index| After::Place(Place { array: 0, index });
        let list = [
            new(Evaluate, &[parent(4)]),
            new(Evaluate, &[parent(7)]),
            new(Evaluate, &[parent(4)]),
            new(Evaluate, &[parent(2)]),
            new(Train, &[parent(1), parent(2)]),
        ];
        let packed = pack(&list, 1, (&|_| 1000, 10), &|_| vec![]);
        let ids = |array: usize| Some((100 + array as u64, 9));
        let waits: Vec<_> = packed.iter().map(|pack| dependency(&pack.waits, &ids).unwrap()).collect();
        assert_eq!(waits, ["afterok:100_4", "aftercorr:100", "afterok:100_1:100_2"]);
        assert_eq!(packed[1].members.keys().collect::<Vec<_>>(), [&2, &7]);
    }

    #[test]
    fn arrays_that_follow_one_by_one_have_no_more_elements_than_slurm_holds_against_their_own() {
        use StageKind::{Evaluate, Train};
        let mut list: Vec<New> = (0..25).map(|_| new(Train, &[])).collect();
        list.extend((0..25).map(|n| new(Evaluate, &[After::New(n)])));
        let packed = pack(&list, 0, (&|_| 1000, 10), &|_| vec![]);
        assert_eq!(
            shown(&packed),
            [
                "train 0-24 ",
                "evaluate 0-9 aftercorr:100",
                "evaluate 10-19 aftercorr:100",
                "evaluate 20-24 aftercorr:100",
            ]
        );
    }

    #[test]
    fn an_evaluation_follows_its_training_where_it_waits_for_nothing_beside_it() {
        use StageKind::{Evaluate, Features, Prepare, Pretrain, Train};
        let early = After::Place(Place { array: 0, index: 0 });
        let list = [
            new(Prepare, &[early]),
            new(Pretrain, &[After::New(0)]),
            new(Features, &[After::New(1)]),
            new(Train, &[After::New(0), After::New(2)]),
            new(Train, &[After::New(0)]),
        ];
        let leads = |kind, after: &[After]| leader(&list, kind, after, &|_| vec![]);
        assert_eq!(leads(Evaluate, &[After::New(3), After::New(0), After::New(1), early]), Some(3));
        assert_eq!(leads(Evaluate, &[After::New(4)]), Some(4));
        assert_eq!(leads(Evaluate, &[After::New(4), After::New(1)]), None, "its training needs no model");
        assert_eq!(leads(Evaluate, &[After::New(3), After::New(4)]), None);
        assert_eq!(leads(Evaluate, &[After::Place(Place { array: 1, index: 0 })]), None, "it is submitted");
        assert_eq!(leads(Train, &[After::New(3)]), None);
    }

    #[test]
    fn what_is_over_is_not_waited_for_and_shortages_are_kept_apart() {
        let mut list = vec![new(StageKind::Train, &[]), new(StageKind::Train, &[])];
        list[1].shortages = 1;
        assert_eq!(pack(&list, 0, (&|_| 10, 10), &|_| vec![]).len(), 2, "they ask for different memory");
        let gone = Waits::ForAll(vec![Place { array: 3, index: 0 }]);
        assert_eq!(dependency(&gone, &|_| None), None);
        let members = [(0, vec![]), (1, vec![]), (5, vec![])].into();
        assert_eq!(array(&members, Some(4)), "0-1,5%4");
    }
}
