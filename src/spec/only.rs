//! `--only EXPR`: a part of the points.
//!
//! ```text
//! expr    = all { "or" all }
//! all     = one { [ "and" | "," ] one }            side by side means and
//! one     = "not" one | "(" expr ")" | test
//! test    = setting ( "=" | "==" | "!=" | "<" | "<=" | ">" | ">=" ) value
//!         | setting [ "not" ] "in" "[" value { "," value } "]"
//! setting = a dotted path, as in a sweep file: seed, train.lr, data
//! value   = as in a sweep file, in quotes where it has blanks: 10%, '7 cases', [2, 4, 6], mcsd
//! ```
//!
//! `setting=[a, b]` means `in` where one value is no list. Where an axis with `when` does not apply, it has no value: only
//! `!=` and `not in` hold of it there.

use serde_json::Value;

use super::diagnostics::{Diagnostics, Place, Reporter, nearest};
use super::exclude;
use super::schema::{self, Found, Key, Kind};
use super::settings::FIELDS;
use super::yaml::{self, shorten};
use super::{Pieces, Sweep, SweepPoint};

/// Levels of brackets and `not`.
const DEPTH: usize = 64;
/// What joins tests.
const WORDS: [&str; 4] = ["and", "or", "not", "in"];

impl Sweep {
    /// For each point whether the expression `text` holds of it; errors say that it was given as `source`.
    ///
    /// # Errors
    /// Where the text is no expression, names no setting, or holds of no point; with the place in the text.
    pub fn only(&self, source: &str, text: &str) -> Result<Vec<bool>, Diagnostics> {
        // On one line, so that each character has its column.
        let text = &text.replace(char::is_control, " ");
        let mut report = Reporter::default();
        let source = report.source(source, text);
        let chars: Vec<char> = text.chars().collect();
        let mut parser =
            Parser { sweep: self, source, chars, at: 0, depth: 0, tests: vec![], report: &mut report };
        let expr = parser.whole();
        let tests = parser.tests;
        let Some(expr) = expr.filter(|_| report.clean()) else { return Err(report.finish()) };
        let chosen: Vec<bool> = self.points.iter().map(|point| expr.holds(&tests, point)).collect();
        if chosen.contains(&true) {
            return Ok(chosen);
        }
        let mut told = false;
        for test in tests.iter().filter(|test| !self.points.iter().any(|point| test.holds(point))) {
            told = true;
            let message = format!("no point has {}", test.text);
            report.error(test.place, message, Some(test.values(self)));
        }
        if !told {
            let len = text.chars().count().max(1);
            let place = Place { source, line: 1, column: 1, len };
            report.error(place, format!("none of the {} points fulfils this", self.points.len()), None);
        }
        Err(report.finish())
    }
}

/// An expression; tests by their indices.
enum Expr {
    All(Vec<Expr>),
    Any(Vec<Expr>),
    Not(Box<Expr>),
    Test(usize),
}

impl Expr {
    fn holds(&self, tests: &[Test], point: &SweepPoint) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.holds(tests, point)),
            Self::Any(parts) => parts.iter().any(|part| part.holds(tests, point)),
            Self::Not(part) => !part.holds(tests, point),
            Self::Test(at) => tests[*at].holds(point),
        }
    }
}

/// One comparison.
struct Test {
    key: &'static Key,
    place: Place,
    text: String,
    field: usize,
    /// For each value of the field, whether it fulfils this.
    hits: Vec<bool>,
    /// The axis of that name, which may not apply.
    axis: Option<usize>,
    /// What holds where it does not.
    absent: bool,
}

impl Test {
    fn holds(&self, point: &SweepPoint) -> bool {
        match self.axis {
            Some(axis) if point.axes.value(axis).is_null() => self.absent,
            _ => self.hits[point.pieces()[self.field] as usize],
        }
    }

    /// The values that there are.
    fn values(&self, sweep: &Sweep) -> String {
        let mut values: Vec<String> = vec![];
        for point in &sweep.points {
            let value =
                value_of(sweep.pieces(), self.field, point.pieces()[self.field] as usize, self.key.path);
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            if !values.contains(&value) {
                values.push(value);
            }
            if values.len() > 8 {
                break;
            }
        }
        let more = if values.len() > 8 { ", …" } else { "" };
        values.truncate(8);
        format!("`{}` is {}{more}", self.key.path, values.join(", "))
    }
}

fn value_of<'a>(pieces: &'a Pieces, field: usize, piece: usize, path: &str) -> &'a Value {
    let value = &pieces.of(field)[piece];
    path.split_once('.').map_or(Some(value), |(_, rest)| value.get(rest)).unwrap_or(&Value::Null)
}

