//! `extends: other.yaml`: another file, relative to this one, whose sections come first.
//!
//! Maps merge, entry by entry; everything else replaces what the other file has: lists as a whole, so that an axis, `include`,
//! `exclude` and the tables of `report` are never joined. What a file gives in `base`, `grid` or `zip` takes the place of the
//! other file's value or axis of the same setting, in whichever of the three it stands; `~` takes it away. The name of the
//! other file is not inherited.

use std::fs;
use std::path::{Path, PathBuf};

use super::axis::is_conditional;
use super::diagnostics::{Reporter, nearest};
use super::schema::{self, Found};
use super::written::text;
use super::yaml::{self, Content, Name, Node};

/// Bytes of a sweep file at most.
const BYTES: u64 = 16 << 20;
/// Files that extend each other at most.
const DEPTH: usize = 16;
/// The sections of which a setting stands in one.
const SETTINGS: [&str; 3] = ["base", "grid", "zip"];

/// The text of a sweep file, or what is wrong with it.
pub(super) fn read_text(path: &Path) -> Result<String, String> {
    let size = fs::metadata(path).map_err(|error| format!("cannot be read: {error}"))?.len();
    if size > BYTES {
        return Err(format!("has {size} bytes, more than a sweep file may have ({BYTES})"));
    }
    let bytes = fs::read(path).map_err(|error| format!("cannot be read: {error}"))?;
    String::from_utf8(bytes).map_err(|error| {
        let readable = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]);
        format!("is no text in UTF-8 (line {})", readable.matches('\n').count() + 1)
    })
}

/// The tree of a document that is shown as `shown` and lies at `path`, with what it extends. `chain` are the files that led
/// here.
pub(super) fn tree(
    shown: &str,
    text: &str,
    path: &Path,
    chain: &mut Vec<PathBuf>,
    report: &mut Reporter,
) -> Option<Node> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let source = report.source(shown, text);
    let mut root = yaml::parse(text, source, report).filter(|root| !root.is_null())?;
    let Content::Map(entries) = &mut root.content else { return Some(root) };
    let Some(at) = entries.iter().position(|(name, _)| name.text == "extends") else { return Some(root) };
    let (_, node) = entries.remove(at);
    let place = root.place;
    chain.push(fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()));
    let parent = extended(&node, path, chain, report);
    chain.pop();
    let Content::Map(entries) = root.content else { return Some(root) };
    let entries = match parent.map(|parent| parent.content) {
        Some(Content::Map(parent)) => merged(parent, entries),
        _ => entries,
    };
    Some(Node { content: Content::Map(entries), place })
}

