//! Writes planned outputs: space checked first, files and folders appear whole or not at all.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Instant,
};

use anyhow::{Context, bail, ensure};
use serde::Serialize;

use super::{
    plan::{Content, Output},
    values::Generator,
    write::{Writer, part_path},
};

/// What to do about outputs that are already there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Existing {
    /// Leave them: they appeared whole.
    Keep,
    /// Write them anew.
    Replace,
    /// Say so and write nothing at all.
    Refuse,
}

/// One output that is there now.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Made {
    pub(super) path: PathBuf,
    pub(super) arch: &'static str,
    pub(super) tensors: usize,
    pub(super) bytes: u64,
    /// Seconds of writing; none when it was there before.
    pub(super) seconds: Option<f64>,
}

/// Makes `outputs` in `dir`, in their order.
pub(super) fn make(
    dir: &Path,
    outputs: &[Output],
    seed: u64,
    existing: Existing,
    progress: &(dyn Fn(u64) + Sync),
) -> anyhow::Result<Vec<Made>> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make the folder {}", dir.display()))?;
    if existing == Existing::Refuse {
        refuse_existing(dir, outputs)?;
    }
    let wanted = |output: &&Output| existing != Existing::Keep || !dir.join(&output.name).exists();
    check_space(dir, outputs.iter().filter(wanted))?;
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let writer = Writer { generator: Generator::new(seed), threads, progress };
    outputs.iter().map(|output| one(dir, output, existing, &writer)).collect()
}

fn refuse_existing(dir: &Path, outputs: &[Output]) -> anyhow::Result<()> {
    let mut paths = outputs.iter().map(|output| dir.join(&output.name));
    if let Some(path) = paths.find(|path| path.exists()) {
        bail!("{} exists already; --force writes it anew", path.display());
    }
    Ok(())
}

fn check_space<'o>(dir: &Path, outputs: impl Iterator<Item = &'o Output>) -> anyhow::Result<()> {
    let needed: u64 = outputs.map(Output::bytes).sum::<anyhow::Result<u64>>()?;
    let space = rustix::fs::statvfs(dir).with_context(|| format!("cannot tell the free space at {}", dir.display()))?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    ensure!(needed <= free, "{needed} bytes are needed at {}, {free} are free", dir.display());
    Ok(())
}

fn one(dir: &Path, output: &Output, existing: Existing, writer: &Writer<'_>) -> anyhow::Result<Made> {
    let path = dir.join(&output.name);
    let (bytes, tensors, arch) = (output.bytes()?, output.tensors(), output.arch.name());
    if existing == Existing::Keep && path.exists() {
        return Ok(Made { path, arch, tensors, bytes, seconds: None });
    }
    let begun = Instant::now();
    if output.is_folder {
        folder(&path, output, writer)?
    } else {
        write_files(dir, output, writer)?
    }
    Ok(Made { path, arch, tensors, bytes, seconds: Some(begun.elapsed().as_secs_f64()) })
}

/// Fills a folder under another name, then puts it in place.
fn folder(path: &Path, output: &Output, writer: &Writer<'_>) -> anyhow::Result<()> {
    let part = part_path(path);
    remove(&part)?;
    if let Err(error) = write_files(&part, output, writer) {
        // the error says more than a failed clean-up would
        let _ = fs::remove_dir_all(&part);
        return Err(error);
    }
    remove(path)?;
    fs::rename(&part, path).with_context(|| format!("cannot name {}", path.display()))
}

fn remove(folder: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

fn write_files(dir: &Path, output: &Output, writer: &Writer<'_>) -> anyhow::Result<()> {
    for file in &output.files {
        let path = dir.join(&file.path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("cannot make the folder {}", parent.display()))?;
        }
        match &file.content {
            Content::Tensors(tensors) => writer.write(tensors, &path)?,
            Content::Text(text) => {
                fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?
            }
        }
    }
    Ok(())
}
