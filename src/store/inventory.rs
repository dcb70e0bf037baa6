//! What a store holds, told from names alone: no file of an object is opened, so that a hundred thousand stages are
//! looked at in well under a tenth of a second.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _};
use std::path::Path;

use anyhow::Result;
use rayon::prelude::*;

use super::Store;
use super::files::explain;
use super::key::Key;
use super::listing::{self, Listing, Shelf};

/// The first two digits of a key: there are as many shelves under `objects/`.
pub(super) const SHELVES: usize = 256;

/// Keys that had to be listed from which the list is kept for the next look: fewer take no time worth a file.
const WORTH_KEEPING: usize = 4096;

/// The finished objects of a store at one moment. An object that was torn later counts as finished here
/// ([`Store::object`] looks closer).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// The keys of each shelf as numbers, sorted: half as much to search as their digits.
    shelves: Vec<Vec<u128>>,
}

impl Inventory {
    /// Whether `key` is finished.
    pub fn has(&self, key: &Key) -> bool {
        let number = number(key.as_str());
        self.shelves.get((number >> 120) as usize).is_some_and(|keys| has(keys, number))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.shelves.iter().map(Vec::len).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = Key> {
        self.shelves.iter().flatten().filter_map(|number| format!("{number:032x}").parse().ok())
    }
}

/// Whether `number` is among the sorted `keys` of its shelf. Keys are hashes, so where one would stand can be told from its
/// digits: it is a few places from there.
fn has(keys: &[u128], number: u128) -> bool {
    let below = (number >> 88) as u32; // the 32 bits after those that name the shelf
    let mut at = ((u64::from(below) * keys.len() as u64) >> 32) as usize;
    while at > 0 && keys[at - 1] >= number {
        at -= 1;
    }
    while at < keys.len() && keys[at] < number {
        at += 1;
    }
    keys.get(at) == Some(&number)
}

/// The digits of a key as a number.
fn number(digits: &str) -> u128 {
    let half = |digits: &[u8]| {
        digits.iter().fold(0_u64, |number, digit| number << 4 | u64::from((digit & 15) + 9 * (digit >> 6)))
    };
    let (high, low) = digits.as_bytes().split_at(digits.len() / 2);
    u128::from(half(high)) << 64 | u128::from(half(low))
}

/// A stage that a process computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The stage.
    pub key: Key,
    /// The process, where it could be read.
    pub pid: Option<u32>,
}

impl Store {
    /// The finished objects; none where there is no store.
    ///
    /// # Errors
    /// Where a folder of the store cannot be read.
    pub fn inventory(&self) -> Result<Inventory> {
        let objects = self.root().join("objects");
        if !objects.is_dir() {
            return Ok(Inventory::default());
        }
        let (known, clock) = (Listing::read(self), listing::clock(self));
        let shelf = |number: usize| -> Result<Shelf> {
            let folder = objects.join(format!("{number:02x}"));
            let changed = listing::changed(&folder);
            if let Some(shelf) = known.as_ref().and_then(|known| known.shelf(number, changed)) {
                return Ok(shelf);
            }
            let keys = keys_in(&folder)?;
            let mut keys: Vec<u128> = keys.iter().map(|key| self::number(key.as_str())).collect();
            keys.sort_unstable();
            Ok(Shelf { keys, changed, listed: true })
        };
        let shelves = (0..SHELVES).into_par_iter().map(shelf).collect::<Result<Vec<_>>>()?;
        let listed = shelves.iter().filter(|shelf| shelf.listed).map(|shelf| shelf.keys.len()).sum::<usize>();
        if listed >= WORTH_KEEPING {
            listing::keep(self, &shelves, clock);
        }
        Ok(Inventory { shelves: shelves.into_iter().map(|shelf| shelf.keys).collect() })
    }

    /// The stages whose last try failed; [`Self::failure`] tells why.
    pub fn failed(&self) -> Result<Vec<Key>> {
        keys_in(&self.root().join("failures"))
    }

