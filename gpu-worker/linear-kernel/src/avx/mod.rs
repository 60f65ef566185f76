//! The loop for x86 processors with fused multiply-add on eight lanes: a tile of six rows and sixteen outputs stays in registers
//! while a block of inputs goes by.
#![expect(unsafe_code, reason = "vector loads and stores take addresses, and threads write to one result")]

mod panel;

use std::{arch::x86_64::*, marker::PhantomData, mem::MaybeUninit, ops::Range};

use self::panel::lay_out;
use crate::{DEPTH, LANES, Layer, ROWS, Stored, WIDTH, parts};

/// Half of a row of a tile, a register.
const HALF: usize = LANES / 2;

/// The stored types, as constants that the loop is compiled for.
const F32: u8 = 0;
const F16: u8 = 1;
const BF16: u8 = 2;

/// Bytes of a stored value.
const fn bytes_of(stored: u8) -> usize {
    if stored == F32 { 4 } else { 2 }
}

/// As [`crate::can_run`].
pub(crate) fn can_run() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

/// Registers twice as wide as those of the loop, which math libraries use.
pub(crate) fn has_wider() -> bool {
    is_x86_feature_detected!("avx512f")
}

/// Sixteen outputs of one input, on a line of the cache.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([f32; LANES]);

/// The weights of one part and one block of inputs: for each sixteen outputs their inputs in order.
type Laid = [Line; WIDTH / LANES * DEPTH];

/// A layer and where its result goes.
pub(crate) struct Work<'w> {
    layer: &'w Layer<'w>,
    out: *mut f32,
    _out: PhantomData<&'w mut [f32]>,
}

// SAFETY: threads share the result's address only; `compute` asks that they write to different parts of it.
unsafe impl Sync for Work<'_> {}

impl<'w> Work<'w> {
    /// `out` has the layer's rows of its outputs, which `Layer::compute` has checked, as it has the processor.
    pub(crate) fn new(layer: &'w Layer<'w>, out: &'w mut [f32]) -> Self {
        Self { layer, out: out.as_mut_ptr(), _out: PhantomData }
    }
}

impl parts::Work for Work<'_> {
    unsafe fn compute(&self, outputs: Range<usize>, rows: Range<usize>) {
        // SAFETY: the processor's features were looked at; the caller alone writes to this part; each matrix has the
        // layer's sides, which its constructor has checked.
        unsafe {
            match self.layer.weight {
                Stored::F32(values) => columns::<F32>(self, values.as_ptr().cast(), outputs, rows),
                Stored::F16(values) => columns::<F16>(self, values.as_ptr().cast(), outputs, rows),
                Stored::Bf16(values) => columns::<BF16>(self, values.as_ptr().cast(), outputs, rows),
            }
        }
    }
}

/// Computes the outputs of `span`, no more than [`WIDTH`], for these rows.
///
/// # Safety
/// `weight` is the layer's matrix, and nobody else reads or writes these columns of these rows of the result.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn columns<const STORED: u8>(work: &Work<'_>, weight: *const u8, span: Range<usize>, among: Range<usize>) {
    let inputs = work.layer.inputs;
    let mut laid = MaybeUninit::<Laid>::uninit();
    let laid = laid.as_mut_ptr().cast::<f32>();
    for begin in (0..inputs.max(1)).step_by(DEPTH) {
        let depth = DEPTH.min(inputs - begin);
        for (at, first) in span.clone().step_by(LANES).enumerate() {
            let count = LANES.min(span.end - first);
            // SAFETY: the matrix has these rows and inputs; a part has as many panels as were made room for.
            unsafe {
                let from = weight.add((first * inputs + begin) * bytes_of(STORED));
                lay_out::<STORED>(from, (count, inputs, depth), laid.add(at * DEPTH * LANES));
            }
        }
        // SAFETY: every panel of the part was just written; the caller's for the result.
        unsafe { rows(work, laid, (begin, depth), (&span, &among)) };
    }
}

/// Adds a block of inputs to the rows of a part.
///
/// # Safety
/// As [`columns`]; `laid` holds the part's panels of `depth` inputs, which begin at `begin`.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn rows(
    work: &Work<'_>,
    laid: *const f32,
    (begin, depth): (usize, usize),
    (span, among): (&Range<usize>, &Range<usize>),
) {
    let Layer { x, bias, inputs, outputs, .. } = *work.layer;
    for row in among.clone().step_by(ROWS) {
        let count = ROWS.min(among.end - row);
        // SAFETY: the row is there, and its inputs from `begin` on.
        let x = unsafe { x.as_ptr().add(row * inputs + begin) };
        for (at, first) in span.clone().step_by(LANES).enumerate() {
            let lanes = LANES.min(span.end - first);
            let start = Start { bias, first, lanes, is_first: begin == 0 };
            // SAFETY: these rows and columns of the result are there and the caller's; the panel was laid out.
            unsafe {
                let to = work.out.add(row * outputs + first);
                tile((x, inputs, count), laid.add(at * DEPTH * LANES), depth, (to, outputs), start);
            }
        }
    }
}

