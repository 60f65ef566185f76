//! What of a file does not go into the converted model, in groups.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::inspection::TensorFacts;

/// Names that a group shows.
const EXAMPLES: usize = 5;
/// The series of the noise schedule that trainers of SD 1 and 2 store.
const SCHEDULE: [&str; 4] = ["betas", "alphas_cumprod", "posterior_", "log_one_minus_alphas_cumprod"];
/// Constants that are no weights.
const CONSTANTS: [&str; 4] = ["position_ids", "logit_scale", "attn_mask", "scaled_fp8"];
/// Losses, discriminators, optimizers.
const TRAINING: [&str; 6] = ["loss.", "optimizer", "lr_scheduler", "callbacks", "discriminator.", "global_step"];

/// Tensors of one kind that were left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// `average`, `schedule`, `constants`, `training`, `replaced`, `unused_layers`, `other`.
    pub what: &'static str,
    /// How many.
    pub tensors: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Some of their names.
    pub examples: Vec<String>,
}

/// Groups the tensors that are left out.
pub(super) fn grouped<'t>(left_out: impl Iterator<Item = &'t TensorFacts>) -> Vec<Dropped> {
    let mut groups: BTreeMap<&'static str, Dropped> = BTreeMap::new();
    for tensor in left_out {
        let what = what(&tensor.name);
        let none = Dropped { what, tensors: 0, bytes: 0, examples: Vec::new() };
        let group = groups.entry(what).or_insert(none);
        group.tensors = group.tensors.saturating_add(1);
        group.bytes = group.bytes.saturating_add(tensor.bytes());
        if group.examples.len() < EXAMPLES {
            group.examples.push(crate::text::storable(&tensor.name));
        }
    }
    groups.into_values().collect()
}

fn what(name: &str) -> &'static str {
    let last = name.rsplit('.').next().unwrap_or(name);
    if name.starts_with("model_ema.") {
        "average"
    } else if SCHEDULE.iter().any(|series| last.starts_with(series)) || last.starts_with("sqrt_") {
        "schedule"
    } else if CONSTANTS.contains(&last) || matches!(name, "v_pred" | "ztsnr") {
        "constants"
    } else if TRAINING.iter().any(|part| name.starts_with(part) || name.contains(&format!(".{part}"))) {
        "training"
    } else if name.starts_with("model.diffusion_model.") || name.starts_with("first_stage_model.") {
        // their places are taken by averages, or by another VAE
        "replaced"
    } else if name.contains(".resblocks.") || last == "text_projection" {
        "unused_layers"
    } else {
        "other"
    }
}
