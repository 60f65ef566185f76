//! The tensors of an `AutoencoderKL`.

use super::{settings::Settings, table::Table};

/// Its table.
pub(super) fn table(settings: &Settings<'_>) -> Option<Table> {
    let channels = settings.numbers("block_out_channels", &[64])?;
    let all = |key: &str, only: &str| match settings.get(key) {
        None => channels.len() == 1,
        Some(_) => settings
            .texts(key)
            .is_some_and(|kinds| kinds.len() == channels.len() && kinds.iter().all(|kind| *kind == only)),
    };
    let is_known = all("down_block_types", "DownEncoderBlock2D") && all("up_block_types", "UpDecoderBlock2D");
    let has_attention = settings.flag("mid_block_add_attention", true)?;
    let layers = settings.positive("layers_per_block", 1)?;
    let latent = settings.positive("latent_channels", 4)?;
    let moments = latent.checked_mul(2)?;
    if !is_known {
        return None;
    }
    let mut table = Table::new("AutoencoderKL");
    encoder(&mut table, &channels, layers, settings.positive("in_channels", 3)?, moments, has_attention)?;
    decoder(&mut table, &channels, layers, latent, settings.positive("out_channels", 3)?, has_attention)?;
    if settings.flag("use_quant_conv", true)? {
        table.conv("quant_conv", moments, moments, 1);
    }
    if settings.flag("use_post_quant_conv", true)? {
        table.conv("post_quant_conv", latent, latent, 1);
    }
    table.finish()
}

fn encoder(table: &mut Table, channels: &[u64], layers: u64, inputs: u64, moments: u64, attention: bool) -> Option<()> {
    let (first, last) = (*channels.first()?, *channels.last()?);
    table.conv("encoder.conv_in", inputs, first, 3);
    levels(table, "encoder.down_blocks", "downsamplers", channels.iter().copied(), layers, first);
    middle(table, "encoder.mid_block", last, attention);
    table.norm("encoder.conv_norm_out", last);
    table.conv("encoder.conv_out", last, moments, 3);
    Some(())
}

fn decoder(table: &mut Table, channels: &[u64], layers: u64, latent: u64, outputs: u64, attention: bool) -> Option<()> {
    let (first, last) = (*channels.first()?, *channels.last()?);
    table.conv("decoder.conv_in", latent, last, 3);
    middle(table, "decoder.mid_block", last, attention);
    let more = layers.checked_add(1)?;
    levels(table, "decoder.up_blocks", "upsamplers", channels.iter().rev().copied(), more, last);
    table.norm("decoder.conv_norm_out", first);
    table.conv("decoder.conv_out", first, outputs, 3);
    Some(())
}

fn levels(
    table: &mut Table,
    path: &str,
    sampler: &str,
    channels: impl ExactSizeIterator<Item = u64>,
    layers: u64,
    mut current: u64,
) {
    let last = channels.len().saturating_sub(1);
    for (level, channels) in channels.enumerate() {
        for layer in 0..layers.min(1024) {
            resnet(table, &format!("{path}.{level}.resnets.{layer}"), current, channels);
            current = channels;
        }
        if level < last {
            table.conv(&format!("{path}.{level}.{sampler}.0.conv"), channels, channels, 3);
        }
    }
}

fn middle(table: &mut Table, path: &str, channels: u64, has_attention: bool) {
    resnet(table, &format!("{path}.resnets.0"), channels, channels);
    resnet(table, &format!("{path}.resnets.1"), channels, channels);
    if has_attention {
        let path = format!("{path}.attentions.0");
        table.norm(&format!("{path}.group_norm"), channels);
        for part in ["to_q", "to_k", "to_v", "to_out.0"] {
            table.linear(&format!("{path}.{part}"), channels, channels);
        }
    }
}

fn resnet(table: &mut Table, path: &str, inputs: u64, outputs: u64) {
    table.norm(&format!("{path}.norm1"), inputs);
    table.conv(&format!("{path}.conv1"), inputs, outputs, 3);
    table.norm(&format!("{path}.norm2"), outputs);
    table.conv(&format!("{path}.conv2"), outputs, outputs, 3);
    if inputs != outputs {
        table.conv(&format!("{path}.conv_shortcut"), inputs, outputs, 1);
    }
}