/// What the sums of a tile begin with.
#[derive(Clone, Copy)]
struct Start<'b> {
    bias: Option<&'b [f32]>,
    /// The tile's first output, and how many it has.
    first: usize,
    lanes: usize,
    /// Whether no inputs were added before.
    is_first: bool,
}

impl Start<'_> {
    /// The bias, zeros beyond it.
    fn line(self) -> Line {
        let mut line = Line([0.0; LANES]);
        let values = self.bias.and_then(|bias| bias.get(self.first..self.first + self.lanes)).unwrap_or_default();
        line.0.iter_mut().zip(values).for_each(|(to, value)| *to = *value);
        line
    }
}

/// Adds `depth` inputs to a tile of up to six rows and sixteen outputs.
///
/// # Safety
/// `count` rows of `depth` values lie at `x`, `inputs` from one to the next; a panel of `depth` at `panel`; at `to`, `outputs`
/// from one to the next, as many rows of as many values as `start` says.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile(
    (x, inputs, count): (*const f32, usize, usize),
    panel: *const f32,
    depth: usize,
    (to, outputs): (*mut f32, usize),
    start: Start<'_>,
) {
    let line = start.line();
    if start.lanes == LANES {
        let from = if start.is_first { (line.0.as_ptr(), 0) } else { (to.cast_const(), outputs) };
        // SAFETY: the caller's.
        return unsafe { sums(count, (x, inputs), (panel, depth), from, (to, outputs)) };
    }
    let mut whole = [line; ROWS];
    let lines = whole.as_mut_ptr().cast::<f32>();
    // SAFETY: `whole` has six rows of sixteen values; the caller's for what is copied from and to the result.
    unsafe {
        if !start.is_first {
            (0..count).for_each(|row| lines.add(row * LANES).copy_from(to.add(row * outputs), start.lanes));
        }
        sums(count, (x, inputs), (panel, depth), (lines.cast_const(), LANES), (lines, LANES));
        (0..count).for_each(|row| to.add(row * outputs).copy_from(lines.add(row * LANES), start.lanes));
    }
}

type From = (*const f32, usize);
type To = (*mut f32, usize);

/// [`tile`] of whole lines: what begins at `from`, a row after its second number, goes on at `to`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn sums(count: usize, x: From, panel: From, from: From, to: To) {
    // SAFETY: the caller's, for as many rows.
    unsafe {
        match count {
            1 => one(x, panel, from, to),
            2 => two(x, panel, from, to),
            3 => three(x, panel, from, to),
            4 => four(x, panel, from, to),
            5 => five(x, panel, from, to),
            _ => six(x, panel, from, to),
        }
    }
}

/// Sums with names of their own: those of an array the compiler moves to the stack and back with each input.
macro_rules! summed {
    ($name:ident, $($row:literal: $low:ident $high:ident),+) => {
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn $name((x, inputs): From, (panel, depth): From, (from, step): From, (to, width): To) {
            // SAFETY: every row and column is there, as `tile` asks for and `sums` counts.
            unsafe {
                $(
                    let mut $low = _mm256_loadu_ps(from.add($row * step));
                    let mut $high = _mm256_loadu_ps(from.add($row * step + HALF));
                )+
                for at in 0..depth {
                    let (low, high) = (_mm256_load_ps(panel.add(at * LANES)), _mm256_load_ps(panel.add(at * LANES + HALF)));
                    $(
                        let factor = _mm256_broadcast_ss(&*x.add($row * inputs + at));
                        $low = _mm256_fmadd_ps(factor, low, $low);
                        $high = _mm256_fmadd_ps(factor, high, $high);
                    )+
                }
                $(
                    _mm256_storeu_ps(to.add($row * width), $low);
                    _mm256_storeu_ps(to.add($row * width + HALF), $high);
                )+
            }
        }
    };
}

summed!(one, 0: a b);
summed!(two, 0: a b, 1: c d);
summed!(three, 0: a b, 1: c d, 2: e f);
summed!(four, 0: a b, 1: c d, 2: e f, 3: g h);
summed!(five, 0: a b, 1: c d, 2: e f, 3: g h, 4: i j);
summed!(six, 0: a b, 1: c d, 2: e f, 3: g h, 4: i j, 5: k l);
