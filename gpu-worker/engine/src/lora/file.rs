//! A LoRA file as modules: the factors of each, checked against each other before anything is computed.

use std::collections::BTreeMap;

use half::{bf16, f16, slice::HalfFloatSliceExt};
use shared::error::{Classify, ErrorCode};

use super::{
    index::LoraIndex,
    part::{PEFTS_MAGNITUDE, Part},
    settings::AdapterSettings,
    spelling::components,
};
use crate::tensor::{ElementType, elements};

/// One tensor of a LoRA file.
#[derive(Debug, Clone, Copy)]
pub struct LoraTensor<'a> {
    /// Its name in the file.
    pub name: &'a str,
    /// Its element type.
    pub element: ElementType,
    /// Its dimensions.
    pub shape: &'a [usize],
    /// Its bytes, row by row.
    pub bytes: &'a [u8],
}

/// What is wrong with a LoRA file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoraError {
    /// No tensor of it is a part of a LoRA.
    #[error("none of its {tensors} tensors is a part of a LoRA")]
    NoLora {
        /// How many there are.
        tensors: usize,
    },
    /// A module is of a flavour that is not computed here.
    #[error("`{module}` is {flavour}, which cannot be applied")]
    Flavour {
        /// The module.
        module: String,
        /// Its flavour.
        flavour: &'static str,
    },
    /// A module lacks a factor, or has those of two flavours.
    #[error("`{module}` is incomplete: {reason}")]
    Incomplete {
        /// The module.
        module: String,
        /// What is missing.
        reason: String,
    },
    /// A factor's dimensions do not fit the others'.
    #[error("`{tensor}` has shape {found:?}, {expected} is expected")]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its dimensions.
        found: Vec<usize>,
        /// What fits.
        expected: String,
    },
    /// Bytes and dimensions differ, or the type is none of a LoRA's.
    #[error("`{tensor}`: {reason}")]
    Tensor {
        /// The tensor.
        tensor: String,
        /// What is wrong.
        reason: String,
    },
    /// A factor holds what is no number.
    #[error("`{tensor}` holds values that are not finite")]
    NotFinite {
        /// The tensor.
        tensor: String,
    },
}

impl Classify for LoraError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::NoLora { .. } | Self::Flavour { .. } => ErrorCode::Unsupported,
            _ => ErrorCode::Corrupt,
        }
    }
}

/// A factor in 32-bit floats.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Factor {
    pub(super) shape: Vec<usize>,
    pub(super) values: Vec<f32>,
}

impl Factor {
    /// Rows and what is left of the dimensions, as a matrix.
    pub(super) fn matrix(&self) -> (usize, usize) {
        let rows = self.shape.first().copied().unwrap_or(1);
        (rows, self.values.len().checked_div(rows).unwrap_or(0))
    }
}

/// How a module changes its weight.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Change {
    /// up · down, through a core for convolutions in CP form.
    LowRank { up: Factor, down: Factor, mid: Option<Factor> },
    /// (w1a · w1b) ⊙ (w2a · w2b).
    Hadamard { first: [Factor; 2], second: [Factor; 2], cores: Option<[Factor; 2]> },
    /// w1 ⊗ w2.
    Kronecker { first: Half, second: Half, core: Option<Factor> },
    /// The change itself.
    Whole(Factor),
}

/// A matrix of LoKr, whole or as a product.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Half {
    Whole(Factor),
    Product(Factor, Factor),
}

/// The change of one module.
#[derive(Debug, Clone, PartialEq)]
pub struct Module {
    /// Its name in the file without the ending of its parts.
    pub stem: String,
    /// Rank; 0 where the change has none.
    pub rank: usize,
    /// What the change is multiplied with before any weight of the user.
    pub scale: f64,
    pub(super) change: Option<Change>,
    pub(super) bias: Option<Factor>,
    pub(super) magnitude: Option<Factor>,
    pub(super) transposed: bool,
}

impl Module {
    /// True when it changes its module's weight.
    #[must_use]
    pub fn changes_weight(&self) -> bool {
        self.change.is_some()
    }

    /// True when it changes its module's bias.
    #[must_use]
    pub fn changes_bias(&self) -> bool {
        self.bias.is_some()
    }

    /// `lora`, `locon` (with a core), `loha`, `lokr`, `full`, or `bias`; with DoRA's magnitudes `dora`.
    #[must_use]
    pub fn flavour(&self) -> &'static str {
        match &self.change {
            _ if self.magnitude.is_some() => "dora",
            Some(Change::LowRank { mid: None, .. }) => "lora",
            Some(Change::LowRank { .. }) => "locon",
            Some(Change::Hadamard { .. }) => "loha",
            Some(Change::Kronecker { .. }) => "lokr",
            Some(Change::Whole(_)) => "full",
            None => "bias",
        }
    }
}

