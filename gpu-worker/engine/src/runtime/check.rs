//! Whether a run can begin: every input and every weight is there, in the type and shape that the graph takes.

use std::collections::BTreeMap;

use crate::{
    error::EngineError,
    graph::{Port, Provider, Side, Slot},
    tensor::Tensor,
    weights::{Weight, Weights},
};

/// The tensor of each input, in the graph's order.
pub(super) fn inputs<'t>(ports: &[Port], given: &[(&str, &'t Tensor)]) -> Result<Vec<&'t Tensor>, EngineError> {
    for (at, (name, _)) in given.iter().enumerate() {
        let twice = given.iter().skip(at + 1).any(|(other, _)| other == name);
        if twice || !ports.iter().any(|port| port.name == *name) {
            let names: Vec<&str> = ports.iter().map(|port| port.name.as_str()).collect();
            let found = if twice { "given twice" } else { "unknown" };
            return Err(wrong(name, found.to_owned(), format!("each of {names:?}, once")));
        }
    }
    let mut free = BTreeMap::new();
    ports.iter().map(|port| input(port, given, &mut free)).collect()
}

fn input<'t, 'p>(
    port: &'p Port,
    given: &[(&str, &'t Tensor)],
    free: &mut BTreeMap<&'p str, usize>,
) -> Result<&'t Tensor, EngineError> {
    let expected = || format!("{} {:?}", port.dtype, port.dims);
    let Some((_, tensor)) = given.iter().find(|(name, _)| *name == port.name) else {
        return Err(wrong(&port.name, "nothing".to_owned(), expected()));
    };
    let fits = tensor.data.element() == port.dtype
        && tensor.shape.len() == port.dims.len()
        && tensor.shape.iter().zip(&port.dims).all(|(side, dim)| match dim {
            Side::Fixed(fixed) => fixed == side,
            Side::Free(name) if name.is_empty() => true,
            Side::Free(name) => free.entry(name).or_insert(*side) == side,
        });
    if fits {
        return Ok(tensor);
    }
    let found = format!("{} {:?}", tensor.data.element(), tensor.shape);
    Err(wrong(&port.name, found, format!("{} with {free:?}", expected())))
}

fn wrong(name: &str, found: String, expected: String) -> EngineError {
    EngineError::Input { name: name.to_owned(), found, expected }
}

/// The weight of each slot, in the graph's order.
pub(super) fn weights<'w>(
    architecture: &str,
    slots: &[Slot],
    weights: &'w Weights,
    (provider, device): (Provider, i32),
) -> Result<Vec<&'w Weight>, EngineError> {
    let mut missing = slots.iter().filter(|slot| weights.get(&slot.name).is_none()).map(|slot| slot.name.as_str());
    if let Some(first) = missing.next() {
        let (architecture, first) = (architecture.to_owned(), first.to_owned());
        return Err(EngineError::MissingWeights { architecture, count: missing.count() + 1, first });
    }
    let found = slots.iter().filter_map(|slot| Some((slot, weights.get(&slot.name)?)));
    found.map(|(slot, weight)| weight_fits(slot, weight, provider, device).map(|()| weight)).collect()
}

fn weight_fits(slot: &Slot, weight: &Weight, provider: Provider, device: i32) -> Result<(), EngineError> {
    if weight.shape != slot.stored {
        let (expected, found) = (slot.stored.clone(), weight.shape.clone());
        return Err(EngineError::WeightShape { name: slot.name.clone(), expected, found });
    }
    if weight.dtype != slot.dtype {
        let expected = slot.dtype.to_string();
        return Err(EngineError::WeightType { name: slot.name.clone(), expected, found: weight.dtype });
    }
    let place = match (weight.memory.as_cuda(), provider) {
        (None, _) => weight.memory.as_host().map(|bytes| bytes.as_ptr().addr() as u64),
        (Some((pointer, found)), Provider::Cuda) if found == device => Some(pointer),
        (Some(_), _) => None,
    };
    let reason = match place {
        None => format!("it is at {:?}, the session runs on {} {device}", weight.memory, provider.as_str()),
        // kernels read whole elements
        Some(pointer) if !pointer.is_multiple_of(weight.dtype.bytes() as u64) => format!("{pointer:#x} is not aligned"),
        Some(_) => return Ok(()),
    };
    Err(EngineError::WeightMemory { name: slot.name.clone(), reason })
}
