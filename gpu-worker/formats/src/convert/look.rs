//! A look at the values before anything is written: which parts would overflow in a narrower type. Only 16-bit IEEE floats have a
//! range that weights leave; what leaves that of 32-bit floats is found while it is written, and ends the conversion.

use std::{collections::BTreeMap, ops::ControlFlow};

use super::{Change, ConvertError, Model, OutTensor, Plan, Tally, emit::Emitter};
use crate::{dtype::Dtype, vocab::ComponentKind};

/// Tensors that a report names.
const NAMED: usize = 20;

/// What of a part does not fit 16-bit IEEE floats.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Values that would become infinite.
    pub values: u64,
    /// Tensors that have such values.
    pub tensors: u64,
    /// The largest absolute value.
    pub largest: f64,
    /// The first of these tensors, each with how many of its values, and its largest.
    pub named: Vec<(String, u64, f64)>,
}

/// Whether values of this tensor may become infinite, as happens to weights of releases.
fn is_risky(tensor: &OutTensor) -> bool {
    let wide = |from: Dtype| matches!(from, Dtype::F64 | Dtype::F32 | Dtype::Bf16);
    tensor.dtype == Dtype::F16 && tensor.from.iter().any(|from| wide(from.dtype))
}

/// Bytes that [`look`] reads.
#[must_use]
pub fn bytes(plan: &Plan) -> u64 {
    let pieces = tensors(plan).flat_map(|tensor| &tensor.from).flat_map(|from| &from.pieces);
    pieces.map(|piece| piece.end.saturating_sub(piece.begin)).fold(0, u64::saturating_add)
}

fn tensors(plan: &Plan) -> impl Iterator<Item = &OutTensor> {
    plan.files.iter().flat_map(|file| &file.tensors).filter(|tensor| is_risky(tensor))
}

/// Reads what becomes narrower. `pace` is told of every chunk of bytes.
///
/// # Errors
/// [`ConvertError`]; values that are not numbers are one unless they are allowed.
pub fn look(
    plan: &Plan,
    change: Option<&dyn Change>,
    allow_nan: bool,
    pace: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<BTreeMap<ComponentKind, Found>, ConvertError> {
    let mut emitter = Emitter::new(Model::probes(&plan.sources)?, change, pace);
    let mut found: BTreeMap<ComponentKind, Found> = BTreeMap::new();
    for tensor in tensors(plan) {
        let tally = emitter.tensor(tensor, &mut |_| Ok(()))?;
        must_be_numbers(tensor, tally, allow_nan)?;
        let (Some(component), true) = (tensor.component, tally.overflows > 0) else { continue };
        let none = Found { values: 0, tensors: 0, largest: 0.0, named: Vec::new() };
        let found = found.entry(component).or_insert(none);
        found.values = found.values.saturating_add(tally.overflows);
        found.tensors = found.tensors.saturating_add(1);
        found.largest = found.largest.max(tally.largest);
        if found.named.len() < NAMED {
            found.named.push((crate::text::storable(&tensor.name), tally.overflows, tally.largest));
        }
    }
    emitter.check_unchanged()?;
    Ok(found)
}

/// Refuses values that are not numbers.
pub(super) fn must_be_numbers(tensor: &OutTensor, tally: Tally, allow_nan: bool) -> Result<(), ConvertError> {
    match tally.not_numbers {
        0 => Ok(()),
        _ if allow_nan => Ok(()),
        values => Err(ConvertError::NotNumbers { tensor: tensor.name.clone(), values }),
    }
}

/// Refuses what became infinite.
pub(super) fn must_fit(tensor: &OutTensor, tally: Tally) -> Result<(), ConvertError> {
    match tally.overflows {
        0 => Ok(()),
        values => {
            let (largest, dtype) = (tally.largest, tensor.dtype);
            Err(ConvertError::Overflow { tensor: tensor.name.clone(), values, largest, dtype })
        }
    }
}
