//! One module of the result: the sum of its terms, exactly or by its leading directions, rounded, and how far off it is.

use half::{bf16, f16};

use super::{
    super::file::Module,
    BlendError, Size,
    factors::Piece,
    matrix::{Matrix, product_square},
    svd::{Wanted, truncated, truncated_whole},
};
use crate::ElementType;

/// A module that was computed.
#[derive(Debug, Clone)]
pub(super) struct Computed {
    /// Its change; none when it changes a bias only.
    pub(super) change: Option<Stored>,
    /// The change of its bias, rounded.
    pub(super) bias: Option<Vec<u8>>,
    /// The length of what was cut off and rounded away.
    pub(super) lost: f64,
    /// The length of the exact change.
    pub(super) norm: f64,
}

/// A change as it is written.
#[derive(Debug, Clone)]
pub(super) enum Stored {
    Factors { up: Vec<u8>, down: Vec<u8>, rank: usize, sides: [usize; 2] },
    Whole { delta: Vec<u8>, sides: [usize; 2] },
}

/// A term: its LoRA's name, its module and its weight.
pub(super) type Term<'a> = (&'a str, Module, f64);

/// # Errors
/// [`BlendError`] for what has no sum, does not fit, or overflows.
pub(super) fn compute(
    stem: &str,
    terms: &[Term<'_>],
    (size, element): (Size, ElementType),
) -> Result<Computed, BlendError> {
    if let Some((lora, module, _)) = terms.iter().find(|(_, module, _)| module.magnitude.is_some()) {
        return Err(BlendError::Magnitudes { lora: (*lora).to_owned(), module: module.stem.clone() });
    }
    let rounding = Rounding { stem, element };
    let bias = bias(stem, terms)?.map(|bias| rounding.bytes(&bias)).transpose()?.map(|(bytes, _)| bytes);
    let pieces: Vec<(Piece, f64)> = terms
        .iter()
        .filter(|(_, module, strength)| module.scale * strength != 0.0)
        .filter_map(|(_, module, strength)| Some((Piece::of(module)?, module.scale * strength)))
        .collect();
    let Some(sides) = pieces.first().map(|(piece, _)| piece.sides()) else {
        return Ok(Computed { change: None, bias, lost: 0.0, norm: 0.0 });
    };
    must_agree(stem, terms, sides)?;
    let is_thin = pieces.iter().all(|(piece, _)| matches!(piece, Piece::Product { .. }));
    let computed = if is_thin { thin(pieces, sides, size, &rounding) } else { dense(pieces, sides, size, &rounding) };
    computed.map(|computed| Computed { bias, ..computed })
}

fn must_agree(stem: &str, terms: &[Term<'_>], expected: [usize; 2]) -> Result<(), BlendError> {
    for (lora, module, _) in terms {
        if let Some(found) = super::super::dense::shape(module).filter(|found| *found != expected) {
            return Err(BlendError::Shapes { module: stem.to_owned(), lora: (*lora).to_owned(), found, expected });
        }
    }
    Ok(())
}

/// The sum of the biases' changes, which have no scale.
fn bias(stem: &str, terms: &[Term<'_>]) -> Result<Option<Matrix>, BlendError> {
    let mut sum: Option<Matrix> = None;
    for (lora, module, strength) in terms {
        let Some(bias) = &module.bias else { continue };
        let mut bias = Matrix::of(&bias.values, (1, bias.values.len()));
        bias.scale(*strength);
        match &mut sum {
            None => sum = Some(bias),
            Some(sum) if sum.columns == bias.columns => sum.add(&bias, 1.0),
            Some(sum) => {
                let (found, expected) = ([bias.columns, 1], [sum.columns, 1]);
                return Err(BlendError::Shapes { module: stem.to_owned(), lora: (*lora).to_owned(), found, expected });
            }
        }
    }
    Ok(sum)
}

/// Ranks add: what is kept of them is cut from the sum.
fn thin(
    pieces: Vec<(Piece, f64)>,
    sides: [usize; 2],
    size: Size,
    rounding: &Rounding<'_>,
) -> Result<Computed, BlendError> {
    let (mut up, mut down) = (empty(sides[0]), empty(sides[1]));
    for (piece, scale) in pieces {
        let Piece::Product { up: mut left, down: mut right } = piece else { continue };
        left.scale(scale);
        balance(&mut left, &mut right);
        up.append(&left);
        down.append(&right);
    }
    let cut = size.wanted().filter(|wanted| !matches!(wanted, Wanted::Rank(rank) if up.rows <= *rank));
    let kept = cut.map(|wanted| truncated(&up, &down, wanted)).filter(|(kept, _)| kept.rows > 0);
    let (kept_up, kept_down) = kept.unwrap_or_else(|| (up.clone(), down.clone()));
    let ((up_bytes, up_there), (down_bytes, down_there)) =
        (rounding.bytes(&kept_up.transposed())?, rounding.bytes(&kept_down)?);
    // the difference is a sum of products as well
    let norm = product_square(&up, &down).sqrt();
    let mut minus = up_there.transposed();
    minus.scale(-1.0);
    up.append(&minus);
    down.append(&down_there);
    let lost = product_square(&up, &down).sqrt();
    let change = Stored::Factors { up: up_bytes, down: down_bytes, rank: kept_up.rows, sides };
    Ok(Computed { change: Some(change), bias: None, lost, norm })
}

fn dense(
    pieces: Vec<(Piece, f64)>,
    sides: [usize; 2],
    size: Size,
    rounding: &Rounding<'_>,
) -> Result<Computed, BlendError> {
    let mut sum = Matrix::zeros(sides[0], sides[1]);
    for (piece, scale) in pieces {
        match piece {
            Piece::Product { up, down } => sum.add_product(&up.transposed(), &down, scale),
            Piece::Dense(dense) => sum.add(&dense, scale),
        }
    }
    let norm = sum.square().sqrt();
    let change = match size.wanted() {
        None => {
            let (delta, there) = rounding.bytes(&sum)?;
            sum.add(&there, -1.0);
            Stored::Whole { delta, sides }
        }
        Some(wanted) => {
            let (up, down) = truncated_whole(&sum, wanted);
            let ((up_bytes, up_there), (down_bytes, down_there)) =
                (rounding.bytes(&up.transposed())?, rounding.bytes(&down)?);
            sum.add_product(&up_there, &down_there, -1.0);
            Stored::Factors { up: up_bytes, down: down_bytes, rank: up.rows, sides }
        }
    };
    Ok(Computed { change: Some(change), bias: None, lost: sum.square().sqrt(), norm })
}

fn empty(columns: usize) -> Matrix {
    Matrix { rows: 0, columns, values: Vec::new() }
}

/// Gives both factors about the same peak by a power of two, which loses no bit: small weights would leave one among the
/// numbers that 16 bits hold badly.
fn balance(up: &mut Matrix, down: &mut Matrix) {
    let (left, right) = (up.peak(), down.peak());
    if left > 0.0 && right > 0.0 {
        let shift = ((right / left).log2() / 2.0).round().exp2();
        up.scale(shift);
        down.scale(1.0 / shift);
    }
}

/// Writes values down in the file's type.
struct Rounding<'a> {
    stem: &'a str,
    element: ElementType,
}

impl Rounding<'_> {
    /// The bytes, and what is left of the values in them.
    fn bytes(&self, matrix: &Matrix) -> Result<(Vec<u8>, Matrix), BlendError> {
        let mut bytes = Vec::with_capacity(matrix.values.len() * self.element.bytes());
        let mut there = matrix.clone();
        for value in &mut there.values {
            *value = self.put(*value, &mut bytes);
        }
        match there.values.iter().filter(|value| !value.is_finite()).count() {
            0 => Ok((bytes, there)),
            values => Err(BlendError::Overflow { module: self.stem.to_owned(), values, element: self.element }),
        }
    }

    fn put(&self, value: f64, bytes: &mut Vec<u8>) -> f64 {
        match self.element {
            ElementType::F16 => {
                let stored = f16::from_f64(value);
                bytes.extend(stored.to_le_bytes());
                stored.to_f64()
            }
            ElementType::Bf16 => {
                let stored = bf16::from_f64(value);
                bytes.extend(stored.to_le_bytes());
                stored.to_f64()
            }
            #[expect(clippy::cast_possible_truncation, reason = "rounding to the nearest 32-bit float is wanted")]
            _ => {
                let stored = value as f32;
                bytes.extend(stored.to_le_bytes());
                f64::from(stored)
            }
        }
    }
}
