//! The tensors of a `T2IAdapter` of the full kinds: an input convolution and four levels of plain resnets.

use super::{settings::Settings, table::Table};

/// Its table. `adapter_type` tells how far the picture is folded into channels and where it is halved.
pub(super) fn table(settings: &Settings<'_>) -> Option<Table> {
    let channels = settings.numbers("channels", &[320, 640, 1280, 1280])?;
    let factor = settings.positive("downscale_factor", 8)?;
    match settings.text("adapter_type").unwrap_or("full_adapter") {
        "full_adapter" | "full_adapter_xl" => {}
        _ => return None,
    }
    let blocks = settings.number("num_res_blocks", 2)?.min(64);
    let inputs = settings.positive("in_channels", 3)?.checked_mul(factor.checked_mul(factor)?)?;
    let mut table = Table::new("T2IAdapter");
    let mut current = *channels.first()?;
    table.conv("adapter.conv_in", inputs, current, 3);
    for (level, channels) in channels.into_iter().enumerate() {
        let path = format!("adapter.body.{level}");
        if channels != current {
            table.conv(&format!("{path}.in_conv"), current, channels, 1);
        }
        for block in 0..blocks {
            table.conv(&format!("{path}.resnets.{block}.block1"), channels, channels, 3);
            table.conv(&format!("{path}.resnets.{block}.block2"), channels, channels, 1);
        }
        current = channels;
    }
    table.finish()
}
