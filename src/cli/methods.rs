//! `sweep methods`: what can be trained.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::table::table;
use super::{Ending, OrBadInput as _, say};
use crate::methods::catalogue::{CATALOGUE, Entry, networks};
use crate::spec::settings::{Method, Preset, Settings};

/// List the methods that can be trained, or explain one
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The method to explain, as a sweep file names it
    name: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<Ending> {
    match &args.name {
        None if args.json => say(&serde_json::to_string_pretty(&all()?)?)?,
        None => say(&list()?)?,
        Some(name) => {
            let entry = find(name).or_bad_input()?;
            say(&if args.json { serde_json::to_string_pretty(&value(entry)?)? } else { explain(entry)? })?;
        }
    }
    Ok(Ending::Done)
}

fn find(name: &str) -> Result<&'static Entry> {
    let wanted = name.to_lowercase().replace(['-', ' '], "_").replace('+', "_plus");
    let entry = CATALOGUE.iter().find(|entry| {
        let title = entry.title.to_lowercase().replace(['-', ' '], "_").replace('+', "_plus");
        entry.method.name() == wanted || title == wanted
    });
    let names: Vec<&str> = Method::ALL.iter().map(|method| method.name()).collect();
    entry.with_context(|| format!("there is no method `{name}`: {}", names.join(", ")))
}

/// Trained parameters of all networks.
fn count(method: Method) -> Result<usize> {
    Ok(networks(method, Preset::Paper)?.iter().map(|(_, learns, _)| learns).sum())
}

fn millions(count: usize) -> String {
    format!("{:.3} M", count as f64 / 1e6)
}

fn list() -> Result<String> {
    let rows = CATALOGUE.iter().map(|entry| {
        let count = millions(count(entry.method)?);
        Ok([entry.method.name(), entry.title, &count, entry.networks, entry.paper].map(String::from).to_vec())
    });
    let rows = rows.collect::<Result<Vec<_>>>()?;
    let table = table(&["method", "in tables", "trained", "networks", "source"], &rows, 0);
    Ok(format!("{table}\n\n`sweep methods NAME` explains one: its loss, its protocol, what is peculiar."))
}

fn explain(entry: &Entry) -> Result<String> {
    let Entry { method, title, paper, code, loss, notes, settings: own, .. } = entry;
    let mut text = format!("{} · {title}\n  {paper}", method.name());
    if !code.is_empty() {
        let _ = write!(text, "\n  protocol as in {code}");
    }
    let _ = write!(text, "\n\nLoss\n  {loss}\n\nNetworks ({})", entry.networks);
    for (name, learns, kept) in networks(*method, Preset::Paper)? {
        let what = match (learns, kept) {
            (0, kept) => format!("{kept} values kept, none trained"),
            (learns, 0) => format!("{learns} parameters"),
            (learns, _) => format!("{learns} parameters ({})", millions(learns)),
        };
        let _ = write!(text, "\n  {name:<12} {what}");
    }
    text.push_str("\n\nDefaults");
    let presets =
        [Preset::Paper, Preset::Lite, Preset::Smoke].map(|preset| json!(Settings::preset(preset, *method)));
    let rows: Vec<Vec<String>> = PROTOCOL
        .iter()
        .chain(*own)
        .map(|path| {
            let shown = |settings: &Value| settings.pointer(&pointer(path)).map(shown).unwrap_or_default();
            std::iter::once((*path).to_owned()).chain(presets.iter().map(shown)).collect()
        })
        .collect();
    let _ = write!(text, "\n{}", table(&["setting", "paper", "lite", "smoke"], &rows, 2));
    text.push_str("\n\nTo know");
    for note in *notes {
        let _ = write!(text, "\n  - {note}");
    }
    Ok(text)
}

/// The settings of every method's protocol.
const PROTOCOL: [&str; 17] = [
    "size",
    "train.iterations",
    "train.batch",
    "train.lr",
    "train.momentum",
    "train.weight_decay",
    "train.poly",
    "train.lr_lag",
    "train.loss",
    "train.validate_every",
    "augment.flip",
    "augment.rotate",
    "augment.quantise",
    "train.selection",
    "evaluate.select",
    "evaluate.empty",
    "evaluate.split",
];

fn pointer(path: &str) -> String {
    format!("/{}", path.replace('.', "/"))
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn all() -> Result<Value> {
    Ok(Value::Array(CATALOGUE.iter().map(value).collect::<Result<_>>()?))
}

fn value(entry: &Entry) -> Result<Value> {
    let networks: Vec<Value> = networks(entry.method, Preset::Paper)?
        .into_iter()
        .map(|(name, learns, kept)| json!({ "name": name, "trained": learns, "kept": kept }))
        .collect();
    let settings = json!(Settings::preset(Preset::Paper, entry.method));
    let own = PROTOCOL.iter().chain(entry.settings);
    let defaults: serde_json::Map<String, Value> = own
        .filter_map(|path| Some(((*path).to_owned(), settings.pointer(&pointer(path))?.clone())))
        .collect();
    Ok(json!({
        "name": entry.method.name(),
        "title": entry.title,
        "paper": entry.paper,
        "code": entry.code,
        "loss": entry.loss,
        "networks": networks,
        "parameters": count(entry.method)?,
        "defaults": defaults,
        "notes": entry.notes,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_as_tables_print_them() {
        for (name, method) in
            [("mc_net_plus", Method::McNetPlus), ("MC-Net+", Method::McNetPlus), ("UA-MT", Method::UaMt)]
        {
            assert_eq!(find(name).unwrap().method, method, "{name}");
        }
        let error = find("fixmatch").unwrap_err().to_string();
        assert!(error.contains("no method `fixmatch`") && error.contains("unimatch"), "{error}");
    }

    #[test]
    fn every_method_is_explained_with_its_defaults() {
        for entry in &CATALOGUE {
            let text = explain(entry).unwrap();
            let json = value(entry).unwrap();
            assert!(json["parameters"].as_u64().unwrap() > 1_800_000, "{}", entry.title);
            for path in PROTOCOL.iter().chain(entry.settings) {
                assert!(!json["defaults"][path].is_null(), "{}: {path} is a setting", entry.title);
                assert!(text.contains(path), "{}: {path}", entry.title);
            }
        }
    }
}
