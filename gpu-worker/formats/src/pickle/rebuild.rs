//! Persistent ids as storages, and the functions that make tensors of them.

use super::{
    globals::{Rebuild, storage_dtype, tensor_dtype},
    machine::Machine,
    storage::{MAX_RANK, Storage, place},
    value::{Id, Value},
};
use crate::{dtype::Dtype, error::FormatError, inspection::MAX_TENSORS, text::shown};

impl Machine<'_, '_> {
    /// BINPERSID: `('storage', class, key, location, count[, view])`.
    pub(super) fn persistent_id(&mut self) -> Result<(), FormatError> {
        let id = self.pop()?;
        let fields = match self.heap.get(id) {
            Value::Tuple(fields) => fields.clone(),
            _ => return Err(self.source.bad("a persistent id that is no tuple")),
        };
        let (class, key, count, view) = match fields.as_slice() {
            [kind, class, key, _, count] if self.heap.text(*kind) == Some("storage") => (*class, *key, *count, None),
            [kind, class, key, _, count, view] if self.heap.text(*kind) == Some("storage") => {
                (*class, *key, *count, Some(*view))
            }
            _ => return Err(self.source.bad("a persistent id that is no storage")),
        };
        if view.is_some_and(|view| !matches!(self.heap.get(view), Value::None)) {
            return Err(self
                .source
                .not_handled("a storage that is a view of another, as before PyTorch 0.4".to_owned()));
        }
        let storage = self.storage(class, key, count)?;
        let index = self.known(storage)?;
        self.push(Value::Storage(index))
    }

    fn storage(&self, class: Id, key: Id, count: Id) -> Result<Storage, FormatError> {
        let Value::Global(class) = self.heap.get(class) else {
            return Err(self.source.bad("a storage without a class"));
        };
        let Some(dtype) = storage_dtype(class) else {
            return Err(self.source.not_handled(format!("a storage of the class {class}")));
        };
        let key = self.heap.text(key).ok_or_else(|| self.source.bad("a storage whose key is no text"))?;
        let count = self.heap.unsigned(count).ok_or_else(|| self.source.bad("a storage without a size"))?;
        let bytes = count.checked_mul(dtype.bits() / 8).ok_or_else(|| self.source.bad("a storage too large"))?;
        if key.len() > 256 {
            return Err(self.source.bad("a storage whose key is too long"));
        }
        Ok(Storage { key: key.to_owned(), dtype, count, bytes })
    }

    /// The storage's index; the same key must always say the same.
    fn known(&mut self, storage: Storage) -> Result<usize, FormatError> {
        if let Some(index) = self.storages.get(&storage.key).copied() {
            return match self.heap.storages.get(index) {
                Some(known) if *known == storage => Ok(index),
                _ => Err(self.source.bad("a storage that is described in two ways")),
            };
        }
        let index = self.heap.storages.len();
        if index >= MAX_TENSORS {
            return Err(self.source.too_many("storages", MAX_TENSORS as u64));
        }
        self.storages.insert(storage.key.clone(), index);
        self.heap.storages.push(storage);
        Ok(index)
    }

    /// A tensor over a storage. Arguments: storage, offset, size, strides, …, and for V3 the type as seventh.
    pub(super) fn tensor(&mut self, version: Rebuild, arguments: &[Id]) -> Result<Value, FormatError> {
        let fits = match version {
            Rebuild::V1 => arguments.len() == 4,
            Rebuild::V2 => matches!(arguments.len(), 6 | 7),
            Rebuild::V3 => matches!(arguments.len(), 7 | 8),
        };
        let [storage, offset, size, strides, ..] = arguments else {
            return Err(self.source.bad("a tensor with other arguments than it has"));
        };
        let Value::Storage(index) = self.heap.get(*storage) else {
            return Err(self.source.bad("a tensor over something that is no storage"));
        };
        let index = *index;
        let held = self.heap.storages.get(index).filter(|_| fits).cloned();
        let held = held.ok_or_else(|| self.source.bad("a tensor with other arguments than it has"))?;
        let dtype = match arguments.get(6).filter(|_| version == Rebuild::V3) {
            Some(named) => self.named_dtype(*named)?,
            None => held.dtype,
        };
        let offset = self.heap.unsigned(*offset).ok_or_else(|| self.source.bad("a tensor with a negative offset"))?;
        let (shape, strides) = (self.numbers(*size)?, self.numbers(*strides)?);
        let tensor = place(index, &held, dtype, offset, shape, strides).map_err(|problem| self.source.bad(problem))?;
        let place = self.heap.tensors.len();
        if place >= MAX_TENSORS {
            return Err(self.source.too_many("tensors", MAX_TENSORS as u64));
        }
        self.heap.tensors.push(tensor);
        Ok(Value::Tensor(place))
    }

    fn named_dtype(&self, id: Id) -> Result<Dtype, FormatError> {
        let Value::Global(global) = self.heap.get(id) else {
            return Err(self.source.bad("a tensor without an element type"));
        };
        tensor_dtype(global).ok_or_else(|| {
            self.source.not_handled(format!("a tensor of the element type {}", shown(&global.to_string())))
        })
    }

    fn numbers(&self, id: Id) -> Result<Vec<u64>, FormatError> {
        let items = self.heap.items(id).filter(|items| items.len() <= MAX_RANK);
        let items = items.ok_or_else(|| self.source.bad("a shape or strides that are no tuple of at most 64"))?;
        let number = |id: &Id| self.heap.unsigned(*id);
        let numbers = items.iter().map(number).collect::<Option<Vec<_>>>();
        numbers.ok_or_else(|| self.source.bad("a negative shape or stride"))
    }
}