/// A LoRA file.
#[derive(Debug, Clone, PartialEq)]
pub struct Lora {
    /// Its modules by stem.
    pub modules: Vec<Module>,
    /// Tensors that belong to no module, such as embeddings that came along.
    pub others: Vec<String>,
}

impl Lora {
    /// Reads a file's tensors. `settings` are those of its components by name, or one under the empty name for all.
    ///
    /// # Errors
    /// [`LoraError`]: the first thing that is wrong. Nothing of such a file is applied.
    pub fn read(tensors: &[LoraTensor<'_>], settings: &BTreeMap<String, AdapterSettings>) -> Result<Self, LoraError> {
        let index = LoraIndex::read(tensors, settings)?;
        let modules = index.stems().map(|stem| index.module(stem)).collect::<Result<_, _>>()?;
        Ok(Self { modules, others: index.others().map(str::to_owned).collect() })
    }

    /// Bytes of its factors as they are held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.modules.iter().map(Module::values).sum::<usize>() * size_of::<f32>()
    }
}

impl Module {
    fn values(&self) -> usize {
        let of = |factor: &Factor| factor.values.len();
        let half = |half: &Half| match half {
            Half::Whole(whole) => of(whole),
            Half::Product(a, b) => of(a) + of(b),
        };
        let change = match &self.change {
            Some(Change::LowRank { up, down, mid }) => of(up) + of(down) + mid.as_ref().map_or(0, of),
            Some(Change::Hadamard { first, second, cores }) => {
                first.iter().chain(second).chain(cores.iter().flatten()).map(of).sum()
            }
            Some(Change::Kronecker { first, second, core }) => half(first) + half(second) + core.as_ref().map_or(0, of),
            Some(Change::Whole(whole)) => of(whole),
            None => 0,
        };
        change + self.bias.as_ref().map_or(0, of) + self.magnitude.as_ref().map_or(0, of)
    }
}

/// The parts of a module.
pub(super) type Parts<'a> = BTreeMap<Part, LoraTensor<'a>>;

/// Reads a module; all its values must be finite and its factors fit each other.
pub(super) fn module(
    stem: &str,
    parts: &Parts<'_>,
    settings: &BTreeMap<String, AdapterSettings>,
) -> Result<Module, LoraError> {
    let factor = |part: Part| parts.get(&part).map(factor).transpose();
    let (change, rank) = change(stem, parts)?;
    let (bias, mut magnitude) = (factor(Part::DiffB)?, factor(Part::Magnitude)?);
    // PEFT has one for each output whatever the dimensions: of a convolution it writes `[1, out, 1, 1]`
    let is_pefts = parts.get(&Part::Magnitude).is_some_and(|tensor| tensor.name.contains(PEFTS_MAGNITUDE));
    if let Some(magnitude) = magnitude.as_mut().filter(|_| is_pefts) {
        magnitude.shape = vec![magnitude.values.len()];
    }
    if change.is_none() && bias.is_none() {
        return Err(incomplete(stem, "it has a scale but no factors"));
    }
    let (candidates, path) = components(stem);
    let settings = candidates.iter().find_map(|component| settings.get(*component)).or_else(|| settings.get(""));
    let alpha = factor(Part::Alpha)?.and_then(|alpha| alpha.values.first().copied());
    #[expect(clippy::cast_precision_loss, reason = "ranks are small")]
    let scale = match alpha {
        // whole factors of LoKr, and whole changes, have no rank to divide by
        Some(_) if rank == 0 => 1.0,
        Some(alpha) => f64::from(alpha) / rank as f64,
        None => settings.map_or(1.0, |settings| settings.scale(path, rank)),
    };
    let transposed = settings.is_some_and(|settings| settings.transposed);
    Ok(Module { stem: stem.to_owned(), rank, scale, change, bias, magnitude, transposed })
}

