//! The tensors of a `FluxTransformer2DModel`.

use super::{mmdit::feed_forward, settings::Settings, table::Table};

/// Its table.
pub(super) fn table(settings: &Settings<'_>) -> Option<Table> {
    let head = settings.positive("attention_head_dim", 128)?;
    let width = head.checked_mul(settings.positive("num_attention_heads", 24)?)?;
    let inputs = settings.positive("in_channels", 64)?;
    let (double, single) = (settings.number("num_layers", 19)?, settings.number("num_single_layers", 38)?);
    let patch = settings.positive("patch_size", 1)?;
    if double > 1024 || single > 1024 {
        return None;
    }
    let mut table = Table::new("FluxTransformer2DModel");
    table.linear("x_embedder", inputs, width);
    table.linear("context_embedder", settings.positive("joint_attention_dim", 4096)?, width);
    let text = settings.positive("pooled_projection_dim", 768)?;
    let guidance = settings.flag("guidance_embeds", false)?.then_some(("guidance", 256));
    for (name, inputs) in [("timestep", 256), ("text", text)].into_iter().chain(guidance) {
        table.linear(&format!("time_text_embed.{name}_embedder.linear_1"), inputs, width);
        table.linear(&format!("time_text_embed.{name}_embedder.linear_2"), width, width);
    }
    (0..double).for_each(|number| double_block(&mut table, &format!("transformer_blocks.{number}"), width, head));
    (0..single)
        .for_each(|number| single_block(&mut table, &format!("single_transformer_blocks.{number}"), width, head));
    table.linear("norm_out.linear", width, width.checked_mul(2)?);
    let outputs = settings.positive("out_channels", inputs)?;
    table.linear("proj_out", width, patch.checked_mul(patch)?.checked_mul(outputs)?);
    table.finish()
}

fn double_block(table: &mut Table, path: &str, width: u64, head: u64) {
    for norm in ["norm1", "norm1_context"] {
        table.linear(&format!("{path}.{norm}.linear"), width, width.saturating_mul(6));
    }
    for part in ["to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "to_out.0", "to_add_out"] {
        table.linear(&format!("{path}.attn.{part}"), width, width);
    }
    for norm in ["norm_q", "norm_k", "norm_added_q", "norm_added_k"] {
        table.weight(&format!("{path}.attn.{norm}"), &[head]);
    }
    feed_forward(table, &format!("{path}.ff"), width);
    feed_forward(table, &format!("{path}.ff_context"), width);
}

fn single_block(table: &mut Table, path: &str, width: u64, head: u64) {
    let inner = width.saturating_mul(4);
    table.linear(&format!("{path}.norm.linear"), width, width.saturating_mul(3));
    for part in ["to_q", "to_k", "to_v"] {
        table.linear(&format!("{path}.attn.{part}"), width, width);
    }
    for norm in ["norm_q", "norm_k"] {
        table.weight(&format!("{path}.attn.{norm}"), &[head]);
    }
    table.linear(&format!("{path}.proj_mlp"), width, inner);
    table.linear(&format!("{path}.proj_out"), width.saturating_add(inner), width);
}
