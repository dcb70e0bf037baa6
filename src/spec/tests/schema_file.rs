//! The JSON Schema holds of what is accepted and of nothing that is refused for its form.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::super::diagnostics::Reporter;
use super::super::yaml::{self, Content, Node};
use super::super::{json_schema, parse, schema, template};

/// A node as JSON, as an editor reads it.
fn json_of(node: &Node) -> Value {
    match &node.content {
        _ if node.is_null() => Value::Null,
        Content::Bad => Value::Null,
        Content::Map(entries) => Value::Object(
            entries.iter().map(|(name, node)| (name.text.clone(), json_of(node))).collect::<Map<_, _>>(),
        ),
        Content::List(items) => items.iter().map(json_of).collect(),
        Content::Text { text, plain: true } => match text.as_str() {
            "true" => json!(true),
            "false" => json!(false),
            number => {
                serde_json::from_str::<serde_json::Number>(number).map_or_else(|_| json!(text), Value::from)
            }
        },
        Content::Text { text, .. } => json!(text),
    }
}

fn document(text: &str) -> Value {
    let mut report = Reporter::default();
    let source = report.source("a", text);
    json_of(&yaml::parse(text, source, &mut report).unwrap())
}

/// Whether a value fulfils a schema: the part of draft 2020-12 that ours uses, and a panic for any other keyword.
fn holds(root: &Value, schema: &Value, value: &Value) -> bool {
    schema.as_object().unwrap().iter().all(|(keyword, rule)| match keyword.as_str() {
        "$ref" => {
            let name = rule.as_str().unwrap().strip_prefix("#/$defs/").unwrap();
            holds(root, &root["$defs"][name], value)
        }
        "anyOf" => rule.as_array().unwrap().iter().any(|rule| holds(root, rule, value)),
        "enum" => rule.as_array().unwrap().contains(value),
        "type" => match rule.as_str().unwrap() {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "null" => value.is_null(),
            "number" => value.is_number(),
            "integer" => value.as_f64().is_some_and(|x| x.fract() == 0.0),
            other => panic!("type {other}"),
        },
        "minimum" => value.as_f64().is_none_or(|x| x >= rule.as_f64().unwrap()),
        "maximum" => value.as_f64().is_none_or(|x| x <= rule.as_f64().unwrap()),
        "exclusiveMinimum" => value.as_f64().is_none_or(|x| x > rule.as_f64().unwrap()),
        "exclusiveMaximum" => value.as_f64().is_none_or(|x| x < rule.as_f64().unwrap()),
        "multipleOf" => value.as_f64().is_none_or(|x| x % rule.as_f64().unwrap() == 0.0),
        "minLength" => {
            value.as_str().is_none_or(|text| text.chars().count() as u64 >= rule.as_u64().unwrap())
        }
        "minItems" => value.as_array().is_none_or(|items| items.len() as u64 >= rule.as_u64().unwrap()),
        "maxItems" => value.as_array().is_none_or(|items| items.len() as u64 <= rule.as_u64().unwrap()),
        "uniqueItems" => {
            value.as_array().is_none_or(|items| (1..items.len()).all(|i| !items[..i].contains(&items[i])))
        }
        "items" => value.as_array().is_none_or(|items| items.iter().all(|item| holds(root, rule, item))),
        "required" => value.as_object().is_none_or(|map| {
            rule.as_array().unwrap().iter().all(|name| map.contains_key(name.as_str().unwrap()))
        }),
        "additionalProperties" => {
            assert_eq!(rule, &json!(false));
            value
                .as_object()
                .is_none_or(|map| map.keys().all(|name| schema["properties"].get(name).is_some()))
        }
        "properties" => value.as_object().is_none_or(|map| {
            map.iter().all(|(name, v)| rule.get(name).is_none_or(|rule| holds(root, rule, v)))
        }),
        // Patterns are checked by scripts/check_schema.py.
        "pattern" | "description" | "title" | "$schema" | "$defs" | "examples" => true,
        other => panic!("keyword {other}"),
    })
}

fn valid(text: &str) -> bool {
    let schema = json_schema::schema();
    holds(&schema, &schema, &document(text))
}

#[test]
fn the_sweeps_of_the_project_fulfil_the_schema() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("sweeps");
    let files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 3);
    for file in files {
        assert!(valid(&fs::read_to_string(&file).unwrap()), "{}", file.display());
    }
}

#[test]
fn every_setting_is_in_the_schema_in_every_way_of_writing() {
    for key in &schema::KEYS {
        let value = super::sample(key.kind);
        let path = key.path;
        let nested = match path.split_once('.') {
            Some((table, name)) => format!("{{ {table}: {{ {name}: {value} }} }}"),
            None => format!("{{ {path}: {value} }}"),
        };
        for text in [
            format!("base: {{ {path}: {value} }}"),
            format!("base: {nested}"),
            format!("grid: {{ {path}: [{value}] }}"),
            format!("grid: {{ {path}: {{ when: {{ method: [mcsd] }}, values: [{value}] }} }}"),
            format!("zip: {{ {path}: [{value}, {value}] }}"),
            format!("include: [{nested}]\nexclude: [{nested}, {{ {path}: [{value}] }}]"),
        ] {
            assert!(valid(&text), "{text}");
        }
        assert!(!json_schema::documentation(path).is_empty(), "{path} is not documented");
        let wrong = format!("base: {{ {path}: {{ no: such }} }}");
        assert!(!valid(&wrong) && parse("a.yaml", "a", &wrong, &[]).is_err(), "{wrong}");
    }
}

