//! A benchmark as a picture: medians side by side, then the runs of each case in the order in which they were made.
//! Pure: a report in, SVG out. Readable on light and dark backgrounds, because it brings its own.

mod axis;
mod bars;
mod runs;
mod svg;

use shared::wire::BenchmarkReport;

use svg::{Anchor, Canvas};

/// Width of the picture.
const WIDTH: f64 = 960.0;
/// Free space at its edges.
const MARGIN: f64 = 28.0;
/// Height of the title with what is below it.
const HEAD: f64 = 96.0;
/// Cases whose runs are drawn; the rest is in the bars only.
const PANELS: usize = 24;
/// Space between two panels.
const GAP: f64 = 20.0;

/// Draws a report.
pub(crate) fn draw(report: &BenchmarkReport) -> String {
    let rows = bars::rows(&report.result);
    let bars_height = bars::height(rows.len());
    let cases = report.result.cases.get(..report.result.cases.len().min(PANELS)).unwrap_or_default();
    let panels_height = cases.len().div_ceil(2) as f64 * (runs::HEIGHT + GAP);
    let left_out = report.result.cases.len().saturating_sub(cases.len());
    let height = HEAD + bars_height + GAP + panels_height + MARGIN;
    let mut canvas = Canvas::new(WIDTH, height);
    head(&mut canvas, report, left_out);
    bars::draw(&mut canvas, &rows, (MARGIN, HEAD), WIDTH - 2.0 * MARGIN);
    let panel_width = (WIDTH - 2.0 * MARGIN - GAP) / 2.0;
    for (index, case) in cases.iter().enumerate() {
        let (row, column) = ((index / 2) as f64, (index % 2) as f64);
        let at = (MARGIN + column * (panel_width + GAP), HEAD + bars_height + GAP + row * (runs::HEIGHT + GAP));
        runs::draw(&mut canvas, case, at, panel_width);
    }
    canvas.end(&format!("Benchmark of {} on {}", report.summary.model_name, report.summary.device))
}

fn head(canvas: &mut Canvas, report: &BenchmarkReport, left_out: usize) {
    let summary = &report.summary;
    let verdict = summary.verdict.as_deref().map(|verdict| format!(" · {verdict}")).unwrap_or_default();
    let title = format!("{} on {}{verdict}", summary.model_name, summary.device);
    canvas.text((MARGIN, 38.0), Anchor::Start, "title", &svg::shortened(&title, 84));
    let of = &report.fingerprint;
    let library = of.library.as_deref().map(|library| format!(" · ONNX Runtime {library}")).unwrap_or_default();
    let machine = format!("{} · {} · {} processors{library} · modelyard {}", of.product, of.cpu, of.cpus, of.version);
    canvas.text((MARGIN, 60.0), Anchor::Start, "note", &svg::shortened(&machine, 140));
    let more = if left_out > 0 { format!(" · runs of {left_out} more cases are not drawn") } else { String::new() };
    let when = summary.created_at.format("%Y-%m-%d %H:%M UTC");
    let legend = "bar and line: median; whisker and band: one to nine in ten; circles: outliers; grey: before it settled; +: memory beyond the weights";
    canvas.text((MARGIN, 78.0), Anchor::Start, "note", &format!("{when} · {legend}{more}"));
}

#[cfg(test)]
mod tests;
