//! Which tensors of a LoRA file belong to which module, without converting any: a stack reads each module once, when the
//! tensor that it changes is made.

use std::collections::BTreeMap;

use super::{
    file::{LoraError, LoraTensor, Module, Parts, incomplete, module},
    part::{Part, split},
    settings::AdapterSettings,
};

/// The modules of a LoRA file by stem, over the file's bytes.
#[derive(Debug, Clone)]
pub struct LoraIndex<'a> {
    modules: BTreeMap<&'a str, Parts<'a>>,
    others: Vec<&'a str>,
    settings: &'a BTreeMap<String, AdapterSettings>,
}

impl<'a> LoraIndex<'a> {
    /// Sorts a file's tensors. `settings` are those of its components by name, or one under the empty name for all.
    ///
    /// # Errors
    /// [`LoraError`] when there is no module, a part twice, or a flavour that is not computed.
    pub fn read(
        tensors: &[LoraTensor<'a>],
        settings: &'a BTreeMap<String, AdapterSettings>,
    ) -> Result<Self, LoraError> {
        let mut modules: BTreeMap<&str, Parts<'_>> = BTreeMap::new();
        let mut others = Vec::new();
        for tensor in tensors {
            match split(tensor.name) {
                Some((module, Part::Refused(flavour))) => {
                    return Err(LoraError::Flavour { module: module.to_owned(), flavour });
                }
                Some((stem, part)) => {
                    if let Some(other) = modules.entry(stem).or_default().insert(part, *tensor) {
                        let reason = format!("`{}` and `{}` are the same part of it", other.name, tensor.name);
                        return Err(incomplete(stem, &reason));
                    }
                }
                None => others.push(tensor.name),
            }
        }
        if modules.is_empty() {
            return Err(LoraError::NoLora { tensors: tensors.len() });
        }
        Ok(Self { modules, others, settings })
    }

    /// The modules' names, in order.
    pub fn stems(&self) -> impl Iterator<Item = &'a str> {
        self.modules.keys().copied()
    }

    /// Tensors that belong to no module.
    pub fn others(&self) -> impl Iterator<Item = &'a str> {
        self.others.iter().copied()
    }

    /// Reads a module: its factors in 32-bit floats, checked against each other.
    ///
    /// # Errors
    /// [`LoraError`]: the first thing that is wrong with it, also that it is not there.
    pub fn module(&self, stem: &str) -> Result<Module, LoraError> {
        let parts = self.modules.get(stem).ok_or_else(|| incomplete(stem, "the file has no such module"))?;
        module(stem, parts, self.settings)
    }
}
