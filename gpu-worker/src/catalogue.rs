//! From files to catalogue rows: what a scan records, and whether files are still as it saw them.

mod handover;
mod recorder;
mod survey;

use std::path::Path;

use model_formats::{ComponentSummary, Correction, FORM_VERSION, FileFacts, Inspection, Listing};
use shared::db::models::{FileIdentity, FoundComponent, FoundModel, ReadAs};

use crate::error::WorkError;
pub use handover::Handover;
pub use recorder::{Recorder, make_texts, misses_any, survey_and_record};
pub use survey::{Before, ScannedRoot, Seen, survey};

/// The canonical form of this build, as the catalogue keeps it.
pub const CANONICAL_FORM: i32 = FORM_VERSION.cast_signed();

/// The rows of one listed file or folder.
pub fn found(rel_path: &str, inspection: Listing, read_as: ReadAs) -> FoundModel {
    let (model_type, base) = inspection.detected();
    FoundModel {
        rel_path: rel_path.to_owned(),
        name: inspection.name,
        model_type: model_type.as_str().to_owned(),
        base: base.as_str().to_owned(),
        format: inspection.format.as_str().to_owned(),
        variant: inspection.variant,
        prediction: inspection.prediction,
        size_bytes: signed(inspection.size_bytes),
        is_unreadable: false,
        reason: inspection.reason,
        evidence: serde_json::to_value(&inspection.evidence).unwrap_or_default(),
        metadata: serde_json::Value::Object(inspection.metadata),
        files: inspection.files.iter().map(identity).collect(),
        read_as,
        canonical_form: CANONICAL_FORM,
        components: inspection.components.iter().map(component).collect(),
        stamp: None,
    }
}

/// A row for something that could not be inspected at all: listed with its reason, never left out.
pub fn unreadable(rel_path: &str, path: &Path, reason: String, read_as: ReadAs) -> FoundModel {
    let name = path.file_stem().map_or_else(|| rel_path.to_owned(), |stem| stem.to_string_lossy().into_owned());
    FoundModel {
        rel_path: rel_path.to_owned(),
        name,
        model_type: "unknown".to_owned(),
        base: "unknown".to_owned(),
        format: "unknown".to_owned(),
        variant: None,
        prediction: None,
        size_bytes: std::fs::metadata(path).map_or(0, |meta| signed(meta.len())),
        is_unreadable: true,
        reason: Some(reason),
        evidence: serde_json::json!([]),
        metadata: serde_json::json!({}),
        files: Vec::new(),
        read_as,
        canonical_form: CANONICAL_FORM,
        components: Vec::new(),
        stamp: None,
    }
}

/// A recorded correction, for the readers.
pub fn correction(read_as: &ReadAs) -> Correction {
    Correction::named(read_as.model_type.as_deref(), read_as.base.as_deref(), read_as.variant.as_deref())
}

/// A file as the catalogue stores it.
pub fn identity(file: &FileFacts) -> FileIdentity {
    FileIdentity {
        rel_path: file.rel_path.clone(),
        size_bytes: file.size,
        mtime_ns: file.mtime_ns,
        inode: file.inode,
        dev: file.dev,
    }
}

fn component(component: &ComponentSummary) -> FoundComponent {
    FoundComponent {
        kind: component.kind.as_str().to_owned(),
        bytes: signed(component.bytes),
        param_count: signed(component.param_count),
        tensor_count: i32::try_from(component.tensors).unwrap_or(i32::MAX),
        dtype: component.dtype.clone(),
    }
}

/// Compares the files as they are with the files as the scan saw them.
///
/// # Errors
/// [`WorkError::Changed`] with the first difference.
pub fn check_unchanged(seen: &[FileIdentity], inspection: &Inspection) -> Result<(), WorkError> {
    for file in &inspection.files {
        let now = identity(file);
        let before = seen.iter().find(|seen| seen.rel_path == now.rel_path);
        let what = match before {
            None => "it was not there".to_owned(),
            Some(before) if before.size_bytes != now.size_bytes => {
                format!("its size was {} bytes and is {}", before.size_bytes, now.size_bytes)
            }
            Some(before) if (before.inode, before.dev) != (now.inode, now.dev) => {
                "it was replaced by another file".to_owned()
            }
            Some(before) if before.mtime_ns != now.mtime_ns => "it was written to".to_owned(),
            Some(_) => continue,
        };
        return Err(WorkError::Changed { path: file.path.display().to_string(), what });
    }
    Ok(())
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
