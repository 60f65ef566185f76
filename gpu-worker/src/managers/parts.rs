//! What is known of a component beside its tensors. People are heard before files; a single file has no config, and the
//! engine infers it.

use std::{fs::File, io::Read};

use model_formats::{Base, Inspection};
use serde_json::Value;
use shared::db::models::ModelRow;

use crate::{
    error::WorkError,
    runner::{GraphFile, PartFacts},
};

/// Largest index of a pipeline that is read.
const INDEX_BYTES: u64 = 1 << 20;

/// The facts of a model's part of this kind.
pub fn facts(model: &ModelRow, inspection: &Inspection, kind: &str) -> PartFacts {
    PartFacts {
        slot: kind.to_owned(),
        kind: kind.to_owned(),
        base: base(model, inspection),
        config: config(model, inspection, kind).cloned(),
        graph: GraphFile::of(inspection, kind),
    }
}

/// The family as the operator says it, else as its files show it; none while it is unknown.
pub fn base(model: &ModelRow, inspection: &Inspection) -> Option<String> {
    let said = model.overrides.get("base").and_then(Value::as_str);
    let base = said.unwrap_or_else(|| inspection.base.as_str());
    (base != Base::Unknown.as_str()).then(|| base.to_owned())
}

/// A part's `config.json`: the operator's, else the folder's.
pub fn config<'a>(model: &'a ModelRow, inspection: &'a Inspection, kind: &str) -> Option<&'a Value> {
    let said = model.overrides.get("config").and_then(|configs| configs.get(kind));
    said.or_else(|| inspection.config(kind))
}

/// The prediction that the model was trained for, as the operator says it, else as its files show it, else as what lies beside them claims,
/// which a scan has read.
pub fn prediction(model: &ModelRow, inspection: &Inspection) -> Option<String> {
    let said = model.overrides.get("prediction").and_then(Value::as_str).map(str::to_owned);
    said.or_else(|| inspection.prediction.clone()).or_else(|| model.prediction.clone())
}

/// A pipeline's `model_index.json`; none for models without.
///
/// # Errors
/// [`WorkError::BadInput`] for one that is too large or no JSON; what the system answers.
pub fn index(inspection: &Inspection) -> Result<Option<Value>, WorkError> {
    let Some(file) = inspection.files.iter().find(|file| file.rel_path == "model_index.json") else { return Ok(None) };
    let shown = || format!("`{}`", file.path.display());
    let bad = |why: String| WorkError::BadInput { input: shown(), why };
    let system = |source| WorkError::System { what: format!("reading {}", shown()), source };
    let mut bytes = Vec::new();
    File::open(&file.path).map_err(system)?.take(INDEX_BYTES + 1).read_to_end(&mut bytes).map_err(system)?;
    if bytes.len() as u64 > INDEX_BYTES {
        return Err(bad(format!("it has more than {INDEX_BYTES} bytes")));
    }
    serde_json::from_slice(&bytes).map(Some).map_err(|error| bad(error.to_string()))
}
