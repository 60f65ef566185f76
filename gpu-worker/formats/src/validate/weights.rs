//! Reading every tensor of a model's components and looking at the numbers in it.

use std::ops::ControlFlow;

use super::{
    Finding, Severity,
    stats::{Stats, is_known},
};
use crate::{
    error::FormatError,
    inspection::{Component, FileFacts, Inspection, TensorFacts},
    probe::Probe,
    tensor_bytes::read_tensor,
};

/// Bytes of one read; a multiple of every element's size.
const CHUNK_BYTES: u64 = 4 << 20;
/// The smallest magnitude that rounds to infinity in 16 bits.
const F16_OVERFLOW: f64 = 65520.0;
/// Names of parameters that are zero or constant in many good models: offsets, scales, and what training starts from zero.
const OFTEN_CONSTANT: &[&str] = &[".bias", ".lora_up.weight", ".lora_B.weight", ".alpha", "_embedding"];

/// What the weights told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// What is wrong with them.
    pub findings: Vec<Finding>,
    /// Tensors that were read.
    pub tensors: u64,
    /// Bytes that were read.
    pub bytes: u64,
}

/// Reads the tensors of all components, in the order of the files. `on_chunk` is called with the bytes of each read and
/// may end the work, which gives `None`. Tensors of integers and of packed types are read by nobody: any bits are numbers.
///
/// # Errors
/// [`FormatError::Changed`] when a file is not, or does not stay, the one inspected; I/O errors.
pub fn weights(
    inspection: &Inspection,
    on_chunk: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Option<Checked>, FormatError> {
    let mut checked = Checked::default();
    let mut quiet = Quiet::default();
    for (index, file) in inspection.files.iter().enumerate() {
        let mut tensors = tensors_in(inspection, index);
        if tensors.is_empty() {
            continue;
        }
        tensors.sort_by_key(|(_, tensor)| tensor.begin);
        let probe = open(file)?;
        for (component, tensor) in tensors {
            let Some(stats) = read(&probe, tensor, on_chunk)? else { return Ok(None) };
            checked.tensors = checked.tensors.saturating_add(1);
            checked.bytes = checked.bytes.saturating_add(tensor.bytes());
            checked.findings.extend(judge(component, tensor, &stats, &mut quiet));
        }
        probe.check_unchanged()?;
    }
    checked.findings.extend(quiet.finding());
    Ok(Some(checked))
}

fn tensors_in(inspection: &Inspection, file: usize) -> Vec<(&Component, &TensorFacts)> {
    let all = inspection.components.iter().flat_map(|part| part.tensors.iter().map(move |tensor| (part, tensor)));
    all.filter(|(_, tensor)| tensor.file == file && is_known(tensor.dtype)).collect()
}

fn open(file: &FileFacts) -> Result<Probe, FormatError> {
    let probe = Probe::open(&file.path, &file.rel_path)?;
    probe.must_be(file)?;
    Ok(probe)
}

fn read(
    probe: &Probe,
    tensor: &TensorFacts,
    on_chunk: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Option<Stats>, FormatError> {
    let mut stats = Stats::default();
    let mut buffer = Vec::new();
    if tensor.strides.is_some() {
        // what lies between its elements belongs to other tensors, or to nobody
        read_tensor(&probe.file, tensor, &mut buffer)?;
        stats.add(tensor.dtype, &buffer);
        return Ok(on_chunk(tensor.bytes()).is_continue().then_some(stats));
    }
    let mut at = tensor.begin;
    while at < tensor.end {
        let size = tensor.end.saturating_sub(at).min(CHUNK_BYTES);
        buffer.resize(usize::try_from(size).unwrap_or(0), 0);
        probe.read_data(&mut buffer, at)?;
        stats.add(tensor.dtype, &buffer);
        at = at.saturating_add(size);
        if on_chunk(size).is_break() {
            return Ok(None);
        }
    }
    Ok(Some(stats))
}

/// Constant tensors that are normal where they are: counted, not listed.
#[derive(Debug, Default)]
struct Quiet {
    tensors: u64,
}

impl Quiet {
    fn finding(&self) -> Option<Finding> {
        let message = format!("{} biases, norms and other offsets are constant, as in a fresh model", self.tensors);
        (self.tensors > 0).then(|| Finding::new(Severity::Info, "constant_offsets", message))
    }
}

fn judge(component: &Component, tensor: &TensorFacts, stats: &Stats, quiet: &mut Quiet) -> Vec<Finding> {
    let of = |severity, code, message: String| {
        Finding::new(severity, code, message).of(component.kind.as_str()).tensor(&tensor.name)
    };
    let count = |part: u64| format!("{part} of {} elements", stats.elements);
    let mut findings = Vec::new();
    if stats.nan > 0 {
        findings.push(of(Severity::Error, "nan", format!("{} are not numbers", count(stats.nan))).but(0, stats.nan));
    }
    if stats.infinite > 0 {
        let message = format!("{} are infinite", count(stats.infinite));
        findings.push(of(Severity::Error, "infinite", message).but(0, stats.infinite));
    }
    if stats.is_constant() && stats.nan == 0 && stats.infinite == 0 {
        findings.extend(constant(tensor, stats, quiet).map(|(code, message)| of(Severity::Warning, code, message)));
    }
    if stats.subnormal > stats.elements.saturating_sub(stats.zero) / 2 && stats.subnormal > 0 && stats.elements > 1 {
        let message = format!(
            "{} are subnormal: the type is too narrow for them, or the bytes are damaged",
            count(stats.subnormal)
        );
        findings.push(of(Severity::Warning, "subnormal", message));
    }
    let largest = stats.largest(tensor.dtype);
    if largest >= F16_OVERFLOW {
        let message = format!("magnitudes up to {largest:.6e} become infinite in 16-bit floats");
        findings.push(of(Severity::Warning, "fp16_overflow", message).but("below 65520", format!("{largest:.6e}")));
    }
    findings
}

/// Norms are one-dimensional; their scales and offsets start out constant.
fn constant(tensor: &TensorFacts, stats: &Stats, quiet: &mut Quiet) -> Option<(&'static str, String)> {
    if tensor.shape.len() < 2 || OFTEN_CONSTANT.iter().any(|ending| tensor.name.ends_with(ending)) {
        quiet.tensors = quiet.tensors.saturating_add(1);
        return None;
    }
    if stats.zero == stats.elements {
        return Some(("all_zero", "every element is zero".to_owned()));
    }
    Some(("constant", format!("every element has the magnitude {:.6e}", stats.largest(tensor.dtype))))
}