/// The change and its rank.
fn change(stem: &str, parts: &Parts<'_>) -> Result<(Option<Change>, usize), LoraError> {
    let has = |part: &Part| parts.contains_key(part);
    let low = has(&Part::Down) || has(&Part::Up) || has(&Part::Mid);
    let loha = parts.keys().any(|part| (Part::HadaW1A..=Part::HadaT2).contains(part));
    let lokr = parts.keys().any(|part| (Part::LokrW1..=Part::LokrT2).contains(part));
    match (low, loha, lokr, has(&Part::Diff)) {
        (true, false, false, false) => low_rank(stem, parts).map(|(change, rank)| (Some(change), rank)),
        (false, true, false, false) => hadamard(stem, parts).map(|(change, rank)| (Some(change), rank)),
        (false, false, true, false) => kronecker(stem, parts).map(|(change, rank)| (Some(change), rank)),
        (false, false, false, true) => Ok((Some(Change::Whole(need(stem, parts, Part::Diff)?)), 0)),
        (false, false, false, false) => Ok((None, 0)),
        _ => Err(incomplete(stem, "it has the factors of several flavours")),
    }
}

fn low_rank(stem: &str, parts: &Parts<'_>) -> Result<(Change, usize), LoraError> {
    let (up, down) = (need(stem, parts, Part::Up)?, need(stem, parts, Part::Down)?);
    let mid = parts.get(&Part::Mid).map(factor).transpose()?;
    let rank = down.shape.first().copied().unwrap_or(0);
    fits(parts, Part::Down, down.shape.len() >= 2 && rank > 0, "[rank, in] or [rank, in, kh, kw]")?;
    let fed = if mid.is_some() { down.shape.get(2..).unwrap_or_default().iter().all(|side| *side == 1) } else { true };
    fits(parts, Part::Down, fed, "[rank, in, 1, 1] beside a core")?;
    fits(parts, Part::Up, up.shape.len() >= 2 && up.matrix().1 == rank, &format!("[out, {rank}]"))?;
    if let Some(mid) = &mid {
        let square = mid.shape.len() == 4 && mid.shape.iter().take(2).all(|side| *side == rank);
        fits(parts, Part::Mid, square, &format!("[{rank}, {rank}, kh, kw]"))?;
    }
    Ok((Change::LowRank { up, down, mid }, rank))
}

fn hadamard(stem: &str, parts: &Parts<'_>) -> Result<(Change, usize), LoraError> {
    let pair = |a, b| Ok::<_, LoraError>([need(stem, parts, a)?, need(stem, parts, b)?]);
    let (first, second) = (pair(Part::HadaW1A, Part::HadaW1B)?, pair(Part::HadaW2A, Part::HadaW2B)?);
    let cores = match (parts.contains_key(&Part::HadaT1), parts.contains_key(&Part::HadaT2)) {
        (true, true) => Some(pair(Part::HadaT1, Part::HadaT2)?),
        (false, false) => None,
        _ => return Err(incomplete(stem, "it has one core of two")),
    };
    let rank = first[1].matrix().0;
    for ((a, b), [left, right]) in
        [(Part::HadaW1A, Part::HadaW1B), (Part::HadaW2A, Part::HadaW2B)].into_iter().zip([&first, &second])
    {
        let (rows, columns) = left.matrix();
        let inner = if cores.is_some() { rows } else { columns };
        fits(parts, b, right.matrix().0 == rank && rank > 0, &format!("[{rank}, in]"))?;
        fits(parts, a, inner == rank, &format!("rank {rank}"))?;
    }
    let like = |one: &Factor, other: &Factor| one.shape == other.shape;
    fits(parts, Part::HadaW2A, like(&second[0], &first[0]), &format!("{:?} as `hada_w1_a`", first[0].shape))?;
    fits(parts, Part::HadaW2B, like(&second[1], &first[1]), &format!("{:?} as `hada_w1_b`", first[1].shape))?;
    if let Some([one, two]) = &cores {
        fits(parts, Part::HadaT2, like(two, one), &format!("{:?} as `hada_t1`", one.shape))?;
    }
    for (part, core) in [Part::HadaT1, Part::HadaT2].into_iter().zip(cores.iter().flatten()) {
        let square = core.shape.len() == 4 && core.shape.iter().take(2).all(|side| *side == rank);
        fits(parts, part, square, &format!("[{rank}, {rank}, kh, kw]"))?;
    }
    Ok((Change::Hadamard { first, second, cores }, rank))
}

