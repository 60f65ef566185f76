//! Block types and transformer depths of a UNet's levels: one number for all, one per level, or one per layer.

use serde_json::Value;

use crate::{arch::settings::Settings, error::EngineError};

const DEPTH: &str = "transformer_layers_per_block";
const REVERSED: &str = "reverse_transformer_layers_per_block";
/// More blocks per transformer than this are taken for a mistake; the deepest release has 10.
const DEEPEST: usize = 256;
/// The same for resnets of one level; releases have 2.
const MOST_LAYERS: usize = 64;

/// Transformer blocks per level (from full resolution down) and layer; empty for levels without attention.
#[derive(Debug)]
pub(super) struct Depths {
    pub(super) down: Vec<Vec<usize>>,
    pub(super) up: Vec<Vec<usize>>,
}

/// Reads both ways; `layers` are the resnets of each level on the way down.
pub(super) fn read(settings: &Settings<'_>, layers: &[usize]) -> Result<Depths, EngineError> {
    if let Some(many) = layers.iter().find(|layers| **layers > MOST_LAYERS) {
        return Err(settings.wrong("layers_per_block", &Value::from(*many), format!("at most {MOST_LAYERS}")));
    }
    let up_layers: Vec<usize> = layers.iter().map(|layers| layers.saturating_add(1)).collect();
    let down_types = types(settings, "down_block_types", ["DownBlock2D", "CrossAttnDownBlock2D"], layers.len())?;
    let mut up_types = types(settings, "up_block_types", ["UpBlock2D", "CrossAttnUpBlock2D"], layers.len())?;
    up_types.reverse();
    let down = depths(settings, DEPTH, layers, &down_types)?;
    let up = if settings.find(REVERSED).is_some() {
        // this list begins at the lowest resolution
        let (mut layers, mut types) = (up_layers, up_types);
        layers.reverse();
        types.reverse();
        let mut up = depths(settings, REVERSED, &layers, &types)?;
        up.reverse();
        up
    } else {
        if let Some(value) = settings.find(DEPTH).filter(|value| is_nested(value)) {
            return Err(settings.wrong(DEPTH, value, format!("numbers, or lists together with `{REVERSED}`")));
        }
        depths(settings, DEPTH, &up_layers, &up_types)?
    };
    Ok(Depths { down, up })
}

/// The middle takes the first number of the last level's.
pub(super) fn middle(settings: &Settings<'_>) -> Result<usize, EngineError> {
    let Some(value) = settings.find(DEPTH) else { return Ok(1) };
    let last = value.as_array().map_or(Some(value), |levels| levels.last());
    let first = last.and_then(|last| last.as_array().map_or(Some(last), |layers| layers.first()));
    let first = first.ok_or_else(|| settings.wrong(DEPTH, value, "numbers"))?;
    number(settings, DEPTH, first)
}

fn is_nested(value: &Value) -> bool {
    value.as_array().is_some_and(|levels| levels.iter().any(Value::is_array))
}

/// Whether each block of the list attends.
fn types(
    settings: &Settings<'_>,
    field: &str,
    [plain, crossed]: [&str; 2],
    count: usize,
) -> Result<Vec<bool>, EngineError> {
    let Some(value) = settings.find(field) else {
        // the default has four levels, all but the lowest with attention
        let lowest = if plain == "DownBlock2D" { count.saturating_sub(1) } else { 0 };
        return Ok((0..count).map(|level| level != lowest).collect());
    };
    let list = value.as_array().filter(|list| list.len() == count);
    let list = list.ok_or_else(|| settings.wrong(field, value, format!("a list of {count} types of blocks")))?;
    let attends = |kind: &Value| match kind.as_str() {
        Some(kind) if kind == crossed => Ok(true),
        Some(kind) if kind == plain => Ok(false),
        _ => Err(settings.wrong(field, kind, format!("{plain}, {crossed}"))),
    };
    list.iter().map(attends).collect()
}

/// The depths of the levels that attend.
fn depths(
    settings: &Settings<'_>,
    field: &str,
    layers: &[usize],
    attends: &[bool],
) -> Result<Vec<Vec<usize>>, EngineError> {
    let one = Value::from(1);
    let value = settings.find(field).unwrap_or(&one);
    let per_level: Vec<&Value> = match value {
        Value::Array(levels) if levels.len() == layers.len() => levels.iter().collect(),
        Value::Array(_) => return Err(settings.wrong(field, value, format!("{} levels", layers.len()))),
        value => vec![value; layers.len()],
    };
    let level = |((value, layers), attends): ((&Value, &usize), &bool)| match value {
        _ if !attends => Ok(Vec::new()),
        Value::Array(list) if list.len() >= *layers => {
            list.iter().take(*layers).map(|depth| number(settings, field, depth)).collect()
        }
        Value::Array(_) => Err(settings.wrong(field, value, format!("one number for each of {layers} layers"))),
        depth => Ok(vec![number(settings, field, depth)?; *layers]),
    };
    per_level.into_iter().zip(layers).zip(attends).map(level).collect()
}

fn number(settings: &Settings<'_>, field: &str, value: &Value) -> Result<usize, EngineError> {
    let depth = settings.as_positive(field, value)?;
    if depth <= DEEPEST { Ok(depth) } else { Err(settings.wrong(field, value, format!("at most {DEEPEST}"))) }
}
