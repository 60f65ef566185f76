//! How fast model files are read for what they are: the hash pass beside the usual programs.

#[path = "../facts.rs"]
mod facts;
mod hash;

use std::{io::Write, path::PathBuf};

use clap::Parser;

/// Options.
#[derive(Debug, Parser)]
struct Options {
    /// Folder for the file; removed files leave nothing behind.
    #[arg(long)]
    dir: PathBuf,

    /// Size of the file.
    #[arg(long, default_value = "1GiB")]
    size: shared::bytes::ByteSize,

    /// Runs of each; the median counts.
    #[arg(long, default_value_t = 5)]
    runs: usize,

    /// The result as JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let facts = facts::facts(&options.dir)?;
    let rows = hash::measure(&options.dir, options.size.0, options.runs)?;
    let mut out = std::io::stdout().lock();
    if options.json {
        writeln!(out, "{}", serde_json::json!({ "facts": facts, "bytes": options.size.0, "rows": rows }))?;
        return Ok(());
    }
    writeln!(out, "hashing {} from the page cache; {facts}", options.size)?;
    let ours = rows.first().map_or(0.0, |row| row.seconds);
    for row in &rows {
        let rate = options.size.0 as f64 / row.seconds / 1e6;
        writeln!(
            out,
            "{:<52} {:>7.3} s {:>7.0} MB/s  ours takes {:.2} of it",
            row.name,
            row.seconds,
            rate,
            ours / row.seconds
        )?;
    }
    for name in hash::PROGRAMS.iter().filter(|name| !rows.iter().any(|row| row.name.starts_with(**name))) {
        writeln!(out, "{name}: not installed")?;
    }
    Ok(())
}