fn kronecker(stem: &str, parts: &Parts<'_>) -> Result<(Change, usize), LoraError> {
    let half = |whole, a, b| match parts.contains_key(&whole) {
        true => need(stem, parts, whole).map(Half::Whole),
        false => Ok(Half::Product(need(stem, parts, a)?, need(stem, parts, b)?)),
    };
    let first = half(Part::LokrW1, Part::LokrW1A, Part::LokrW1B)?;
    let second = half(Part::LokrW2, Part::LokrW2A, Part::LokrW2B)?;
    let core = parts.get(&Part::LokrT2).map(factor).transpose()?;
    if let Half::Product(a, b) = &first {
        fits(parts, Part::LokrW1A, a.matrix().1 == b.matrix().0, "as many columns as `lokr_w1_b` has rows")?;
    }
    let of = |half: &Half| match half {
        Half::Whole(_) => None,
        Half::Product(_, b) => Some(b.matrix().0),
    };
    let rank = of(&second).or_else(|| of(&first)).unwrap_or(0);
    match (&second, &core) {
        (Half::Product(a, b), None) => {
            fits(parts, Part::LokrW2A, a.matrix().1 == b.matrix().0, "as many columns as `lokr_w2_b` has rows")?;
        }
        (Half::Product(a, b), Some(core)) => {
            let square = core.shape.len() == 4 && core.shape.iter().take(2).all(|side| *side == rank);
            fits(parts, Part::LokrT2, square, &format!("[{rank}, {rank}, kh, kw]"))?;
            fits(parts, Part::LokrW2A, a.matrix().0 == rank && b.matrix().0 == rank, &format!("[{rank}, out]"))?;
        }
        (Half::Whole(_), Some(_)) => return Err(incomplete(stem, "a core beside a whole second matrix")),
        (Half::Whole(_), None) => {}
    }
    Ok((Change::Kronecker { first, second, core }, rank))
}

pub(super) fn incomplete(stem: &str, reason: &str) -> LoraError {
    LoraError::Incomplete { module: stem.to_owned(), reason: reason.to_owned() }
}

fn need(stem: &str, parts: &Parts<'_>, part: Part) -> Result<Factor, LoraError> {
    let tensor = parts.get(&part).ok_or_else(|| incomplete(stem, &format!("it has no {part:?}")))?;
    factor(tensor)
}

fn fits(parts: &Parts<'_>, part: Part, fits: bool, expected: &str) -> Result<(), LoraError> {
    match parts.get(&part) {
        Some(tensor) if !fits => Err(LoraError::Shape {
            tensor: tensor.name.to_owned(),
            found: tensor.shape.to_vec(),
            expected: expected.to_owned(),
        }),
        _ => Ok(()),
    }
}

/// The values of a factor; all must be finite.
fn factor(tensor: &LoraTensor<'_>) -> Result<Factor, LoraError> {
    let wrong = |reason: String| LoraError::Tensor { tensor: tensor.name.to_owned(), reason };
    let wanted = elements(tensor.shape).and_then(|count| count.checked_mul(tensor.element.bytes()));
    if wanted != Some(tensor.bytes.len()) || tensor.bytes.is_empty() && !tensor.shape.is_empty() {
        return Err(wrong(format!("{} bytes do not make the shape {:?}", tensor.bytes.len(), tensor.shape)));
    }
    let values = floats(tensor.element, tensor.bytes)
        .ok_or_else(|| wrong(format!("stored as {}, a float of 16, 32 or 64 bits is expected", tensor.element)))?;
    // all of them looked at, as that goes several at a time
    if values.iter().fold(false, |found, value| found | !value.is_finite()) {
        return Err(LoraError::NotFinite { tensor: tensor.name.to_owned() });
    }
    Ok(Factor { shape: tensor.shape.to_vec(), values })
}

/// Several at a time, as processors convert them.
fn halves(stored: &[[u8; 2]]) -> Vec<f32> {
    let mut values = vec![0.0; stored.len()];
    let mut some = [f16::ZERO; 64];
    for (values, stored) in values.chunks_mut(some.len()).zip(stored.chunks(some.len())) {
        let some = some.get_mut(..stored.len()).unwrap_or_default();
        some.iter_mut().zip(stored).for_each(|(to, value)| *to = f16::from_le_bytes(*value));
        some.convert_to_f32_slice(values);
    }
    values
}

/// Stored floats as 32-bit ones; none for other types.
pub(super) fn floats(element: ElementType, bytes: &[u8]) -> Option<Vec<f32>> {
    Some(match element {
        ElementType::F32 => bytes.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect(),
        ElementType::F16 => halves(bytes.as_chunks().0),
        ElementType::Bf16 => bytes.as_chunks().0.iter().map(|value| bf16::from_le_bytes(*value).to_f32()).collect(),
        #[expect(clippy::cast_possible_truncation, reason = "rounding to the nearest 32-bit float is wanted")]
        ElementType::F64 => bytes.as_chunks().0.iter().map(|value| f64::from_le_bytes(*value) as f32).collect(),
        _ => return None,
    })
}