/// How a setting is compared.
#[derive(Clone, Copy, PartialEq)]
enum Operator {
    In,
    NotIn,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

struct Parser<'a> {
    sweep: &'a Sweep,
    source: usize,
    chars: Vec<char>,
    at: usize,
    depth: usize,
    tests: Vec<Test>,
    report: &'a mut Reporter,
}

impl Parser<'_> {
    fn whole(&mut self) -> Option<Expr> {
        let expr = self.any()?;
        self.blanks();
        if self.at < self.chars.len() {
            return self.refuse(self.at, 1, "expected `and`, `or` or the end", None);
        }
        Some(expr)
    }

    fn any(&mut self) -> Option<Expr> {
        let mut parts = vec![self.all()?];
        while self.word("or") {
            parts.push(self.all()?);
        }
        Some(if parts.len() == 1 { parts.remove(0) } else { Expr::Any(parts) })
    }

    fn all(&mut self) -> Option<Expr> {
        let mut parts = vec![self.one()?];
        loop {
            let joined = self.word("and") || self.sign(",");
            self.blanks();
            let over = self.at >= self.chars.len() || self.chars[self.at] == ')' || self.peeks("or");
            if over && !joined {
                return Some(if parts.len() == 1 { parts.remove(0) } else { Expr::All(parts) });
            }
            parts.push(self.one()?);
        }
    }

    fn one(&mut self) -> Option<Expr> {
        if self.depth >= DEPTH {
            return self.refuse(self.at, 1, &format!("nested more than {DEPTH} levels deep"), None);
        }
        self.depth += 1;
        let expr = if self.word("not") {
            self.one().map(|part| Expr::Not(Box::new(part)))
        } else if self.sign("(") {
            let begin = self.at - 1;
            let inner = self.any()?;
            if !self.sign(")") {
                return self.refuse(begin, 1, "this bracket is not closed", None);
            }
            Some(inner)
        } else {
            self.test()
        };
        self.depth -= 1;
        expr
    }

    fn test(&mut self) -> Option<Expr> {
        self.blanks();
        let begin = self.at;
        let name: String = self.take(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | '-'));
        if name.is_empty() || WORDS.contains(&name.as_str()) {
            let help = Some("such as `seed=0` or `method in [mcsd, supervised]`".to_owned());
            return self.refuse(begin, name.chars().count(), "expected a comparison of a setting", help);
        }
        let width = self.at - begin;
        let operator = self.operator(begin, &name)?;
        self.blanks();
        let value = self.at;
        let raw = self.value();
        if raw.is_empty() {
            return self.refuse(self.at, 1, &format!("expected a value of `{}`", shorten(&name)), None);
        }
        // Tests that follow are looked at also where this one is wrong.
        let place = self.place(begin, self.at - begin);
        let text = shorten(&self.chars[begin..self.at].iter().collect::<String>());
        let test = self.check(&name, (begin, width), operator, (value, &raw));
        if let Some((key, hits)) = test {
            let sweep = self.sweep;
            let field = FIELDS.iter().position(|field| Some(*field) == key.path.split('.').next())?;
            let axis =
                sweep.points.first().and_then(|p| p.axes.iter().position(|(axis, _)| axis == key.path));
            let text = format!("`{text}`");
            self.tests.push(Test {
                key,
                place,
                text,
                field,
                hits,
                axis,
                absent: operator == Operator::NotIn,
            });
        }
        Some(Expr::Test(self.tests.len().saturating_sub(1)))
    }

    fn operator(&mut self, begin: usize, name: &str) -> Option<Operator> {
        let signs = [
            ("==", Operator::In),
            ("!=", Operator::NotIn),
            ("<=", Operator::LessOrEqual),
            (">=", Operator::GreaterOrEqual),
            ("=", Operator::In),
            ("<", Operator::Less),
            (">", Operator::Greater),
        ];
        for (sign, operator) in signs {
            if self.sign(sign) {
                return Some(operator);
            }
        }
        let not = self.word("not");
        if self.word("in") {
            self.blanks();
            if self.chars.get(self.at) != Some(&'[') {
                return self.refuse(
                    self.at,
                    1,
                    "expected a list after `in`",
                    Some("such as `[0, 1]`".into()),
                );
            }
            return Some(if not { Operator::NotIn } else { Operator::In });
        }
        let unknown = matches!(schema::find("", name), Found::Nothing(_));
        let help = match nearest(name, WORDS) {
            Some(near) if unknown => format!("did you mean `{near}`?"),
            None if unknown => "a value with blanks stands in quotes: '7 cases'".into(),
            _ => format!("such as `{name}=…`"),
        };
        let message = format!("`{}` is compared with nothing", shorten(name));
        self.refuse(begin, name.chars().count(), &message, Some(help))
    }

    /// The text of a value: a quoted text, something in brackets, or all up to a blank, a comma or a bracket.
    fn value(&mut self) -> String {
        let begin = self.at;
        match self.chars.get(self.at) {
            Some(&quote @ ('"' | '\'')) => {
                self.at += 1;
                self.take(|c| c != quote);
                self.at = (self.at + 1).min(self.chars.len());
            }
            Some('[') => {
                let mut open = 0;
                while let Some(&c) = self.chars.get(self.at) {
                    self.at += 1;
                    open += i32::from(c == '[') - i32::from(c == ']');
                    if open == 0 {
                        break;
                    }
                }
            }
            _ => drop(self.take(|c| !c.is_whitespace() && !matches!(c, ',' | '(' | ')'))),
        }
        self.chars[begin..self.at].iter().collect()
    }

    /// For each value of the setting's field whether it fulfils the comparison; what is wrong is reported.
    fn check(
        &mut self,
        name: &str,
        (begin, width): (usize, usize),
        operator: Operator,
        (at, raw): (usize, &str),
    ) -> Option<(&'static Key, Vec<bool>)> {
        let key = match schema::find("", name) {
            Found::Setting(key) | Found::Table(Some(key)) => key,
            Found::Table(None) => {
                let message = format!("`{name}` is a table: compare one of its settings");
                let example = schema::KEYS.iter().find(|key| key.path.starts_with(&format!("{name}.")));
                return self.refuse(
                    begin,
                    width,
                    &message,
                    example.map(|key| format!("such as `{}`", key.path)),
                );
            }
            Found::Nothing(help) => {
                return self.refuse(begin, width, &format!("unknown setting `{}`", shorten(name)), help);
            }
        };
        // Blanks in front of the value give its places the columns of the expression.
        let errors = self.report.count();
        let Some(node) = yaml::parse(&format!("{}{raw}", " ".repeat(at)), self.source, self.report) else {
            if self.report.count() == errors {
                return self.refuse(at, raw.chars().count(), &format!("expected {}", key.kind.text()), None);
            }
            return None;
        };
        let values = exclude::values(key, &node, self.report);
        if self.report.count() > errors {
            return None;
        }
        let ordered = !matches!(operator, Operator::In | Operator::NotIn);
        let numbers: Vec<f64> = values.iter().filter_map(Value::as_f64).collect();
        let is_number = matches!(key.kind, Kind::Count(_) | Kind::Number(_));
        if ordered && !(is_number && numbers.len() == 1 && values.len() == 1) {
            let what = if is_number { "expected one number" } else { "only numbers are smaller or larger" };
            return self.refuse(begin, width, &format!("`{name}`: {what}"), None);
        }
        let field = FIELDS.iter().position(|field| Some(*field) == key.path.split('.').next())?;
        let pieces = self.sweep.pieces();
        let holds = |piece: usize| {
            let value = value_of(pieces, field, piece, key.path);
            let compare = |test: fn(f64, f64) -> bool| value.as_f64().is_some_and(|x| test(x, numbers[0]));
            match operator {
                Operator::In => values.contains(value),
                Operator::NotIn => !values.contains(value),
                Operator::Less => compare(|x, y| x < y),
                Operator::LessOrEqual => compare(|x, y| x <= y),
                Operator::Greater => compare(|x, y| x > y),
                Operator::GreaterOrEqual => compare(|x, y| x >= y),
            }
        };
        Some((key, (0..pieces.of(field).len()).map(holds).collect()))
    }

    fn blanks(&mut self) {
        self.take(char::is_whitespace);
    }

    fn take(&mut self, test: impl Fn(char) -> bool) -> String {
        let begin = self.at;
        while self.chars.get(self.at).is_some_and(|&c| test(c)) {
            self.at += 1;
        }
        self.chars[begin..self.at].iter().collect()
    }

    /// Whether a word comes next.
    fn peeks(&self, word: &str) -> bool {
        let end = self.at + word.len();
        let next = self.chars.get(end);
        self.chars.get(self.at..end).is_some_and(|chars| chars.iter().copied().eq(word.chars()))
            && next.is_none_or(|&c| {
                !(c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '=' | '!' | '<' | '>'))
            })
    }

    /// Takes a word, where it comes next.
    fn word(&mut self, word: &str) -> bool {
        self.blanks();
        let found = self.peeks(word);
        self.at += if found { word.len() } else { 0 };
        found
    }

    /// Takes a sign, where it comes next.
    fn sign(&mut self, sign: &str) -> bool {
        self.blanks();
        let end = self.at + sign.len();
        let found = self.chars.get(self.at..end).is_some_and(|chars| chars.iter().copied().eq(sign.chars()));
        self.at += if found { sign.len() } else { 0 };
        found
    }

    fn place(&self, at: usize, len: usize) -> Place {
        Place { source: self.source, line: 1, column: at + 1, len: len.max(1) }
    }

    fn refuse<T>(&mut self, at: usize, len: usize, message: &str, help: Option<String>) -> Option<T> {
        let place = self.place(at, len);
        self.report.error(place, message, help);
        None
    }
}
