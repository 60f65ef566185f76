//! Tensors that come with a run and leave it: safetensors files as payloads.

use std::collections::BTreeMap;

use engine::{Cancel, EngineError, Tensor, TensorData, latents_io};

use super::Bench;
use crate::runner::{Blob, TENSORS, engine_thread::RunFailure};

/// The media type of the files.
const MEDIA_TYPE: &str = "application/vnd.safetensors";

/// The tensors that a run was given.
pub(super) struct Tensors(BTreeMap<String, Tensor>);

impl Tensors {
    /// Reads the run's payload of tensors.
    pub(super) fn read(bench: &Bench<'_>) -> Result<Self, RunFailure> {
        Self::of(bench.input(TENSORS)?, &bench.order.cancel)
    }

    /// Reads a file; floats of any length become 32-bit floats. A cancel is heeded between two tensors.
    pub(super) fn of(bytes: &[u8], cancel: &Cancel) -> Result<Self, RunFailure> {
        let as_floats = |(name, tensor): (String, Tensor)| {
            cancel.check()?;
            match tensor.to_f32() {
                Some(values) => Ok((name, Tensor::f32(&tensor.shape, values)?)),
                None => Ok((name, tensor)),
            }
        };
        Ok(Self(latents_io::read(bytes)?.into_iter().map(as_floats).collect::<Result<_, EngineError>>()?))
    }

    /// The tensor of this name, if it was given.
    pub(super) fn find(&self, name: &str) -> Option<&Tensor> {
        self.0.get(name)
    }

    /// The tensor of this name.
    pub(super) fn get(&self, name: &str) -> Result<&Tensor, RunFailure> {
        self.find(name).ok_or_else(|| {
            let there = self.0.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            let error = EngineError::Input {
                name: name.to_owned(),
                found: format!("only {there}"),
                expected: "a tensor of this name".to_owned(),
            };
            error.into()
        })
    }

    /// The one number that this tensor holds.
    pub(super) fn number(&self, name: &str) -> Result<f32, RunFailure> {
        let tensor = self.get(name)?;
        #[expect(clippy::cast_precision_loss, reason = "timesteps are small")]
        match &tensor.data {
            TensorData::F32(values) if values.len() == 1 => Ok(values.first().copied().unwrap_or_default()),
            TensorData::I64(values) if values.len() == 1 => Ok(values.first().copied().unwrap_or_default() as f32),
            TensorData::I32(values) if values.len() == 1 => Ok(values.first().copied().unwrap_or_default() as f32),
            _ => {
                let found = format!("{} {:?}", tensor.data.element(), tensor.shape);
                Err(EngineError::Input { name: name.to_owned(), found, expected: "one number".to_owned() }.into())
            }
        }
    }
}

/// A file of tensors, to be left.
pub(super) fn file(name: &str, tensors: &[(&str, &Tensor)]) -> Result<Blob, RunFailure> {
    let bytes = latents_io::write(tensors, None)?;
    Ok(Blob { name: name.to_owned(), media_type: MEDIA_TYPE.to_owned(), bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancel_ends_the_reading_of_tensors() {
        let (one, cancel) = (Tensor::f32(&[2], vec![1.0, 2.0]).unwrap(), Cancel::new());
        let bytes = latents_io::write(&[("latents", &one), ("noise", &one)], None).unwrap();
        assert_eq!(Tensors::of(&bytes, &cancel).unwrap_or_else(|_| panic!("it is a file")).0.len(), 2);
        cancel.cancel();
        assert!(matches!(Tensors::of(&bytes, &cancel), Err(RunFailure::Cancelled)));
    }
}
