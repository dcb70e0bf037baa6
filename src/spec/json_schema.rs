//! The JSON Schema (draft 2020-12) of a sweep file, from the same table of keys that reads it.

use serde_json::{Map, Value, json};

use super::schema::{Count, KEYS, Key, Kind, Range, SHORTHANDS};

/// The source of the settings, whose documentation describes them here, too.
const SETTINGS: &str = concat!(
    include_str!("settings.rs"),
    include_str!("settings/data.rs"),
    include_str!("settings/diffusion.rs"),
    include_str!("settings/methods.rs")
);

/// The schema. Settings are named by their dotted paths or nested; every setting is also an axis.
pub fn schema() -> Value {
    let mut definitions: Map<String, Value> =
        KEYS.iter().map(|key| (key.path.to_owned(), setting(key))).collect();
    definitions.insert("when".into(), described(map(Use::Match), "The values that settings must have"));
    definitions.insert("point".into(), described(map(Use::Value), "Settings with one value each"));
    definitions
        .insert("match".into(), described(map(Use::Match), "Settings with a value or a list of values"));
    let axes = json!({"anyOf": [{"$ref": "#/$defs/axis_names"}, {"type": "string"}]});
    definitions.insert(
        "axis_names".into(),
        json!({"enum": KEYS.iter().map(|key| key.path).chain(tables()).collect::<Vec<_>>()}),
    );
    let table = table(&axes);
    let figure = figure(&axes);
    let nullable = |value: Value| json!({"anyOf": [value, {"type": "null"}]});
    let section = |value: Value, text: &str| described(nullable(value), text);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A sweep file",
        "description": "A grid over the settings of semi-supervised segmentation",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "name": {
                "type": "string", "pattern": "^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$",
                "description": "Folder of the results; without it, the name of the file",
            },
            "description": {"type": "string", "description": "What the sweep is about"},
            "extends": {
                "type": "string", "minLength": 1,
                "description": "Another sweep file, relative to this one: maps merge, lists replace, null takes an entry away",
            },
            "base": section(map(Use::Value), "Holds for every point"),
            "grid": section(map(Use::Axis), "Axes: every combination"),
            "zip": section(map(Use::List), "Axes that advance together: lists of the same length"),
            "exclude": section(
                json!({"type": "array", "items": {"$ref": "#/$defs/match"}}),
                "Drops the points of grid and zip that match all of an entry",
            ),
            "include": section(json!({"type": "array", "items": {"$ref": "#/$defs/point"}}), "Further points"),
            "report": section(
                json!({
                    "type": "object", "additionalProperties": false,
                    "properties": {
                        "tables": {"type": "array", "items": table},
                        "figures": {"type": "array", "items": figure},
                        "pictures": {
                            "type": "boolean",
                            "description": "Whether images are shown: slices, feature maps, samples; without it, of generated data only",
                        },
                    },
                }),
                "Tables and figures; without it, the report chooses",
            ),
        },
        "$defs": definitions,
    })
}

/// A table of the report.
fn table(axes: &Value) -> Value {
    use super::report::table::KEYS;
    use super::report::{COUNTS, METRICS, VARIANTS};
    let metrics = [&METRICS[..], &VARIANTS, &COUNTS].concat();
    let flag = || json!({"type": "boolean"});
    let of_axes = || json!({"type": "object"});
    let properties = [
        json!({"anyOf": [axes, {"type": "array", "items": axes}], "description": "The axes that make the rows"}),
        described(json!({"type": "string"}), "The name of its files"),
        json!({
            "anyOf": [axes, {"type": "array", "items": axes}],
            "description": "Rows form blocks by these axes, and are ranked and compared within them",
        }),
        json!({"type": "array", "items": {"enum": metrics}}),
        described(json!({"type": "array", "items": {"type": "string"}}), "The classes that means are over"),
        described(flag(), "Columns for each class"),
        described(of_axes(), "Only the points whose axes have one of these values"),
        described(of_axes(), "The row that others are compared with, by the values of its axes"),
        described(flag(), "Columns with the difference to the row of `against`"),
        described(flag(), "The 95 % bootstrap interval over patients in each cell"),
        described(json!({"enum": ["zero", "diagonal"]}), "The distance where a prediction is empty"),
        described(
            json!({"enum": super::report::Published::WORDS}),
            "Published values beside the measured ones",
        ),
        json!({"type": "string"}),
    ];
    let properties: Map<String, Value> = KEYS.map(String::from).into_iter().zip(properties).collect();
    json!({"type": "object", "additionalProperties": false, "required": ["rows"], "properties": properties})
}

