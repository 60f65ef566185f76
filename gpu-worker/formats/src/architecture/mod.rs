//! Which tensors an architecture has: from its config, or from the release's where the family is known.
//!
//! A table is only made when every setting that shapes it is understood; a model whose widths or depths are not
//! those of a known release has a table when its config is given, and none otherwise.

mod autoencoder;
mod clip;
mod compare;
mod control;
mod distance;
mod family;
mod flux;
mod ip_adapter;
mod mmdit;
mod settings;
mod t2i;
mod t5;
mod table;
mod tiny;
mod unet;
mod unet_settings;

pub use compare::{Difference, compare};
use serde_json::Value;
pub use table::Table;

use crate::{
    canonical::Canonical,
    vocab::{Base, ComponentKind},
};
use settings::Settings;

/// The tensors that the component should have, from its `config` (a `config.json` of diffusers or transformers)
/// or, without one, from the release of its family that `tensors` belong to.
///
/// None where neither is known: no config and no known release, a config with settings that are not
/// understood, or a kind that has no tables (LoRAs, embeddings, image encoders, upscalers).
#[must_use]
pub fn expected(kind: ComponentKind, base: Base, config: Option<&Value>, tensors: &Canonical) -> Option<Table> {
    match config {
        // their files come without any, whatever lies beside them
        _ if kind == ComponentKind::IpAdapter => ip_adapter::table(base, tensors),
        Some(config) => from_config(kind, config, tensors),
        None => from_config(kind, &family::config(kind, base, tensors)?, tensors),
    }
}

fn from_config(kind: ComponentKind, config: &Value, tensors: &Canonical) -> Option<Table> {
    let settings = Settings::new(config)?;
    match (kind, settings.class()) {
        (ComponentKind::Unet, None | Some("UNet2DConditionModel")) => unet::table(&unet_settings::read(&settings)?),
        (ComponentKind::Vae, Some("AutoencoderTiny")) => tiny::table(&settings, tensors),
        (ComponentKind::Vae, None) if family::is_tiny(tensors) => tiny::table(&settings, tensors),
        (ComponentKind::Vae, None | Some("AutoencoderKL")) => autoencoder::table(&settings),
        (ComponentKind::Transformer, Some("SD3Transformer2DModel")) => mmdit::table(&settings),
        (ComponentKind::Transformer, Some("FluxTransformer2DModel")) => flux::table(&settings),
        (ComponentKind::ControlNet, None | Some("ControlNetModel")) => control::table(&settings),
        (ComponentKind::T2iAdapter, None | Some("T2IAdapter")) => t2i::table(&settings),
        (
            ComponentKind::TextEncoder | ComponentKind::TextEncoder2 | ComponentKind::TextEncoder3,
            None | Some("T5EncoderModel"),
        ) if is_t5(&settings) => t5::table(&settings),
        (ComponentKind::TextEncoder | ComponentKind::TextEncoder2, None) => clip::table(kind, &settings),
        _ => None,
    }
}

fn is_t5(settings: &Settings<'_>) -> bool {
    matches!(settings.text("model_type"), Some("t5" | "mt5"))
}

#[cfg(test)]
mod tests;