#[test]
fn the_schema_refuses_what_the_program_refuses() {
    for text in [
        "bsae: {}",
        "base: { tua: 0.9 }",
        "base: { tau: 2 }",
        "base: { method: mscd }",
        "base: { size: 100 }",
        "base: { seed: -1 }",
        "base: { unet.channels: [1, 2] }",
        "base: { timesteps: [50, 50] }",
        "base: { dfm: 1 }",
        "grid: { seed: 0 }",
        "grid: { seed: [] }",
        "grid: { blocks: [1, 2] }",
        "grid: { tau: { values: [0.9] } }",
        "zip: { tau: { when: { dfm: true }, values: [0.9] } }",
        "base: { train: { lr: 0 } }",
        "base: { label_ratio: [7] }",
        "report: { tables: [{ metrics: [dice] }] }",
        "- a",
    ] {
        assert!(!valid(text), "the schema accepts {text}");
        assert!(parse("a.yaml", "a", text, &[]).is_err(), "the program accepts {text}");
    }
}

#[test]
fn the_template_is_a_sweep_and_fulfils_the_schema() {
    let text = template("first").unwrap();
    assert!(valid(&text));
    let sweep = parse("first.yaml", "other", &text, &[]).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!((sweep.name.as_str(), sweep.points.len(), sweep.notes.len()), ("first", 6, 0));
    assert_eq!(template("../up"), None);
    // What is commented out is right as well.
    let all =
        text.replace("# zip:", "zip:").replace("#   train", "  train").replace("# exclude:", "exclude:");
    let all = all
        .replace("#   - ", "  - ")
        .replace("# include:", "include:")
        .replace("  # train.iterations", "  train.iterations");
    assert!(valid(&all));
    let sweep = parse("first.yaml", "other", &all, &[]).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(sweep.points.len(), 11);
}

#[test]
fn a_part_of_the_schema() {
    let schema = json_schema::schema();
    insta::assert_snapshot!(format!("{:#}", schema["$defs"]["tau"]), @r##"
    {
      "description": "Confidence below which pseudo-labels are dropped, in (0, 1].",
      "exclusiveMinimum": 0,
      "maximum": 1,
      "type": "number"
    }
    "##);
    insta::assert_snapshot!(format!("{:#}", schema["$defs"]["mcsd.feature_loss"]), @r##"
    {
      "description": "What couples the two streams.",
      "enum": [
        "literal",
        "mutual",
        "fused"
      ]
    }
    "##);
    insta::assert_snapshot!(format!("{:#}", schema["properties"]["grid"]["anyOf"][0]["properties"]["tau"]), @r##"
    {
      "anyOf": [
        {
          "items": {
            "$ref": "#/$defs/tau"
          },
          "minItems": 1,
          "type": "array"
        },
        {
          "additionalProperties": false,
          "description": "An axis that only the points have of which `when` holds",
          "properties": {
            "values": {
              "items": {
                "$ref": "#/$defs/tau"
              },
              "minItems": 1,
              "type": "array"
            },
            "when": {
              "$ref": "#/$defs/when"
            }
          },
          "required": [
            "when",
            "values"
          ],
          "type": "object"
        },
        {
          "type": "null"
        }
      ]
    }
    "##);
    insta::assert_snapshot!(format!("{:#}", schema["properties"]["base"]["anyOf"][0]["properties"]["data"]), @r##"
    {
      "anyOf": [
        {
          "additionalProperties": false,
          "properties": {
            "name": {
              "anyOf": [
                {
                  "$ref": "#/$defs/data.name"
                },
                {
                  "type": "null"
                }
              ]
            },
            "patients": {
              "anyOf": [
                {
                  "$ref": "#/$defs/data.patients"
                },
                {
                  "type": "null"
                }
              ]
            },
            "root": {
              "anyOf": [
                {
                  "$ref": "#/$defs/data.root"
                },
                {
                  "type": "null"
                }
              ]
            },
            "seed": {
              "anyOf": [
                {
                  "$ref": "#/$defs/data.seed"
                },
                {
                  "type": "null"
                }
              ]
            },
            "unlabelled": {
              "anyOf": [
                {
                  "$ref": "#/$defs/data.unlabelled"
                },
                {
                  "type": "null"
                }
              ]
            }
          },
          "type": "object"
        },
        {
          "$ref": "#/$defs/data.name"
        }
      ],
      "description": "Which data set."
    }
    "##);
}
