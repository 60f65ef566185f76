//! How long a UNet's step takes on the CUDA execution provider at the size of the releases, with 16-bit weights in the
//! device's memory: what weights as inputs cost there can only be seen on hardware.

use std::{sync::Arc, time::Instant};

use anyhow::{Context, Result};
use engine::{
    Control, Device, ElementType, EngineError, Runtime, RuntimeOptions, Tensor, Weights,
    arch::unet2d::Config,
    forward::values::{spread, uniform},
    models::{Added, Conditions, Unet},
    onnx::{Search, find},
    weights::Weight,
};
use half::f16;
use serde_json::{Value, json};

use crate::ordinal;

const PASSES: usize = 5;

/// Times a step of SD 1.5's and of SDXL's UNet; says that it is skipped where the provider cannot be had.
///
/// # Errors
/// What failed.
pub(crate) fn at_full_size(device: &str, search: &Search) -> Result<String> {
    let found = find(search);
    let (true, Some(library)) = (found.available, &found.path) else {
        return Ok(format!("skipped: {}", found.reason.unwrap_or_default()));
    };
    let runtime = Arc::new(Runtime::open(RuntimeOptions::cuda(library, i32::try_from(ordinal(device)?)?))?);
    let mut open = engine::open(device, 1 << 30)?;
    let mut said = Vec::new();
    for (name, json, side) in releases() {
        let config = Config::from_json(&json)?;
        let weights = shared(open.as_mut(), &config.tensors())?;
        let unet = match Unet::new(&runtime, config, weights) {
            Err(error @ EngineError::Onnx { what: "preparing a session", .. }) => {
                return Ok(format!("skipped: {error}"));
            }
            unet => unet.context(name)?,
        };
        let milliseconds = median(&unet, side).context(name)?;
        said.push(format!("{name}, batch 2: {milliseconds:.1} ms"));
    }
    Ok(format!("{}; median of {PASSES}", said.join("; ")))
}

/// Name, config and side of the latents.
pub(crate) fn releases() -> [(&'static str, Value, usize); 2] {
    let sd15 = json!({ "cross_attention_dim": 768 });
    let sdxl = json!({
        "block_out_channels": [320, 640, 1280], "transformer_layers_per_block": [1, 2, 10], "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20], "use_linear_projection": true,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
    });
    [("SD 1.5 at 512 pixels", sd15, 64), ("SDXL at 1024 pixels", sdxl, 128)]
}

/// Milliseconds of a step, after a first one that is not counted.
fn median(unet: &Unet, side: usize) -> Result<f64> {
    step(unet, 2, side)?;
    let mut seconds = Vec::new();
    for _ in 0..PASSES {
        let began = Instant::now();
        step(unet, 2, side)?;
        seconds.push(began.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds.get(PASSES / 2).copied().unwrap_or(f64::NAN) * 1e3)
}

fn step(unet: &Unet, batch: usize, side: usize) -> Result<Tensor> {
    let config = unet.config();
    let tensor = |name: &str, shape: &[usize]| Tensor::f32(shape, spread(name, shape.iter().product()));
    let sample = tensor("sample", &[batch, config.in_channels, side, side])?;
    let states = tensor("encoder_hidden_states", &[batch, 77, config.context])?;
    let added = match config.added {
        Some(added) => {
            let text = added.inputs.saturating_sub(6 * added.each);
            Some((tensor("text_embeds", &[batch, text])?, tensor("time_ids", &[batch, 6])?))
        }
        None => None,
    };
    let given = added.as_ref().map(|(text_embeds, time_ids)| Added { text_embeds, time_ids });
    let conditions = Conditions { encoder_hidden_states: &states, added: given };
    Ok(unet.predict(&sample, 500.0, &conditions, &Control::default())?)
}

/// 16-bit weights that all lie in the memory of the largest: a step takes as long, whatever the values.
fn shared(device: &mut dyn Device, tensors: &[(String, Vec<usize>)]) -> Result<Weights> {
    let dtype = ElementType::F16;
    let most = tensors.iter().map(|(_, shape)| shape.iter().product::<usize>()).max().context("no tensors")?;
    let some: Vec<f16> = uniform("weights", 1 << 16).into_iter().map(|value| f16::from_f64(value * 0.02)).collect();
    let data: Vec<u8> = some.iter().cycle().take(most).flat_map(|value| value.to_le_bytes()).collect();
    let slab = device.allocate(data.len() as u64)?;
    device.write(slab, 0, &data)?;
    device.synchronize()?;
    let view = device.view(slab)?;
    let mut weights = Weights::new();
    for (name, shape) in tensors {
        let length = (shape.iter().product::<usize>() * dtype.bytes()) as u64;
        let memory = view.weight(0..length).context("the slab is that long")?;
        weights.insert(name.clone(), Weight { dtype, shape: shape.clone(), memory })?;
    }
    Ok(weights)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_runs_from_one_memory_for_all_weights() {
        let Some(library) = std::env::var_os("MODELYARD_ONNXRUNTIME").filter(|path| !path.is_empty()) else {
            println!("skipped: no ONNX Runtime library (MODELYARD_ONNXRUNTIME)");
            return;
        };
        let cpu = Arc::new(Runtime::open(RuntimeOptions::cpu(library)).unwrap());
        let mut device = engine::open("cpu:0", 1 << 30).unwrap();
        let [_, (_, mut json, _)] = releases();
        // SDXL's, narrowed to a tenth of a second
        json["block_out_channels"] = json!([64, 128, 256]);
        json["attention_head_dim"] = json!([1, 2, 4]);
        json["cross_attention_dim"] = json!(64);
        let config = Config::from_json(&json).unwrap();
        let weights = shared(device.as_mut(), &config.tensors()).unwrap();
        let unet = Unet::new(&cpu, config, weights).unwrap();
        assert_eq!(step(&unet, 2, 8).unwrap().shape, [2, 4, 8, 8]);
    }
}