/// A figure of the report.
fn figure(axes: &Value) -> Value {
    use super::report::FigureKind;
    use super::report::figure::KEYS;
    let kinds = FigureKind::ALL.map(|(name, _)| name);
    let several = || json!({"anyOf": [axes, {"type": "array", "items": axes}]});
    let properties = [
        described(json!({"enum": kinds}), "What is drawn"),
        described(several(), "The axis along x, the two of a heat map, or those that make configurations"),
        described(json!({"type": "string"}), "The metric, also of one class (dice_LV), or what was logged"),
        described(several(), "The axes that make series"),
        described(json!({"type": "object"}), "Only the points whose axes have one of these values"),
        described(json!({"type": "object"}), "The configuration that others are set against"),
        described(json!({"type": "string"}), "The name of its files"),
        described(json!({"type": "string"}), "Text that begins its caption"),
    ];
    let properties: Map<String, Value> = KEYS.map(String::from).into_iter().zip(properties).collect();
    json!({"type": "object", "additionalProperties": false, "properties": properties})
}

fn described(mut value: Value, text: &str) -> Value {
    value["description"] = text.into();
    value
}

/// How a section uses a setting.
#[derive(Clone, Copy, PartialEq)]
enum Use {
    /// One value.
    Value,
    /// A value or a list of values.
    Match,
    /// A list of values.
    List,
    /// A list of values, or a condition and a list of values.
    Axis,
}

/// The names of the tables of settings.
fn tables() -> Vec<&'static str> {
    let mut tables: Vec<&str> =
        KEYS.iter().filter_map(|key| key.path.split_once('.')).map(|(table, _)| table).collect();
    tables.dedup();
    tables
}

/// A map of settings, nested or by dotted paths.
fn map(how: Use) -> Value {
    let mut properties = Map::new();
    for key in &KEYS {
        properties.insert(key.path.to_owned(), used(how, &reference(key)));
    }
    for name in tables() {
        let own = |key: &&Key| key.path.split_once('.').is_some_and(|(table, _)| table == name);
        let short = SHORTHANDS.iter().find(|(table, _)| *table == name).map(|(_, path)| path);
        let short = short.and_then(|path| KEYS.iter().find(|key| key.path == *path)).map(reference);
        let nested = |how: Use| {
            let entry = |key: &Key| {
                let (_, last) = key.path.split_once('.').unwrap_or_default();
                (last.to_owned(), used(how, &reference(key)))
            };
            let properties: Map<String, Value> = KEYS.iter().filter(own).map(entry).collect();
            json!({"type": "object", "additionalProperties": false, "properties": properties})
        };
        let mut one = vec![nested(Use::Value)];
        one.extend(short.clone());
        let mut any = match how {
            Use::Value => one,
            Use::Match => {
                [nested(Use::Match)].into_iter().chain(short.map(|s| used(Use::Match, &s))).collect()
            }
            // An axis of whole tables, or a table of axes.
            Use::List | Use::Axis => vec![used(how, &json!({"anyOf": one})), nested(how)],
        };
        let value = if any.len() == 1 { any.remove(0) } else { json!({"anyOf": any}) };
        properties.insert(name.to_owned(), described(value, &table_text(name)));
    }
    json!({"type": "object", "additionalProperties": false, "properties": properties})
}

fn reference(key: &Key) -> Value {
    json!({"$ref": format!("#/$defs/{}", key.path)})
}

