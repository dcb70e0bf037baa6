//! What a store holds.

use std::fs;

use super::{Meta, Store, parse_meta};

impl Store {
    /// The metadata of every finished stage that can be read, in the order of their keys. Whether the files are whole is
    /// not looked at.
    pub fn finished(&self) -> Vec<Meta> {
        let folders = |path: &std::path::Path| {
            let mut found: Vec<_> =
                fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
            found.sort();
            found
        };
        let objects = folders(&self.root.join("objects"));
        objects.iter().flat_map(|part| folders(part)).filter_map(|object| parse_meta(&object)).collect()
    }
}
