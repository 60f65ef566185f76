//! What is known of a component beside its tensors. People are heard before files; a single file has no config, and the
//! engine infers it.

use model_formats::{Base, Inspection};
use serde_json::Value;
use shared::db::models::ModelRow;

use crate::runner::PartFacts;

/// The facts of a model's part of this kind.
pub fn facts(model: &ModelRow, inspection: &Inspection, kind: &str) -> PartFacts {
    PartFacts {
        slot: kind.to_owned(),
        kind: kind.to_owned(),
        base: base(model, inspection),
        config: config(model, inspection, kind).cloned(),
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
    said.or_else(|| of_files(inspection, kind))
}

/// A folder of one component has one config, under the model's type.
fn of_files<'a>(inspection: &'a Inspection, kind: &str) -> Option<&'a Value> {
    let configs = inspection.metadata.get("configs")?.as_object()?;
    let alone = || configs.values().next().filter(|_| configs.len() == 1 && inspection.components.len() == 1);
    configs.get(kind).or_else(alone)
}

/// The prediction that the model was trained for, as the operator says it, else as its files show it.
pub fn prediction(model: &ModelRow, inspection: &Inspection) -> Option<String> {
    let said = model.overrides.get("prediction").and_then(Value::as_str).map(str::to_owned);
    said.or_else(|| inspection.prediction.clone())
}
