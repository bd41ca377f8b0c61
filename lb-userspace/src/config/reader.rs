//! A typed reader over one table of the parsed file: hands out values with their spans and turns every wrong type,
//! value out of range, missing or unknown key into a diagnostic, going on after each.
//!
//! `file` uses one per section. serde would stop at the first mistake; this never stops.

use std::{fmt::Display, ops::RangeInclusive, time::Duration};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    diagnostic::{Diagnostic, Report},
    secret::is_secret_key,
    spelling::closest,
};

/// What the file says for one key.
#[derive(Debug, Clone, Default)]
pub enum Field<T> {
    /// Nothing.
    #[default]
    Absent,
    /// Something of a wrong type or out of range; a diagnostic has been pushed.
    Bad,
    /// A value.
    Given(Spanned<T>),
}

impl<T> Field<T> {
    /// The value with its place, if it is a good one.
    pub fn given(&self) -> Option<&Spanned<T>> {
        match self {
            Self::Given(value) => Some(value),
            Self::Absent | Self::Bad => None,
        }
    }

    /// The value, if it is a good one.
    pub fn value(&self) -> Option<&T> {
        self.given().map(Spanned::get_ref)
    }

    /// Whether the file says nothing for this key.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// Turns the value into another, or into a diagnostic at its place.
    pub fn parse<U>(
        self,
        report: &mut Report,
        parse: impl FnOnce(T) -> Result<U, (String, Option<String>)>,
    ) -> Field<U> {
        let value = match self {
            Self::Absent => return Field::Absent,
            Self::Bad => return Field::Bad,
            Self::Given(value) => value,
        };
        let span = value.span();
        match parse(value.into_inner()) {
            Ok(parsed) => Field::Given(Spanned::new(span, parsed)),
            Err((message, help)) => {
                report.push(Diagnostic { help, ..Diagnostic::error(span, message) });
                Field::Bad
            }
        }
    }
}

/// A value that is refused: message and help.
pub type Refusal = (String, Option<String>);

/// An element of an array whose short form is a string and whose long form is a table.
pub enum Entry<'t> {
    /// The short form.
    Text(Spanned<String>),
    /// The long form.
    Table(Spanned<&'t DeTable<'t>>),
}

/// `false`, `true`, or a table that says more than `true`.
pub enum Switch<'t> {
    /// `false`.
    Off,
    /// `true`.
    On,
    /// The table.
    Table(&'t DeTable<'t>),
}

/// Which plain numbers a duration key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bare {
    /// A plain integer means seconds, as in keepalived.
    Seconds,
    /// None: HAProxy's would be milliseconds, keepalived's seconds.
    Refused,
}

/// Reads one table.
pub struct Reader<'t, 'r> {
    table: &'t DeTable<'t>,
    /// How messages call the table.
    title: String,
    /// Blamed for what is missing.
    place: std::ops::Range<usize>,
    /// Receives the mistakes.
    pub report: &'r mut Report,
    known: Vec<&'static str>,
    hints: &'static [(&'static str, &'static str)],
}

impl<'t, 'r> Reader<'t, 'r> {
    /// A reader over `table`, which messages call `title` and which stands at `place`.
    pub fn new(
        table: &'t DeTable<'t>,
        title: impl Into<String>,
        place: std::ops::Range<usize>,
        report: &'r mut Report,
    ) -> Self {
        Self { table, title: title.into(), place, report, known: Vec::new(), hints: &[] }
    }

    /// Foreign keys that get an answer of their own: (key, help).
    #[must_use]
    pub fn hints(mut self, hints: &'static [(&'static str, &'static str)]) -> Self {
        self.hints = hints;
        self
    }

    /// The value of `key`, which is a known key from now on.
    pub fn take(&mut self, key: &'static str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.known.push(key);
        self.table.get(key)
    }

    /// Complains unless `key` was given.
    pub fn require<T>(&mut self, key: &str, field: &Field<T>, example: &str) {
        if field.is_absent() {
            let message = format!("`{key}` is missing in {}", self.title);
            self.report.push(Diagnostic::error(self.place.clone(), message).help(format!("add `{example}`")));
        }
    }

    /// A string.
    pub fn string(&mut self, key: &'static str) -> Field<String> {
        let Some(value) = self.take(key) else { return Field::Absent };
        match value.get_ref().as_str() {
            Some(text) => Field::Given(Spanned::new(value.span(), text.to_owned())),
            None => self.wrong_type(key, "a string", value),
        }
    }

