//! The values of a pickle: flat in an arena, so that neither nesting nor sharing costs more than it was written with.

use super::storage::{Storage, Tensor};

/// A value's place in the arena.
pub(super) type Id = u32;

/// One inert value.
#[derive(Debug, Clone)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// An integer of more than 64 bits, little-endian.
    Long(Box<[u8]>),
    Text(Box<str>),
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A dict whose entries come with its state.
    Parameters(Vec<(Id, Id)>),
    /// A name that nothing was imported for.
    Global(Box<Global>),
    Storage(usize),
    Tensor(usize),
    /// Something that holds no weights.
    Opaque,
}

/// Module and name as the pickle says them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Global {
    pub(super) module: String,
    pub(super) name: String,
}

impl std::fmt::Display for Global {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", crate::text::shown(&self.module), crate::text::shown(&self.name))
    }
}

/// All values of one pickle with its storages and tensors.
#[derive(Debug, Default)]
pub(super) struct Heap {
    pub(super) values: Vec<Value>,
    pub(super) storages: Vec<Storage>,
    pub(super) tensors: Vec<Tensor>,
    /// Globals that stand as values.
    pub(super) globals: Vec<String>,
}

impl Heap {
    /// The value at `id`.
    pub(super) fn get(&self, id: Id) -> &Value {
        // ids are only made by pushing to `values`, which never shrinks
        self.values.get(usize::try_from(id).unwrap_or(usize::MAX)).unwrap_or(&Value::None)
    }

    pub(super) fn get_mut(&mut self, id: Id) -> Option<&mut Value> {
        self.values.get_mut(usize::try_from(id).ok()?)
    }

    pub(super) fn text(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A non-negative integer.
    pub(super) fn unsigned(&self, id: Id) -> Option<u64> {
        match self.get(id) {
            Value::Int(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    /// The items of a list or a tuple.
    pub(super) fn items(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Value::List(items) | Value::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// The entries of a dict.
    pub(super) fn entries(&self, id: Id) -> Option<&[(Id, Id)]> {
        match self.get(id) {
            Value::Dict(entries) | Value::Parameters(entries) => Some(entries),
            _ => None,
        }
    }

    /// The last entry with this key, as a dict would keep it.
    pub(super) fn entry(&self, dict: Id, key: &str) -> Option<Id> {
        let entries = self.entries(dict)?;
        entries.iter().rev().find(|(name, _)| self.text(*name) == Some(key)).map(|(_, value)| *value)
    }
}
