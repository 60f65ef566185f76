//! Progress of a job for people: a bar on a terminal, else one line per ten percent.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use shared::{bytes::ByteSize, wire::Progress};

use crate::output::Output;

/// Shows one job's progress on stderr.
#[derive(Debug)]
pub(crate) struct Meter {
    output: Output,
    label: String,
    bar: Option<ProgressBar>,
    said: Option<(String, u64)>,
}

impl Meter {
    /// Nothing shown yet; `label` names the work, e.g. `load sdxl-tiny`.
    pub(crate) fn new(output: Output, label: impl Into<String>) -> Self {
        Self { output, label: label.into(), bar: None, said: None }
    }

    /// Says what the job waits for.
    pub(crate) fn waiting(&mut self, text: &str) {
        if self.output.bars {
            let bar = self.bar();
            bar.set_style(style("{spinner} {prefix} {msg}"));
            bar.set_message(text.to_owned());
            bar.tick();
        } else {
            self.say_once(text, 0);
        }
    }

    /// Shows where the work is.
    pub(crate) fn update(&mut self, progress: &Progress) {
        let unit = Unit::of(&progress.phase);
        if self.output.bars {
            self.draw(progress, unit);
        } else if let Some(tenths) = progress.bytes_done.saturating_mul(10).checked_div(progress.bytes_total) {
            self.say_once(&line(progress, unit), tenths);
        } else {
            self.say_once(&words(&progress.phase), 0);
        }
    }

    /// Leaves one last line instead of the bar.
    pub(crate) fn finish(mut self, text: &str) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.output.note(format!("{}: {text}", self.label));
    }

    fn draw(&mut self, progress: &Progress, unit: Unit) {
        let template = match (progress.bytes_total, unit) {
            (0, _) => "{spinner} {prefix} {msg}",
            (_, Unit::Files) => "{prefix} {msg:11} [{bar:30}] {pos}/{len} files",
            (_, Unit::Steps) => "{prefix} {msg:11} [{bar:30}] {pos}/{len} steps",
            (_, Unit::Parts) => "{prefix} {msg:11} [{bar:30}] {pos}/{len}",
            (_, Unit::Bytes) => "{prefix} {msg:11} [{bar:30}] {percent:>3}% {binary_bytes}/{binary_total_bytes}",
        };
        let rate = rate(progress, unit);
        let eta = progress.eta_seconds.map(|seconds| format!(", {seconds:.0} s left")).unwrap_or_default();
        let detail = progress.detail.as_ref().map(|detail| format!(" {detail}")).unwrap_or_default();
        let bar = self.bar();
        bar.set_style(style(&format!("{template}{rate}{eta}{}", detail.replace('{', "{{").replace('}', "}}"))));
        bar.set_length(progress.bytes_total);
        bar.set_position(progress.bytes_done);
        bar.set_message(words(&progress.phase));
    }

    fn bar(&mut self) -> &ProgressBar {
        let label = &self.label;
        self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_prefix(label.clone());
            bar
        })
    }

    /// Lines of a log should not repeat themselves.
    fn say_once(&mut self, text: &str, tenths: u64) {
        let phase = text.split_whitespace().next().unwrap_or_default().to_owned();
        let now = (phase, tenths);
        if self.said.as_ref() != Some(&now) {
            self.output.note(format!("{}: {text}", self.label));
            self.said = Some(now);
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    // a template of ours always parses; the default style shows the same numbers less well
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

/// What a phase counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Bytes,
    Files,
    Steps,
    /// Images or tiles, few enough to need no name.
    Parts,
}

impl Unit {
    fn of(phase: &str) -> Self {
        match phase {
            "scanning" => Self::Files,
            "denoising" => Self::Steps,
            "preparing" | "encoding" | "decoding" | "tokenizing" => Self::Parts,
            _ => Self::Bytes,
        }
    }
}

/// A phase as people read it.
pub(crate) fn words(phase: &str) -> String {
    phase.replace('_', " ")
}

fn line(progress: &Progress, unit: Unit) -> String {
    let Progress { bytes_done, bytes_total, .. } = progress;
    let phase = words(&progress.phase);
    let percent = bytes_done.saturating_mul(100) / (*bytes_total).max(1);
    let left = progress.eta_seconds.filter(|_| unit == Unit::Steps);
    let left = left.map(|seconds| format!(", {seconds:.0} s left")).unwrap_or_default();
    match unit {
        Unit::Files => format!("{phase} {percent}% {bytes_done} of {bytes_total} files"),
        Unit::Steps => format!("{phase} {percent}% {bytes_done} of {bytes_total} steps{left}"),
        Unit::Parts => format!("{phase} {percent}% {bytes_done} of {bytes_total}"),
        Unit::Bytes => {
            let rate = rate(progress, unit);
            format!("{phase} {percent}% {} of {}{rate}", ByteSize(*bytes_done), ByteSize(*bytes_total))
        }
    }
}

/// Phase and percent, and how fast bytes move; none while the total is unknown.
pub(crate) fn brief(progress: &Progress) -> Option<String> {
    let percent = progress.bytes_done.saturating_mul(100).checked_div(progress.bytes_total)?;
    Some(format!("{} {percent}%{}", words(&progress.phase), rate(progress, Unit::of(&progress.phase))))
}

/// How fast bytes move; of what is counted in other units the time that is left says enough.
fn rate(progress: &Progress, unit: Unit) -> String {
    let rate = progress.bytes_per_second.filter(|_| unit == Unit::Bytes);
    rate.map(|rate| format!(", {}/s", ByteSize(rate as u64))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_says_phase_percent_and_sizes() {
        let progress = Progress {
            phase: "reading".into(),
            bytes_done: 3 << 30,
            bytes_total: 6 << 30,
            bytes_per_second: Some(f64::from(1 << 30)),
            eta_seconds: None,
            detail: None,
        };
        let said = |progress: &Progress| line(progress, Unit::of(&progress.phase));
        assert_eq!(said(&progress), "reading 50% 3.0 GiB of 6.0 GiB, 1.0 GiB/s");
        assert_eq!(brief(&progress).as_deref(), Some("reading 50%, 1.0 GiB/s"));
        let scanning = Progress { phase: "scanning".into(), bytes_done: 1, bytes_total: 4, ..progress };
        assert_eq!(said(&scanning), "scanning 25% 1 of 4 files");
        let steps = Progress { phase: "denoising".into(), eta_seconds: Some(12.3), ..scanning };
        assert_eq!(said(&steps), "denoising 25% 1 of 4 steps, 12 s left");
    }
}
