//! The tensors of a model that belong to no component: averages, leftovers of training, what no rule knows.

use std::{collections::BTreeSet, path::Path};

use crate::{
    diffusers::index,
    error::{ErrorKind, FormatError},
    inspect::extension,
    inspection::{FileFacts, Inspection, TensorFacts},
};

/// Those of the model's file number `index`. Only weight files have any: graphs keep what they do not name.
///
/// # Errors
/// [`FormatError`] when the file cannot be read now or is no longer the one that was inspected.
pub(super) fn tensors(inspection: &Inspection, index: usize) -> Result<Vec<TensorFacts>, FormatError> {
    let Some(file) = inspection.files.get(index).filter(|file| is_weights(&file.path)) else { return Ok(Vec::new()) };
    let all = read(file)?;
    let parts = inspection.components.iter().flat_map(|part| &part.tensors).filter(|tensor| tensor.file == index);
    let known: BTreeSet<(&str, u64)> = parts.map(|tensor| (tensor.name.as_str(), tensor.begin)).collect();
    let outside = all.into_iter().filter(|tensor| !known.contains(&(tensor.name.as_str(), tensor.begin)));
    Ok(outside.map(|tensor| TensorFacts { file: index, ..tensor }).collect())
}

fn is_weights(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let is_known = matches!(extension(path).as_str(), "safetensors" | "sft" | "ckpt" | "pt" | "pth" | "bin");
    is_known && index::parse_name(&name).is_none()
}

fn read(file: &FileFacts) -> Result<Vec<TensorFacts>, FormatError> {
    let changed = || FormatError::Changed { path: file.path.clone() };
    match index::any(&file.path, &file.rel_path) {
        Ok(set) if set.files.first().is_some_and(|now| (now.size, now.mtime_ns) == (file.size, file.mtime_ns)) => {
            Ok(set.tensors)
        }
        Ok(_) => Err(changed()),
        Err(error) if matches!(error.kind(), ErrorKind::Missing | ErrorKind::Unreadable) => Err(error),
        // what the inspection could not read either is a finding of the structure
        Err(_) if !inspected(file) => Err(changed()),
        Err(_) => Ok(Vec::new()),
    }
}

/// Whether the file is still the one that was inspected.
fn inspected(file: &FileFacts) -> bool {
    crate::probe::stat(&file.path, "").is_ok_and(|now| (now.size, now.mtime_ns) == (file.size, file.mtime_ns))
}
