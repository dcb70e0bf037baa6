//! Content keys, and the canonical text that they are hashes of.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The key of a stage: 32 lower-case hexadecimal digits of a BLAKE3 hash.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key([u8; 32]);

impl Key {
    /// The key of `bytes`: the first 16 bytes of their BLAKE3 hash.
    pub fn of(bytes: &[u8]) -> Self {
        let mut digits = [0; 32];
        digits.copy_from_slice(&blake3::hash(bytes).to_hex().as_bytes()[..32]);
        Self(digits)
    }

    /// The key's digits.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl TryFrom<String> for Key {
    type Error = NotAKey;

    fn try_from(text: String) -> Result<Self, NotAKey> {
        text.parse()
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.as_str().to_owned()
    }
}

/// A text that is no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no key: a key has 32 digits 0-9, a-f")]
pub struct NotAKey(String);

impl FromStr for Key {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<Self, NotAKey> {
        let digits = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let key = text.as_bytes().try_into().ok().filter(|_| digits).map(Self);
        key.ok_or_else(|| NotAKey(text.to_owned()))
    }
}

impl Key {
    /// The key of a stage: the hash of its canonical text
    /// `{"kind":…,"parents":[[role,key],…],"settings":…,"version":…}`, the settings as [`canonical`] writes them and
    /// the parents in the stage's order.
    pub fn of_stage<'a>(
        kind: &str,
        version: u32,
        settings: &str,
        parents: impl IntoIterator<Item = (&'a str, &'a Key)>,
    ) -> Self {
        let mut text = String::new();
        Self::open(&mut text, kind, parents);
        text.push_str(settings);
        Self::close(&mut text, version);
        Self::of(text.as_bytes())
    }

    /// Appends what the text of a stage begins with, up to its settings.
    pub(crate) fn open<'a>(
        text: &mut String,
        kind: &str,
        parents: impl IntoIterator<Item = (&'a str, &'a Self)>,
    ) {
        text.push_str("{\"kind\":");
        write_quoted(text, kind);
        text.push_str(",\"parents\":[");
        for (i, (role, key)) in parents.into_iter().enumerate() {
            text.push_str(if i > 0 { ",[" } else { "[" });
            write_quoted(text, role);
            text.push_str(",\"");
            text.push_str(key.as_str());
            text.push_str("\"]");
        }
        text.push_str("],\"settings\":");
    }

    /// Appends what follows the settings.
    pub(crate) fn close(text: &mut String, version: u32) {
        let _ = write!(text, ",\"version\":{version}}}");
    }
}

/// The one way in which a value is written down to be hashed. JSON without blanks, with
/// - the keys of an object in the order of their bytes,
/// - whole numbers in decimal digits, and numbers with a fractional type as the shortest digits that read back to
///   the same number, with an exponent: `9e-1`, `1e0`, `-2.5e3`; `-0.0` as `0e0`,
/// - texts with `"`, `\` and control characters escaped as `serde_json` does,
/// - left out: what equals `defaults` at the same place, and objects that this leaves empty.
///
/// Leaving out is what lets a setting be added later without a new key for every finished stage: its default goes
/// into `defaults`. An entry of `defaults` must therefore never change or go.
pub fn canonical(value: &Value, defaults: &Value) -> String {
    let mut text = String::new();
    write_canonical(&mut text, value, defaults);
    text
}

fn write_canonical(text: &mut String, value: &Value, defaults: &Value) {
    match value {
        Value::Object(map) => write_object(text, map, defaults),
        Value::Array(items) => {
            text.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    text.push(',');
                }
                write_canonical(text, item, &Value::Null);
            }
            text.push(']');
        }
        Value::String(string) => write_quoted(text, string),
        Value::Number(number) if number.is_f64() => {
            let x = number.as_f64().unwrap_or_default() + 0.0; // -0 becomes 0
            let _ = write!(text, "{x:e}");
        }
        Value::Number(_) | Value::Bool(_) | Value::Null => {
            let _ = write!(text, "{value}");
        }
    }
}

fn write_object(text: &mut String, map: &serde_json::Map<String, Value>, defaults: &Value) {
    let mut entries: Vec<(&String, &Value)> = map.iter().collect();
    entries.sort_unstable_by_key(|(name, _)| *name);
    text.push('{');
    let start = text.len();
    for (name, value) in entries {
        let default = defaults.get(name);
        if default == Some(value) {
            continue;
        }
        let before = text.len();
        if before > start {
            text.push(',');
        }
        write_quoted(text, name);
        text.push(':');
        let at = text.len();
        write_canonical(text, value, default.unwrap_or(&Value::Null));
        if default.is_some_and(Value::is_object) && &text[at..] == "{}" {
            text.truncate(before);
        }
    }
    text.push('}');
}

