//! The tensors of a `CLIPTextModel`, with or without projection.

use serde_json::Value;

use super::{
    settings::{Settings, list},
    table::Table,
};
use crate::vocab::ComponentKind;

const PLAIN: &str = "CLIPTextModel";
const PROJECTED: &str = "CLIPTextModelWithProjection";

/// Its table. Whether it projects is in `architectures`; where that is silent, second encoders do.
pub(super) fn table(kind: ComponentKind, settings: &Settings<'_>) -> Option<Table> {
    let is_clip = |model: &str| matches!(model, "clip_text_model" | "clip");
    if !settings.text("model_type").is_none_or(is_clip) {
        return None;
    }
    let is_projected = match settings.get("architectures") {
        None => kind == ComponentKind::TextEncoder2,
        Some(names) => projected(names)?,
    };
    // configs of whole CLIP models hold the text half's apart
    let text = settings.get("text_config").map_or(Some(*settings), Settings::new)?;
    let width = text.positive("hidden_size", 512)?;
    let inner = text.positive("intermediate_size", 2048)?;
    let mut table = Table::new(if is_projected { PROJECTED } else { PLAIN });
    let embeddings = "text_model.embeddings";
    table.weight(&format!("{embeddings}.token_embedding"), &[text.positive("vocab_size", 49_408)?, width]);
    table.weight(&format!("{embeddings}.position_embedding"), &[text.positive("max_position_embeddings", 77)?, width]);
    for number in 0..text.number("num_hidden_layers", 12)?.min(4096) {
        layer(&mut table, &format!("text_model.encoder.layers.{number}"), width, inner);
    }
    table.norm("text_model.final_layer_norm", width);
    if is_projected {
        table.weight("text_projection", &[text.positive("projection_dim", 512)?, width]);
    }
    table.finish()
}

fn projected(architectures: &Value) -> Option<bool> {
    match list(architectures)?.first()?.as_str()? {
        PROJECTED | "CLIPModel" => Some(true),
        PLAIN => Some(false),
        _ => None,
    }
}

fn layer(table: &mut Table, path: &str, width: u64, inner: u64) {
    for norm in ["layer_norm1", "layer_norm2"] {
        table.norm(&format!("{path}.{norm}"), width);
    }
    for part in ["q_proj", "k_proj", "v_proj", "out_proj"] {
        table.linear(&format!("{path}.self_attn.{part}"), width, width);
    }
    table.linear(&format!("{path}.mlp.fc1"), width, inner);
    table.linear(&format!("{path}.mlp.fc2"), inner, width);
}
