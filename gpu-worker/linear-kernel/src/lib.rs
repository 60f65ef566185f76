//! The product of a linear layer on the processor, from weights as they are stored: `x · Wᵀ + b`, x \[rows, inputs\] of 32-bit
//! floats, W \[outputs, inputs\] of 32 or 16 bits, b \[outputs\].
//!
//! Weights of 16 bits are widened while a block of them is laid out for the loop, which weights of 32 bits need just as much.
//! So they are read from memory once, at half the bytes, and never written. Sums do not depend on the cut among threads, on
//! the other rows, or on the type in which a value is stored: bias, then the products from the first input to the last.

#[cfg(target_arch = "x86_64")]
mod avx;
mod parts;
#[cfg(test)]
mod tests;

use half::{bf16, f16};

pub use parts::Parts;

/// Outputs that are summed in registers at a time.
const LANES: usize = 16;
/// Rows that are summed in registers at a time.
const ROWS: usize = 6;
/// Outputs of a part at most: with `DEPTH` inputs of each, what a thread lays out at once stays in its cache.
const WIDTH: usize = 128;
/// Inputs that are laid out at a time.
#[cfg(target_arch = "x86_64")]
const DEPTH: usize = 256;

/// A matrix as it is stored, \[outputs, inputs\].
#[derive(Debug, Clone, Copy)]
pub enum Stored<'w> {
    /// 32-bit floats.
    F32(&'w [f32]),
    /// IEEE floats of 16 bits.
    F16(&'w [f16]),
    /// The upper halves of 32-bit floats.
    Bf16(&'w [bf16]),
}

impl Stored<'_> {
    fn elements(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F16(values) => values.len(),
            Self::Bf16(values) => values.len(),
        }
    }
}

/// Why a layer cannot be computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinearError {
    /// Two sides do not go together.
    #[error("{what} has {found} values, {expected} are needed")]
    Length {
        /// Which value.
        what: &'static str,
        /// Elements that it has.
        found: usize,
        /// Elements that the sides ask for.
        expected: usize,
    },
    /// The caller left parts out.
    #[error("{done} of {parts} parts were computed")]
    Parts {
        /// Parts that were.
        done: usize,
        /// Parts that there are.
        parts: usize,
    },
    /// The processor lacks what the loop needs, see [`can_run`].
    #[error("this processor has no AVX2, FMA and F16C")]
    Processor,
}

/// Whether this processor can run the loop: it has AVX2, fused multiply-add and conversions of 16-bit floats.
#[must_use]
pub fn can_run() -> bool {
    #[cfg(target_arch = "x86_64")]
    return avx::can_run();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Whether the loop is the one to choose here: this processor can run it, and has not the wider registers of AVX-512, which the loop does
/// not use and math libraries do.
#[must_use]
pub fn is_preferred() -> bool {
    #[cfg(target_arch = "x86_64")]
    return avx::can_run() && !avx::has_wider();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// A layer over its rows; the lengths agree.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "the loop is the only one who reads them"))]
pub struct Layer<'l> {
    x: &'l [f32],
    weight: Stored<'l>,
    bias: Option<&'l [f32]>,
    rows: usize,
    inputs: usize,
    outputs: usize,
}

impl<'l> Layer<'l> {
    /// `x` of whole rows of `inputs`, the matrix of `outputs` rows of `inputs`, perhaps a bias for each output.
    ///
    /// # Errors
    /// [`LinearError::Length`] when something has another length.
    pub fn new(
        x: &'l [f32],
        (weight, outputs, inputs): (Stored<'l>, usize, usize),
        bias: Option<&'l [f32]>,
    ) -> Result<Self, LinearError> {
        let rows = x.len().checked_div(inputs).unwrap_or(0);
        check("x", x.len(), rows.checked_mul(inputs))?;
        check("the matrix", weight.elements(), outputs.checked_mul(inputs))?;
        check("the bias", bias.map_or(outputs, <[f32]>::len), Some(outputs))?;
        Ok(Self { x, weight, bias, rows, inputs, outputs })
    }

    /// Rows of `x` and of the result.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Writes \[rows, outputs\] to `out`. `spread` is given the number of parts and what computes one of them, by its number;
    /// it calls that once for each, from as many threads at a time as it likes, and returns when all calls have.
    ///
    /// # Errors
    /// When `out` has another length, `spread` left something out, or the processor cannot.
    pub fn compute(
        &self,
        out: &mut [f32],
        threads: usize,
        spread: impl FnOnce(usize, &(dyn Fn(usize) + Sync)),
    ) -> Result<(), LinearError> {
        check("the result", out.len(), self.rows.checked_mul(self.outputs))?;
        if !can_run() {
            return Err(LinearError::Processor);
        }
        #[cfg(target_arch = "x86_64")]
        parts::spread(&Parts::of(self.outputs, self.rows, threads), spread, avx::Work::new(self, out))?;
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (threads, spread);
        Ok(())
    }
}

fn check(what: &'static str, found: usize, expected: Option<usize>) -> Result<(), LinearError> {
    if expected == Some(found) {
        return Ok(());
    }
    Err(LinearError::Length { what, found, expected: expected.unwrap_or(usize::MAX) })
}
