//! Models as the arrays that statements take, one for each column that a scan writes.

use super::written::Written;

/// The columns of models that a scan writes, one array each.
pub(super) struct Columns<'a> {
    pub(super) types: Vec<&'a str>,
    pub(super) bases: Vec<&'a str>,
    pub(super) formats: Vec<&'a str>,
    pub(super) variants: Vec<Option<&'a str>>,
    pub(super) predictions: Vec<Option<&'a str>>,
    pub(super) sizes: Vec<i64>,
    pub(super) reasons: Vec<Option<&'a str>>,
    pub(super) evidence: Vec<&'a str>,
    pub(super) metadata: Vec<&'a str>,
    pub(super) read_as: Vec<&'a str>,
    pub(super) canonical_forms: Vec<i32>,
}

impl<'a> Columns<'a> {
    pub(super) fn of(models: &[&'a Written<'a>]) -> Self {
        let text = |column: fn(&'a Written<'a>) -> &'a str| models.iter().map(|model| column(model)).collect();
        let option =
            |column: fn(&'a Written<'a>) -> Option<&'a str>| models.iter().map(|model| column(model)).collect();
        Self {
            types: text(|model| &model.found.model_type),
            bases: text(|model| &model.found.base),
            formats: text(|model| &model.found.format),
            variants: option(|model| model.found.variant.as_deref()),
            predictions: option(|model| model.found.prediction.as_deref()),
            sizes: models.iter().map(|model| model.found.size_bytes).collect(),
            reasons: option(|model| model.found.reason.as_deref()),
            evidence: text(|model| &model.texts.evidence),
            metadata: text(|model| &model.texts.metadata),
            read_as: text(|model| &model.texts.read_as),
            canonical_forms: models.iter().map(|model| model.found.canonical_form).collect(),
        }
    }
}
