//! What was measured of checkpoints, as tables.

use std::fmt;

use serde::Serialize;

use crate::{Container, facts::Facts, torch::Made};

/// A way to look at a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Way {
    /// Ours: what it is, and what is in it.
    Listed,
    /// Ours: all bytes into the RAM tier, with their digest.
    Read,
    /// Theirs: all bytes into memory.
    TorchLoad,
    /// Theirs: a mapping, of which nothing was read yet.
    TorchMapped,
    /// Theirs: a mapping, every page of it read.
    TorchTouched,
}

impl Way {
    const fn name(self) -> &'static str {
        match self {
            Self::Listed => "modelyard: listing",
            Self::Read => "modelyard: RAM tier, digest in the same pass",
            Self::TorchLoad => "torch.load(weights_only=True)",
            Self::TorchMapped => "torch.load(weights_only=True, mmap=True), until it returns",
            Self::TorchTouched => "torch.load(weights_only=True, mmap=True), every page read once",
        }
    }

    /// What of ours does the same: a mapping that was not read says as much as a listing.
    const fn beside(self) -> Self {
        match self {
            Self::Listed | Self::TorchMapped => Self::Listed,
            Self::Read | Self::TorchLoad | Self::TorchTouched => Self::Read,
        }
    }
}

/// One way from one state, in seconds of each pass.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    way: Way,
    cold: bool,
    seconds: Vec<f64>,
    /// Of processors.
    cpu: Vec<f64>,
}

/// Rows in the order of their first pass.
#[derive(Debug, Default)]
pub(crate) struct Ways(Vec<Row>);

impl Ways {
    /// One pass.
    pub(crate) fn add(&mut self, way: Way, cold: bool, seconds: f64, cpu: f64) {
        match self.0.iter_mut().find(|row| (row.way, row.cold) == (way, cold)) {
            Some(row) => {
                row.seconds.push(seconds);
                row.cpu.push(cpu);
            }
            None => self.0.push(Row { way, cold, seconds: vec![seconds], cpu: vec![cpu] }),
        }
    }

    /// All that was measured of a file.
    pub(crate) fn file(self, container: Container, made: Made) -> File {
        File { container, made, rows: self.0 }
    }
}

/// One checkpoint.
#[derive(Debug, Serialize)]
pub(crate) struct File {
    container: Container,
    made: Made,
    rows: Vec<Row>,
}

/// Everything.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Of the machine.
    pub machine: Facts,
    /// What was dropped before a cold pass.
    pub cold: &'static str,
    /// Version of the peer.
    pub torch: String,
    /// The files.
    pub files: Vec<File>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nPickle: {}; cold: {}\nPeer: torch {}", self.machine, self.cold, self.torch)?;
        for file in &self.files {
            let Made { tensors, bytes } = file.made;
            let what = format!("{:?} of {bytes} bytes in {tensors} tensors", file.container);
            writeln!(
                f,
                "\n| {what} | file | seconds (passes) | CPU seconds | GB/s | ours is |\n|---|---|---|---|---|---|"
            )?;
            for row in &file.rows {
                file.row(f, row)?;
            }
        }
        Ok(())
    }
}

impl File {
    fn row(&self, f: &mut fmt::Formatter<'_>, row: &Row) -> fmt::Result {
        let ours = self.rows.iter().find(|ours| (ours.way, ours.cold) == (row.way.beside(), row.cold));
        let ratio = ours.map_or(f64::NAN, |ours| median(&row.seconds) / median(&ours.seconds));
        let state = if row.cold { "cold" } else { "cached" };
        let digits = if row.way.beside() == Way::Listed { 4 } else { 2 };
        let list: Vec<String> = row.seconds.iter().map(|seconds| format!("{seconds:.digits$}")).collect();
        let rate = match row.way {
            Way::Listed | Way::TorchMapped => String::new(),
            _ => format!("{:.2}", self.made.bytes as f64 / median(&row.seconds) / 1e9),
        };
        let (name, passes, cpu) = (row.way.name(), list.join(", "), median(&row.cpu));
        writeln!(f, "| {name} | {state} | {passes} | {cpu:.2} | {rate} | {ratio:.2}× |")
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}
