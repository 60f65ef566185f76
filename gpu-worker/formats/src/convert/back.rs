//! Reading what was written: what of an earlier attempt counts, and whether all of it is as it was meant.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    ops::ControlFlow,
    path::Path,
};

use sha2::{Digest, Sha256};

use super::{ConvertError, Made, MadeFile, OutFile, OutTensor, Plan, emit::CHUNK_BYTES, header, journal::Entry};
use crate::{probe::Probe, safetensors, write::WriteError};

/// Bytes that are read at a time of what an earlier attempt wrote.
const BUFFER_BYTES: usize = 1 << 20;

/// The last stretch of a file.
pub(super) fn last(done: &[Entry], file: usize) -> Option<&Entry> {
    done.iter().rev().find(|entry| entry.file == file)
}

/// The hash over what an earlier attempt wrote of a file; none unless it is still there, byte for byte.
pub(super) fn resume(file: &mut File, plan: &OutFile, entry: &Entry, unfinished: &[u8]) -> Option<Sha256> {
    let planned: u64 = plan.tensors.iter().take(entry.tensors).map(OutTensor::bytes).sum();
    if entry.tensors > plan.tensors.len() || planned != entry.bytes {
        return None;
    }
    let (finished, _) = header::bytes(plan, Some(&entry.sha256)).ok()?;
    let mut head = vec![0; unfinished.len()];
    file.seek(SeekFrom::Start(0)).ok()?;
    file.read_exact(&mut head).ok()?;
    if head != unfinished && head != finished {
        return None;
    }
    let mut hash = Sha256::new();
    let mut left = entry.bytes;
    let mut buffer = vec![0; BUFFER_BYTES];
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(BUFFER_BYTES).min(BUFFER_BYTES);
        let chunk = buffer.get_mut(..wanted)?;
        file.read_exact(chunk).ok()?;
        hash.update(&*chunk);
        left = left.saturating_sub(wanted as u64);
    }
    (hex(hash.clone()) == entry.sha256).then_some(hash)
}

/// Reads a file back as a stranger would: its header leads to the planned tensors, and what follows it has the hash of what was
/// written.
pub(super) fn read_back(
    path: &Path,
    plan: &OutFile,
    made: &MadeFile,
    pace: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<(), ConvertError> {
    let there = looked_at(path, plan, pace)?;
    if there.payload_sha256 == made.payload_sha256 { Ok(()) } else { Err(other_hash(path)) }
}

/// What an interrupted attempt of the same job had finished, as it lies at `path`, the goal.
pub(super) fn finished(
    path: &Path,
    plan: &Plan,
    pace: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Made, ConvertError> {
    let at = |below: &str| if below.is_empty() { path.to_owned() } else { path.join(below) };
    let mut made = Made { resumed_bytes: plan.bytes(), ..Made::default() };
    for file in &plan.files {
        let there = looked_at(&at(&file.path), file, pace)?;
        made.bytes = made.bytes.saturating_add(there.bytes);
        made.files.push(there);
    }
    for document in &plan.documents {
        let there = Probe::open(&at(&document.path), &document.path)?;
        made.bytes = made.bytes.saturating_add(there.facts.size);
    }
    Ok(made)
}

fn other_hash(path: &Path) -> ConvertError {
    ConvertError::NotAsWritten { path: path.display().to_string(), what: "its bytes have another hash".to_owned() }
}

/// A file whose header leads to the planned tensors, with the hash of what follows it; where the header has one, they are equal.
fn looked_at(
    path: &Path,
    plan: &OutFile,
    pace: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<MadeFile, ConvertError> {
    let differs = |what: &str| ConvertError::NotAsWritten { path: path.display().to_string(), what: what.to_owned() };
    let head = safetensors::read(path, "")?;
    let same = |(read, planned): (&crate::TensorFacts, &OutTensor)| {
        (&read.name, read.dtype, &read.shape) == (&planned.name, planned.dtype, &planned.shape)
    };
    let mut read: Vec<_> = head.tensors.iter().collect();
    let mut planned: Vec<_> = plan.tensors.iter().collect();
    read.sort_by(|a, b| a.name.cmp(&b.name));
    planned.sort_by(|a, b| a.name.cmp(&b.name));
    if read.len() != planned.len() || !read.into_iter().zip(planned).all(same) {
        return Err(differs("its header names other tensors"));
    }
    let probe = Probe::open(path, "")?;
    let (mut at, mut hash, mut buffer) = (head.data_begin, Sha256::new(), vec![0; CHUNK_BYTES]);
    while at < probe.facts.size {
        let left = probe.facts.size.saturating_sub(at);
        let wanted = usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        let chunk = buffer.get_mut(..wanted).unwrap_or_default();
        probe.read_data(chunk, at)?;
        hash.update(&*chunk);
        at = at.saturating_add(wanted as u64);
        if pace(wanted as u64).is_break() {
            return Err(WriteError::Stopped.into());
        }
    }
    let payload_sha256 = hex(hash);
    match head.metadata.get(header::HASH_KEY) {
        Some(told) if *told != format!("0x{payload_sha256}") => Err(other_hash(path)),
        _ => Ok(MadeFile { path: plan.path.clone(), bytes: probe.facts.size, payload_sha256 }),
    }
}

pub(super) fn hex(hash: Sha256) -> String {
    hash.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
        use std::fmt::Write as _;
        // writing to a string cannot fail
        let _ = write!(text, "{byte:02x}");
        text
    })
}
