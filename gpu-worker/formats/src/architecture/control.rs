//! The tensors of a `ControlNetModel`: a UNet's encoder with its middle, the hint's network, and a convolution for every
//! result that is handed on.

use super::{
    settings::Settings,
    table::Table,
    unet::{down, embeddings, middle},
    unet_settings,
};

/// Its table.
pub(super) fn table(settings: &Settings<'_>) -> Option<Table> {
    // pooled inputs of other kinds, and hints that are not pictures
    let is_plain = settings.is("controlnet_conditioning_channel_order", "rgb")
        && !settings.flag("global_pool_conditions", false)?;
    let unet = unet_settings::read(settings).filter(|_| is_plain)?;
    let (first, last) = (unet.levels.first()?, unet.levels.last()?);
    let mut table = Table::new("ControlNetModel");
    table.conv("conv_in", unet.inputs, first.channels, 3);
    embeddings(&mut table, &unet, first.channels);
    let results = down(&mut table, &unet, first.channels);
    middle(&mut table, &unet, last);
    for (number, channels) in results.iter().enumerate() {
        table.conv(&format!("controlnet_down_blocks.{number}"), *channels, *channels, 1);
    }
    table.conv("controlnet_mid_block", last.channels, last.channels, 1);
    hint(&mut table, settings, first.channels)?;
    table.finish()
}

/// Every second layer halves the picture and widens.
fn hint(table: &mut Table, settings: &Settings<'_>, outputs: u64) -> Option<()> {
    let path = "controlnet_cond_embedding";
    let widths = settings.numbers("conditioning_embedding_out_channels", &[16, 32, 96, 256])?;
    let (first, last) = (*widths.first()?, *widths.last()?);
    table.conv(&format!("{path}.conv_in"), settings.positive("conditioning_channels", 3)?, first, 3);
    let mut number = 0_u64;
    for (from, to) in widths.iter().zip(widths.iter().skip(1)) {
        table.conv(&format!("{path}.blocks.{number}"), *from, *from, 3);
        table.conv(&format!("{path}.blocks.{}", number.checked_add(1)?), *from, *to, 3);
        number = number.checked_add(2)?;
    }
    table.conv(&format!("{path}.conv_out"), last, outputs, 3);
    Some(())
}
