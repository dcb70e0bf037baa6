//! What is wrong with a sweep file: every error at once, each with its place and a remedy.

use std::collections::HashSet;
use std::fmt;

/// Errors shown at most; the rest is counted.
const SHOWN: usize = 50;
/// Characters of a source line shown at most.
const WIDTH: usize = 100;

/// A place in one of the sources: the sweep file or one `--set` argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    /// Index of the source.
    pub(crate) source: usize,
    /// Line, from 1.
    pub(crate) line: usize,
    /// Column in characters, from 1.
    pub(crate) column: usize,
    /// Characters on that line, at least 1.
    pub(crate) len: usize,
}

/// One error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file as it was named, or `--set`.
    pub file: String,
    /// Line, from 1; 0 where the error is about the file as a whole.
    pub line: usize,
    /// Column in characters, from 1; 0 where the error is about the file as a whole.
    pub column: usize,
    /// What is wrong, naming the value and what is allowed.
    pub message: String,
    /// What may have been meant.
    pub help: Option<String>,
    /// The line and the number of characters to mark.
    excerpt: Option<(String, usize)>,
}

/// Everything that is wrong, in the order of the file. Displayed, each error stands with its line and a caret.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
pub struct Diagnostics {
    /// The errors.
    pub items: Vec<Diagnostic>,
}

impl Diagnostics {
    /// One error about a file as a whole.
    pub(crate) fn of_file(file: &str, message: String, help: Option<String>) -> Self {
        let item = Diagnostic { file: file.into(), line: 0, column: 0, message, help, excerpt: None };
        Self { items: vec![item] }
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, item) in self.items.iter().take(SHOWN).enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{item}")?;
        }
        match self.items.len() {
            n if n > SHOWN => write!(f, "\nand {} more errors", n - SHOWN),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, message, help, excerpt } = self;
        let Some((text, len)) = excerpt else {
            write!(f, "error: {file}: {message}")?;
            return help.as_ref().map_or(Ok(()), |help| write!(f, "\n  {help}"));
        };
        writeln!(f, "error: {file}:{line}:{column}: {message}")?;
        let (text, column) = window(text, *column);
        let len = (*len).min(text.chars().count().saturating_sub(column - 1)).max(1);
        let margin = line.to_string().len();
        writeln!(f, "  {line} | {}", text.trim_end())?;
        write!(f, "  {:margin$} | {:indent$}{}", "", "", "^".repeat(len), indent = column - 1)?;
        help.as_ref().map_or(Ok(()), |help| write!(f, " {help}"))
    }
}

/// The part of a long line around `column`, printable, and the column in that part.
fn window(line: &str, column: usize) -> (String, usize) {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let start = if column > WIDTH { column - WIDTH / 2 } else { 0 };
    (line.chars().skip(start).take(WIDTH).map(clean).collect(), column - start)
}

/// Collects errors and notes while a sweep file is read.
#[derive(Debug, Default)]
pub(crate) struct Reporter {
    sources: Vec<(String, String)>,
    errors: Vec<(Place, String, Option<String>)>,
    seen: HashSet<(Place, String)>,
    /// What a person should know and nobody must change.
    pub(crate) notes: Vec<String>,
}

impl Reporter {
    /// Takes in a source and gives its index.
    pub(crate) fn source(&mut self, name: &str, text: &str) -> usize {
        self.sources.push((name.into(), text.into()));
        self.sources.len() - 1
    }

    /// Reports an error; the same one twice counts once.
    pub(crate) fn error(&mut self, place: Place, message: impl Into<String>, help: Option<String>) {
        let message = message.into();
        if self.seen.insert((place, message.clone())) {
            self.errors.push((place, message, help));
        }
    }

    /// Reports something that nobody must change.
    pub(crate) fn note(&mut self, place: Place, message: &str) {
        let name = &self.sources[place.source].0;
        self.notes.push(format!("{name}:{}:{}: {message}", place.line, place.column));
    }

    /// Whether there is no error.
    pub(crate) fn clean(&self) -> bool {
        self.errors.is_empty()
    }

    /// Errors so far; large numbers mean that looking further is of no use.
    pub(crate) fn count(&self) -> usize {
        self.errors.len()
    }

    /// `file:line` of a place.
    pub(crate) fn line(&self, place: Place) -> String {
        format!("{}:{}", self.sources[place.source].0, place.line)
    }

    /// The sources by name and text, and the notes.
    pub(crate) fn into_sources(self) -> (Vec<(String, String)>, Vec<String>) {
        (self.sources, self.notes)
    }

    /// All errors in the order of the sources.
    pub(crate) fn finish(mut self) -> Diagnostics {
        self.errors.sort();
        let Self { sources, errors, .. } = self;
        let lines: Vec<Vec<&str>> = sources.iter().map(|(_, text)| text.lines().collect()).collect();
        let item = |(place, message, help): (Place, String, Option<String>)| {
            let line = lines[place.source].get(place.line - 1).copied().unwrap_or_default();
            let file = sources[place.source].0.clone();
            let excerpt = Some((line.to_owned(), place.len));
            Diagnostic { file, line: place.line, column: place.column, message, help, excerpt }
        };
        Diagnostics { items: errors.into_iter().map(item).collect() }
    }
}

/// `did you mean …?` with the nearest of `words`, where one is near enough.
pub(crate) fn did_you_mean<'a>(word: &str, words: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(word, words).map(|near| format!("did you mean `{near}`?"))
}

/// The nearest of `words`, where one is near enough to be meant.
pub(crate) fn nearest<'a>(word: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| -> Vec<char> {
        text.chars().take(64).flat_map(char::to_lowercase).map(|c| if c == '-' { '_' } else { c }).collect()
    };
    let word = plain(word);
    let allowed = (word.len() / 3).max(1);
    let distances = words.into_iter().map(|other| (distance(&word, &plain(other)), other));
    distances.filter(|&(d, other)| d <= allowed && d < other.chars().count()).min().map(|(_, other)| other)
}

/// Edits from `a` to `b`: insertions, deletions, replacements and swaps of neighbours.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = vec![];
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

/// `a`, `b` or `c`: the words of a choice.
pub(crate) fn choice(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [one] => format!("`{one}`"),
        [first @ .., last] => {
            let first: Vec<_> = first.iter().map(|word| format!("`{word}`")).collect();
            format!("{} or `{last}`", first.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found_only_when_near() {
        let words = ["dfm", "dic", "timesteps", "feature_dim", "tau"];
        assert_eq!(nearest("dmf", words), Some("dfm"), "swapped neighbours");
        assert_eq!(nearest("feature-dim", words), Some("feature_dim"), "hyphen");
        assert_eq!(nearest("TimeStep", words), Some("timesteps"), "case and a missing letter");
        assert_eq!(nearest("momentum", words), None, "nothing near");
        assert_eq!(nearest("", words), None, "nothing written");
    }

    #[test]
    fn a_long_line_is_cut_around_the_caret() {
        let line = format!("{}x{}", "a".repeat(300), "b".repeat(300));
        let (part, column) = window(&line, 301);
        assert_eq!(part.chars().count(), WIDTH);
        assert_eq!(part.chars().nth(column - 1), Some('x'));
    }
}
