//! What the sections give and how it is written: aligned tables for people, JSON for programs.

use super::measure::{Sample, geometric_mean};
use crate::engines::Engine;
use crate::failure::{Context, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;

/// The column that ratios are taken against.
pub const PEER: &str = "wasmtime";

/// All that one run of the task measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The command that gave it.
    pub command: String,
    /// Processor, number of processors, system.
    pub machine: String,
    /// Name and version of each engine.
    pub engines: BTreeMap<String, String>,
    /// In the order of measurement.
    pub sections: Vec<Section>,
}

/// One table.
#[derive(Debug, Serialize)]
pub struct Section {
    /// The name for programs.
    pub key: String,
    /// What was measured.
    pub title: String,
    /// The unit of every value; smaller is better in all of them.
    pub unit: String,
    /// What a reader has to know, or nothing.
    pub note: String,
    /// The column that ratios are taken against.
    pub base: String,
    /// The columns, in order.
    pub columns: Vec<String>,
    /// The rows, in order.
    pub rows: Vec<Row>,
    /// What went wrong, in words.
    pub failures: Vec<String>,
}

/// One line of a table.
#[derive(Debug, Serialize)]
pub struct Row {
    /// What was measured with.
    pub name: String,
    /// The figures by column; a column that is missing was not measured.
    pub samples: BTreeMap<String, Sample>,
}

impl Report {
    /// An empty report.
    pub fn new(engines: &[Engine], command: String) -> Self {
        let engines = engines.iter().map(|engine| (engine.kind.name().to_owned(), engine.version.clone())).collect();
        Self { command, machine: machine(), engines, sections: Vec::new() }
    }

    /// The lines above the tables.
    pub fn heading(&self) -> String {
        let engines: Vec<String> = self.engines.iter().map(|(name, version)| format!("{name} {version}")).collect();
        format!("{}\n{}\n{}\n", self.command, self.machine, engines.join(", "))
    }

    /// The whole as JSON.
    ///
    /// # Errors
    /// Never in practice: the figures are plain numbers.
    pub fn json(&self) -> Result<String> {
        let mut text = serde_json::to_string_pretty(self).context("report")?;
        text.push('\n');
        Ok(text)
    }
}