    /// The stages that are computed at this moment, sorted by key.
    pub fn held(&self) -> Result<Vec<Held>> {
        let folder = self.root().join("locks");
        let mut held = Vec::new();
        for key in keys_in(&folder)? {
            held.extend(holder(&folder.join(key.as_str())).map(|pid| Held { key, pid }));
        }
        held.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(held)
    }
}

/// Whether the lock at `path` is held, and by which process. Looking takes it for a moment, with all others that look.
#[expect(clippy::option_option, reason = "not held, held by an unknown process, held by this one")]
fn holder(path: &Path) -> Option<Option<u32>> {
    let mut file = File::open(path).ok()?;
    if !matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)) {
        return None;
    }
    let mut text = String::new();
    let read = file.read_to_string(&mut text);
    Some(read.ok().and_then(|_| text.trim().parse().ok()))
}

/// The keys that name entries of `folder`; other names are passed over, and a folder that is absent is empty.
fn keys_in(folder: &Path) -> Result<Vec<Key>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(explain(&error, "read", folder)),
    };
    let mut keys = Vec::new();
    for entry in entries {
        let name = entry.map_err(|error| explain(&error, "read", folder))?.file_name();
        keys.extend(name.to_str().and_then(|name| name.parse::<Key>().ok()));
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::stage::{StageKind, StageSpec};
    use crate::store::StoredSpec;

    #[test]
    fn finished_held_and_failed_stages_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Store::at(dir.path().join("none")).inventory().unwrap(), Inventory::default());
        let store = Store::open(dir.path()).unwrap();
        let keys: Vec<Key> = (0..40_u8).map(|i| Key::of(&[i])).collect();
        let spec =
            StageSpec { kind: StageKind::Train, settings: json!({}), local: json!({}), parents: vec![] };
        for key in &keys[..38] {
            let stored = StoredSpec { label: "train".into(), spec: spec.clone() };
            store.work(key).unwrap().commit(&stored, json!({}), Duration::ZERO, 1).unwrap();
        }
        let lock = store.try_lock(&keys[38]).unwrap().unwrap();
        let failure = crate::store::Failure { cause: crate::store::Cause::Error, message: "no".into() };
        store.write_failure(&keys[39], &failure).unwrap();
        crate::store::files::create_folder(dir.path().join("objects/zz/note")).unwrap();

        let inventory = store.inventory().unwrap();
        let mut finished = keys[..38].to_vec();
        finished.sort();
        assert_eq!(inventory.keys().collect::<Vec<_>>(), finished);
        assert!(keys.iter().all(|key| inventory.has(key) == finished.contains(key)));
        assert_eq!(store.held().unwrap(), [Held { key: keys[38].clone(), pid: Some(std::process::id()) }]);
        assert_eq!(store.failed().unwrap(), [keys[39].clone()]);
        drop(lock);
        assert_eq!(store.held().unwrap(), []);
    }

    #[test]
    fn a_shelf_is_listed_again_when_its_folder_has_changed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let object = |i: u32| {
            let key = Key::of(&i.to_le_bytes());
            let path = store.object_path(&key);
            (key, path)
        };
        let long_ago = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let date = |shelf: &Path, seconds: u64| {
            File::open(shelf).unwrap().set_modified(long_ago + Duration::from_secs(seconds)).unwrap();
        };
        let many = WORTH_KEEPING as u32 + 100;
        (0..many).for_each(|i| crate::store::files::create_folder(object(i).1).unwrap());
        for shelf in fs::read_dir(dir.path().join("objects")).unwrap() {
            date(&shelf.unwrap().path(), 0);
        }
        let first = store.inventory().unwrap();
        assert_eq!(first.len(), many as usize);
        assert_eq!(store.inventory().unwrap(), first);

        let (key, path) = object(many);
        crate::store::files::create_folder(&path).unwrap();
        let shelf = path.parent().unwrap();
        date(shelf, 0);
        assert!(
            !store.inventory().unwrap().has(&key),
            "a folder that looks unchanged was listed all the same"
        );
        date(shelf, 1);
        assert!(store.inventory().unwrap().has(&key));
        fs::remove_dir(&path).unwrap();
        assert_eq!(store.inventory().unwrap(), first);
    }
}
