//! Where output goes: data to stdout, notes and progress to stderr, JSON when asked.

use std::io::{IsTerminal, Write};

use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets::NOTHING};
use serde::Serialize;
use shared::wire::FieldError;

use crate::error::CliError;

/// How this run prints.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// Data as JSON.
    pub json: bool,
    /// No notes and no progress.
    pub quiet: bool,
    /// Colours are wanted and shown.
    pub color: bool,
    /// Progress bars can be drawn.
    pub bars: bool,
}

impl Output {
    /// Decides from the flags and from what stdout and stderr are.
    pub fn new(json: bool, quiet: bool, no_color: bool) -> Self {
        let color = !no_color && !json && std::io::stdout().is_terminal();
        Self { json, quiet, color, bars: !quiet && std::io::stderr().is_terminal() }
    }

    /// A line of data.
    ///
    /// # Errors
    /// When stdout is gone.
    pub fn line(&self, text: impl std::fmt::Display) -> Result<(), CliError> {
        Ok(writeln!(std::io::stdout().lock(), "{text}")?)
    }

    /// One JSON value: indented for people, one line when `stdout` is not a terminal.
    ///
    /// # Errors
    /// When stdout is gone.
    pub fn value<T: Serialize>(&self, value: &T) -> Result<(), CliError> {
        let pretty = std::io::stdout().is_terminal();
        let text = if pretty { serde_json::to_string_pretty(value)? } else { serde_json::to_string(value)? };
        self.line(text)
    }

    /// A note for the person, on stderr.
    pub fn note(&self, text: impl std::fmt::Display) {
        if !self.quiet {
            // a closed stderr takes away notes, never the work
            let _ = writeln!(std::io::stderr().lock(), "{text}");
        }
    }

    /// The error of a command: words on stderr, the problem as JSON on stdout with `--json`.
    pub fn error(&self, error: &CliError) {
        let mut stderr = std::io::stderr().lock();
        // nothing is left to report a closed stderr to
        let _ = writeln!(stderr, "{}: {}", self.strong("error"), shared::error::chain(error));
        if let CliError::Api(problem) = error {
            let elsewhere = |field: &&FieldError| field.detail != problem.detail;
            for field in problem.errors.iter().filter(elsewhere) {
                let _ = writeln!(stderr, "  {}: {}", field.pointer, field.detail);
            }
        }
        if let Some(advice) = error.advice() {
            let _ = writeln!(stderr, "hint: {advice}");
        }
        if self.json {
            let _ = self.value(&error.problem());
        }
    }

    /// A list as a table, or as one JSON object `{"items": […]}`.
    ///
    /// # Errors
    /// When stdout is gone.
    pub fn list<T: Serialize>(
        &self,
        items: &[T],
        header: &[&str],
        none: &str,
        row: impl Fn(&T) -> Vec<String>,
    ) -> Result<(), CliError> {
        if self.json {
            return self.value(&serde_json::json!({ "items": items }));
        }
        if items.is_empty() {
            self.note(none);
            return Ok(());
        }
        let mut table = self.table(header);
        for item in items {
            table.add_row(row(item).into_iter().map(|text| self.cell(text)));
        }
        self.line(plain(&table))
    }

    /// A list below other output: a heading with a table, or one line that says there is nothing. Not for JSON.
    ///
    /// # Errors
    /// When stdout is gone.
    pub fn section<T: Serialize>(
        &self,
        title: &str,
        items: &[T],
        header: &[&str],
        none: &str,
        row: impl Fn(&T) -> Vec<String>,
    ) -> Result<(), CliError> {
        if items.is_empty() {
            return self.line(format!("\n{}: {none}", self.strong(title)));
        }
        self.heading(title)?;
        self.list(items, header, none, row)
    }

    /// Named facts of one thing, one a line; empty ones are left out.
    ///
    /// # Errors
    /// When stdout is gone.
    pub fn facts(&self, facts: &[(&str, String)]) -> Result<(), CliError> {
        let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
            self.line(format!("{name:width$}  {value}"))?;
        }
        Ok(())
    }

    /// A heading above a table.
    ///
    /// # Errors
    /// When stdout is gone.
    pub fn heading(&self, text: &str) -> Result<(), CliError> {
        self.line(format!("\n{}", self.strong(text)))
    }

    fn strong(&self, text: &str) -> String {
        if self.color { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn table(&self, header: &[&str]) -> Table {
        let mut table = Table::new();
        table.load_preset(NOTHING);
        table.set_content_arrangement(if self.color {
            ContentArrangement::Dynamic
        } else {
            ContentArrangement::Disabled
        });
        if !self.color {
            table.force_no_tty();
        } else {
            table.enforce_styling();
        }
        table.set_header(header.iter().map(|name| Cell::new(name).add_attribute(Attribute::Bold)));
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        table
    }

    fn cell(&self, text: String) -> Cell {
        let colour = match text.as_str() {
            "ready" | "succeeded" | "available" | "ok" => Some(Color::Green),
            "running" | "loading" | "placed" | "draining" | "warn" | "degraded" | "warning" => Some(Color::Yellow),
            "failed" | "lost" | "quarantined" | "unreadable" | "missing" | "fail" | "invalid" | "unsafe" | "error" => {
                Some(Color::Red)
            }
            _ => None,
        };
        let cell = Cell::new(text);
        match colour.filter(|_| self.color) {
            Some(colour) => cell.fg(colour),
            None => cell,
        }
    }
}

/// The table's text without blanks at the ends of lines.
fn plain(table: &Table) -> String {
    let text = table.to_string();
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_without_a_terminal_are_plain_columns() {
        let output = Output { json: false, quiet: false, color: false, bars: false };
        let mut table = output.table(&["NAME", "STATE"]);
        table.add_row(["a-long-name", "ready"].map(|text| output.cell(text.to_owned())));
        assert_eq!(plain(&table), "NAME         STATE\na-long-name  ready");
    }
}