fn quoted(string: &str) -> String {
    Value::from(string).to_string()
}

fn write_quoted(text: &mut String, string: &str) {
    let plain = string.bytes().all(|b| b >= b' ' && b != b'"' && b != b'\\');
    if plain {
        text.push('"');
        text.push_str(string);
        text.push('"');
    } else {
        text.push_str(&quoted(string));
    }
}

#[cfg(test)]
mod parse_tests {
    use super::*;

    #[test]
    fn a_key_is_read_back_and_anything_else_refused() {
        let key = Key::of(b"stage");
        assert_eq!(key.as_str().parse(), Ok(key.clone()));
        for wrong in ["", "abc", "../../../../etc/passwd0123456789a", &key.as_str().to_uppercase()] {
            assert!(wrong.parse::<Key>().is_err(), "`{wrong}` passed");
        }
    }
}

#[cfg(test)]
mod canonical_tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn every_kind_of_value_is_written_as_documented() {
        let value = json!({
            "b": [1, 2.0, -3], "a": {"y": true, "x": null}, "text": "a\"b\\\n\u{1}ä", "small": 1e-4, "zero": -0.0,
            "large": 1e300, "seed": u64::MAX, "third": 1.0 / 3.0, "é": 1, "Z": 1,
        });
        let text = r#"{"Z":1,"a":{"x":null,"y":true},"b":[1,2e0,-3],"large":1e300,"seed":18446744073709551615,"small":1e-4,"text":"a\"b\\\n\u0001ä","third":3.333333333333333e-1,"zero":0e0,"é":1}"#;
        assert_eq!(canonical(&value, &Value::Null), text);
    }

    #[test]
    fn defaults_are_left_out_at_every_depth() {
        let defaults = json!({"new": 0.5, "table": {"new": [1], "other": 1}, "all": {"new": 1}});
        let old = json!({"tau": 0.9, "table": {"old": 1}});
        let new =
            json!({"tau": 0.9, "new": 0.5, "table": {"old": 1, "new": [1], "other": 1}, "all": {"new": 1}});
        assert_eq!(canonical(&old, &defaults), canonical(&new, &defaults));
        let changed = json!({"tau": 0.9, "new": 0.6, "table": {"old": 1, "new": [1, 2]}, "all": {"new": 2}});
        let text = r#"{"all":{"new":2},"new":6e-1,"table":{"new":[1,2],"old":1},"tau":9e-1}"#;
        assert_eq!(canonical(&changed, &defaults), text);
    }

    #[test]
    fn a_stage_key_never_changes() {
        let parents = [("data", Key::of(b"data")), ("features/t50/b2", Key::of(b"features"))];
        let settings = canonical(&json!({"tau": 0.9, "blocks": [2, 4]}), &Value::Null);
        let key = Key::of_stage("train", 1, &settings, parents.iter().map(|(role, key)| (*role, key)));
        assert_eq!(key.as_str(), "1cc6b03eadeb7c51dd4f6af04c4ecd1e");
        let parts = || parents.iter().map(|(role, key)| (*role, key));
        assert_ne!(key, Key::of_stage("train", 2, &settings, parts()), "the version counts");
        assert_ne!(key, Key::of_stage("evaluate", 1, &settings, parts()), "the kind counts");
        assert_ne!(key, Key::of_stage("train", 1, &settings, parts().rev()), "the order of parents counts");
    }

    #[test]
    fn a_damaged_key_in_a_file_is_refused() {
        assert!(serde_json::from_str::<Key>("\"../../etc\"").is_err());
        let key = Key::of(b"x");
        let text = serde_json::to_string(&key).unwrap();
        assert_eq!(serde_json::from_str::<Key>(&text).unwrap(), key);
    }

    fn tree() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_filter("finite", |x| x.is_finite()).prop_map(|x| json!(x + 0.0)),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec((".{0,6}", inner), 0..5)
                    .prop_map(|v| Value::Object(v.into_iter().collect())),
            ]
        })
    }

    /// The same value, every object filled in the opposite order.
    fn reversed(value: &Value) -> Value {
        match value {
            Value::Object(map) => {
                let mut entries: Vec<_> = map.iter().map(|(k, v)| (k.clone(), reversed(v))).collect();
                entries.reverse();
                Value::Object(entries.into_iter().collect())
            }
            Value::Array(items) => items.iter().map(reversed).collect(),
            other => other.clone(),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn the_text_reads_back_and_does_not_depend_on_the_order_of_keys(value in tree()) {
            let text = canonical(&value, &Value::Null);
            prop_assert_eq!(&text, &canonical(&reversed(&value), &Value::Null));
            prop_assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        }
    }
}
