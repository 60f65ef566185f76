//! Reads a UNet's `config.json` as diffusers writes it.

use serde_json::{Value, json};

use super::{
    config::{Added, Config, Level, MODEL, Middle},
    depth::{self, Depths},
};
use crate::{arch::settings::Settings, error::EngineError};

/// Fields that change what is computed, with the values under which nothing of it is.
fn plain() -> [(&'static str, Vec<Value>); 20] {
    [
        ("act_fn", vec![json!("silu"), json!("swish")]),
        ("attention_type", vec![json!("default")]),
        ("center_input_sample", vec![json!(false)]),
        ("class_embed_type", vec![]),
        ("class_embeddings_concat", vec![json!(false)]),
        ("cross_attention_norm", vec![]),
        ("downsample_padding", vec![json!(1)]),
        ("dual_cross_attention", vec![json!(false)]),
        ("encoder_hid_dim", vec![]),
        ("encoder_hid_dim_type", vec![]),
        ("mid_block_only_cross_attention", vec![json!(false)]),
        ("mid_block_scale_factor", vec![json!(1)]),
        ("num_class_embeds", vec![]),
        ("resnet_out_scale_factor", vec![json!(1)]),
        ("resnet_skip_time_act", vec![json!(false)]),
        ("resnet_time_scale_shift", vec![json!("default")]),
        ("time_cond_proj_dim", vec![]),
        ("time_embedding_act_fn", vec![]),
        ("time_embedding_type", vec![json!("positional")]),
        ("timestep_post_act", vec![]),
    ]
}

pub(super) fn read(json: &Value) -> Result<Config, EngineError> {
    let settings = Settings::new(MODEL, json)?;
    settings.only("_class_name", &[json!(MODEL)])?;
    for (field, supported) in plain() {
        settings.only(field, &supported)?;
    }
    only_cross_attention(&settings)?;
    let (levels, middle) = (levels(&settings)?, middle(&settings)?);
    let first = levels.first().map_or(0, |level| level.channels);
    Ok(Config {
        in_channels: settings.positive("in_channels", 4)?,
        out_channels: settings.positive("out_channels", 4)?,
        context: context(&settings, &levels, middle)?,
        has_linear_projection: settings.flag("use_linear_projection", false)?,
        time_width: settings.positive("time_embedding_dim", first.saturating_mul(4))?,
        flip_sin_to_cos: settings.flag("flip_sin_to_cos", true)?,
        freq_shift: freq_shift(&settings, first)?,
        added: added(&settings)?,
        norm_groups: groups(&settings, &levels)?,
        norm_eps: settings.float("norm_eps", 1e-5)?,
        upcast_attention: settings.flag("upcast_attention", false)?,
        conv_in_kernel: kernel(&settings, "conv_in_kernel")?,
        conv_out_kernel: kernel(&settings, "conv_out_kernel")?,
        levels,
        middle,
    })
}

fn only_cross_attention(settings: &Settings<'_>) -> Result<(), EngineError> {
    const FIELD: &str = "only_cross_attention";
    let Some(value) = settings.find(FIELD) else { return Ok(()) };
    let is_off = match value {
        Value::Array(levels) => levels.iter().all(|level| level == &Value::Bool(false)),
        value => value == &Value::Bool(false),
    };
    if is_off { Ok(()) } else { Err(settings.wrong(FIELD, value, "false")) }
}

fn levels(settings: &Settings<'_>) -> Result<Vec<Level>, EngineError> {
    const CHANNELS: &str = "block_out_channels";
    let given = json!([320, 640, 1280, 1280]);
    let channels = settings.find(CHANNELS).unwrap_or(&given);
    let list = channels.as_array().filter(|list| (1..=16).contains(&list.len()));
    let list = list.ok_or_else(|| settings.wrong(CHANNELS, channels, "a list of 1 to 16 widths"))?;
    let channels: Vec<usize> =
        list.iter().map(|channels| settings.as_positive(CHANNELS, channels)).collect::<Result<_, _>>()?;
    let layers = settings.per_level("layers_per_block", 2, channels.len())?;
    let heads = heads(settings, channels.len())?;
    let Depths { down, up } = depth::read(settings, &layers)?;
    let zipped = channels.into_iter().zip(layers).zip(heads).zip(down.into_iter().zip(up));
    let levels: Vec<Level> =
        zipped.map(|(((channels, layers), heads), (down, up))| Level { channels, heads, layers, down, up }).collect();
    for level in levels.iter().filter(|level| !level.down.is_empty() || !level.up.is_empty()) {
        if !level.channels.is_multiple_of(level.heads) {
            let value = settings.find("attention_head_dim").cloned().unwrap_or(json!(8));
            let expected = format!("divisors of the channels ({} here)", level.channels);
            return Err(settings.wrong("attention_head_dim", &value, expected));
        }
    }
    Ok(levels)
}

/// `attention_head_dim` is the number of heads: diffusers keeps the misnomer, and refuses the field that would mend it.
fn heads(settings: &Settings<'_>, levels: usize) -> Result<Vec<usize>, EngineError> {
    settings.only("num_attention_heads", &[])?;
    settings.per_level("attention_head_dim", 8, levels)
}

fn middle(settings: &Settings<'_>) -> Result<Middle, EngineError> {
    const FIELD: &str = "mid_block_type";
    match settings.raw(FIELD) {
        // null is no middle at all, absent is the usual one
        Some(Value::Null) => Ok(Middle::Absent),
        None => Ok(Middle::Attention { depth: depth::middle(settings)? }),
        Some(value) => match value.as_str() {
            Some("UNetMidBlock2DCrossAttn") => Ok(Middle::Attention { depth: depth::middle(settings)? }),
            Some("UNetMidBlock2D") => Ok(Middle::Resnet),
            _ => Err(settings.wrong(FIELD, value, "UNetMidBlock2DCrossAttn, UNetMidBlock2D, null")),
        },
    }
}

/// One width for all levels that attend: there is only one `encoder_hidden_states`.
fn context(settings: &Settings<'_>, levels: &[Level], middle: Middle) -> Result<usize, EngineError> {
    const FIELD: &str = "cross_attention_dim";
    let widths = settings.per_level(FIELD, 1280, levels.len())?;
    let attends = |level: &Level| !level.down.is_empty() || !level.up.is_empty();
    let of_levels = levels.iter().zip(&widths).filter(|(level, _)| attends(level)).map(|(_, width)| *width);
    let of_middle = matches!(middle, Middle::Attention { .. }).then(|| widths.last().copied()).flatten();
    let mut used = of_levels.chain(of_middle);
    let Some(first) = used.next() else { return Ok(widths.first().copied().unwrap_or(1280)) };
    match settings.find(FIELD) {
        Some(value) if used.any(|width| width != first) => {
            Err(settings.wrong(FIELD, value, "the same width on all levels with attention"))
        }
        _ => Ok(first),
    }
}

fn added(settings: &Settings<'_>) -> Result<Option<Added>, EngineError> {
    settings.only("addition_embed_type", &[json!("text_time")])?;
    if settings.find("addition_embed_type").is_none() {
        return Ok(None);
    }
    let each = settings.get_positive("addition_time_embed_dim")?;
    let inputs = settings.get_positive("projection_class_embeddings_input_dim")?;
    if each.is_multiple_of(2) {
        Ok(Some(Added { inputs, each }))
    } else {
        Err(settings.wrong("addition_time_embed_dim", &json!(each), "an even number"))
    }
}

fn freq_shift(settings: &Settings<'_>, first: usize) -> Result<f32, EngineError> {
    let shift = settings.float("freq_shift", 0.0)?;
    let is_usable = first.is_multiple_of(2) && shift < (first / 2) as f32;
    let value = || settings.find("freq_shift").cloned().unwrap_or(json!(0));
    if is_usable { Ok(shift) } else { Err(settings.wrong("freq_shift", &value(), "less than half the first width")) }
}

fn groups(settings: &Settings<'_>, levels: &[Level]) -> Result<usize, EngineError> {
    const FIELD: &str = "norm_num_groups";
    if settings.raw(FIELD) == Some(&Value::Null) {
        return Err(settings.wrong(FIELD, &Value::Null, "a number"));
    }
    let groups = settings.positive(FIELD, 32)?;
    match levels.iter().find(|level| !level.channels.is_multiple_of(groups)) {
        None => Ok(groups),
        Some(level) => {
            let expected = format!("a divisor of all block_out_channels ({} is not)", level.channels);
            Err(settings.wrong(FIELD, &json!(groups), expected))
        }
    }
}

fn kernel(settings: &Settings<'_>, field: &str) -> Result<usize, EngineError> {
    let side = settings.positive(field, 3)?;
    if side % 2 == 1 { Ok(side) } else { Err(settings.wrong(field, &json!(side), "an odd number")) }
}
