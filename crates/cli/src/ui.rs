//! How results are written: one table or card for people, or the same value as JSON or YAML for programs.
//!
//! Everything that goes to standard output passes here, so that a closed pipe ends the program quietly
//! wherever it happens.

use orlop_model::{Error, Result};
use serde::Serialize;
use std::io::{ErrorKind, Write};

/// The form of results and errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Text for people.
    Table,
    /// JSON, one document.
    Json,
    /// YAML, one document.
    Yaml,
}

/// Writes results.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ui {
    format: Format,
}

impl Ui {
    /// Writes in this form.
    pub(crate) fn new(format: Format) -> Ui {
        Ui { format }
    }

    /// The form.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Writes a value: as it is for programs, as the text that `text` makes of it for people.
    pub(crate) fn show<T: Serialize + ?Sized>(&self, value: &T, text: impl FnOnce() -> String) -> Result<()> {
        match self.format {
            Format::Table => self.raw(text().as_bytes()),
            Format::Json | Format::Yaml => self.raw(encode(self.format, value)?.as_bytes()),
        }
    }

    /// Writes bytes as they are.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Result<()> {
        let mut out = std::io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Ok(()) => Ok(()),
            // The reader has seen enough, as `head` does. That is no failure of ours.
            Err(e) if e.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
            Err(e) => Err(Error::io("writing the result", &e)),
        }
    }

    /// A remark for people on standard error, so that it never mixes with results.
    pub(crate) fn note(&self, text: &str) {
        if self.format == Format::Table {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }
}

/// A value as a document with a final newline.
pub(crate) fn encode<T: Serialize + ?Sized>(format: Format, value: &T) -> Result<String> {
    let failed = |e: &dyn std::fmt::Display| Error::internal(format!("the result cannot be written: {e}"));
    match format {
        Format::Yaml => serde_yaml_ng::to_string(value).map_err(|e| failed(&e)),
        Format::Json | Format::Table => serde_json::to_string_pretty(value).map(|s| s + "\n").map_err(|e| failed(&e)),
    }
}

/// Rows under headings, aligned.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub(crate) fn new<const N: usize>(headings: [&str; N]) -> Table {
        Table { rows: vec![headings.map(str::to_owned).to_vec()] }
    }

    /// A table without headings.
    pub(crate) fn bare() -> Table {
        Table { rows: Vec::new() }
    }

    /// One more row.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        // A name may hold anything; a control character in it must not reach the terminal.
        self.rows.push(cells.map(|c| c.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()).to_vec());
    }

    /// The text.
    pub(crate) fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let mut widths = vec![0; columns];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (width, cell) in widths.iter().zip(row) {
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// A time as people read it.
pub(crate) fn moment(t: time::OffsetDateTime) -> String {
    let t = t.to_offset(time::UtcOffset::UTC);
    format!("{} {:02}:{:02}:{:02} UTC", t.date(), t.hour(), t.minute(), t.second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_control_characters_shown_as_such() {
        let mut t = Table::new(["NAME", "X"]);
        t.row(["a\x1b[2J".into(), "1".into()]);
        t.row(["ä".into(), "22".into()]);
        assert_eq!(t.text(), "NAME   X\na\u{fffd}[2J  1\nä      22\n");
    }
}
