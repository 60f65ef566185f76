//! The stack machine: opcodes move inert values; nothing is imported and nothing is called.

use std::collections::HashMap;

use super::{
    globals::{Callee, callee},
    source::Source,
    value::{Global, Heap, Id, Value},
};
use crate::error::FormatError;

/// Most opcodes of a pickle; a checkpoint of 10,000 tensors has 300,000.
const MAX_STEPS: u64 = 8_000_000;
/// Most values.
const MAX_VALUES: u64 = 4_000_000;
/// Most bytes of a pickle (not of the tensors, which lie elsewhere).
const MAX_BYTES: u64 = 64 << 20;

/// What a pickle's persistent ids may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Persistent {
    /// None allowed.
    Refused,
    /// Storages of a checkpoint.
    Storages,
}

/// One run over one pickle.
#[derive(Debug)]
pub(super) struct Machine<'s, 'p> {
    pub(super) source: &'s mut Source<'p>,
    pub(super) heap: Heap,
    pub(super) stack: Vec<Id>,
    pub(super) marks: Vec<usize>,
    pub(super) memo: HashMap<u32, Id>,
    pub(super) storages: HashMap<String, usize>,
    pub(super) persistent: Persistent,
    begin: u64,
    steps: u64,
    copied: u64,
}

/// Runs one pickle from where `source` stands to its STOP. Returns the heap and the object.
pub(super) fn run(source: &mut Source<'_>, persistent: Persistent) -> Result<(Heap, Id), FormatError> {
    let begin = source.at;
    let mut machine = Machine {
        source,
        heap: Heap::default(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        storages: HashMap::new(),
        persistent,
        begin,
        steps: 0,
        copied: 0,
    };
    while machine.step()? {
        machine.within_budgets()?;
    }
    let object = machine.pop()?;
    if !machine.stack.is_empty() || !machine.marks.is_empty() {
        return Err(machine.source.bad("values are left over at its end"));
    }
    Ok((machine.heap, object))
}

impl Machine<'_, '_> {
    fn within_budgets(&mut self) -> Result<(), FormatError> {
        self.steps = self.steps.saturating_add(1);
        if self.steps > MAX_STEPS {
            return Err(self.source.too_many("opcodes in its pickle", MAX_STEPS));
        }
        if self.source.at.saturating_sub(self.begin) > MAX_BYTES {
            return Err(self.source.too_many("bytes in its pickle", MAX_BYTES));
        }
        Ok(())
    }

    /// A new value on the stack.
    pub(super) fn push(&mut self, value: Value) -> Result<(), FormatError> {
        let id = self.make(value)?;
        self.stack.push(id);
        Ok(())
    }

    pub(super) fn make(&mut self, value: Value) -> Result<Id, FormatError> {
        let count = self.heap.values.len();
        let id = Id::try_from(count).ok().filter(|id| u64::from(*id) < MAX_VALUES);
        let id = id.ok_or_else(|| self.source.too_many("values in its pickle", MAX_VALUES))?;
        self.heap.values.push(value);
        Ok(id)
    }

    /// Counts values that are copied rather than written, which a small file could otherwise multiply.
    pub(super) fn copying(&mut self, count: usize) -> Result<(), FormatError> {
        self.copied = self.copied.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        if self.copied > MAX_VALUES {
            return Err(self.source.too_many("copied values in its pickle", MAX_VALUES));
        }
        Ok(())
    }

    /// The values above the innermost mark must not be taken by single pops.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or_default()
    }

    pub(super) fn pop(&mut self) -> Result<Id, FormatError> {
        let id = if self.stack.len() > self.floor() { self.stack.pop() } else { None };
        id.ok_or_else(|| self.source.bad("an opcode without its operands"))
    }

    pub(super) fn top(&self) -> Result<Id, FormatError> {
        let id = if self.stack.len() > self.floor() { self.stack.last() } else { None };
        id.copied().ok_or_else(|| self.source.bad("an opcode without its operands"))
    }

    pub(super) fn mark(&mut self) {
        self.marks.push(self.stack.len());
    }

    /// Everything above the innermost mark, which goes away.
    pub(super) fn since_mark(&mut self) -> Result<Vec<Id>, FormatError> {
        let mark = self.marks.pop().ok_or_else(|| self.source.bad("an opcode without its mark"))?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    /// POP also takes back a mark.
    pub(super) fn discard(&mut self) -> Result<(), FormatError> {
        if self.marks.last() == Some(&self.stack.len()) {
            self.marks.pop();
            return Ok(());
        }
        self.pop().map(|_| ())
    }

    pub(super) fn remember(&mut self, key: u32) -> Result<(), FormatError> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    pub(super) fn recall(&mut self, key: u32) -> Result<(), FormatError> {
        let id = self.memo.get(&key).copied().ok_or_else(|| self.source.bad("an unknown memo entry"))?;
        self.stack.push(id);
        Ok(())
    }

    pub(super) fn append(&mut self, items: Vec<Id>) -> Result<(), FormatError> {
        let list = self.top()?;
        match self.heap.get_mut(list) {
            Some(Value::List(known)) => known.extend(items),
            Some(Value::Opaque) => {}
            _ => return Err(self.source.bad("items for something that is no list")),
        }
        Ok(())
    }

    pub(super) fn set_items(&mut self, items: &[Id]) -> Result<(), FormatError> {
        let pairs = self.pairs(items)?;
        let dict = self.top()?;
        match self.heap.get_mut(dict) {
            Some(Value::Dict(known) | Value::Parameters(known)) => known.extend(pairs),
            Some(Value::Opaque) => {}
            _ => return Err(self.source.bad("entries for something that is no dict")),
        }
        Ok(())
    }

    pub(super) fn pairs(&self, items: &[Id]) -> Result<Vec<(Id, Id)>, FormatError> {
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(self.source.bad("a key without a value"));
        }
        Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect())
    }

    pub(super) fn global(&mut self, module: String, name: String) -> Result<(), FormatError> {
        let global = Global { module, name };
        if self.heap.globals.len() < 64 && callee(&global).is_none() {
            let text = global.to_string();
            if !self.heap.globals.contains(&text) {
                self.heap.globals.push(text);
            }
        }
        self.push(Value::Global(Box::new(global)))
    }

    /// REDUCE and NEWOBJ: what the callee would give; nothing is called.
    pub(super) fn apply(&mut self, opcode: &'static str) -> Result<(), FormatError> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let Value::Global(global) = self.heap.get(function) else {
            return Err(self.source.refuse(format!("{opcode} of something that is no known name")));
        };
        let global = global.clone();
        let Some(callee) = callee(&global) else {
            return Err(self.source.refuse(format!("{opcode} calls {global}")));
        };
        let Value::Tuple(arguments) = self.heap.get(arguments) else {
            return Err(self.source.bad("arguments that are no tuple"));
        };
        let count = arguments.len();
        let arguments = arguments.clone();
        self.copying(count)?;
        let value = self.result(callee, &arguments)?;
        self.push(value)
    }

    fn result(&mut self, callee: Callee, arguments: &[Id]) -> Result<Value, FormatError> {
        Ok(match (callee, arguments) {
            (Callee::OrderedDict | Callee::Dict, []) => Value::Dict(Vec::new()),
            (Callee::OrderedDict, [pairs]) => Value::Dict(self.dict_of(*pairs)?),
            (Callee::List, []) => Value::List(Vec::new()),
            (Callee::ParameterDict, _) => Value::Parameters(Vec::new()),
            (Callee::Size, [items]) => {
                let items = self.heap.items(*items).ok_or_else(|| self.source.bad("a size that is no tuple"))?.to_vec();
                self.copying(items.len())?;
                Value::Tuple(items)
            }
            (Callee::Tensor(version), arguments) => self.tensor(version, arguments)?,
            (Callee::Parameter, [tensor, ..]) => match self.heap.get(*tensor) {
                Value::Tensor(index) => Value::Tensor(*index),
                _ => return Err(self.source.bad("a parameter that is no tensor")),
            },
            (Callee::Opaque | Callee::Dict | Callee::List, _) => Value::Opaque,
            _ => return Err(self.source.bad("a call with other arguments than it has")),
        })
    }

    /// The entries of a list of pairs.
    fn dict_of(&mut self, pairs: Id) -> Result<Vec<(Id, Id)>, FormatError> {
        let pair = |id: &Id| match self.heap.items(*id) {
            Some([key, value]) => Ok((*key, *value)),
            _ => Err(self.source.bad("an ordered dict of something that is no pair")),
        };
        let items = self.heap.items(pairs).ok_or_else(|| self.source.bad("an ordered dict of something else"))?;
        let entries = items.iter().map(pair).collect::<Result<Vec<_>, _>>()?;
        self.copying(entries.len())?;
        Ok(entries)
    }

    /// BUILD: state is of no interest, but for the entries of a parameter dict.
    pub(super) fn build(&mut self) -> Result<(), FormatError> {
        let state = self.pop()?;
        let object = self.top()?;
        match self.heap.get(object) {
            Value::Dict(_) | Value::Tensor(_) | Value::Opaque => return Ok(()),
            Value::Parameters(_) => {}
            Value::Global(global) => return Err(self.source.refuse(format!("BUILD changes {global}"))),
            _ => return Err(self.source.bad("state for something that has none")),
        }
        let held = self.heap.entry(state, "_parameters").and_then(|held| self.heap.entries(held));
        let held = held.map(<[(Id, Id)]>::to_vec).unwrap_or_default();
        self.copying(held.len())?;
        if let Some(Value::Parameters(known)) = self.heap.get_mut(object) {
            known.extend(held);
        }
        Ok(())
    }
}
