//! Sharded weights: what their index says about sizes beside what is there.

use std::{collections::BTreeSet, path::Path};

use super::{Finding, Severity};
use crate::{
    diffusers::index,
    inspection::{FileFacts, Inspection},
};

/// Looks at every index of the model whose shards could be read.
pub(super) fn check(inspection: &Inspection) -> Vec<Finding> {
    inspection.files.iter().filter(|file| is_index(&file.path)).filter_map(of_index).collect()
}

fn is_index(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| index::parse_name(name).is_some())
}

/// A size that is wrong harms nobody who reads the headers; it tells that the index belongs to other shards.
fn of_index(file: &FileFacts) -> Option<Finding> {
    let total = index::total_size(&index::document(&file.path, &file.rel_path).ok()?)?;
    let set = index::read(&file.path, &file.rel_path, "").ok()?;
    let mut seen = BTreeSet::new();
    // tied tensors of a pickle are one range of bytes and counted once
    let found = set
        .tensors
        .iter()
        .filter(|tensor| seen.insert((tensor.file, tensor.begin, tensor.end)))
        .fold(0_u64, |sum, tensor| sum.saturating_add(tensor.bytes()));
    let name = file.path.file_name().unwrap_or_default().to_string_lossy();
    (found != total).then(|| {
        let message = format!("`{name}` says that its tensors have {total} bytes, the shards hold {found}");
        Finding::new(Severity::Warning, "index_size_mismatch", message).but(total, found)
    })
}
