//! The bytes of one tensor that comes out: read piece by piece, changed and cast on the way.

use std::ops::ControlFlow;

use super::{ConvertError, OutTensor, Tally, cast::cast};
use crate::{
    canonical::{CanonicalTensor, Order, Piece},
    dtype::Dtype,
    inspection::TensorFacts,
    probe::Probe,
    tensor_bytes::read_tensor,
    vocab::ComponentKind,
    write::WriteError,
};

/// Bytes that are read at a time; a multiple of every element.
pub(super) const CHUNK_BYTES: usize = 4 << 20;

/// What happens to weights on the way: LoRAs that are baked in.
pub trait Change: Sync {
    /// Whether this tensor, by its canonical name, changes.
    fn touches(&self, component: ComponentKind, tensor: &str) -> bool;

    /// Its changed bytes, of the same type and shape, row by row.
    ///
    /// # Errors
    /// Why it cannot be changed.
    fn apply(
        &self,
        component: ComponentKind,
        tensor: &str,
        whole: (Dtype, &[u64], Vec<u8>),
    ) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>>;
}

/// Reads the sources of a plan.
pub(super) struct Emitter<'a> {
    pub(super) probes: Vec<Probe>,
    pub(super) change: Option<&'a dyn Change>,
    /// Told of every chunk of bytes that was read.
    pub(super) pace: &'a mut dyn FnMut(u64) -> ControlFlow<()>,
    buffer: Vec<u8>,
    out: Vec<u8>,
}

type Sink<'s> = dyn FnMut(&[u8]) -> Result<(), ConvertError> + 's;

impl<'a> Emitter<'a> {
    pub(super) fn new(
        probes: Vec<Probe>,
        change: Option<&'a dyn Change>,
        pace: &'a mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Self {
        Self { probes, change, pace, buffer: Vec::new(), out: Vec::new() }
    }

    /// Passes the tensor's bytes on, in order; what was seen of its values.
    pub(super) fn tensor(&mut self, tensor: &OutTensor, sink: &mut Sink<'_>) -> Result<Tally, ConvertError> {
        let mut tally = Tally::default();
        for from in &tensor.from {
            let touching = match (self.change, tensor.component) {
                (Some(change), Some(component)) => change.touches(component, &from.name).then_some((change, component)),
                _ => None,
            };
            tally.add(match touching {
                None if !tensor.is_transposed => self.streamed(from, tensor.dtype, sink)?,
                touching => self.whole(from, touching, tensor, sink)?,
            });
        }
        Ok(tally)
    }

    /// Fails if a source was written to since it was opened.
    pub(super) fn check_unchanged(&self) -> Result<(), ConvertError> {
        self.probes.iter().try_for_each(|probe| Ok(probe.check_unchanged()?))
    }

    fn streamed(&mut self, from: &CanonicalTensor, to: Dtype, sink: &mut Sink<'_>) -> Result<Tally, ConvertError> {
        let mut tally = Tally::default();
        for piece in &from.pieces {
            let mut at = piece.begin;
            while piece.order == Order::RowMajor && at < piece.end {
                let wanted = usize::try_from(piece.end - at).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
                self.buffer.resize(wanted, 0);
                probe(&self.probes, piece)?.read_data(&mut self.buffer, at)?;
                self.paced(wanted as u64)?;
                self.out.clear();
                tally.add(cast(from.dtype, to, &self.buffer, &mut self.out));
                sink(&self.out)?;
                at = at.saturating_add(wanted as u64);
            }
            if piece.order != Order::RowMajor {
                self.buffer.clear();
                self.walked(from.dtype, piece)?;
                self.out.clear();
                tally.add(cast(from.dtype, to, &self.buffer, &mut self.out));
                sink(&self.out)?;
            }
        }
        Ok(tally)
    }

    fn whole(
        &mut self,
        from: &CanonicalTensor,
        touching: Option<(&dyn Change, ComponentKind)>,
        tensor: &OutTensor,
        sink: &mut Sink<'_>,
    ) -> Result<Tally, ConvertError> {
        let mut bytes = self.read(from)?;
        let mut stored = from.dtype;
        let mut before = Tally::default();
        if let Some((change, component)) = touching {
            // rounded once: to the type that is asked for where it is another one, and to its own otherwise
            if stored != tensor.dtype {
                let mut wide = Vec::new();
                before = cast(stored, Dtype::F32, &bytes, &mut wide);
                (bytes, stored) = (wide, Dtype::F32);
            }
            let changed = change.apply(component, &from.name, (stored, &from.shape, bytes));
            bytes = changed.map_err(|source| ConvertError::Change { component, tensor: from.name.clone(), source })?;
        }
        self.out.clear();
        let mut tally = cast(stored, tensor.dtype, &bytes, &mut self.out);
        tally.not_numbers = tally.not_numbers.max(before.not_numbers);
        if tensor.is_transposed {
            self.out = transposed(&self.out, &from.shape, tensor.dtype);
        }
        sink(&self.out)?;
        Ok(tally)
    }

    /// All bytes of a tensor in canonical order.
    fn read(&mut self, from: &CanonicalTensor) -> Result<Vec<u8>, ConvertError> {
        let mut bytes = Vec::new();
        for piece in &from.pieces {
            self.buffer.clear();
            self.walked(from.dtype, piece)?;
            bytes.extend_from_slice(&self.buffer);
        }
        Ok(bytes)
    }

    /// A piece's elements in canonical order into the buffer.
    fn walked(&mut self, dtype: Dtype, piece: &Piece) -> Result<(), ConvertError> {
        let elements = piece.end.saturating_sub(piece.begin).saturating_mul(8).checked_div(dtype.bits()).unwrap_or(0);
        let (shape, strides) = match &piece.order {
            Order::RowMajor => (vec![elements], None),
            Order::Transposed { rows, cols } => (vec![*cols, *rows], Some(vec![1, *cols])),
            Order::Strided { shape, strides } => (shape.clone(), Some(strides.clone())),
        };
        let facts =
            TensorFacts { name: String::new(), dtype, shape, file: 0, begin: piece.begin, end: piece.end, strides };
        read_tensor(&probe(&self.probes, piece)?.file, &facts, &mut self.buffer)?;
        self.paced(self.buffer.len() as u64)
    }

    fn paced(&mut self, bytes: u64) -> Result<(), ConvertError> {
        match (self.pace)(bytes) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(WriteError::Stopped.into()),
        }
    }
}

fn probe<'p>(probes: &'p [Probe], piece: &Piece) -> Result<&'p Probe, ConvertError> {
    probes.get(piece.file).ok_or_else(|| ConvertError::Layout {
        layout: "anything",
        why: format!("file {} of {} is meant", piece.file, probes.len()),
    })
}

/// The transpose of a matrix of this shape.
fn transposed(bytes: &[u8], shape: &[u64], dtype: Dtype) -> Vec<u8> {
    let width = usize::try_from(dtype.bits() / 8).unwrap_or(0);
    let cols = shape.get(1).and_then(|cols| usize::try_from(*cols).ok()).unwrap_or(0);
    let row = cols.saturating_mul(width);
    if row == 0 {
        return bytes.to_vec();
    }
    let mut out = Vec::with_capacity(bytes.len());
    for col in 0..cols {
        let at = col.saturating_mul(width);
        for row in bytes.chunks_exact(row) {
            out.extend_from_slice(row.get(at..at.saturating_add(width)).unwrap_or_default());
        }
    }
    out
}
