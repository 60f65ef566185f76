//! One pass that makes BLAKE3, SHA-256, the payload's SHA-256 and AutoV1, beside programs that make one hash each.

use std::{
    fs::{self, File},
    io::{BufWriter, Read, Write},
    ops::ControlFlow,
    os::unix::fs::MetadataExt,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::Context;
use model_formats::{FileFacts, hash::hash_file};
use rand::RngCore;

/// What we are measured beside.
pub(crate) const PROGRAMS: [&str; 2] = ["b3sum", "sha256sum"];

/// One measured way to hash the file.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Row {
    /// What it is.
    pub name: String,
    /// Median seconds.
    pub seconds: f64,
}

/// Hashes a file of this size in every way that is installed; ours comes first. The ways take turns.
///
/// # Errors
/// When the file cannot be made or a program fails.
pub(crate) fn measure(dir: &Path, bytes: u64, runs: usize) -> anyhow::Result<Vec<Row>> {
    let path = dir.join("hashed.safetensors");
    make(&path, bytes)?;
    let facts = facts(&path)?;
    let installed: Vec<&str> =
        PROGRAMS.into_iter().filter(|name| program(name, Path::new("/dev/null")).is_ok()).collect();
    let mut times = vec![Vec::new(); installed.len() + 1];
    for _ in 0..runs.max(1) {
        for (way, times) in times.iter_mut().enumerate() {
            warm(&path)?;
            let began = Instant::now();
            match way.checked_sub(1).and_then(|way| installed.get(way)) {
                Some(name) => program(name, &path)?,
                None => drop(hash_file(&facts, &[], &mut |_| ControlFlow::Continue(()))?),
            }
            times.push(began.elapsed().as_secs_f64());
        }
    }
    fs::remove_file(&path)?;
    let names = std::iter::once("ours: BLAKE3, SHA-256, payload SHA-256 and AutoV1").chain(installed);
    Ok(names.zip(times).map(|(name, times)| Row { name: name.to_owned(), seconds: median(times) }).collect())
}

/// A safetensors file with one tensor of random bytes.
fn make(path: &Path, bytes: u64) -> anyhow::Result<()> {
    let header = format!(r#"{{"t":{{"dtype":"U8","shape":[{bytes}],"data_offsets":[0,{bytes}]}}}}"#);
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    let mut block = vec![0; 1 << 20];
    rand::rng().fill_bytes(&mut block);
    let mut left = bytes;
    while left > 0 {
        let take = usize::try_from(left)?.min(block.len());
        out.write_all(block.get(..take).unwrap_or_default())?;
        left -= take as u64;
    }
    out.into_inner().context("the file cannot be written")?.sync_all()?;
    Ok(())
}

fn facts(path: &Path) -> anyhow::Result<FileFacts> {
    let meta = fs::metadata(path)?;
    Ok(FileFacts {
        path: path.to_owned(),
        rel_path: String::new(),
        size: meta.size(),
        mtime_ns: meta.mtime() * 1_000_000_000 + meta.mtime_nsec(),
        inode: meta.ino(),
        dev: meta.dev(),
    })
}

/// Brings the file into the page cache: ours leaves it behind, and the disk is not what is measured.
fn warm(path: &Path) -> anyhow::Result<()> {
    let (mut file, mut block) = (File::open(path)?, vec![0; 4 << 20]);
    while file.read(&mut block)? > 0 {}
    Ok(())
}

fn program(name: &str, path: &Path) -> anyhow::Result<()> {
    let status =
        Command::new(name).arg(path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    anyhow::ensure!(status.success(), "{name} ended with {status}");
    Ok(())
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or_default()
}
