//! Arguments of `lora_check`.

use serde::{Deserialize, Serialize};

use crate::ids::ModelId;

/// Arguments of `lora_check`: what a LoRA would do to a base. Nothing is applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoraCheckArgs<M = ModelId> {
    /// The LoRA.
    pub lora: M,
    /// The model that it would be applied to.
    pub base: M,
}

impl<M> LoraCheckArgs<M> {
    pub(super) fn try_with_models<N, E>(self, name: &mut impl FnMut(M) -> Result<N, E>) -> Result<LoraCheckArgs<N>, E> {
        let Self { lora, base } = self;
        Ok(LoraCheckArgs { lora: name(lora)?, base: name(base)? })
    }
}
