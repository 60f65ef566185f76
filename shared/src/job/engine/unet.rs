//! Arguments of `unet_step`.

use serde::{Deserialize, Serialize};

use super::{
    assembly::{LoraUse, check_loras, name_loras},
    faults::{Fault, Faults},
    input::Input,
};
use crate::ids::ModelId;

/// Bounds of a guidance scale.
pub(super) const GUIDANCE: std::ops::RangeInclusive<f64> = 0.0..=100.0;

/// Arguments of `unet_step`: one prediction of a UNet. Leaves `prediction.safetensors`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UnetStepArgs<M = ModelId> {
    /// The model whose UNet predicts; left out where `pipeline` is given.
    #[schema(required = false)]
    pub model: M,
    /// A safetensors file with `sample`, `timestep` and `encoder_hidden_states`, for SDXL also `text_embeds` and `time_ids`.
    pub inputs: Input,
    /// The inputs are pairs, first without and then with the prompt, which this scale combines; one prediction for each
    /// sample when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guidance_scale: Option<f64>,
    /// A stack of LoRAs that the model is changed by for this; their order makes no difference.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub loras: Vec<LoraUse<M>>,
    /// Name of the pipeline that said which models; in a request in their place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<String>,
}

impl<M> UnetStepArgs<M> {
    /// What is wrong with them.
    pub(super) fn faults(&self) -> Vec<Fault> {
        let mut faults = Faults::default();
        self.inputs.check("/inputs", &mut faults);
        if let Some(scale) = self.guidance_scale {
            faults.range("/guidance_scale", scale, &GUIDANCE);
        }
        check_loras(&self.loras, "/loras", &mut faults);
        faults.end()
    }

    pub(super) fn try_with_models<N, E>(self, name: &mut impl FnMut(M) -> Result<N, E>) -> Result<UnetStepArgs<N>, E> {
        let Self { model, inputs, guidance_scale, loras, pipeline } = self;
        let (model, loras) = (name(model)?, name_loras(loras, name)?);
        Ok(UnetStepArgs { model, inputs, guidance_scale, loras, pipeline })
    }
}
