//! Reading every tensor of a model, those of no component too, and looking at the numbers in it.

use std::ops::ControlFlow;

use super::{
    Finding, Severity,
    judge::{Quiet, judge},
    outside,
    stats::{Moments, Stats, is_known},
};
use crate::{
    dtype::Dtype,
    error::FormatError,
    inspection::{Component, FileFacts, Inspection, TensorFacts},
    probe::Probe,
    tensor_bytes::read_tensor,
    vocab::ComponentKind,
};

/// Bytes of one read; a multiple of every element's size.
const CHUNK_BYTES: u64 = 4 << 20;

/// What the weights told.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Checked {
    /// What is wrong with them.
    pub findings: Vec<Finding>,
    /// Tensors that were read.
    pub tensors: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// What the numbers of each tensor are like, in the order of the files.
    pub statistics: Vec<TensorStatistics>,
}

/// What the numbers of one tensor are like.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorStatistics {
    /// The component; none for tensors that belong to none.
    pub component: Option<ComponentKind>,
    /// Name in the file.
    pub tensor: String,
    /// Element type in the file.
    pub dtype: Dtype,
    /// Number of elements.
    pub elements: u64,
    /// Elements that are no numbers.
    pub nan: u64,
    /// Elements that are infinite.
    pub infinite: u64,
    /// Elements that are zero.
    pub zero: u64,
    /// Elements below the smallest normal number of the type.
    pub subnormal: u64,
    /// Mean, standard deviation and range of the finite ones; none where there are none.
    pub moments: Option<Moments>,
}

/// Bytes that [`weights`] is going to read; reads headers.
///
/// # Errors
/// As [`weights`].
pub fn weight_bytes(inspection: &Inspection) -> Result<u64, FormatError> {
    let mut bytes = 0_u64;
    for index in 0..inspection.files.len() {
        let (outside, inside) = (outside::tensors(inspection, index)?, inside(inspection, index));
        let all = outside.iter().chain(inside.iter().map(|(_, tensor)| *tensor));
        bytes =
            all.filter(|tensor| is_known(tensor.dtype)).fold(bytes, |sum, tensor| sum.saturating_add(tensor.bytes()));
    }
    Ok(bytes)
}

/// Reads all tensors, in the order of the files. `on_chunk` is called with the bytes of each read and
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
        let rest = outside::tensors(inspection, index)?;
        let mut tensors: Vec<(Option<&Component>, &TensorFacts)> =
            inside(inspection, index).into_iter().map(|(part, tensor)| (Some(part), tensor)).collect();
        tensors.extend(rest.iter().map(|tensor| (None, tensor)));
        tensors.retain(|(_, tensor)| is_known(tensor.dtype));
        if tensors.is_empty() {
            continue;
        }
        tensors.sort_by_key(|(_, tensor)| tensor.begin);
        let probe = open(file)?;
        for (component, tensor) in tensors {
            let Some(stats) = read(&probe, tensor, on_chunk)? else { return Ok(None) };
            checked.note(component, tensor, &stats);
            checked.findings.extend(judge(component, tensor, &stats, &mut quiet));
        }
        probe.check_unchanged()?;
    }
    checked.findings.extend(quiet.finding());
    checked.findings.extend(summaries(inspection, &checked.statistics));
    Ok(Some(checked))
}

impl Checked {
    fn note(&mut self, component: Option<&Component>, tensor: &TensorFacts, stats: &Stats) {
        self.tensors = self.tensors.saturating_add(1);
        self.bytes = self.bytes.saturating_add(tensor.bytes());
        self.statistics.push(TensorStatistics {
            component: component.map(|part| part.kind),
            tensor: crate::text::storable(&tensor.name),
            dtype: tensor.dtype,
            elements: stats.elements,
            nan: stats.nan,
            infinite: stats.infinite,
            zero: stats.zero,
            subnormal: stats.subnormal,
            moments: stats.moments(),
        });
    }
}

/// One line for each component: what its numbers are like as a whole.
fn summaries(inspection: &Inspection, statistics: &[TensorStatistics]) -> Vec<Finding> {
    let of = |component: &Component| {
        let of_it = statistics.iter().filter(|tensor| tensor.component == Some(component.kind));
        let these: Vec<Finite<'_>> = of_it.filter_map(|tensor| Some((tensor, tensor.moments?))).collect();
        let whole = whole(&these)?;
        let (widest, spread) = these.iter().max_by(|a, b| a.1.std.total_cmp(&b.1.std))?;
        let message = format!(
            "{} tensors: {whole}; the widest spread has `{}` ({spread})",
            these.len(),
            crate::text::shown(&widest.tensor),
        );
        Some(Finding::new(Severity::Info, "statistics", message).of(component.kind.as_str()))
    };
    inspection.components.iter().filter_map(of).collect()
}

/// A tensor with finite elements, and their moments.
type Finite<'s> = (&'s TensorStatistics, Moments);

/// The moments of all elements together.
fn whole(tensors: &[Finite<'_>]) -> Option<Moments> {
    let (_, first) = tensors.first()?;
    let count: f64 = tensors.iter().map(|(tensor, _)| tensor.elements as f64).sum();
    let weighted = |of: fn(&Moments) -> f64| -> f64 {
        tensors.iter().map(|(tensor, moments)| of(moments) * tensor.elements as f64 / count).sum()
    };
    let mean = weighted(|moments| moments.mean);
    let squares = weighted(|moments| moments.std * moments.std + moments.mean * moments.mean);
    let range = tensors
        .iter()
        .fold((first.min, first.max), |(min, max), (_, moments)| (min.min(moments.min), max.max(moments.max)));
    Some(Moments { mean, std: (squares - mean * mean).max(0.0).sqrt(), min: range.0, max: range.1 })
}

/// The tensors of components in this file.
fn inside(inspection: &Inspection, file: usize) -> Vec<(&Component, &TensorFacts)> {
    let all = inspection.components.iter().flat_map(|part| part.tensors.iter().map(move |tensor| (part, tensor)));
    all.filter(|(_, tensor)| tensor.file == file).collect()
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
