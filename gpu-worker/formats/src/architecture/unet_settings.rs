//! The settings of a `UNet2DConditionModel` that shape its tensors.

use serde_json::Value;

use super::settings::{Settings, list, number};

/// Settings that change the tensors in ways no supported family has; with the value that changes nothing.
const PLAIN: &[(&str, &str)] = &[("resnet_time_scale_shift", "default"), ("time_embedding_type", "positional")];
const ABSENT: &[&str] = &["encoder_hid_dim", "encoder_hid_dim_type", "time_cond_proj_dim", "cross_attention_norm"];

/// The middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Middle {
    /// Resnet, attention, resnet.
    Attention { depth: u64 },
    /// One resnet.
    Resnet,
    /// Nothing.
    Absent,
}

/// How a class is embedded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Absent,
    /// A table of this many rows.
    Rows(u64),
    /// Two layers from this width.
    Layers(u64),
    /// One layer from this width.
    Layer(u64),
}

/// One level.
#[derive(Debug, Clone)]
pub(super) struct Level {
    pub(super) channels: u64,
    pub(super) context: u64,
    /// Transformer blocks of each layer; none for a level without attention.
    pub(super) down: Option<Vec<u64>>,
    /// The same on the way up.
    pub(super) up: Option<Vec<u64>>,
    pub(super) layers: u64,
}

/// All of it.
#[derive(Debug, Clone)]
pub(super) struct Unet {
    pub(super) inputs: u64,
    pub(super) outputs: u64,
    /// From full resolution down.
    pub(super) levels: Vec<Level>,
    pub(super) middle: Middle,
    pub(super) has_linear_projection: bool,
    pub(super) time_width: u64,
    /// Input width of the size and pooled-text conditioning.
    pub(super) added: Option<u64>,
    pub(super) class: Class,
}

/// Reads them; none if anything that shapes the tensors is not understood.
pub(super) fn read(settings: &Settings<'_>) -> Option<Unet> {
    let is_plain = PLAIN.iter().all(|(key, only)| settings.is(key, only))
        && ABSENT.iter().all(|key| settings.get(key).is_none())
        && !settings.flag("dual_cross_attention", false)?
        && settings.get("only_cross_attention").is_none_or(|value| value == &Value::Bool(false))
        && settings.number("conv_in_kernel", 3)? == 3
        && settings.number("conv_out_kernel", 3)? == 3;
    if !is_plain {
        return None;
    }
    let levels = levels(settings)?;
    let first = levels.first()?.channels;
    Some(Unet {
        inputs: settings.positive("in_channels", 4)?,
        outputs: settings.positive("out_channels", 4)?,
        middle: middle(settings)?,
        has_linear_projection: settings.flag("use_linear_projection", false)?,
        time_width: settings.positive("time_embedding_dim", first.checked_mul(4)?)?,
        added: added(settings)?,
        class: class(settings, first)?,
        levels,
    })
}

fn levels(settings: &Settings<'_>) -> Option<Vec<Level>> {
    let channels = settings.numbers("block_out_channels", &[320, 640, 1280, 1280])?;
    let count = channels.len();
    let layers = settings.per_level("layers_per_block", 2, count)?;
    let context = settings.per_level("cross_attention_dim", 1280, count)?;
    let default = |last: &'static str, other: &'static str| -> Vec<&'static str> {
        (0..count).map(|level| if level.saturating_add(1) == count { last } else { other }).collect()
    };
    let down = match settings.get("down_block_types") {
        Some(_) => settings.texts("down_block_types")?,
        None => default("DownBlock2D", "CrossAttnDownBlock2D"),
    };
    let up = match settings.get("up_block_types") {
        Some(_) => settings.texts("up_block_types")?,
        None => default("UpBlock2D", "CrossAttnUpBlock2D").into_iter().rev().collect(),
    };
    if down.len() != count || up.len() != count {
        return None;
    }
    let depth = depth(settings, "transformer_layers_per_block", &layers)?;
    let up_depth = match settings.get("reverse_transformer_layers_per_block") {
        Some(_) => depth_reversed(settings, &layers)?,
        None => depth.clone(),
    };
    let mut levels = Vec::with_capacity(count);
    let per_level = channels.into_iter().zip(layers).zip(context).zip(depth.into_iter().zip(up_depth));
    for ((((channels, layers), context), (depth, up_depth)), (down, up)) in
        per_level.zip(down.iter().zip(up.iter().rev()))
    {
        let down = attention(down, ["DownBlock2D", "CrossAttnDownBlock2D"], depth)?;
        let up = attention(up, ["UpBlock2D", "CrossAttnUpBlock2D"], up_depth)?;
        levels.push(Level { channels, context, down, up, layers });
    }
    Some(levels)
}

