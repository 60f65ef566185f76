//! The tensors of a `UNet2DConditionModel`.

use super::{
    table::Table,
    unet_settings::{Class, Level, Middle, Unet},
};

/// Its table.
pub(super) fn table(unet: &Unet) -> Option<Table> {
    let mut table = Table::new("UNet2DConditionModel");
    let (first, last) = (unet.levels.first()?, unet.levels.last()?);
    table.conv("conv_in", unet.inputs, first.channels, 3);
    embeddings(&mut table, unet, first.channels);
    let mut skips = down(&mut table, unet, first.channels);
    middle(&mut table, unet, last);
    up(&mut table, unet, last.channels, &mut skips)?;
    table.norm("conv_norm_out", first.channels);
    table.conv("conv_out", first.channels, unet.outputs, 3);
    table.finish()
}

/// What the time and the other numbers go through.
pub(super) fn embeddings(table: &mut Table, unet: &Unet, first: u64) {
    let time = unet.time_width;
    let mut layers = |path: &str, inputs: u64| {
        table.linear(&format!("{path}.linear_1"), inputs, time);
        table.linear(&format!("{path}.linear_2"), time, time);
    };
    layers("time_embedding", first);
    if let Some(inputs) = unet.added {
        layers("add_embedding", inputs);
    }
    match unet.class {
        Class::Absent => {}
        Class::Layers(inputs) => layers("class_embedding", inputs),
        Class::Layer(inputs) => table.linear("class_embedding", inputs, time),
        Class::Rows(rows) => table.weight("class_embedding", &[rows, time]),
    }
}

/// The way down; gives the channels of the skip connections, in order.
pub(super) fn down(table: &mut Table, unet: &Unet, first: u64) -> Vec<u64> {
    let (mut skips, mut current) = (vec![first], first);
    let last = unet.levels.len().saturating_sub(1);
    for (number, level) in unet.levels.iter().enumerate() {
        let path = format!("down_blocks.{number}");
        for layer in 0..level.layers {
            resnet(table, &format!("{path}.resnets.{layer}"), current, level.channels, unet.time_width);
            attention(table, &path, layer, level, level.down.as_deref(), unet.has_linear_projection);
            current = level.channels;
            skips.push(current);
        }
        if number < last {
            table.conv(&format!("{path}.downsamplers.0.conv"), current, current, 3);
            skips.push(current);
        }
    }
    skips
}

/// The lowest level.
pub(super) fn middle(table: &mut Table, unet: &Unet, level: &Level) {
    let channels = level.channels;
    let mut resnet =
        |number: u64| resnet(table, &format!("mid_block.resnets.{number}"), channels, channels, unet.time_width);
    match unet.middle {
        Middle::Absent => {}
        Middle::Resnet => resnet(0),
        Middle::Attention { depth } => {
            resnet(0);
            resnet(1);
            let path = "mid_block.attentions.0";
            transformer(table, path, depth, channels, level.context, unet.has_linear_projection);
        }
    }
}

fn up(table: &mut Table, unet: &Unet, mut current: u64, skips: &mut Vec<u64>) -> Option<()> {
    let last = unet.levels.len().saturating_sub(1);
    for (number, level) in unet.levels.iter().rev().enumerate() {
        let path = format!("up_blocks.{number}");
        for layer in 0..=level.layers {
            let inputs = current.checked_add(skips.pop()?)?;
            resnet(table, &format!("{path}.resnets.{layer}"), inputs, level.channels, unet.time_width);
            attention(table, &path, layer, level, level.up.as_deref(), unet.has_linear_projection);
            current = level.channels;
        }
        if number < last {
            table.conv(&format!("{path}.upsamplers.0.conv"), current, current, 3);
        }
    }
    Some(())
}

fn resnet(table: &mut Table, path: &str, inputs: u64, outputs: u64, time: u64) {
    table.norm(&format!("{path}.norm1"), inputs);
    table.conv(&format!("{path}.conv1"), inputs, outputs, 3);
    table.linear(&format!("{path}.time_emb_proj"), time, outputs);
    table.norm(&format!("{path}.norm2"), outputs);
    table.conv(&format!("{path}.conv2"), outputs, outputs, 3);
    if inputs != outputs {
        table.conv(&format!("{path}.conv_shortcut"), inputs, outputs, 1);
    }
}

/// The attention of a layer, if its level has any.
fn attention(table: &mut Table, path: &str, layer: u64, level: &Level, depth: Option<&[u64]>, is_linear: bool) {
    let depth = depth.and_then(|depth| depth.get(usize::try_from(layer).ok()?));
    if let Some(depth) = depth {
        transformer(table, &format!("{path}.attentions.{layer}"), *depth, level.channels, level.context, is_linear);
    }
}

fn transformer(table: &mut Table, path: &str, depth: u64, channels: u64, context: u64, is_linear: bool) {
    table.norm(&format!("{path}.norm"), channels);
    for projection in ["proj_in", "proj_out"] {
        let path = format!("{path}.{projection}");
        if is_linear { table.linear(&path, channels, channels) } else { table.conv(&path, channels, channels, 1) }
    }
    for block in 0..depth.min(1024) {
        let path = format!("{path}.transformer_blocks.{block}");
        for (name, source) in [("attn1", channels), ("attn2", context)] {
            for (part, inputs) in [("to_q", channels), ("to_k", source), ("to_v", source)] {
                table.weight(&format!("{path}.{name}.{part}"), &[channels, inputs]);
            }
            table.linear(&format!("{path}.{name}.to_out.0"), channels, channels);
        }
        ["norm1", "norm2", "norm3"].iter().for_each(|norm| table.norm(&format!("{path}.{norm}"), channels));
        table.linear(&format!("{path}.ff.net.0.proj"), channels, channels.saturating_mul(8));
        table.linear(&format!("{path}.ff.net.2"), channels.saturating_mul(4), channels);
    }
}