    /// A string that `parse` understands.
    pub fn parsed<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, Refusal>,
    ) -> Field<T> {
        let text = self.string(key);
        text.parse(self.report, |text| parse(&text))
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, key: &'static str) -> Field<bool> {
        let Some(value) = self.take(key) else { return Field::Absent };
        match value.get_ref().as_bool() {
            Some(b) => Field::Given(Spanned::new(value.span(), b)),
            None => self.wrong_type(key, "`true` or `false`", value),
        }
    }

    /// `true`, `false`, or a table.
    pub fn switch(&mut self, key: &'static str) -> Field<Switch<'t>> {
        let Some(value) = self.take(key) else { return Field::Absent };
        let switch = match value.get_ref() {
            DeValue::Boolean(false) => Switch::Off,
            DeValue::Boolean(true) => Switch::On,
            DeValue::Table(table) => Switch::Table(table),
            _ => return self.wrong_type(key, "`true`, `false` or a table", value),
        };
        Field::Given(Spanned::new(value.span(), switch))
    }

    /// An integer within `range`.
    pub fn integer<N>(&mut self, key: &'static str, range: RangeInclusive<N>) -> Field<N>
    where
        N: TryFrom<i64> + PartialOrd + Display + Copy,
    {
        let Some(value) = self.take(key) else { return Field::Absent };
        let Some(written) = value.get_ref().as_integer() else {
            return self.wrong_type(key, "an integer", value);
        };
        let number =
            i64::from_str_radix(written.as_str(), written.radix()).ok().and_then(|n| N::try_from(n).ok());
        match number {
            Some(n) if range.contains(&n) => Field::Given(Spanned::new(value.span(), n)),
            _ => {
                let message =
                    format!("`{key}` is {written}, but must be {} to {}", range.start(), range.end());
                self.bad(value.span(), message, None)
            }
        }
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> Field<T> {
        self.parsed(key, |text| {
            words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
                let offered: Vec<_> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
                (format!("`{key}` cannot be \"{text}\""), Some(format!("offered: {}", offered.join(", "))))
            })
        })
    }

    /// A duration within `range`: `"500ms"`, `"1s"`, `"2.5s"`, `"1m"`, or with [`Bare::Seconds`] an integer.
    pub fn duration(
        &mut self,
        key: &'static str,
        bare: Bare,
        range: RangeInclusive<Duration>,
    ) -> Field<Duration> {
        let Some(value) = self.take(key) else { return Field::Absent };
        let parsed = match value.get_ref() {
            DeValue::String(text) => parse_duration(text),
            DeValue::Integer(n) if bare == Bare::Seconds => n.as_str().parse().ok().map(Duration::from_secs),
            DeValue::Integer(n) => {
                let help = format!("write \"{n}s\" or \"{n}ms\"");
                return self.bad(value.span(), format!("`{key}` needs a unit"), Some(help));
            }
            DeValue::Float(n) => {
                let help = format!("write \"{n}s\"");
                return self.bad(value.span(), format!("`{key}` needs a unit"), Some(help));
            }
            _ => return self.wrong_type(key, "a duration", value),
        };
        match parsed {
            None => {
                let help = "a number and a unit, as \"500ms\", \"2.5s\" or \"1m\"";
                self.bad(value.span(), format!("`{key}` is not a duration"), Some(help.into()))
            }
            Some(d) if range.contains(&d) => Field::Given(Spanned::new(value.span(), d)),
            Some(d) => {
                let (low, high) = (show_duration(*range.start()), show_duration(*range.end()));
                let message = format!("`{key}` is {}, but must be {low} to {high}", show_duration(d));
                self.bad(value.span(), message, None)
            }
        }
    }

    /// An array of strings, each of which `parse` understands.
    pub fn list<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, Refusal>,
    ) -> Field<Vec<Spanned<T>>> {
        let Some(value) = self.take(key) else { return Field::Absent };
        let Some(array) = value.get_ref().as_array() else {
            return self.wrong_type(key, "an array of strings", value);
        };
        let mut items = Vec::new();
        let mut all_good = true;
        for item in array.iter() {
            let field = match item.get_ref().as_str() {
                Some(text) => Field::Given(Spanned::new(item.span(), text.to_owned())),
                None => self.wrong_type(key, "an array of strings", item),
            };
            match field.parse(self.report, |text| parse(&text)) {
                Field::Given(item) => items.push(item),
                Field::Absent | Field::Bad => all_good = false,
            }
        }
        if all_good { Field::Given(Spanned::new(value.span(), items)) } else { Field::Bad }
    }

    /// An array of strings and tables. `read` makes something of each, or says what is wrong with it.
    pub fn entries<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(Entry<'t>, &mut Report) -> Field<T>,
    ) -> Field<Vec<Spanned<T>>> {
        let Some(value) = self.take(key) else { return Field::Absent };
        let Some(array) = value.get_ref().as_array() else {
            return self.wrong_type(key, "an array", value);
        };
        let mut items = Vec::new();
        let mut all_good = true;
        for item in array.iter() {
            let read = match item.get_ref() {
                DeValue::String(text) => {
                    read(Entry::Text(Spanned::new(item.span(), text.to_string())), self.report)
                }
                DeValue::Table(table) => read(Entry::Table(Spanned::new(item.span(), table)), self.report),
                _ => self.wrong_type(key, "an array of strings or tables", item),
            };
            match read {
                Field::Given(item) => items.push(item),
                Field::Absent | Field::Bad => all_good = false,
            }
        }
        if all_good { Field::Given(Spanned::new(value.span(), items)) } else { Field::Bad }
    }

    /// A table inside this one.
    pub fn table(&mut self, key: &'static str) -> Field<&'t DeTable<'t>> {
        let Some(value) = self.take(key) else { return Field::Absent };
        match value.get_ref().as_table() {
            Some(table) => Field::Given(Spanned::new(value.span(), table)),
            None => self.wrong_type(key, "a table", value),
        }
    }

    /// An array of tables inside this one (`[[…]]`).
    pub fn tables(&mut self, key: &'static str) -> Field<Vec<Spanned<&'t DeTable<'t>>>> {
        let Some(value) = self.take(key) else { return Field::Absent };
        let Some(array) = value.get_ref().as_array() else {
            return self.wrong_type(key, "an array of tables", value);
        };
        let mut items = Vec::new();
        for item in array.iter() {
            match item.get_ref().as_table() {
                Some(table) => items.push(Spanned::new(item.span(), table)),
                None => return self.wrong_type(key, "an array of tables", item),
            }
        }
        Field::Given(Spanned::new(value.span(), items))
    }

    /// Complains about every key that nobody asked for.
    pub fn finish(self) {
        for key in self.table.keys().filter(|k| !self.known.contains(&k.get_ref().as_ref())) {
            let name = key.get_ref().as_ref();
            let help = match self.hints.iter().find(|(foreign, _)| *foreign == name) {
                Some((_, help)) => (*help).to_owned(),
                None => match closest(name, &self.known) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("known here: {}", self.known.join(", ")),
                },
            };
            let message = format!("unknown key `{}` in {}", name.escape_debug(), self.title);
            self.report.push(Diagnostic::error(key.span(), message).help(help));
        }
    }

    fn wrong_type<T>(&mut self, key: &str, expected: &str, found: &Spanned<DeValue<'_>>) -> Field<T> {
        let found_type = match found.get_ref().type_str() {
            name @ ("integer" | "array") => format!("an {name}"),
            name => format!("a {name}"),
        };
        let message = format!("`{key}` must be {expected}, not {found_type}");
        // `auth_pass = 123456` is what one writes who comes from keepalived.
        let help = match found.get_ref() {
            DeValue::Integer(n) if expected == "a string" && !is_secret_key(key) => {
                Some(format!("write `{key} = \"{n}\"`"))
            }
            DeValue::Integer(_) if expected == "a string" => Some("put it in quotes".to_owned()),
            DeValue::String(s) if expected == "an integer" && s.parse::<i64>().is_ok() => {
                Some(format!("write `{key} = {s}`"))
            }
            _ => None,
        };
        self.bad(found.span(), message, help)
    }

    fn bad<T>(&mut self, span: std::ops::Range<usize>, message: String, help: Option<String>) -> Field<T> {
        self.report.push(Diagnostic { help, ..Diagnostic::error(span, message) });
        Field::Bad
    }
}

/// `"500ms"`, `"1s"`, `"2.5s"`, `"1m"`, `"12h"`, `"5d"`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit.trim_start() {
        "ms" => 1.0,
        "s" => 1_000.0,
        "m" => 60_000.0,
        "h" => 3_600_000.0,
        "d" => 86_400_000.0,
        _ => return None,
    };
    if number.starts_with('.') || number.ends_with('.') {
        return None;
    }
    let ms = (number.parse::<f64>().ok()? * unit_ms).round();
    // Beyond this, f64 is not exact; it is 285,000 years.
    (ms < 9e15).then_some(Duration::from_millis(ms as u64))
}

/// The shortest way to write a duration that [`parse_duration`] reads back.
pub fn show_duration(d: Duration) -> String {
    match d.as_millis() {
        0 => "0s".into(),
        ms if ms % 86_400_000 == 0 => format!("{}d", ms / 86_400_000),
        ms if ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        ms if ms < 1_000 => format!("{ms}ms"),
        ms => format!("{}s", ms as f64 / 1_000.0),
    }
}