impl Section {
    /// An empty table whose ratios are taken against the peer.
    pub fn new(key: &str, title: &str, unit: &str) -> Self {
        Self {
            key: key.to_owned(),
            title: title.to_owned(),
            unit: unit.to_owned(),
            note: String::new(),
            base: PEER.to_owned(),
            columns: Vec::new(),
            rows: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Adds a figure; rows and columns appear in the order in which they are first named.
    pub fn add(&mut self, row: &str, column: &str, sample: Sample) {
        if !self.columns.iter().any(|name| name == column) {
            self.columns.push(column.to_owned());
        }
        let at = match self.rows.iter().position(|found| found.name == row) {
            Some(at) => at,
            None => {
                self.rows.push(Row { name: row.to_owned(), samples: BTreeMap::new() });
                self.rows.len() - 1
            }
        };
        self.rows[at].samples.insert(column.to_owned(), sample);
    }

    /// Adds a figure or, when there is none, says why.
    pub fn add_result(&mut self, row: &str, column: &str, result: Result<Sample>) {
        match result {
            Ok(sample) => self.add(row, column, sample),
            Err(failure) => self.failures.push(format!("{row}, {column}: {failure}")),
        }
    }

    /// The geometric mean of the ratios of a column to another, over the rows that have both, when there are several.
    pub fn mean_ratio(&self, column: &str, base: &str) -> Option<f64> {
        let ratios: Vec<f64> = self.rows.iter().filter_map(|row| row.ratio(column, base)).collect();
        if ratios.len() < 2 { None } else { geometric_mean(&ratios) }
    }

    /// The table as text.
    pub fn table(&self) -> String {
        let others: Vec<&String> = self.columns.iter().filter(|column| **column != self.base).collect();
        let has_base = self.columns.contains(&self.base);
        let mut lines = vec![vec![self.unit.clone()]];
        lines[0].extend(self.columns.iter().cloned());
        if has_base {
            lines[0].extend(others.iter().map(|column| format!("{column}/{}", self.base)));
        }
        for row in &self.rows {
            let mut line = vec![row.name.clone()];
            line.extend(self.columns.iter().map(|column| row.samples.get(column).map_or("-".to_owned(), cell)));
            if has_base {
                line.extend(others.iter().map(|column| row.ratio(column, &self.base).map_or("-".to_owned(), ratio_cell)));
            }
            lines.push(line);
        }
        let means: Vec<Option<f64>> = others.iter().map(|column| self.mean_ratio(column, &self.base)).collect();
        if has_base && means.iter().any(Option::is_some) {
            let mut line = vec!["geometric mean".to_owned()];
            line.extend(self.columns.iter().map(|_| String::new()));
            line.extend(means.into_iter().map(|mean| mean.map_or("-".to_owned(), ratio_cell)));
            lines.push(line);
        }
        let mut text = format!("## {} ({})\n", self.title, self.unit);
        text.push_str(&align(&lines));
        if !self.note.is_empty() {
            let _ = writeln!(text, "{}", self.note);
        }
        text
    }
}

impl Row {
    /// How many times larger one column is than another, see [`Sample::ratio_to`].
    pub fn ratio(&self, column: &str, base: &str) -> Option<f64> {
        self.samples.get(column)?.ratio_to(self.samples.get(base)?)
    }
}

fn cell(sample: &Sample) -> String {
    if sample.values.len() > 1 {
        format!("{} ±{:.0}%", significant(sample.median), sample.spread_percent())
    } else {
        significant(sample.median)
    }
}

fn ratio_cell(ratio: f64) -> String {
    format!("{ratio:.2}")
}

/// Four significant digits, without an exponent.
fn significant(value: f64) -> String {
    let magnitude = if value > 0.0 { value.log10().floor() } else { 0.0 };
    let digits = (3.0 - magnitude).clamp(0.0, 6.0) as usize;
    format!("{value:.digits$}")
}

/// The first column to the left, the others to the right, two spaces between.
fn align(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |at: usize| lines.iter().filter_map(|line| line.get(at)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let mut out = String::new();
        for (at, cell) in line.iter().enumerate() {
            let blank = " ".repeat(widths[at] - cell.chars().count());
            out.push_str(&if at == 0 { format!("{cell}{blank}") } else { format!("  {blank}{cell}") });
        }
        text.push_str(out.trim_end());
        text.push('\n');
    }
    text
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| Some(line.strip_prefix("model name")?.split_once(':')?.1.trim().to_owned()));
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let release = read("/proc/sys/kernel/osrelease");
    let version: Vec<&str> = release.trim().split('.').take(2).collect();
    format!("{}, {count} processors, {} {} {}", model.unwrap_or_default(), std::env::consts::OS, version.join("."), std::env::consts::ARCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(median: f64) -> Sample {
        Sample { median, low: median, high: median, values: vec![median; 3] }
    }

    #[test]
    fn a_table_has_ratios_to_the_base_and_their_mean() {
        let mut section = Section::new("k", "Title", "ms");
        section.add("one", "peregrine", sample(1.0));
        section.add("one", PEER, sample(2.0));
        section.add("two", "peregrine", sample(1234.0));
        section.add("two", PEER, sample(617.0));
        let expect = "## Title (ms)\n\
            ms              peregrine   wasmtime  peregrine/wasmtime\n\
            one             1.000 ±0%  2.000 ±0%                0.50\n\
            two              1234 ±0%  617.0 ±0%                2.00\n\
            geometric mean                                      1.00\n";
        assert_eq!(section.table(), expect);
    }

    #[test]
    fn what_was_not_measured_is_a_dash() {
        let mut section = Section::new("k", "Title", "ms");
        section.add("one", "peregrine", sample(1.0));
        section.add("two", PEER, sample(1.0));
        assert_eq!(section.table().matches(" -").count(), 4);
        assert_eq!(section.mean_ratio("peregrine", PEER), None);
    }

    #[test]
    fn digits() {
        for (value, text) in [(0.012345, "0.01235"), (1.5, "1.500"), (99999.0, "99999"), (0.0, "0.000")] {
            assert_eq!(significant(value), text);
        }
    }
}
