//! The comparison as a picture: horizontal bars, one per engine, relative to the peer (or to a section's own base).

use super::report::{PEER, Report, Section};
use std::fmt::Write;

const LABEL_WIDTH: f64 = 270.0;
const PLOT_WIDTH: f64 = 560.0;
const RIGHT: f64 = 70.0;
const BAR: f64 = 11.0;
const GAP: f64 = 9.0;
const TOP: f64 = 92.0;
/// Longer bars are cut and say so.
const LIMIT: f64 = 2.5;
const COLORS: [(&str, &str); 4] = [("peregrine", "#c2410c"), ("wasmtime", "#64748b"), ("node", "#4d7c0f"), ("native", "#1d4ed8")];

/// A label and one bar for each column.
struct Group {
    label: String,
    bars: Vec<(String, f64)>,
}

/// Draws the whole report; the growth of compiling is left to the table.
pub fn draw(report: &Report) -> String {
    let mut blocks: Vec<(String, Vec<Group>)> = Vec::new();
    for section in report.sections.iter().filter(|section| !section.key.starts_with("growth")) {
        let base = if section.columns.iter().any(|column| column == PEER) { PEER } else { section.base.as_str() };
        let groups = groups(section, base);
        if !groups.is_empty() {
            blocks.push((format!("{}, relative to {base}", section.title), groups));
        }
    }
    let engines: Vec<String> = report.engines.iter().map(|(name, version)| format!("{name} {version}")).collect();
    let used: Vec<&str> =
        blocks.iter().flat_map(|(_, groups)| groups).flat_map(|group| &group.bars).map(|(name, _)| name.as_str()).collect();
    let height = TOP + 44.0 + blocks.iter().map(|(_, groups)| 30.0 + groups.iter().map(group_height).sum::<f64>()).sum::<f64>();
    let width = LABEL_WIDTH + PLOT_WIDTH + RIGHT;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    text(&mut out, 16.0, 28.0, "start", "font-size=\"18\" font-weight=\"600\"", "Peregrine beside its peers: smaller is better");
    text(&mut out, 16.0, 47.0, "start", "fill=\"#475569\"", &format!("{}; {}", report.machine, engines.join(", ")));
    legend(&mut out, &used);
    let mut y = TOP;
    for (title, groups) in &blocks {
        let end = y + 22.0 + groups.iter().map(group_height).sum::<f64>();
        text(&mut out, 16.0, y + 14.0, "start", "font-weight=\"600\"", title);
        axis(&mut out, y + 20.0, end);
        y += 26.0;
        for group in groups {
            y = draw_group(&mut out, group, y);
        }
        y = end + 8.0;
    }
    for step in 0..=5 {
        let ratio = f64::from(step) * 0.5;
        text(&mut out, x_of(ratio), y + 10.0, "middle", "fill=\"#475569\"", &format!("{ratio:.1}"));
    }
    text(
        &mut out,
        x_of(LIMIT / 2.0),
        y + 26.0,
        "middle",
        "fill=\"#475569\"",
        "ratio (1.0 is the base named above each block; longer bars are cut)",
    );
    out.push_str("</svg>\n");
    out
}

fn groups(section: &Section, base: &str) -> Vec<Group> {
    let mut groups = Vec::new();
    let means: Vec<(String, f64)> =
        section.columns.iter().filter_map(|column| Some((column.clone(), section.mean_ratio(column, base)?))).collect();
    if section.rows.len() > 4 && !means.is_empty() {
        groups.push(Group { label: "geometric mean".to_owned(), bars: means });
    }
    for row in &section.rows {
        let bars: Vec<(String, f64)> =
            section.columns.iter().filter_map(|column| Some((column.clone(), row.ratio(column, base)?))).collect();
        if !bars.is_empty() {
            groups.push(Group { label: row.name.clone(), bars });
        }
    }
    groups
}

fn group_height(group: &Group) -> f64 {
    group.bars.len() as f64 * BAR + GAP
}

fn draw_group(out: &mut String, group: &Group, mut y: f64) -> f64 {
    let middle = y + group.bars.len() as f64 * BAR / 2.0 + 4.0;
    text(out, LABEL_WIDTH - 8.0, middle, "end", "", &group.label);
    for (column, ratio) in &group.bars {
        let shown = ratio.min(LIMIT);
        let _ = writeln!(
            out,
            "<rect x=\"{LABEL_WIDTH}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{}\" fill=\"{}\"/>",
            x_of(shown) - LABEL_WIDTH,
            BAR - 1.0,
            color(column)
        );
        let mark = if *ratio > LIMIT { "→ " } else { "" };
        text(out, x_of(shown) + 4.0, y + 9.0, "start", "font-size=\"10\" fill=\"#334155\"", &format!("{mark}{ratio:.2}"));
        y += BAR;
    }
    y + GAP
}

fn legend(out: &mut String, used: &[&str]) {
    let mut x = LABEL_WIDTH;
    for (name, color) in COLORS.iter().filter(|(name, _)| used.contains(name)) {
        let _ = writeln!(out, "<rect x=\"{x}\" y=\"60\" width=\"12\" height=\"12\" fill=\"{color}\"/>");
        text(out, x + 17.0, 70.0, "start", "", name);
        x += 110.0;
    }
}

fn axis(out: &mut String, top: f64, bottom: f64) {
    for step in 0..=5 {
        let x = x_of(f64::from(step) * 0.5);
        let stroke = if step == 2 { "#0f172a" } else { "#e2e8f0" };
        let _ = writeln!(out, "<line x1=\"{x:.1}\" y1=\"{top:.1}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\" stroke=\"{stroke}\"/>");
    }
}

fn x_of(ratio: f64) -> f64 {
    LABEL_WIDTH + ratio / LIMIT * PLOT_WIDTH
}

fn color(column: &str) -> &'static str {
    COLORS.iter().find(|(name, _)| *name == column).map_or("#a21caf", |(_, color)| color)
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, style: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {style}>{words}</text>");
}

#[cfg(test)]
mod tests {
    use super::super::measure::Sample;
    use super::*;

    #[test]
    fn a_bar_for_each_engine_and_long_ones_are_cut() {
        let sample = |median| Sample { median, low: median, high: median, values: vec![median] };
        let mut section = Section::new("steady", "Run <time>", "us");
        section.add("one", "peregrine", sample(1.0));
        section.add("one", PEER, sample(2.0));
        section.add("one", "node", sample(20.0));
        let mut report = Report::new(&[], "command".to_owned());
        report.sections.push(section);
        let picture = draw(&report);
        assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>\n"));
        assert!(picture.contains("Run &lt;time&gt;") && picture.contains("→ 10.00") && picture.contains(">0.50<"));
        assert_eq!(picture.matches("#c2410c").count(), 2);
    }
}
