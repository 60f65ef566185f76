//! The tensors of an `AutoencoderTiny`: two rows of numbered layers, of which activations and samplers have none.

use super::{settings::Settings, table::Table};
use crate::canonical::Canonical;

/// Its table; of a file that has only one half, only that half's.
pub(super) fn table(settings: &Settings<'_>, tensors: &Canonical) -> Option<Table> {
    let mut table = Table::new("AutoencoderTiny");
    let latent = settings.positive("latent_channels", 4)?;
    if has(tensors, "encoder.") || !has(tensors, "decoder.") {
        encoder(&mut table, settings, latent)?;
    }
    if has(tensors, "decoder.") || !has(tensors, "encoder.") {
        decoder(&mut table, settings, latent)?;
    }
    table.finish()
}

fn has(tensors: &Canonical, half: &str) -> bool {
    tensors.tensors.iter().any(|tensor| tensor.name.starts_with(half))
}

fn encoder(table: &mut Table, settings: &Settings<'_>, latent: u64) -> Option<()> {
    let (channels, blocks) = row(settings, "encoder", &[1, 3, 3, 3])?;
    let mut layer = 0_u64;
    let mut current = settings.positive("in_channels", 3)?;
    for (level, (channels, blocks)) in channels.into_iter().zip(blocks).enumerate() {
        let path = format!("encoder.layers.{layer}");
        // only the first convolution has a bias, the others make the picture smaller
        if level == 0 {
            table.conv(&path, current, channels, 3)
        } else {
            table.weight(&path, &[channels, current, 3, 3])
        }
        (current, layer) = (channels, layer.checked_add(1)?);
        layer = run(table, "encoder", layer, blocks, channels)?;
    }
    table.conv(&format!("encoder.layers.{layer}"), current, latent, 3);
    Some(())
}

fn decoder(table: &mut Table, settings: &Settings<'_>, latent: u64) -> Option<()> {
    let (channels, blocks) = row(settings, "decoder", &[3, 3, 3, 1])?;
    let outputs = settings.positive("out_channels", 3)?;
    table.conv("decoder.layers.0", latent, *channels.first()?, 3);
    // the first activation is layer 1
    let mut layer = 2_u64;
    let last = channels.len().saturating_sub(1);
    for (level, (channels, blocks)) in channels.into_iter().zip(blocks).enumerate() {
        layer = run(table, "decoder", layer, blocks, channels)?;
        if level == last {
            table.conv(&format!("decoder.layers.{layer}"), channels, outputs, 3);
        } else {
            layer = layer.checked_add(1)?;
            table.weight(&format!("decoder.layers.{layer}"), &[channels, channels, 3, 3]);
            layer = layer.checked_add(1)?;
        }
    }
    Some(())
}

fn row(settings: &Settings<'_>, half: &str, blocks: &[u64]) -> Option<(Vec<u64>, Vec<u64>)> {
    let channels = settings.numbers(&format!("{half}_block_out_channels"), &[64; 4])?;
    let blocks = settings.numbers(&format!("num_{half}_blocks"), blocks)?;
    let is_known = channels.len() == blocks.len() && blocks.iter().all(|blocks| *blocks <= 64);
    is_known.then_some((channels, blocks))
}

/// The blocks from number `layer` on; the number after them.
fn run(table: &mut Table, half: &str, layer: u64, blocks: u64, channels: u64) -> Option<u64> {
    let end = layer.checked_add(blocks)?;
    for layer in layer..end {
        for part in ["conv.0", "conv.2", "conv.4"] {
            table.conv(&format!("{half}.layers.{layer}.{part}"), channels, channels, 3);
        }
    }
    Some(end)
}