/// The tree of the file that `extends` names.
fn extended(node: &Node, path: &Path, chain: &mut Vec<PathBuf>, report: &mut Reporter) -> Option<Node> {
    let name = text(node, "extends", report)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let other = folder.join(&name);
    let shown = other.display().to_string();
    let refuse = |report: &mut Reporter, what: &str, help: Option<String>| {
        report.error(node.place, format!("`extends: {}`: {what}", node.shown()), help);
        None
    };
    if name.is_empty() || !other.is_file() {
        let what = match () {
            () if name.is_empty() => "expected the path of a sweep file, relative to this one".to_owned(),
            () if other.is_dir() => format!("{shown} is a folder"),
            () => format!("there is no file {shown}"),
        };
        return refuse(report, &what, similar(&other, &name));
    }
    let canonical = fs::canonicalize(&other).unwrap_or_else(|_| other.clone());
    if chain.contains(&canonical) {
        let names: Vec<String> = chain.iter().chain([&canonical]).map(|path| file_name(path)).collect();
        return refuse(report, &format!("the files extend each other: {}", names.join(" → ")), None);
    }
    if chain.len() >= DEPTH {
        return refuse(report, &format!("more than {DEPTH} files extend each other"), None);
    }
    let text = match read_text(&other) {
        Ok(text) => text,
        Err(what) => return refuse(report, &format!("{shown} {what}"), None),
    };
    let errors = report.count();
    let tree = tree(&shown, &text, &other, chain, report);
    match &tree {
        None if report.count() == errors => refuse(report, &format!("{shown} is empty"), None),
        Some(Node { content: Content::List(_) | Content::Text { .. }, .. }) => {
            refuse(report, &format!("{shown} is no map of sections"), None)
        }
        _ => tree,
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The nearest name among the sweep files of the folder.
fn similar(other: &Path, name: &str) -> Option<String> {
    let folder = other.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let files: Vec<String> = super::sweep_files(folder).iter().map(|path| file_name(path)).collect();
    let near = nearest(&file_name(other), files.iter().map(String::as_str))?;
    let written = Path::new(name).with_file_name(near);
    Some(format!("did you mean `{}`?", written.display()))
}

type Entries = Vec<(Name, Node)>;

/// The sections of the other file under those of this one.
fn merged(parent: Entries, child: Entries) -> Entries {
    let given: Vec<Vec<String>> = SETTINGS
        .iter()
        .map(|section| child.iter().filter(|(name, _)| name.text == *section))
        .map(|sections| sections.flat_map(|(name, node)| given(&name.text, node)).collect())
        .collect();
    let mut out: Entries = vec![];
    let mut child: Vec<Option<(Name, Node)>> = child.into_iter().map(Some).collect();
    for (name, node) in
        parent.into_iter().filter(|(name, _)| !matches!(name.text.as_str(), "name" | "extends"))
    {
        let own = child.iter_mut().find(|entry| entry.as_ref().is_some_and(|(n, _)| n.text == name.text));
        let own = own.and_then(Option::take);
        let settings = SETTINGS.iter().position(|section| *section == name.text);
        let elsewhere: Vec<&String> = given
            .iter()
            .enumerate()
            .filter(|&(section, _)| settings.is_some_and(|own| own != section))
            .flat_map(|(_, paths)| paths)
            .collect();
        let (place, parent_node) = (node.place, node);
        let (name, node) = match (own, parent_node.content) {
            (None, Content::Map(entries)) if settings.is_some() => {
                let entries = joined(flat("", entries), vec![], &elsewhere);
                (name, Node { content: Content::Map(entries), place })
            }
            (None, content) => (name, Node { content, place }),
            (Some((own_name, own)), Content::Map(entries)) => match own.content {
                Content::Map(own_entries) if settings.is_some() => {
                    let entries = joined(flat("", entries), flat("", own_entries), &elsewhere);
                    (own_name, Node { content: Content::Map(entries), place: own.place })
                }
                Content::Map(own_entries) if name.text == "report" => {
                    let entries = joined(entries, own_entries, &[]);
                    (own_name, Node { content: Content::Map(entries), place: own.place })
                }
                _ => (own_name, own),
            },
            (Some(own), _) => own,
        };
        // A section of which nothing is left is none.
        let emptied =
            settings.is_some() && matches!(&node.content, Content::Map(entries) if entries.is_empty());
        if !emptied {
            out.push((name, node));
        }
    }
    out.extend(child.into_iter().flatten());
    out
}

/// Entries under those of this file, in the order in which a name first appears; without those that are given elsewhere, and
/// without those that this file takes away.
fn joined(parent: Entries, child: Entries, elsewhere: &[&String]) -> Entries {
    let mut out: Entries = vec![];
    let mut child: Vec<Option<(Name, Node)>> = child.into_iter().map(Some).collect();
    for (name, node) in parent {
        let mut replaced = false;
        for entry in &mut child {
            if entry.as_ref().is_some_and(|(own, _)| own.text == name.text) {
                replaced = true;
                out.extend(entry.take().filter(|(_, node)| !node.is_null()));
            }
        }
        if !replaced && !out.iter().any(|(own, _)| own.text == name.text) && !elsewhere.contains(&&name.text)
        {
            out.push((name, node));
        }
    }
    // An empty value that takes nothing away is left to be refused.
    out.extend(child.into_iter().flatten());
    out
}

/// The entries of a section by their dotted paths.
fn flat(prefix: &str, entries: Entries) -> Entries {
    let mut out = vec![];
    for (name, node) in entries {
        let path = format!("{prefix}{}", name.text);
        let found = schema::find(prefix, &name.text);
        match (found, node) {
            (Found::Table(_) | Found::Nothing(_), Node { content: Content::Map(inner), .. })
                if !is_conditional(&inner) && !inner.is_empty() =>
            {
                out.extend(flat(&format!("{path}."), inner));
            }
            (Found::Table(Some(key)), node)
                if matches!(node.content, Content::Text { .. }) && !node.is_null() =>
            {
                out.push((Name { text: key.path.to_owned(), ..name }, node));
            }
            (_, node) => out.push((Name { text: path, ..name }, node)),
        }
    }
    out
}

/// The settings that a section gives.
fn given(section: &str, node: &Node) -> Vec<String> {
    let Content::Map(entries) = &node.content else { return vec![] };
    let mut paths = vec![];
    for (name, node) in flat("", entries.clone()) {
        let values = match &node.content {
            Content::Map(entries) => {
                entries.iter().find(|(name, _)| name.text == "values").map(|(_, node)| node)
            }
            _ => Some(&node),
        };
        match values.map(|node| &node.content) {
            // The tables of an axis such as `data: [phantom, { name: acdc, root: x }]`.
            Some(Content::List(items)) if section != "base" => {
                for item in items {
                    let entry = (Name { text: name.text.clone(), place: item.place }, item.clone());
                    paths.extend(flat("", vec![entry]).into_iter().map(|(name, _)| name.text));
                }
            }
            _ => {}
        }
        paths.push(name.text);
    }
    paths
}
