//! Weights in files beside the model: only plain names in the same folder, and ranges inside the file.

use std::path::Path;

use super::tensor::{Initializer, Place};
use crate::{
    diffusers::index::is_plain_name,
    error::{FormatError, TensorProblem},
    inspection::{FileFacts, TensorFacts},
    probe::stat,
};

/// The files of a model and the weights that are ranges of them.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) files: Vec<FileFacts>,
    pub(super) tensors: Vec<TensorFacts>,
    /// Weights that are no range of bytes (listed numbers, types that are not loaded).
    pub(super) without_range: usize,
}

/// Resolves every weight. `below` precedes file names in relative paths.
pub(super) fn place(model: FileFacts, below: &str, weights: &[Initializer]) -> Result<Placed, FormatError> {
    let path = model.path.clone();
    let mut placed = Placed { files: vec![model], tensors: Vec::new(), without_range: 0 };
    for weight in weights {
        let refuse = |problem| FormatError::Tensor { path: path.clone(), tensor: weight.name.clone(), problem };
        let Some(dtype) = weight.dtype else {
            placed.without_range = placed.without_range.saturating_add(1);
            continue;
        };
        let expected = weight.bytes(dtype).map_err(refuse)?;
        let (file, begin, found) = match &weight.place {
            Place::Listed => {
                placed.without_range = placed.without_range.saturating_add(1);
                continue;
            }
            Place::Inline { begin, end } => (0, *begin, end.saturating_sub(*begin)),
            Place::External { location, offset, length } => {
                (file(&mut placed.files, &path, below, location)?, *offset, length.unwrap_or(expected))
            }
        };
        if found != expected {
            return Err(refuse(TensorProblem::SizeMismatch { expected, found }));
        }
        let available = placed.files.get(file).map_or(0, |facts| facts.size);
        let end = begin.checked_add(expected).ok_or_else(|| refuse(TensorProblem::Overflow))?;
        if end > available {
            return Err(refuse(TensorProblem::BeyondFile { end, available }));
        }
        placed.tensors.push(TensorFacts {
            name: weight.name.clone(),
            dtype,
            shape: weight.shape.clone(),
            file,
            begin,
            end,
            strides: None,
        });
    }
    Ok(placed)
}

/// The index of the named file, which is looked at once.
fn file(files: &mut Vec<FileFacts>, model: &Path, below: &str, location: &str) -> Result<usize, FormatError> {
    let refused = || FormatError::UnsafeName { path: model.to_owned(), name: location.to_owned() };
    let name = location.strip_prefix("./").unwrap_or(location);
    if !is_plain_name(name) {
        return Err(refused());
    }
    let rel_path = format!("{below}{name}");
    // the model's own file is at 0, whatever it is called
    if let Some(known) = files.iter().skip(1).position(|file| file.rel_path == rel_path) {
        return Ok(known.saturating_add(1));
    }
    let path = model.with_file_name(name);
    if !stays(model, &path) {
        return Err(refused());
    }
    files.push(stat(&path, &rel_path)?);
    Ok(files.len().saturating_sub(1))
}

/// Whether the file is no link, or one that leads where the model itself is (a download cache links both).
fn stays(model: &Path, path: &Path) -> bool {
    let is_link = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_symlink());
    if !is_link {
        return true;
    }
    match (model.canonicalize(), path.canonicalize()) {
        (Ok(model), Ok(target)) => model.parent() == target.parent(),
        _ => false,
    }
}
