//! Medians side by side, with whiskers: loads and cases, each group on a scale of its own.

use shared::{
    measure::{Summary, seconds_text},
    wire::BenchmarkResult,
};

use super::svg::{Anchor, Canvas, shortened};

/// Height of a row.
const ROW: f64 = 24.0;
/// Width of the labels before the bars.
const LABEL: f64 = 250.0;
/// Width of the values behind them.
const VALUE: f64 = 190.0;
/// Height of the headline.
const HEAD: f64 = 24.0;

/// A bar.
pub(super) struct Row<'r> {
    label: String,
    summary: &'r Summary,
    /// Behind the median.
    about: String,
    class: &'static str,
}

/// The bars of a result, in its order.
pub(super) fn rows(result: &BenchmarkResult) -> Vec<Row<'_>> {
    let mut rows = Vec::new();
    for one in &result.loads {
        let series = [("cold load", &one.cold), ("warm load", &one.warm)];
        let there = series.into_iter().filter_map(|(how, series)| Some((how, series.as_ref()?)));
        rows.extend(there.map(|(how, series)| Row {
            label: format!("{how} ({})", one.component),
            summary: &series.summary,
            about: speed(one.bytes, series.summary.p50),
            class: "load",
        }));
    }
    rows.extend(result.cases.iter().map(|case| Row {
        label: case.label(),
        summary: &case.steady.summary,
        about: format!("{} items/s", rate(case.items_per_second)),
        class: "bar",
    }));
    rows
}

fn speed(bytes: u64, seconds: f64) -> String {
    if seconds > 0.0 { format!("{:.2} GB/s", bytes as f64 / seconds / 1e9) } else { String::new() }
}

fn rate(per_second: f64) -> String {
    if per_second >= 100.0 { format!("{per_second:.0}") } else { format!("{per_second:.2}") }
}

/// The height of so many bars.
pub(super) fn height(rows: usize) -> f64 {
    if rows == 0 { 0.0 } else { HEAD + rows as f64 * ROW }
}

/// Draws bars at a place. Loads and runs differ by orders of magnitude: each kind has its own scale.
pub(super) fn draw(canvas: &mut Canvas, rows: &[Row<'_>], (x, y): (f64, f64), width: f64) {
    if rows.is_empty() {
        return;
    }
    canvas.text((x, y + 10.0), Anchor::Start, "head", "Medians");
    let room = width - LABEL - VALUE;
    for (index, row) in rows.iter().enumerate() {
        let same = rows.iter().filter(|other| other.class == row.class);
        let most = same.map(|other| other.summary.p90).fold(f64::MIN_POSITIVE, f64::max);
        let scale = |seconds: f64| x + LABEL + room * (seconds / most).clamp(0.0, 1.0);
        bar(canvas, row, y + HEAD + index as f64 * ROW, (x, width), scale);
    }
}

fn bar(canvas: &mut Canvas, row: &Row<'_>, top: f64, (x, width): (f64, f64), scale: impl Fn(f64) -> f64) {
    let middle = top + ROW / 2.0;
    canvas.text((x + LABEL - 10.0, middle + 4.0), Anchor::End, "label", &shortened(&row.label, 40));
    let end = scale(row.summary.p50);
    canvas.rect((x + LABEL, top + 4.0), (end - x - LABEL, ROW - 8.0), row.class);
    let (low, high) = (scale(row.summary.p10), scale(row.summary.p90));
    canvas.line((low, middle), (high, middle), "whisker");
    canvas.line((low, middle - 4.0), (low, middle + 4.0), "whisker");
    canvas.line((high, middle - 4.0), (high, middle + 4.0), "whisker");
    let value = format!("{} · {}", seconds_text(row.summary.p50), row.about);
    canvas.text((x + width - VALUE + 12.0, middle + 4.0), Anchor::Start, "label", &value);
}
