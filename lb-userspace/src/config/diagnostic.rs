//! Mistakes in a configuration file, shown in the manner of rustc: message, file:line:column, the source line, a
//! caret under the words at fault, and what to do.
//!
//! `file` and `resolve` push [`Diagnostic`]s into a [`Report`], the command line and the daemon's log print it.
//! A report never shows a secret: values of password keys are replaced by stars, also in a file whose syntax is
//! broken, where the values have to be guessed from the words before them.

use std::{
    fmt::{self, Write},
    ops::Range,
};

use super::secret;

/// How bad a [`Diagnostic`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is used; the writer probably meant something else.
    Warning,
}

/// One remark about one place of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// Bytes of the file at fault.
    pub span: Range<usize>,
    /// What is wrong, one sentence without a full stop.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error at `span`.
    pub fn error(span: Range<usize>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, span, message: message.into(), help: None }
    }

    /// A warning at `span`.
    pub fn warning(span: Range<usize>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(span, message) }
    }

    /// The same with a line that says what to do.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// All remarks about one file, with the text they point into. `Display` renders every one.
#[derive(Clone, Default)]
pub struct Report {
    path: String,
    source: String,
    /// Byte ranges that are never shown, sorted, not overlapping.
    secrets: Vec<Range<usize>>,
    diagnostics: Vec<Diagnostic>,
}

impl Report {
    /// An empty report about `source`, which messages call `path`.
    pub fn new(path: impl Into<String>, source: impl Into<String>) -> Self {
        let source = source.into();
        let secrets = secret::guess_spans(&source);
        Self { path: path.into(), source, secrets, diagnostics: Vec::new() }
    }

    /// Adds a remark.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    /// Never shows these bytes of the file.
    pub fn hide(&mut self, span: Range<usize>) {
        self.secrets.push(span);
        self.secrets.sort_by_key(|s| s.start);
        self.secrets.dedup_by(|next, kept| {
            let overlap = next.start <= kept.end;
            if overlap {
                kept.end = kept.end.max(next.end);
            }
            overlap
        });
    }

    /// The remarks, in the order of the file.
    pub fn diagnostics(&self) -> Vec<&Diagnostic> {
        let mut sorted: Vec<_> = self.diagnostics.iter().collect();
        sorted.sort_by_key(|d| (d.span.start, d.span.end));
        sorted
    }

    /// How many errors there are.
    pub fn errors(&self) -> usize {
        self.diagnostics.iter().filter(|d| d.severity == Severity::Error).count()
    }

    /// How many warnings there are.
    pub fn warnings(&self) -> usize {
        self.diagnostics.len() - self.errors()
    }

    /// `3 errors, 1 warning`; nothing of what does not occur.
    pub fn summary(&self) -> String {
        let counts = [(self.errors(), "error"), (self.warnings(), "warning")];
        let parts: Vec<_> = counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| count(*n, what)).collect();
        parts.join(", ")
    }

    /// One remark in full.
    fn render(&self, d: &Diagnostic) -> Result<String, fmt::Error> {
        let span = self.visible_span(&d.span);
        let line_start = self.source[..span.start].rfind('\n').map_or(0, |i| i + 1);
        let line_end = self.source[line_start..].find('\n').map_or(self.source.len(), |i| line_start + i);
        let number = self.source[..line_start].matches('\n').count() + 1;
        let column = self.source[line_start..span.start].chars().count() + 1;

        let before = self.shown(line_start..span.start);
        let at_fault = self.shown(span.start..span.end.min(line_end));
        let line = self.shown(line_start..line_end);
        let gutter = number.to_string().len();
        let severity = match d.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };

        let mut out = String::new();
        writeln!(out, "{severity}: {}", d.message)?;
        writeln!(out, "{:gutter$}--> {}:{number}:{column}", "", self.path)?;
        writeln!(out, "{:gutter$} |", "")?;
        writeln!(out, "{}", format!("{number} | {line}").trim_end())?;
        let (indent, carets) = (before.chars().count(), at_fault.trim_end().chars().count().max(1));
        writeln!(out, "{:gutter$} | {:indent$}{}", "", "", "^".repeat(carets))?;
        if let Some(help) = &d.help {
            writeln!(out, "{:gutter$} = help: {help}", "")?;
        }
        Ok(out)
    }

    /// `span` within the text, on character boundaries, and never a part of a secret only (a caret must not tell
    /// how long one is).
    fn visible_span(&self, span: &Range<usize>) -> Range<usize> {
        let mut start = self.source.floor_char_boundary(span.start.min(self.source.len()));
        let mut end = self.source.ceil_char_boundary(span.end.clamp(start, self.source.len()));
        for hidden in &self.secrets {
            if start < hidden.end && hidden.start < end.max(start + 1) {
                start = start.min(hidden.start);
                end = end.max(hidden.end);
            }
        }
        start..end
    }

    /// The text of `range` with secrets as stars and tabs as blanks.
    fn shown(&self, range: Range<usize>) -> String {
        let mut out = String::new();
        let mut at = range.start;
        for hidden in self.secrets.iter().filter(|s| s.start < range.end && s.end > range.start) {
            out.push_str(&self.source[at..hidden.start.clamp(at, range.end)]);
            out.push_str(STARS);
            at = hidden.end.min(range.end);
        }
        out.push_str(&self.source[at..range.end]);
        out.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }
}

/// `1 error`, `2 errors`.
pub fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// What is shown for a secret, whatever its length.
const STARS: &str = "********";

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, diagnostic) in self.diagnostics().into_iter().enumerate() {
            if i > 0 {
                f.write_char('\n')?;
            }
            f.write_str(&self.render(diagnostic)?)?;
        }
        Ok(())
    }
}

/// Without the text: it may hold secrets.
impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Report").field("path", &self.path).field("diagnostics", &self.diagnostics).finish()
    }
}
