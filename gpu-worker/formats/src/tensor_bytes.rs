//! A tensor's bytes in row-major order, whatever its strides in the file.

use std::{fs::File, os::unix::fs::FileExt, path::PathBuf};

use crate::{
    error::{FormatError, TensorProblem},
    inspection::TensorFacts,
};

/// A range of the file up to this is held whole while a strided tensor is gathered.
const WHOLE_BYTES: u64 = 1 << 20;
/// What is held of a larger one that is mostly gaps.
const WINDOW_BYTES: u64 = 4 << 10;

/// Replaces `out` by the tensor's bytes: contiguous, row-major, in the file's byte order. Needs memory for
/// the tensor and, with strides, at most twice as much (or one mebibyte) for its range of the file.
///
/// # Errors
/// [`FormatError`] when the file cannot be read or the tensor's facts contradict each other.
pub fn read_tensor(file: &File, tensor: &TensorFacts, out: &mut Vec<u8>) -> Result<(), FormatError> {
    out.clear();
    let fail = |problem| FormatError::Tensor { path: PathBuf::new(), tensor: tensor.name.clone(), problem };
    let reading = |source| FormatError::Io { path: PathBuf::new(), doing: "reading a tensor", source };
    let size = file.metadata().map_err(reading)?.len();
    if tensor.end > size {
        return Err(fail(TensorProblem::BeyondFile { end: tensor.end, available: size }));
    }
    if tensor.begin > tensor.end {
        return Err(fail(TensorProblem::Reversed { begin: tensor.begin, end: tensor.end }));
    }
    let bytes = usize::try_from(tensor.bytes()).map_err(|_| fail(TensorProblem::Overflow))?;
    let Some(strides) = &tensor.strides else {
        out.resize(bytes, 0);
        return file.read_exact_at(out, tensor.begin).map_err(reading);
    };
    let width = tensor.dtype.bits() / 8;
    if strides.len() != tensor.shape.len() || width == 0 || !tensor.dtype.bits().is_multiple_of(8) {
        return Err(fail(TensorProblem::Overflow));
    }
    out.reserve(bytes);
    let mut gather =
        Gather { file, begin: tensor.begin, end: tensor.end, bytes: tensor.bytes(), window: Vec::new(), window_at: 0 };
    let mut index = vec![0u64; strides.len()];
    for _ in 0..tensor.elements() {
        let offset =
            index.iter().zip(strides).map(|(at, stride)| at.saturating_mul(*stride)).fold(0, u64::saturating_add);
        let at = tensor.begin.saturating_add(offset.saturating_mul(width));
        if at.saturating_add(width) > tensor.end {
            return Err(fail(TensorProblem::BeyondFile { end: at.saturating_add(width), available: tensor.end }));
        }
        gather.element(at, width, out).map_err(reading)?;
        advance(&mut index, &tensor.shape);
    }
    Ok(())
}

/// The next index in row-major order.
fn advance(index: &mut [u64], shape: &[u64]) {
    for (at, dim) in index.iter_mut().zip(shape).rev() {
        *at = at.saturating_add(1);
        if *at < *dim {
            return;
        }
        *at = 0;
    }
}

/// A window on the tensor's range.
struct Gather<'f> {
    file: &'f File,
    begin: u64,
    end: u64,
    /// Bytes of the tensor's elements.
    bytes: u64,
    window: Vec<u8>,
    window_at: u64,
}

impl Gather<'_> {
    fn element(&mut self, at: u64, width: u64, out: &mut Vec<u8>) -> std::io::Result<()> {
        let inside = |from: u64, window: &[u8]| {
            let first = usize::try_from(at.checked_sub(from)?).ok()?;
            Some(first..first.checked_add(usize::try_from(width).ok()?)?).filter(|range| range.end <= window.len())
        };
        let range = match inside(self.window_at, &self.window) {
            Some(range) => range,
            None => {
                self.fill(at)?;
                inside(self.window_at, &self.window).ok_or(std::io::ErrorKind::UnexpectedEof)?
            }
        };
        out.extend_from_slice(self.window.get(range).unwrap_or_default());
        Ok(())
    }

    /// A transposed tensor's range is as large as itself and is held whole, so that it is read once; of a range
    /// that is mostly gaps the window begins at the element.
    fn fill(&mut self, at: u64) -> std::io::Result<()> {
        let span = self.end.saturating_sub(self.begin);
        let whole = span <= WHOLE_BYTES.max(self.bytes.saturating_mul(2));
        let (from, most) = if whole { (self.begin, span) } else { (at, WINDOW_BYTES) };
        let length = self.end.saturating_sub(from).min(most);
        self.window.resize(usize::try_from(length).unwrap_or_default(), 0);
        self.window_at = from;
        self.file.read_exact_at(&mut self.window, from)
    }
}
