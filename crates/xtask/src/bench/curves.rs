//! How engines start and warm up, as a picture: time since the process began against iterations done, both on logarithmic axes.
//!
//! A curve begins where the first iteration ends: what is below it is starting. A straight line of slope one is steady speed; the lowest line
//! at the right is the fastest code.

use super::Bench;
use super::tiering::{self, Way};
use crate::failure::Result;
use crate::{sources, workspace};
use std::fmt::Write;

/// The kernels that are drawn: what programs do most, and no two alike.
const KERNELS: [&str; 6] = ["json", "hashmap", "bytecode", "sha256", "matrix", "objects"];
const COLORS: [(&str, &str); 5] =
    [("peregrine", "#c2410c"), ("ahead", "#f59e0b"), ("baseline", "#a855f7"), ("wasmtime", "#64748b"), ("node", "#4d7c0f")];

const TITLE: &str = "Start-up and warm-up: time since the process began (lower is better)";

const PANEL_WIDTH: f64 = 420.0;
const PANEL_HEIGHT: f64 = 300.0;
const LEFT: f64 = 58.0;
const TOP: f64 = 74.0;
const INNER_WIDTH: f64 = PANEL_WIDTH - LEFT - 18.0;
const INNER_HEIGHT: f64 = PANEL_HEIGHT - 70.0;

/// One engine on one kernel: iterations done and milliseconds since the process began.
struct Curve {
    name: &'static str,
    points: Vec<(f64, f64)>,
}

/// Runs the kernels and draws one panel for each.
///
/// # Errors
/// When a kernel fails.
pub fn draw(bench: &Bench) -> Result<String> {
    let ways = tiering::ways(bench, &["peregrine", "ahead", "baseline", "wasmtime", "node"]);
    let mut panels = Vec::new();
    for name in KERNELS {
        let mut curves = Vec::new();
        for way in &ways {
            curves.push(curve(way, name)?);
        }
        panels.push((name, curves));
    }
    Ok(picture(&panels))
}

fn curve(way: &Way, kernel: &str) -> Result<Curve> {
    let folder = workspace::root()?.join(sources::KERNELS);
    let iterations = 2 * super::steady::default_iterations(&folder.join(kernel).with_extension("c"))?;
    let finished = way.job(&folder.join(kernel).with_extension("wasm"))?.arg(iterations.to_string()).arg("curve").run_well()?;
    let points = tiering::points(&finished)?;
    // What the process spent before the first iteration began; its end takes next to nothing.
    let before_ms = (finished.wall.as_secs_f64() * 1e3 - points[points.len() - 1].1 / 1e6).max(0.0);
    let points = points.into_iter().map(|(done, nanos)| (done, before_ms + nanos / 1e6)).collect();
    Ok(Curve { name: way.name, points })
}

fn picture(panels: &[(&str, Vec<Curve>)]) -> String {
    let rows = panels.len().div_ceil(2);
    let (width, height) = (2.0 * PANEL_WIDTH, TOP + rows as f64 * PANEL_HEIGHT);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    text(&mut out, 16.0, 26.0, "start", "font-size=\"18\" font-weight=\"600\"", TITLE);
    let mut x = 16.0;
    for (name, color) in COLORS {
        if panels.iter().any(|(_, curves)| curves.iter().any(|curve| curve.name == name)) {
            let _ = writeln!(out, "<rect x=\"{x}\" y=\"42\" width=\"12\" height=\"12\" fill=\"{color}\"/>");
            text(&mut out, x + 17.0, 52.0, "start", "", name);
            x += 110.0;
        }
    }
    for (at, (name, curves)) in panels.iter().enumerate() {
        let origin = ((at % 2) as f64 * PANEL_WIDTH + LEFT, TOP + (at / 2) as f64 * PANEL_HEIGHT + 22.0);
        panel(&mut out, origin, name, curves);
    }
    out.push_str("</svg>\n");
    out
}

fn panel(out: &mut String, (left, top): (f64, f64), name: &str, curves: &[Curve]) {
    let all = || curves.iter().flat_map(|curve| curve.points.iter());
    let range = |values: &mut dyn Iterator<Item = f64>| {
        let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
        (10f64.powf(low.log10().floor()), high)
    };
    let (x_range, y_range) = (range(&mut all().map(|point| point.0)), range(&mut all().map(|point| point.1)));
    let place = |(low, high): (f64, f64), value: f64| ((value / low).ln() / (high / low).ln()).clamp(0.0, 1.0);
    let x_of = |value| left + place(x_range, value) * INNER_WIDTH;
    let y_of = |value| top + (1.0 - place(y_range, value)) * INNER_HEIGHT;
    text(out, left, top - 8.0, "start", "font-weight=\"600\"", name);
    for (range, upright) in [(x_range, true), (y_range, false)] {
        let mut tick = range.0;
        while tick <= range.1 {
            let (x1, y1, x2, y2) = if upright {
                (x_of(tick), top, x_of(tick), top + INNER_HEIGHT)
            } else {
                (left, y_of(tick), left + INNER_WIDTH, y_of(tick))
            };
            let _ = writeln!(out, "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#e2e8f0\"/>");
            if upright {
                text(out, x1, top + INNER_HEIGHT + 15.0, "middle", "fill=\"#475569\"", &format!("{tick}"));
            } else {
                text(out, left - 6.0, y1 + 4.0, "end", "fill=\"#475569\"", &format!("{tick} ms"));
            }
            tick *= 10.0;
        }
    }
    text(out, left + INNER_WIDTH / 2.0, top + INNER_HEIGHT + 31.0, "middle", "fill=\"#475569\"", "iterations");
    for curve in curves {
        let color = COLORS.iter().find(|(known, _)| *known == curve.name).map_or("#000000", |(_, color)| color);
        let mut path = String::new();
        let mut last = (f64::MIN, f64::MIN);
        for (done, ms) in &curve.points {
            let (x, y) = (x_of(*done), y_of(*ms));
            // Points closer than a pixel draw nothing new.
            if (x - last.0).hypot(y - last.1) >= 1.0 {
                let _ = write!(path, "{x:.1},{y:.1} ");
                last = (x, y);
            }
        }
        let _ = writeln!(out, "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.6\"/>", path.trim_end());
    }
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, style: &str, words: &str) {
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {style}>{words}</text>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_a_line_for_each_curve() {
        let curve = |name, start: f64| Curve { name, points: (1..50).map(|at| (f64::from(at), start + f64::from(at))).collect() };
        let picture = picture(&[("json", vec![curve("peregrine", 2.0), curve("node", 50.0)])]);
        assert_eq!(picture.matches("<polyline").count(), 2);
        assert_eq!(picture.matches("wasmtime").count(), 0, "the legend names only what is drawn");
        assert!(!picture.contains("NaN") && !picture.contains("inf"));
    }

    #[test]
    fn the_readme_shows_the_curves() {
        let readme = include_str!("../../../../README.md");
        let drawn = include_str!("../../../../docs/warm-up.svg");
        assert!(readme.contains("](docs/warm-up.svg)") && readme.contains("](docs/benchmarks.svg)"));
        assert!(drawn.contains(TITLE) && drawn.matches("<polyline").count() >= COLORS.len(), "it is not what `--plot` draws");
    }
}
