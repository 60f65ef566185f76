//! Weights of a safetensors file, read into memory of their own; the product reads files through its residency instead.

use std::{fs, path::Path, sync::Arc};

use safetensors::SafeTensors;

use crate::{
    error::EngineError,
    tensor::ElementType,
    weights::{Memory, Weight, Weights},
};

/// Every tensor begins at a multiple of this.
const ALIGN: usize = 64;

/// Bytes whose beginning is aligned.
struct Aligned {
    buffer: Vec<u8>,
    begin: usize,
}

impl Aligned {
    /// `bytes` zeros, aligned.
    fn new(bytes: usize) -> Self {
        let buffer = vec![0; bytes.saturating_add(ALIGN)];
        let begin = buffer.as_ptr().align_offset(ALIGN).min(ALIGN);
        Self { buffer, begin }
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        let begin = self.begin.saturating_add(at);
        if let Some(target) = self.buffer.get_mut(begin..begin.saturating_add(bytes.len())) {
            target.copy_from_slice(bytes);
        }
    }
}

impl AsRef<[u8]> for Aligned {
    fn as_ref(&self) -> &[u8] {
        self.buffer.get(self.begin..).unwrap_or_default()
    }
}

impl Weights {
    /// Reads a safetensors file whose names are canonical.
    ///
    /// # Errors
    /// When the file cannot be read, is no safetensors file, or has a type that no model uses.
    pub fn open(path: &Path) -> Result<Self, EngineError> {
        let bytes = fs::read(path).map_err(|source| EngineError::File { path: path.to_owned(), source })?;
        let content = |reason: String| EngineError::Content { path: path.to_owned(), reason };
        let file = SafeTensors::deserialize(&bytes).map_err(|error| content(error.to_string()))?;
        let mut placed = Vec::new();
        let mut end = 0_usize;
        for (name, view) in file.iter() {
            let dtype = ElementType::parse(&view.dtype().to_string())
                .ok_or_else(|| content(format!("`{name}` is stored as {}", view.dtype())))?;
            placed.push((name.to_owned(), dtype, view.shape().to_vec(), end, view.data()));
            end = end.saturating_add(view.data().len()).next_multiple_of(ALIGN);
        }
        let mut memory = Aligned::new(end);
        for (_, _, _, begin, data) in &placed {
            memory.write(*begin, data);
        }
        gather(Arc::new(memory), placed)
    }
}

type Placed<'d> = (String, ElementType, Vec<usize>, usize, &'d [u8]);

fn gather(owner: Arc<Aligned>, placed: Vec<Placed<'_>>) -> Result<Weights, EngineError> {
    let mut weights = Weights::new();
    for (name, dtype, shape, begin, data) in placed {
        let memory = Memory::host(Arc::clone(&owner) as Arc<_>, begin..begin.saturating_add(data.len()));
        let memory = memory.ok_or_else(|| EngineError::WeightMemory {
            name: name.clone(),
            reason: "it ends beyond the buffer".to_owned(),
        })?;
        weights.insert(name, Weight { dtype, shape, memory })?;
    }
    Ok(weights)
}
