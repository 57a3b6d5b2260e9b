//! Results as a table, for a terminal and as markdown.

use std::fmt::Write as _;
use std::time::Duration;

use super::Program;
use super::measure::Summary;
use crate::shell::bytes;

/// Rows of cells below a head.
pub struct Table {
    pub head: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// Returns the table with aligned columns.
    pub fn plain(&self) -> String {
        let lines = || std::iter::once(&self.head).chain(&self.rows);
        let widths: Vec<_> = (0..self.head.len())
            .map(|column| lines().map(|line| width(&line[column])).max().unwrap_or(0))
            .collect();
        let mut text = String::new();
        for line in lines() {
            for (cell, wanted) in line.iter().zip(&widths) {
                let _ = write!(text, "{cell}{}  ", " ".repeat(wanted - width(cell)));
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        text
    }

    /// Returns the table as markdown.
    pub fn markdown(&self) -> String {
        let mut text =
            format!("| {} |\n|{}\n", self.head.join(" | "), "---|".repeat(self.head.len()));
        for row in &self.rows {
            let _ = writeln!(text, "| {} |", row.join(" | "));
        }
        text
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// Returns the head for measurements.
pub fn head(programs: &[Program]) -> Vec<String> {
    let mut head = vec!["job".to_owned()];
    for program in programs {
        head.push(format!("{}: wall", program.name));
        head.push("CPU".to_owned());
        head.push("memory".to_owned());
    }
    if programs.len() > 1 {
        head.extend(["wall ratio", "CPU ratio", "memory ratio"].map(str::to_owned));
    }
    head
}

/// Returns one job's row: what each program took, and the first in relation to the second.
pub fn row(name: &str, measured: &[Summary]) -> Vec<String> {
    let mut row = vec![name.to_owned()];
    for Summary { run, size } in measured {
        row.push(duration(run.wall));
        row.push(duration(run.cpu));
        let size = size.map(|size| format!(" (result {})", bytes(size))).unwrap_or_default();
        row.push(format!("{}{size}", bytes(run.memory)));
    }
    if let [ours, theirs, ..] = measured {
        let ratio = |ours: f64, theirs: f64| format!("{:.2}", ours / theirs);
        row.push(ratio(ours.run.wall.as_secs_f64(), theirs.run.wall.as_secs_f64()));
        row.push(ratio(ours.run.cpu.as_secs_f64(), theirs.run.cpu.as_secs_f64()));
        row.push(ratio(ours.run.memory as f64, theirs.run.memory as f64));
    }
    row
}

/// Writes a duration for people.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 1.0 { format!("{:.1} ms", seconds * 1000.0) } else { format!("{seconds:.2} s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_markdown_has_a_rule() {
        let cells = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let table = Table {
            head: cells(&["job", "x"]),
            rows: vec![cells(&["a → b", "1"]), cells(&["c", "2"])],
        };
        assert_eq!(table.plain(), "job    x\na → b  1\nc      2\n");
        assert_eq!(table.markdown(), "| job | x |\n|---|---|\n| a → b | 1 |\n| c | 2 |\n");
    }
}
