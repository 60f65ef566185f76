//! What a diffusers folder's configs say: the prediction, the picture size, the release it came from.

use serde_json::{Map, Value};

use super::extracted::Gathering;
use crate::detect::prediction_from_scheduler;

/// Reads the configs by component name.
pub(super) fn read(found: &mut Gathering, configs: &Map<String, Value>) {
    if let Some(told) = configs.get("scheduler").and_then(prediction_from_scheduler) {
        found.claim_prediction("scheduler_config", Some(&told));
    }
    let denoiser = configs.get("unet").or_else(|| configs.get("transformer"));
    // the size is in latent cells, eight picture pixels wide
    let cells = denoiser.and_then(|config| config.get("sample_size")).and_then(Value::as_u64);
    if let Some(pixels) = cells.and_then(|cells| cells.checked_mul(8)).filter(|pixels| *pixels > 0) {
        found.text("resolution", |out| &mut out.resolution, "config", Some(&format!("{pixels}x{pixels}")));
    }
    let origin = denoiser.and_then(|config| config.get("_name_or_path")).and_then(Value::as_str);
    found.text("merged_from", |out| &mut out.merged_from, "config", origin.filter(|origin| !origin.starts_with('/')));
}
