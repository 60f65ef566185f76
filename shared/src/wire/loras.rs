//! What a LoRA would do to a base.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Result of a `lora_check` job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LoraCheckResult {
    /// The LoRA's name.
    pub lora: String,
    /// The base's name.
    pub base: String,
    /// The host that read them.
    pub host: String,
    /// It may be applied to this base.
    pub fits: bool,
    /// Why not.
    pub refusal: Option<String>,
    /// Digest of the LoRA's tensors.
    pub digest: String,
    /// Bytes of the LoRA's tensors.
    pub lora_bytes: u64,
    /// `ram` when it was there already, else `disk`.
    pub from: String,
    /// Modules that fit.
    pub matched: Vec<LoraFit>,
    /// Modules that the base does not have, by their names in the LoRA's file.
    pub unmatched: Vec<String>,
    /// Modules whose change has other dimensions than the base's weight.
    pub mismatched: Vec<LoraMismatch>,
    /// Modules of the touched components that it does not change.
    pub untouched: usize,
    /// Components that it touches.
    pub components: Vec<String>,
    /// Ranks with how many modules have them.
    pub ranks: BTreeMap<usize, usize>,
    /// Tensors of the file that belong to no module.
    pub others: Vec<String>,
    /// Bytes that the changed tensors take beside the base.
    pub estimated_bytes: u64,
    /// Seconds that applying it takes on that host, told from a piece of the work.
    pub estimated_seconds: f64,
}

/// A module of a LoRA that fits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LoraFit {
    /// Its name in the LoRA's file.
    pub stem: String,
    /// The component of the base.
    pub component: String,
    /// The module's canonical path; its weight is `<path>.weight`.
    pub path: String,
    /// Rank; 0 where the change has none.
    pub rank: usize,
    /// `lora`, `locon`, `loha`, `lokr`, `dora`, `full`, `bias`.
    pub flavour: String,
    /// Bytes of the base's tensors that it changes.
    pub bytes: u64,
}

/// A module of a LoRA that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LoraMismatch {
    /// Its name in the LoRA's file.
    pub stem: String,
    /// The base's tensor.
    pub tensor: String,
    /// Rows and columns of the change.
    pub found: [usize; 2],
    /// Dimensions of the base's tensor.
    pub expected: Vec<usize>,
}
