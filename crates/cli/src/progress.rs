//! One line on a terminal that tells how far something is; nothing where standard error is no terminal.

use crate::ui::{Format, Ui};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// The line. It is gone when the work ends.
pub(crate) struct Progress {
    visible: bool,
    shown: bool,
    last: Option<Instant>,
}

impl Progress {
    /// Shown only to people who look.
    pub(crate) fn new(ui: &Ui) -> Progress {
        Progress { visible: ui.format() == Format::Table && std::io::stderr().is_terminal(), shown: false, last: None }
    }

    /// How far it is; without a total only the count.
    pub(crate) fn show(&mut self, step: &str, done: u64, total: u64) {
        if !self.visible || self.last.is_some_and(|l| l.elapsed() < Duration::from_millis(100)) {
            return;
        }
        self.last = Some(Instant::now());
        self.shown = true;
        let text = line(step, done, total);
        let _ = write!(std::io::stderr(), "\r\x1b[K{text}");
        let _ = std::io::stderr().flush();
    }

    /// Takes the line away.
    pub(crate) fn end(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

fn line(step: &str, done: u64, total: u64) -> String {
    // A name of a file may hold anything; a control character in it must not reach the terminal.
    let step: String = step.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(60).collect();
    let size = orlop_model::ByteSize;
    match total {
        0 => format!("{step}  {}", size(done)),
        _ => format!("{step}  {} of {}  {} %", size(done), size(total), done.min(total).saturating_mul(100) / total),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_the_part_and_hides_control_characters() {
        assert_eq!(line("reading\x1b files", 512 << 10, 1 << 20), "reading\u{fffd} files  512 KiB of 1 MiB  50 %");
        assert!(line("x", 7, 0).starts_with("x  7"));
        assert!(line("x", 9, 3).ends_with("100 %"));
    }
}
