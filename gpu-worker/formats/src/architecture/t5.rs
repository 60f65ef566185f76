//! The tensors of a `T5EncoderModel`.

use super::{settings::Settings, table::Table};

/// Its table. The embedding has two names in the model and one here.
pub(super) fn table(settings: &Settings<'_>) -> Option<Table> {
    let width = settings.positive("d_model", 512)?;
    let heads = settings.positive("num_heads", 8)?;
    let attention = settings.positive("d_kv", 64)?.checked_mul(heads)?;
    let inner = settings.positive("d_ff", 2048)?;
    let layers = settings.number("num_layers", 6)?;
    if layers > 1024 {
        return None;
    }
    let is_gated = is_gated(settings)?;
    let mut table = Table::new("T5EncoderModel");
    table.weight("shared", &[settings.positive("vocab_size", 32_128)?, width]);
    for number in 0..layers {
        let path = format!("encoder.block.{number}");
        for part in ["q", "k", "v"] {
            table.weight(&format!("{path}.layer.0.SelfAttention.{part}"), &[attention, width]);
        }
        table.weight(&format!("{path}.layer.0.SelfAttention.o"), &[width, attention]);
        for layer in ["0", "1"] {
            table.weight(&format!("{path}.layer.{layer}.layer_norm"), &[width]);
        }
        let inputs: &[&str] = if is_gated { &["wi_0", "wi_1"] } else { &["wi"] };
        for part in inputs {
            table.weight(&format!("{path}.layer.1.DenseReluDense.{part}"), &[inner, width]);
        }
        table.weight(&format!("{path}.layer.1.DenseReluDense.wo"), &[width, inner]);
    }
    if layers > 0 {
        // the first layer's positions serve all of them
        let buckets = settings.positive("relative_attention_num_buckets", 32)?;
        table.weight("encoder.block.0.layer.0.SelfAttention.relative_attention_bias", &[buckets, heads]);
    }
    table.weight("encoder.final_layer_norm", &[width]);
    table.finish()
}

/// Whether the feed-forward layer has a gate.
fn is_gated(settings: &Settings<'_>) -> Option<bool> {
    match settings.text("feed_forward_proj") {
        Some(kind) => Some(kind.starts_with("gated-")),
        None if settings.get("feed_forward_proj").is_none() => Some(false),
        None => None,
    }
}
