//! What [`Store::inventory`] found on each shelf, kept for the next look: a shelf whose folder has not changed since
//! need not be listed again. It can be deleted at any time, and a store that cannot be written does without.
//!
//! The file `inventory` is binary, all numbers little-endian: [`MAGIC`]; for each shelf when its folder was last changed
//! (nanoseconds since 1970, u64) and how many keys it has (u64); the keys (u128), shelf after shelf; BLAKE3 of all that.
//!
//! A folder that changes twice within one tick of the file system's clock looks unchanged after the second time. A list
//! is therefore kept only if its folder had not changed for [`SETTLED`] when it was made, by that same clock.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::inventory::SHELVES;
use super::{Store, files};

const FILE: &str = "inventory";
const MAGIC: [u8; 16] = *b"sweep inventory1";
/// Longer than a tick of any file system's clock (FAT: 2 s).
const SETTLED: Duration = Duration::from_secs(3);
/// Bytes of a key.
const KEY: usize = size_of::<u128>();
/// Bytes before the keys.
const HEAD: usize = MAGIC.len() + SHELVES * 16;

/// The keys of one shelf, sorted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shelf {
    pub(super) keys: Vec<u128>,
    /// When its folder was last changed, in nanoseconds since 1970; zero where that is no guide.
    pub(super) changed: u64,
    /// Whether it was listed just now.
    pub(super) listed: bool,
}

/// What the file holds.
pub(super) struct Listing {
    bytes: Vec<u8>,
    /// When each shelf was changed, and where its keys lie.
    shelves: Vec<(u64, std::ops::Range<usize>)>,
}

impl Listing {
    /// The listing of `store`; none where it is absent or damaged.
    pub(super) fn read(store: &Store) -> Option<Self> {
        Self::parse(fs::read(path(store)).ok()?)
    }

    fn parse(bytes: Vec<u8>) -> Option<Self> {
        let (body, hash) = bytes.split_last_chunk::<32>()?;
        let head = body.get(..HEAD)?.strip_prefix(&MAGIC)?;
        if blake3::hash(body) != *hash {
            return None;
        }
        let number = |bytes: &[u8]| Some(u64::from_le_bytes(bytes.try_into().ok()?));
        let mut shelves = Vec::with_capacity(SHELVES);
        let mut from = HEAD;
        for entry in head.chunks_exact(16) {
            let (changed, count) = entry.split_at(8);
            let to = usize::try_from(number(count)?).ok()?.checked_mul(KEY)?.checked_add(from)?;
            shelves.push((number(changed)?, from..to));
            from = to;
        }
        (from == body.len()).then_some(Self { bytes, shelves })
    }

    /// The keys of the shelf `number`, if its folder was last changed at `changed`.
    pub(super) fn shelf(&self, number: usize, changed: u64) -> Option<Shelf> {
        let (known, keys) = self.shelves.get(number)?;
        if changed == 0 || *known != changed {
            return None;
        }
        let keys = self.bytes.get(keys.clone())?.as_chunks().0.iter().map(|&key| u128::from_le_bytes(key));
        Some(Shelf { keys: keys.collect(), changed, listed: false })
    }
}

/// Keeps `shelves`, which were listed after `clock`, if there is anything new among them that is worth it. A look must not
/// fail because it could not be kept.
pub(super) fn keep(store: &Store, shelves: &[Shelf], clock: Option<u64>) {
    let Some(settled) = clock.and_then(|clock| clock.checked_sub(nanoseconds(SETTLED))) else { return };
    let trusted = |shelf: &Shelf| (1..=settled).contains(&shelf.changed);
    if !shelves.iter().any(|shelf| shelf.listed && trusted(shelf)) {
        return;
    }
    let keys = shelves.iter().filter(|shelf| trusted(shelf)).map(|shelf| shelf.keys.len()).sum::<usize>();
    let mut bytes = Vec::with_capacity(HEAD + keys * KEY + 32);
    bytes.extend(MAGIC);
    for shelf in shelves {
        let (changed, count) = if trusted(shelf) { (shelf.changed, shelf.keys.len()) } else { (0, 0) };
        bytes.extend(changed.to_le_bytes());
        bytes.extend((count as u64).to_le_bytes());
    }
    for shelf in shelves.iter().filter(|shelf| trusted(shelf)) {
        bytes.extend(shelf.keys.iter().flat_map(|key| key.to_le_bytes()));
    }
    let hash = blake3::hash(&bytes);
    bytes.extend(hash.as_bytes());
    let _ = files::write_unsynced(&path(store), &bytes);
}

/// What time it is by the clock of the store's file system; none where the store cannot be written.
pub(super) fn clock(store: &Store) -> Option<u64> {
    let probe = files::partial_name(&path(store));
    let time = File::create(&probe).and_then(|file| file.metadata()?.modified()).ok();
    let _ = fs::remove_file(&probe); // it was not created, most likely
    time.and_then(since_1970)
}

/// When `folder` was last changed; zero where the system does not say.
pub(super) fn changed(folder: &Path) -> u64 {
    let time = fs::metadata(folder).and_then(|metadata| metadata.modified()).ok();
    time.and_then(since_1970).unwrap_or(0)
}

fn path(store: &Store) -> PathBuf {
    store.root().join(FILE)
}

fn since_1970(time: SystemTime) -> Option<u64> {
    time.duration_since(UNIX_EPOCH).ok().map(nanoseconds)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shelves with as many keys as their number, changed one second after another.
    fn shelves() -> Vec<Shelf> {
        let second = nanoseconds(Duration::from_secs(1));
        let shelf = |number: usize| Shelf {
            keys: (0..number as u128).collect(),
            changed: (number as u64 + 1) * second,
            listed: true,
        };
        (0..SHELVES).map(shelf).collect()
    }

    #[test]
    fn settled_shelves_are_kept_and_others_are_listed_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let shelves = shelves();
        keep(&store, &shelves, Some(103 * nanoseconds(Duration::from_secs(1))));
        let listing = Listing::read(&store).unwrap();
        for (number, shelf) in shelves.iter().enumerate() {
            let known = listing.shelf(number, shelf.changed);
            let expected = (number < 100).then(|| Shelf { listed: false, ..shelf.clone() });
            assert_eq!(known, expected, "shelf {number}");
            assert_eq!(listing.shelf(number, shelf.changed + 1), None, "shelf {number} changed since");
        }
    }

    #[test]
    fn a_damaged_file_is_as_good_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        keep(&store, &shelves(), Some(u64::MAX));
        let whole = fs::read(path(&store)).unwrap();
        assert!(Listing::parse(whole.clone()).is_some());
        for length in [0, 15, HEAD, whole.len() - 1] {
            assert!(Listing::parse(whole[..length].to_vec()).is_none(), "{length} bytes");
        }
        for at in [0, 16, 30, HEAD + 5, whole.len() - 1] {
            let mut torn = whole.clone();
            torn[at] ^= 1;
            assert!(Listing::parse(torn).is_none(), "byte {at}");
        }
    }
}
