//! Plots: one bar for each contender with its 95 % interval, as SVG.
//!
//! Written by hand: rectangles, lines and text need no library, and a plotting crate would bring fonts and bitmaps for
//! them. The file has no script and no reference to anything, and is readable on light and dark pages.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::compare::{Bar, Better, Figure};

const WIDTH: f64 = 760.0;
const ROW: f64 = 26.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 14.0;
/// Where bars begin and where the largest interval ends.
const LEFT: f64 = 150.0;
const RIGHT: f64 = 640.0;
const OURS: &str = "portcullis";

/// Writes a plot for each figure, named by its id, and returns where.
pub(crate) fn save(figures: &[Figure], dir: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    let mut paths = Vec::new();
    for figure in figures.iter().filter(|figure| !figure.bars.is_empty()) {
        let path = dir.join(format!("{}.svg", figure.id.to_lowercase()));
        fs::write(&path, svg(figure)).with_context(|| format!("write {}", path.display()))?;
        paths.push(path);
    }
    Ok(paths)
}

fn svg(figure: &Figure) -> String {
    let rows = f64::from(u32::try_from(figure.bars.len()).unwrap_or(u32::MAX));
    let height = TOP + rows * ROW + BOTTOM;
    let most = figure.bars.iter().map(|bar| bar.value.high.max(bar.value.median)).fold(0.0, f64::max);
    let scale = if most > 0.0 { (RIGHT - LEFT) / most } else { 0.0 };
    let direction = match figure.better {
        Better::Higher => "longer is better",
        Better::Lower => "shorter is better",
    };
    let (title, unit) = (escaped(&figure.title), escaped(&figure.unit));
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         font-family=\"sans-serif\" font-size=\"13\">\n<title>{title}</title>\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"12\" y=\"18\" font-weight=\"bold\" fill=\"#111\">{title}</text>\n\
         <text x=\"12\" y=\"35\" fill=\"#555\">{unit}; {direction}; whiskers: 95 % interval of the median</text>\n"
    );
    let mut y = TOP;
    for bar in &figure.bars {
        row(&mut text, bar, y, scale);
        y += ROW;
    }
    text.push_str("</svg>\n");
    text
}

fn row(text: &mut String, Bar { label, value }: &Bar, y: f64, scale: f64) {
    let at = |number: f64| LEFT + number.max(0.0) * scale;
    let (low, high, end) = (at(value.low), at(value.high), at(value.median));
    let (width, bar, middle, base) = (end - LEFT, ROW - 8.0, y + (ROW - 8.0) / 2.0, y + 13.0);
    let colour = if label == OURS { "#1f6feb" } else { "#a8b3c0" };
    let digits = if value.median.abs() < 100.0 { 2 } else { 0 };
    let shown = format!("{:.digits$}", value.median);
    let (label, beside) = (escaped(label), high.max(end) + 8.0);
    // Writing to a String cannot fail.
    let _infallible = write!(
        text,
        "<text x=\"{:.1}\" y=\"{base:.1}\" text-anchor=\"end\" fill=\"#111\">{label}</text>\n\
         <rect x=\"{LEFT:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{bar:.1}\" fill=\"{colour}\"/>\n\
         <path d=\"M{low:.1} {middle:.1}H{high:.1}M{low:.1} {:.1}V{:.1}M{high:.1} {:.1}V{:.1}\" stroke=\"#111\"/>\n\
         <text x=\"{beside:.1}\" y=\"{base:.1}\" fill=\"#111\">{shown}</text>\n",
        LEFT - 8.0,
        y + 4.0,
        y + 14.0,
        y + 4.0,
        y + 14.0,
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Estimate;

    fn figure() -> Figure {
        let bar = |label: &str, median: f64| Bar {
            label: label.into(),
            value: Estimate { median, low: median * 0.9, high: median * 1.1 },
        };
        Figure {
            id: "G1".into(),
            title: "cost < 1 & more".into(),
            unit: "µs".into(),
            better: Better::Lower,
            bars: vec![bar("portcullis", 10.0), bar("haproxy", 20.0)],
        }
    }

    #[test]
    fn every_contender_has_a_bar_as_long_as_its_median() {
        let text = svg(&figure());
        let widths: Vec<f64> = text
            .lines()
            .filter(|line| line.starts_with("<rect x="))
            .map(|line| line.split("width=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(widths.len(), 2);
        assert!((widths[1] / widths[0] - 2.0).abs() < 0.01, "{widths:?}");
        assert!(text.contains("shorter is better") && text.ends_with("</svg>\n"));
    }

    #[test]
    fn titles_are_escaped() {
        assert!(svg(&figure()).contains("<title>cost &lt; 1 &amp; more</title>"));
    }

    #[test]
    fn plots_are_named_by_their_figures() {
        let dir = tempfile::tempdir().unwrap();
        let paths = save(&[figure()], dir.path()).unwrap();
        assert!(paths[0].ends_with("g1.svg") && paths[0].is_file());
    }
}