/// Whether a block of this type has attention; none for types that are not known.
fn attention(kind: &str, [plain, crossed]: [&str; 2], depth: Vec<u64>) -> Option<Option<Vec<u64>>> {
    match kind {
        kind if kind == plain => Some(None),
        kind if kind == crossed => Some(Some(depth)),
        _ => None,
    }
}

/// Transformer blocks per level and layer: one number for all, one per level, or a list per level. A level has one
/// layer more on the way up.
fn depth(settings: &Settings<'_>, key: &str, layers: &[u64]) -> Option<Vec<Vec<u64>>> {
    let level = |value: &Value, layers: u64| {
        let layers = usize::try_from(layers).ok()?.saturating_add(1);
        match value {
            Value::Array(_) => list(value)?.iter().map(number).collect::<Option<Vec<_>>>(),
            value => Some(vec![number(value)?; layers]),
        }
    };
    if layers.iter().any(|layers| *layers == 0 || *layers > 64) {
        return None;
    }
    match settings.get(key) {
        Some(value) if value.is_array() => {
            let values = list(value).filter(|values| values.len() == layers.len())?;
            values.iter().zip(layers).map(|(value, layers)| level(value, *layers)).collect()
        }
        Some(value) => layers.iter().map(|layers| level(value, *layers)).collect(),
        None => layers.iter().map(|layers| level(&Value::from(1), *layers)).collect(),
    }
}

/// The list of the way up begins at the lowest resolution.
fn depth_reversed(settings: &Settings<'_>, layers: &[u64]) -> Option<Vec<Vec<u64>>> {
    let layers: Vec<u64> = layers.iter().rev().copied().collect();
    let mut depth = depth(settings, "reverse_transformer_layers_per_block", &layers)?;
    depth.reverse();
    Some(depth)
}

fn middle(settings: &Settings<'_>) -> Option<Middle> {
    // null is no middle at all, absent is the usual one
    match settings.raw("mid_block_type") {
        Some(Value::Null) => return Some(Middle::Absent),
        None => {}
        Some(kind) => match kind.as_str()? {
            "UNetMidBlock2DCrossAttn" => {}
            "UNetMidBlock2D" => return Some(Middle::Resnet),
            _ => return None,
        },
    }
    let depth = match settings.get("transformer_layers_per_block") {
        None => 1,
        Some(Value::Array(levels)) => match levels.last()? {
            Value::Array(layers) => number(layers.first()?)?,
            last => number(last)?,
        },
        Some(value) => number(value)?,
    };
    Some(Middle::Attention { depth })
}

fn added(settings: &Settings<'_>) -> Option<Option<u64>> {
    match settings.get("addition_embed_type") {
        None => Some(None),
        Some(kind) if kind == "text_time" => settings.positive("projection_class_embeddings_input_dim", 0).map(Some),
        Some(_) => None,
    }
}

fn class(settings: &Settings<'_>, first: u64) -> Option<Class> {
    let width = || settings.positive("projection_class_embeddings_input_dim", 0);
    match settings.get("class_embed_type").map(Value::as_str) {
        None => Some(match settings.number("num_class_embeds", 0)? {
            0 => Class::Absent,
            rows => Class::Rows(rows),
        }),
        Some(Some("timestep")) => Some(Class::Layers(first)),
        Some(Some("projection")) => Some(Class::Layers(width()?)),
        Some(Some("simple_projection")) => Some(Class::Layer(width()?)),
        Some(Some("identity")) => Some(Class::Absent),
        Some(_) => None,
    }
}