fn used(how: Use, one: &Value) -> Value {
    let list = json!({"type": "array", "items": one, "minItems": 1});
    match how {
        // Below another file's entry, null takes it away.
        Use::Value => json!({"anyOf": [one, {"type": "null"}]}),
        Use::Match => json!({"anyOf": [one, list]}),
        Use::List => json!({"anyOf": [list, {"type": "null"}]}),
        Use::Axis => json!({"anyOf": [
            list,
            {
                "type": "object", "additionalProperties": false, "required": ["when", "values"],
                "properties": {"when": {"$ref": "#/$defs/when"}, "values": list},
                "description": "An axis that only the points have of which `when` holds",
            },
            {"type": "null"},
        ]}),
    }
}

/// What one setting takes.
fn setting(key: &Key) -> Value {
    let mut value = match key.kind {
        Kind::Flag => json!({"type": "boolean"}),
        Kind::Count(range) => count(range),
        Kind::Number(range) => number(range),
        Kind::Word(words) => json!({"enum": words}),
        Kind::Folder => json!({"type": "string", "minLength": 1}),
        Kind::File => json!({"type": "string"}),
        Kind::Ratio => json!({
            "anyOf": [
                {"type": "string", "pattern": "^\\s*([0-9]*\\.?[0-9]+([eE][+-]?[0-9]+)?\\s*%|[0-9]+\\s*(cases?)?)\\s*$"},
                {"type": "integer", "minimum": 1},
            ],
            "examples": ["10%", "7 cases", 7],
        }),
        Kind::Counts(range, len, distinct) => {
            let mut list = json!({"type": "array", "items": count(range), "minItems": len.unwrap_or(1)});
            if let Some(len) = len {
                list["maxItems"] = len.into();
            }
            if distinct {
                list["uniqueItems"] = true.into();
            }
            list
        }
        Kind::Numbers(range, len) => {
            json!({"type": "array", "items": number(range), "minItems": len, "maxItems": len})
        }
    };
    let text = documentation(key.path);
    if !text.is_empty() {
        value["description"] = text.into();
    }
    value
}

fn count(Count { min, max, multiple }: Count) -> Value {
    let mut value = json!({"type": "integer", "minimum": min});
    if max < u64::MAX {
        value["maximum"] = max.into();
    }
    if multiple > 1 {
        value["multipleOf"] = multiple.into();
    }
    value
}

fn number(range: Range) -> Value {
    match range {
        Range::Fraction => json!({"type": "number", "exclusiveMinimum": 0, "maximum": 1}),
        Range::Probability => json!({"type": "number", "minimum": 0, "maximum": 1}),
        Range::BelowOne => json!({"type": "number", "minimum": 0, "exclusiveMaximum": 1}),
        Range::Positive => json!({"type": "number", "exclusiveMinimum": 0}),
        Range::NotNegative => json!({"type": "number", "minimum": 0}),
    }
}

/// What [`super::settings`] says of a setting.
pub(super) fn documentation(path: &str) -> String {
    let (first, rest) = path.split_once('.').map_or((path, None), |(table, name)| (table, Some(name)));
    let (text, kind) = field("Settings", first);
    rest.map_or(text, |name| field(&kind, name).0)
}

fn table_text(name: &str) -> String {
    field("Settings", name).0
}

/// The documentation and the type of a field of a struct.
fn field(of: &str, name: &str) -> (String, String) {
    let opening = format!("pub struct {of} {{");
    let body = SETTINGS.split_once(&opening).map_or("", |(_, rest)| rest.split("\n}").next().unwrap_or(""));
    let mut text: Vec<&str> = vec![];
    for line in body.lines().map(str::trim) {
        if let Some(words) = line.strip_prefix("///") {
            text.push(words.trim());
        } else if let Some((found, kind)) = line.strip_prefix("pub ").and_then(|line| line.split_once(": ")) {
            if found == name {
                return (text.join(" "), kind.trim_end_matches(',').to_owned());
            }
            text.clear();
        }
    }
    (String::new(), String::new())
}
