//! The metadata of an object as text: JSON, the last line of which holds the hash of all before it.

use super::Meta;

/// What stands before the hash.
const BEFORE: &str = ",\n  \"sum\": \"";
/// What stands after it.
const AFTER: &str = "\"\n}";
/// Hexadecimal digits of a hash.
const DIGITS: usize = 64;

/// The text of `meta`.
///
/// # Errors
/// Where the summary of the stage is no JSON.
pub(super) fn text(meta: &Meta) -> serde_json::Result<String> {
    let mut text = serde_json::to_string_pretty(meta)?;
    text.truncate(text.len() - "\n}".len());
    let sum = blake3::hash(text.as_bytes()).to_hex();
    text.extend([BEFORE, sum.as_str(), AFTER]);
    Ok(text)
}

/// The metadata in a text; none where it is torn or has changed since it was written. The texts of older programs have no
/// hash.
pub(super) fn parse(text: &[u8]) -> Option<Meta> {
    let tail = text.len().checked_sub(BEFORE.len() + DIGITS + AFTER.len());
    if let Some((body, tail)) = tail.map(|at| text.split_at(at))
        && let Some(sum) = tail.strip_prefix(BEFORE.as_bytes())
        && sum[..DIGITS] != *blake3::hash(body).to_hex().as_bytes()
    {
        return None;
    }
    serde_json::from_slice(text).ok()
}
