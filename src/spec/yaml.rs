//! YAML as a small tree in which every node knows its place. Input is not trusted: depth and size are limited,
//! anchors, tags and several documents are refused, keys are unique.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span};

use super::diagnostics::{Place, Reporter};

/// Levels of nesting; a sweep file needs five.
const DEPTH: usize = 32;

/// A value as written.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) content: Content,
    pub(crate) place: Place,
}

/// What is written.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// A scalar; `plain` where it stands without quotes, so that it may be a number, a truth value or nothing.
    Text { text: String, plain: bool },
    /// A list.
    List(Vec<Node>),
    /// A map, keys in the order of the file.
    Map(Vec<(Name, Node)>),
    /// Something that was reported already.
    Bad,
}

/// A key as written.
#[derive(Clone, Debug)]
pub(crate) struct Name {
    pub(crate) text: String,
    pub(crate) place: Place,
}

impl Node {
    /// Whether nothing is written here.
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.content, Content::Text { text, plain: true }
            if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// The value as JSON: unquoted numbers, truth values and nothing as such.
    pub(super) fn json(&self) -> serde_json::Value {
        match &self.content {
            _ if self.is_null() => serde_json::Value::Null,
            Content::Text { text, plain } => {
                let bare = plain.then(|| serde_json::from_str(text).ok()).flatten();
                bare.unwrap_or_else(|| text.clone().into())
            }
            Content::List(items) => items.iter().map(Self::json).collect(),
            Content::Map(entries) => {
                entries.iter().map(|(name, node)| (name.text.clone(), node.json())).collect()
            }
            Content::Bad => serde_json::Value::Null,
        }
    }

    /// The value as a person would name it, short.
    pub(crate) fn shown(&self) -> String {
        let text = match &self.content {
            Content::Text { text, .. } if text.is_empty() => "nothing".into(),
            Content::Text { text, .. } => text.clone(),
            Content::List(items) => {
                format!("[{}]", items.iter().take(8).map(Self::shown).collect::<Vec<_>>().join(", "))
            }
            Content::Map(entries) => {
                let entries =
                    entries.iter().take(8).map(|(name, node)| format!("{}: {}", name.text, node.shown()));
                format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
            }
            Content::Bad => "?".into(),
        };
        shorten(&text)
    }
}

/// At most 40 printable characters of a text.
pub(crate) fn shorten(text: &str) -> String {
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    if text.chars().count() <= 40 { clean.collect() } else { clean.take(37).chain("...".chars()).collect() }
}

/// A list or map that is still open.
enum Open {
    List(Marker, Vec<Node>),
    Map(Marker, Vec<(Name, Node)>, Expected),
}

/// What comes next in a map.
enum Expected {
    Key,
    ValueOf(Name),
    /// The value of a key that was refused.
    Refused,
}

/// Reads the one document of a source. Gives nothing where it cannot be read at all, which is then reported.
pub(crate) fn parse(text: &str, source: usize, report: &mut Reporter) -> Option<Node> {
    let mut reader = Reader { source, report, stack: vec![], root: None, documents: 0 };
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        match event {
            Ok((event, span)) => reader.event(event, span)?,
            Err(error) => {
                let place = inside(reader.place(Span::empty(*error.marker())), text);
                reader.report.error(place, format!("cannot be read as YAML: {}", error.info()), None);
                return None;
            }
        }
    }
    reader.root
}

/// A place behind the end of the text moves to its end.
fn inside(place: Place, text: &str) -> Place {
    let lines = text.lines().count().max(1);
    if place.line <= lines {
        return place;
    }
    let column = text.lines().last().unwrap_or_default().chars().count() + 1;
    Place { line: lines, column, ..place }
}

struct Reader<'a> {
    source: usize,
    report: &'a mut Reporter,
    stack: Vec<Open>,
    root: Option<Node>,
    documents: usize,
}

impl Reader<'_> {
    fn place(&self, span: Span) -> Place {
        let (start, end) = (span.start, span.end);
        // Over several lines, the first character stands for the whole.
        let len = if end.line() == start.line() { end.col().saturating_sub(start.col()) } else { 1 };
        Place { source: self.source, line: start.line().max(1), column: start.col() + 1, len: len.max(1) }
    }

    /// Takes in one event; gives nothing where reading must end.
    fn event(&mut self, event: Event<'_>, span: Span) -> Option<()> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    let place = self.place(span);
                    self.report.error(place, "a second document: a sweep file is one document", None);
                    return None;
                }
            }
            Event::Alias(_) => {
                let place = self.place(span);
                let message = "aliases (`*name`) are not understood: write the value out";
                self.report.error(place, message, None);
                self.put(Node { content: Content::Bad, place });
            }
            Event::Scalar(text, style, _, tag) => {
                self.refuse_tag(tag.is_some(), span);
                let place = self.place(span);
                let plain = style == ScalarStyle::Plain;
                self.put(Node { content: Content::Text { text: text.into_owned(), plain }, place });
            }
            Event::SequenceStart(_, tag) => {
                self.refuse_tag(tag.is_some(), span);
                self.open(Open::List(span.start, vec![]), span)?;
            }
            Event::MappingStart(_, tag) => {
                self.refuse_tag(tag.is_some(), span);
                self.open(Open::Map(span.start, vec![], Expected::Key), span)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span.end),
        }
        Some(())
    }

    fn refuse_tag(&mut self, tagged: bool, span: Span) {
        if tagged {
            let place = self.place(span);
            self.report.error(place, "tags (`!name`) are not understood: write the value alone", None);
        }
    }

    fn open(&mut self, open: Open, span: Span) -> Option<()> {
        if self.stack.len() >= DEPTH {
            let place = self.place(span);
            self.report.error(place, format!("nested more than {DEPTH} levels deep"), None);
            return None;
        }
        self.stack.push(open);
        Some(())
    }

    fn close(&mut self, end: Marker) {
        let node = match self.stack.pop() {
            Some(Open::List(start, items)) => {
                Node { content: Content::List(items), place: self.place(Span::new(start, end)) }
            }
            Some(Open::Map(start, mut entries, _)) => {
                self.refuse_twins(&mut entries);
                Node { content: Content::Map(entries), place: self.place(Span::new(start, end)) }
            }
            None => return,
        };
        self.put(node);
    }

    /// Puts a finished node where it belongs.
    fn put(&mut self, node: Node) {
        match self.stack.last_mut() {
            None => self.root = Some(node),
            Some(Open::List(_, items)) => items.push(node),
            Some(Open::Map(_, entries, expected)) => {
                *expected = match (std::mem::replace(expected, Expected::Key), node) {
                    (Expected::Key, Node { content: Content::Text { text, .. }, place }) => {
                        Expected::ValueOf(Name { text, place })
                    }
                    (Expected::Key, node) => {
                        self.report.error(node.place, "a key must be a word", None);
                        Expected::Refused
                    }
                    (Expected::ValueOf(name), node) => {
                        entries.push((name, node));
                        Expected::Key
                    }
                    (Expected::Refused, _) => Expected::Key,
                };
            }
        }
    }

    /// Takes out and reports keys that stand in a map twice.
    fn refuse_twins(&mut self, entries: &mut Vec<(Name, Node)>) {
        let mut seen: HashMap<String, usize> = HashMap::with_capacity(entries.len());
        entries.retain(|(name, _)| {
            let Some(&line) = seen.get(&name.text) else {
                seen.insert(name.text.clone(), name.place.line);
                return true;
            };
            let message = format!("key `{}` stands here twice; first on line {line}", shorten(&name.text));
            self.report.error(name.place, message, None);
            false
        });
    }
}
