//! Finding the weights in what a checkpoint holds.

use std::collections::HashSet;

use super::{
    PickleExtra,
    value::{Heap, Id, Value},
};
use crate::{error::FormatError, inspection::TensorFacts, probe::Probe};

/// Deepest nesting of wrappers that is followed.
const MAX_WRAPPERS: usize = 8;
/// Names that other programs wrap weights in, in the order they are tried.
const WRAPPERS: &[&str] = &["model", "params_ema", "params", "model_state_dict", "ema", "net"];
/// Names that mean averaged weights.
const AVERAGES: &[&str] = &["params_ema", "ema", "model_ema", "ema_state_dict", "state_dict_ema"];
/// Most tensors that are taken from dicts in a dict: shared dicts could say more than was written.
const MAX_FLATTENED: usize = 50_000;
/// Most names that are repeated.
const MAX_NAMES: usize = 64;

/// Weights with their places, and what was around them.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) tensors: Vec<TensorFacts>,
    pub(super) extra: PickleExtra,
}

/// The weights below `top`; `begins` has the first byte of every storage.
pub(super) fn find(probe: &Probe, heap: &Heap, top: Id, begins: &[u64]) -> Result<Found, FormatError> {
    let path = || probe.facts.path.clone();
    let mut extra = PickleExtra { globals: heap.globals.clone(), ..PickleExtra::default() };
    let Some(dict) = descend(heap, top, &mut extra) else {
        return Err(FormatError::NoWeights { path: path(), why: "the pickle is no dict of tensors".to_owned() });
    };
    let mut named = entries(heap, dict, &mut extra);
    extra.has_ema |= named.iter().any(|(name, _)| name.starts_with("model_ema."));
    extra.stripped_module = !named.is_empty() && named.iter().all(|(name, _)| name.starts_with("module."));
    if extra.stripped_module {
        named.iter_mut().for_each(|(name, _)| *name = name.split_off("module.".len()));
    }
    let mut seen = HashSet::new();
    let mut tensors = Vec::with_capacity(named.len());
    for (name, index) in named {
        if !seen.insert(name.clone()) {
            return Err(FormatError::DuplicateTensor { path: path(), tensor: name });
        }
        let facts = facts(heap, index, begins, name);
        tensors.push(facts.ok_or_else(|| FormatError::NoWeights { path: path(), why: "a lost storage".to_owned() })?);
    }
    Ok(Found { tensors, extra })
}

fn facts(heap: &Heap, index: usize, begins: &[u64], name: String) -> Option<TensorFacts> {
    let tensor = heap.tensors.get(index)?;
    let base = *begins.get(tensor.storage)?;
    Some(TensorFacts {
        name,
        dtype: tensor.dtype,
        shape: tensor.shape.clone(),
        file: 0,
        begin: base.checked_add(tensor.begin)?,
        end: base.checked_add(tensor.end)?,
        strides: tensor.strides.clone(),
    })
}

/// The dict that holds the weights.
fn descend(heap: &Heap, top: Id, extra: &mut PickleExtra) -> Option<Id> {
    heap.entries(top)?;
    let mut dict = top;
    for _ in 0..MAX_WRAPPERS {
        let Some((key, inner)) = wrapper(heap, dict) else { break };
        note_around(heap, dict, key, extra);
        extra.nested.push(key.to_owned());
        dict = inner;
    }
    Some(dict)
}

fn wrapper(heap: &Heap, dict: Id) -> Option<(&'static str, Id)> {
    let below = |key: &'static str| {
        let inner = heap.entry(dict, key)?;
        heap.entries(inner).map(|_| (key, inner))
    };
    below("state_dict").or_else(|| {
        let entries = heap.entries(dict)?;
        let tensors = entries.iter().filter(|(_, value)| matches!(heap.get(*value), Value::Tensor(_))).count();
        // a dict that is mostly tensors is the weights, whatever else is in it
        (tensors.saturating_mul(2) <= entries.len()).then(|| WRAPPERS.iter().find_map(|key| below(key)))?
    })
}

/// What stands beside the weights.
fn note_around(heap: &Heap, dict: Id, chosen: &str, extra: &mut PickleExtra) {
    extra.has_ema |= AVERAGES.contains(&chosen);
    for (key, _) in heap.entries(dict).unwrap_or_default() {
        let name = match heap.get(*key) {
            Value::Text(text) => text.to_string(),
            Value::Global(global) => global.to_string(),
            Value::Int(number) => number.to_string(),
            _ => "(no text)".to_owned(),
        };
        if name != chosen {
            extra.has_ema |= AVERAGES.contains(&name.as_str());
            ignore(extra, name);
        }
    }
}

fn ignore(extra: &mut PickleExtra, name: String) {
    extra.ignored_entries = extra.ignored_entries.saturating_add(1);
    if extra.ignored.len() < MAX_NAMES {
        extra.ignored.push(name.chars().take(120).collect());
    }
}

/// Names and tensors of a dict; when it has none, those of the dicts in it (`image_proj`, `ip_adapter`).
fn entries(heap: &Heap, dict: Id, extra: &mut PickleExtra) -> Vec<(String, usize)> {
    let mut named = Vec::new();
    let mut others = Vec::new();
    for (key, value) in heap.entries(dict).unwrap_or_default() {
        match (heap.text(*key), heap.get(*value)) {
            (Some(name), Value::Tensor(index)) => named.push((name.to_owned(), *index)),
            (name, _) => others.push((name, *value)),
        }
    }
    let is_flat = !named.is_empty();
    for (name, value) in others {
        match (name, heap.entries(value)) {
            (Some(outer), Some(inner)) if !is_flat && named.len() <= MAX_FLATTENED => {
                below(heap, outer, inner, &mut named);
            }
            _ => ignore(extra, name.unwrap_or("(no text)").to_owned()),
        }
    }
    named
}

fn below(heap: &Heap, outer: &str, inner: &[(Id, Id)], named: &mut Vec<(String, usize)>) {
    for (key, value) in inner.iter().take(MAX_FLATTENED) {
        if let (Some(name), Value::Tensor(index)) = (heap.text(*key), heap.get(*value)) {
            named.push((format!("{outer}.{name}"), *index));
        }
    }
}
