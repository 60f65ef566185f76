//! The tensors of an `SD3Transformer2DModel`.

use super::{settings::Settings, table::Table};

/// Its table.
pub(super) fn table(settings: &Settings<'_>) -> Option<Table> {
    let head = settings.positive("attention_head_dim", 64)?;
    let width = head.checked_mul(settings.positive("num_attention_heads", 18)?)?;
    let (patch, inputs) = (settings.positive("patch_size", 2)?, settings.positive("in_channels", 16)?);
    let outputs = settings.positive("out_channels", inputs)?;
    let caption = settings.positive("caption_projection_dim", 1152)?;
    let blocks = settings.positive("num_layers", 18)?;
    let norms = match settings.get("qk_norm") {
        None => None,
        Some(kind) if kind == "rms_norm" => Some(head),
        Some(_) => return None,
    };
    let dual = settings
        .get("dual_attention_layers")
        .map_or(Some(Vec::new()), |value| value.as_array()?.iter().map(super::settings::number).collect())?;
    if caption != width || blocks > 1024 {
        return None;
    }
    let mut table = Table::new("SD3Transformer2DModel");
    let side = settings.positive("pos_embed_max_size", 96)?;
    table.put("pos_embed.pos_embed", &[1, side.checked_mul(side)?, width]);
    table.conv("pos_embed.proj", inputs, width, patch);
    let text = settings.positive("pooled_projection_dim", 2048)?;
    for (name, inputs) in [("timestep", 256), ("text", text)] {
        table.linear(&format!("time_text_embed.{name}_embedder.linear_1"), inputs, width);
        table.linear(&format!("time_text_embed.{name}_embedder.linear_2"), width, width);
    }
    table.linear("context_embedder", settings.positive("joint_attention_dim", 4096)?, caption);
    for number in 0..blocks {
        let block = Block { width, norms, is_dual: dual.contains(&number), is_last: number.checked_add(1)? == blocks };
        block.put(&mut table, &format!("transformer_blocks.{number}"));
    }
    table.linear("norm_out.linear", width, width.checked_mul(2)?);
    table.linear("proj_out", width, patch.checked_mul(patch)?.checked_mul(outputs)?);
    table.finish()
}

/// One joint block.
struct Block {
    width: u64,
    /// Width of the norms of queries and keys.
    norms: Option<u64>,
    is_dual: bool,
    /// The last block gives no text.
    is_last: bool,
}

impl Block {
    fn put(&self, table: &mut Table, path: &str) {
        let width = self.width;
        let chunks = |count: u64| width.saturating_mul(count);
        table.linear(&format!("{path}.norm1.linear"), width, chunks(if self.is_dual { 9 } else { 6 }));
        table.linear(&format!("{path}.norm1_context.linear"), width, chunks(if self.is_last { 2 } else { 6 }));
        self.attention(
            table,
            &format!("{path}.attn"),
            &["to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj"],
        );
        if !self.is_last {
            table.linear(&format!("{path}.attn.to_add_out"), width, width);
            feed_forward(table, &format!("{path}.ff_context"), width);
        }
        if self.is_dual {
            self.attention(table, &format!("{path}.attn2"), &["to_q", "to_k", "to_v"]);
        }
        feed_forward(table, &format!("{path}.ff"), width);
    }

    fn attention(&self, table: &mut Table, path: &str, parts: &[&str]) {
        for part in parts.iter().chain(&["to_out.0"]) {
            table.linear(&format!("{path}.{part}"), self.width, self.width);
        }
        let names: &[&str] =
            if parts.len() > 3 { &["norm_q", "norm_k", "norm_added_q", "norm_added_k"] } else { &["norm_q", "norm_k"] };
        for (norm, width) in names.iter().zip(self.norms.iter().cycle()) {
            table.weight(&format!("{path}.{norm}"), &[*width]);
        }
    }
}

/// Two layers, four times as wide between them.
pub(super) fn feed_forward(table: &mut Table, path: &str, width: u64) {
    let inner = width.saturating_mul(4);
    table.linear(&format!("{path}.net.0.proj"), width, inner);
    table.linear(&format!("{path}.net.2"), inner, width);
}
