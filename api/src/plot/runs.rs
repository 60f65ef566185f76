//! The runs of one case in order: every sample, the band and median of those that count, the slow tail, outliers by name.

use shared::{
    measure::seconds_text,
    wire::{CaseMeasure, Ended},
};

use super::{
    axis::{marks, steps},
    svg::{Anchor, Canvas, shortened},
};

/// Height of a panel.
pub(super) const HEIGHT: f64 = 220.0;
/// Height of its headline.
const HEAD: f64 = 48.0;
/// Width of the numbers left of the samples.
const NUMBERS: f64 = 56.0;
/// Width of the names of lines, right of them.
const NAMES: f64 = 92.0;
/// Height of the numbers below.
const BELOW: f64 = 20.0;

/// Where samples are drawn: seconds and numbers of runs to places.
struct Plane {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    runs: f64,
    most: f64,
}

impl Plane {
    fn x(&self, run: usize) -> f64 {
        self.left + (run as f64 + 0.5) / self.runs * (self.right - self.left)
    }

    fn y(&self, seconds: f64) -> f64 {
        self.bottom - (seconds / self.most).clamp(0.0, 1.0) * (self.bottom - self.top)
    }
}

/// Draws a case at a place.
pub(super) fn draw(canvas: &mut Canvas, case: &CaseMeasure, (x, y): (f64, f64), width: f64) {
    let steady = &case.steady;
    canvas.text((x, y + 12.0), Anchor::Start, "head", &shortened(&case.label(), 58));
    let (about, class) = about(case);
    canvas.text((x, y + 29.0), Anchor::Start, class, &about);
    let most = steady.seconds.iter().copied().fold(0.0, f64::max);
    let axis = steps(most, 4);
    let plane = Plane {
        left: x + NUMBERS,
        right: x + width - NAMES,
        top: y + HEAD,
        bottom: y + HEIGHT - BELOW,
        runs: steady.seconds.len().max(1) as f64,
        most: axis.1,
    };
    for mark in marks(axis) {
        let at = plane.y(mark);
        canvas.line((plane.left, at), (plane.right, at), "grid");
        canvas.text((plane.left - 8.0, at + 3.5), Anchor::End, "tick", &seconds_text(mark));
    }
    lines(canvas, case, &plane);
    samples(canvas, case, &plane);
    let last = steady.omitted.saturating_add(steady.seconds.len() as u64);
    canvas.text((plane.left, plane.bottom + 15.0), Anchor::Start, "tick", &format!("run {}", steady.omitted + 1));
    canvas.text((plane.right, plane.bottom + 15.0), Anchor::End, "tick", &format!("run {last}"));
}

/// One line about a case, and how it is shown.
fn about(case: &CaseMeasure) -> (String, &'static str) {
    let first = format!("first {}", seconds_text(case.first_run_seconds));
    let peak = case.peak_bytes.map(|bytes| format!(" · +{}", shared::bytes::ByteSize(bytes)));
    let spread = case.steady.spread.map(|spread| format!(" (spread {:.1} %)", spread * 100.0)).unwrap_or_default();
    let (end, class) = match case.steady.ended {
        Ended::Stable => ("stable", "note"),
        Ended::Runs => ("not stable, all runs made", "note warn"),
        Ended::Time => ("not stable, time over", "note warn"),
    };
    (format!("{first}{} · {end}{spread}", peak.unwrap_or_default()), class)
}

fn lines(canvas: &mut Canvas, case: &CaseMeasure, plane: &Plane) {
    let summary = &case.steady.summary;
    let (top, bottom) = (plane.y(summary.p90), plane.y(summary.p10));
    canvas.rect((plane.left, top), (plane.right - plane.left, (bottom - top).max(1.0)), "band");
    let (mid, tail) = (plane.y(summary.p50), plane.y(summary.p99));
    canvas.line((plane.left, mid), (plane.right, mid), "mid");
    canvas.line((plane.left, tail), (plane.right, tail), "tail");
    // the two names never lie on each other
    let name = (tail + 4.0).min(mid - 9.0);
    canvas.text((plane.right + 6.0, name), Anchor::Start, "tick", &format!("p99 {}", seconds_text(summary.p99)));
    canvas.text((plane.right + 6.0, mid + 4.0), Anchor::Start, "tick", &format!("p50 {}", seconds_text(summary.p50)));
}

fn samples(canvas: &mut Canvas, case: &CaseMeasure, plane: &Plane) {
    let from = usize::try_from(case.steady.from).unwrap_or(usize::MAX);
    let radius = (240.0 / plane.runs).clamp(1.2, 3.0);
    for (index, seconds) in case.steady.seconds.iter().enumerate() {
        let at = (plane.x(index), plane.y(*seconds));
        let run = case.steady.omitted.saturating_add(index as u64).saturating_add(1);
        let class = if index < from { "early" } else { "run" };
        canvas.circle(at, radius, class, &format!("run {run}: {}", seconds_text(*seconds)));
    }
    for outlier in &case.steady.summary.outliers {
        let at = (plane.x(from.saturating_add(outlier.index)), plane.y(outlier.seconds));
        let about = format!("outlier: {}, {:+.1} deviations", seconds_text(outlier.seconds), outlier.deviations);
        canvas.circle(at, radius + 3.0, "outlier", &about);
    }
}
