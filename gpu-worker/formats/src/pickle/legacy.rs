//! The legacy stream: five pickles, then the storages one after the other.

use std::collections::HashMap;

use super::{
    machine::{Persistent, run},
    source::Source,
    value::{Heap, Id, Value},
    weights::{Found, find},
};
use crate::{error::FormatError, probe::Probe, vocab::Format};

/// The number that begins a stream, little-endian.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
/// The protocol of the stream.
const PROTOCOL: i64 = 1001;

/// Reads the stream.
pub(super) fn read(probe: &Probe) -> Result<Found, FormatError> {
    let mut source = Source::new(probe, Format::Pickle, 0, probe.facts.size);
    // what is no stream is still run: a bare pickle that runs code is refused with the name of its global
    let (heap, first) = run(&mut source, Persistent::Refused)?;
    if !matches!(heap.get(first), Value::Long(number) if **number == MAGIC) {
        return Err(source.not_handled("a Python pickle that is no PyTorch checkpoint".to_owned()));
    }
    let (heap, protocol) = run(&mut source, Persistent::Refused)?;
    if !matches!(heap.get(protocol), Value::Int(PROTOCOL)) {
        return Err(source.not_handled("a PyTorch stream of an unknown protocol".to_owned()));
    }
    let (heap, system) = run(&mut source, Persistent::Refused)?;
    let little = heap.entry(system, "little_endian").map(|id| heap.get(id));
    let order: &[u8] = match little {
        Some(Value::Bool(true)) => b"little",
        Some(Value::Bool(false)) => b"big",
        _ => return Err(source.bad("it does not say its byte order")),
    };
    little_endian_only(&source, order)?;
    let (heap, top) = run(&mut source, Persistent::Storages)?;
    let (order, keys) = run(&mut source, Persistent::Refused)?;
    let begins = storages(&mut source, &heap, &order, keys)?;
    find(probe, &heap, top, &begins)
}

/// Fails for big-endian files.
pub(super) fn little_endian_only(source: &Source<'_>, order: &[u8]) -> Result<(), FormatError> {
    match order.trim_ascii() {
        b"little" => Ok(()),
        b"big" => Err(source.not_handled("written on a big-endian machine".to_owned())),
        _ => Err(source.bad("an unknown byte order")),
    }
}

/// Where each storage begins: they follow in the order of the keys, each after its count of elements.
fn storages(source: &mut Source<'_>, heap: &Heap, order: &Heap, keys: Id) -> Result<Vec<u64>, FormatError> {
    let keys = order.items(keys).ok_or_else(|| source.bad("no list of storages"))?;
    let indices: HashMap<&str, usize> =
        heap.storages.iter().enumerate().map(|(index, storage)| (storage.key.as_str(), index)).collect();
    let mut begins = vec![None; heap.storages.len()];
    for key in keys {
        let index = order.text(*key).and_then(|key| indices.get(key)).copied();
        let known = index.and_then(|index| Some((heap.storages.get(index)?, begins.get_mut(index)?)));
        let Some((storage, begin)) = known else {
            return Err(source.bad("a storage that the pickle does not name"));
        };
        let count = u64::from_le_bytes(source.array()?);
        if count != storage.count {
            return Err(source.bad("a storage that has another size than its pickle says"));
        }
        if begin.replace(source.at).is_some() {
            return Err(source.bad("a storage that is there twice"));
        }
        source.skip(storage.bytes)?;
    }
    if !source.is_at_end() {
        return Err(source.bad("bytes behind its last storage"));
    }
    let all = begins.into_iter().collect::<Option<Vec<_>>>();
    all.ok_or_else(|| source.bad("a storage that is not in the file"))
}
