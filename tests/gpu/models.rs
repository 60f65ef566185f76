//! Models on the CUDA execution provider: small ones, from weights in the device's memory, beside the same on the CPU.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use engine::{
    Control, Device, ElementType, EngineError, Runtime, RuntimeOptions, Tensor, TensorFacts, Weights,
    arch::{clip, unet2d, vae},
    forward::{
        Component,
        values::{spread, uniform},
    },
    models::{
        Conditions, EncodeOptions, TextEncoder, Unet,
        vae::{Posterior, Vae, VaeSettings},
    },
    onnx::{Search, find},
    weights::{Memory, Weight},
};
use half::f16;
use serde_json::{Value, json};

use crate::ordinal;

/// Tensors begin at multiples of this.
const ALIGN: u64 = engine::ALIGN;

/// A model to be run on both.
struct Case {
    name: &'static str,
    kind: &'static str,
    config: Value,
    dtype: ElementType,
    /// Largest difference of an element, as a part of the greatest value of its output: a GPU multiplies 32-bit floats with 10 bits of
    /// mantissa in its convolutions, and computes in 16 bits what is stored so.
    bound: f64,
}

fn cases() -> [Case; 4] {
    let autoencoder = json!({
        "block_out_channels": [32, 64], "layers_per_block": 1, "norm_num_groups": 32, "force_upcast": false,
        "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
        "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"],
    });
    let text = json!({
        "architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "vocab_size": 1000, "hidden_size": 64,
        "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "projection_dim": 64,
        "hidden_act": "quick_gelu", "eos_token_id": 2,
    });
    let denoiser = json!({
        "block_out_channels": [32, 64], "layers_per_block": 1, "norm_num_groups": 32, "cross_attention_dim": 64,
        "attention_head_dim": 8, "in_channels": 4, "out_channels": 4,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    });
    let case = |name, kind, config: &Value, dtype, bound| Case { name, kind, config: config.clone(), dtype, bound };
    [
        case("VAE", "vae", &autoencoder, ElementType::F32, 1e-2),
        case("VAE in 16 bits", "vae", &autoencoder, ElementType::F16, 3e-2),
        case("CLIP", "text_encoder", &text, ElementType::F32, 1e-2),
        case("UNet", "unet", &denoiser, ElementType::F32, 1e-2),
    ]
}

/// Runs every case on both and compares what came out; says that it is skipped where the provider cannot be had.
///
/// # Errors
/// When the GPU answers otherwise than the CPU, or not at all.
pub(crate) fn beside_the_cpu(device: &str, search: &Search) -> Result<String> {
    let found = find(search);
    let (true, Some(library)) = (found.available, &found.path) else {
        return Ok(format!("skipped: {}", found.reason.unwrap_or_default()));
    };
    let number = i32::try_from(ordinal(device)?)?;
    let cuda = Arc::new(Runtime::open(RuntimeOptions::cuda(library, number))?);
    let cpu = Arc::new(Runtime::open(RuntimeOptions::cpu(library))?);
    let mut open = engine::open(device, 256 << 20)?;
    let mut said = Vec::new();
    for case in cases() {
        let weights = case.weights()?;
        let expected = case.run(&cpu, weights.clone())?;
        let there = on_device(open.as_mut(), &weights).context("copying the weights to the device")?;
        let found = match case.run(&cuda, there) {
            // a library that has run one case has the provider
            Err(error) if said.is_empty() && is_refused(&error) => return Ok(format!("skipped: {error:#}")),
            found => found.with_context(|| case.name)?,
        };
        let worst = difference(&expected, &found)?;
        ensure!(worst <= case.bound, "{}: {worst:.1e} off the CPU, {:.0e} allowed", case.name, case.bound);
        said.push(format!("{} {worst:.0e}", case.name));
    }
    Ok(format!("elements off the CPU's by {}", said.join(", ")))
}

/// The library has no CUDA provider, or lacks a library that it needs.
fn is_refused(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(EngineError::Onnx { what: "preparing a session", .. }))
}

impl Case {
    fn tensors(&self) -> Result<Vec<(String, Vec<usize>)>> {
        Ok(match self.kind {
            "vae" => vae::tensors(&vae::Config::from_json(&self.config)?),
            "unet" => unet2d::Config::from_json(&self.config)?.tensors(),
            _ => clip::Config::from_json(&self.config, &TensorFacts::default())?.tensors(),
        })
    }

    /// Weights that follow from their names.
    fn weights(&self) -> Result<Weights> {
        let mut weights = Weights::new();
        for (name, shape) in self.tensors()? {
            let inputs: usize = shape.iter().skip(1).product();
            let (factor, offset) = match shape.len() {
                1 => (0.2, f64::from(u8::from(name.ends_with("weight")))),
                _ => ((3.0 / inputs as f64).sqrt(), 0.0),
            };
            let values = uniform(&name, shape.iter().product()).into_iter().map(|value| value * factor + offset);
            let bytes: Vec<u8> = match self.dtype {
                ElementType::F16 => values.flat_map(|value| f16::from_f64(value).to_le_bytes()).collect(),
                _ => values.flat_map(|value| (value as f32).to_le_bytes()).collect(),
            };
            let length = bytes.len();
            let memory = Memory::host(Arc::new(bytes), 0..length).context("a range of its own memory")?;
            weights.insert(name, Weight { dtype: self.dtype, shape, memory })?;
        }
        Ok(weights)
    }

    /// What it makes of inputs that follow from their names.
    fn run(&self, runtime: &Arc<Runtime>, weights: Weights) -> Result<Vec<Tensor>> {
        let component = Component { kind: self.kind, base: None, config: Some(&self.config), graph: None };
        let control = Control::default();
        match self.kind {
            "vae" => {
                let settings = VaeSettings { scaling_factor: Some(1.0), ..VaeSettings::default() };
                let vae = Vae::open(runtime, &component, weights, settings)?;
                let decoded = vae.decode(&made("latents", &[1, 4, 16, 16])?, None, &control)?;
                let encoded = vae.encode(&made("image", &[1, 3, 32, 32])?, Posterior::Mode, None, &control)?;
                Ok(vec![decoded.sample, encoded.sample])
            }
            "unet" => {
                let unet = Unet::open(runtime, &component, weights)?;
                let states = made("encoder_hidden_states", &[1, 77, 64])?;
                let conditions = Conditions { encoder_hidden_states: &states, added: None };
                Ok(vec![unet.predict(&made("sample", &[1, 4, 16, 16])?, 500.0, &conditions, &control)?])
            }
            _ => {
                let encoder = TextEncoder::open(runtime, &component, weights)?;
                let prompt: Vec<i64> = (0..77).map(|at| if at < 12 { 70 * at + 3 } else { 999 }).collect();
                let states = encoder.encode(&[prompt], EncodeOptions::PENULTIMATE, &control)?;
                Ok(vec![states.last, states.hidden, states.pooled])
            }
        }
    }
}

/// An input of variance 1.
fn made(name: &str, shape: &[usize]) -> Result<Tensor> {
    Ok(Tensor::f32(shape, spread(name, shape.iter().product()))?)
}

/// The same weights in one slab of the device.
fn on_device(device: &mut dyn Device, weights: &Weights) -> Result<Weights> {
    let place = |end: &mut u64, weight: &Weight| {
        let begin = end.next_multiple_of(ALIGN);
        *end = begin + weight.memory.bytes() as u64;
        begin..*end
    };
    let mut end = 0;
    let ranges: Vec<_> = weights.iter().map(|(_, weight)| place(&mut end, weight)).collect();
    let slab = device.allocate(end)?;
    for ((_, weight), range) in weights.iter().zip(&ranges) {
        device.write(slab, range.start, weight.memory.as_host().context("weights of the host")?)?;
    }
    device.synchronize()?;
    let view = device.view(slab)?;
    let mut there = Weights::new();
    for ((name, weight), range) in weights.iter().zip(ranges) {
        let memory = view.weight(range).context("a range of the slab")?;
        there.insert(name, Weight { memory, ..weight.clone() })?;
    }
    Ok(there)
}

/// The largest difference of an element, as a part of the greatest value of its output. Models refuse to answer with what is no number.
fn difference(expected: &[Tensor], found: &[Tensor]) -> Result<f64> {
    ensure!(expected.len() == found.len(), "another number of outputs");
    let mut most = 0.0_f64;
    for (expected, found) in expected.iter().zip(found) {
        ensure!(expected.shape == found.shape, "another shape: {:?}, not {:?}", found.shape, expected.shape);
        let (expected, found) = expected.as_f32().zip(found.as_f32()).context("outputs of floats")?;
        let range = expected.iter().fold(f32::MIN_POSITIVE, |most, value| most.max(value.abs()));
        let worst = expected.iter().zip(found).map(|(a, b)| (a - b).abs() / range).fold(0.0_f32, f32::max);
        most = most.max(f64::from(worst));
    }
    Ok(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cases_run_on_the_cpu_and_equal_themselves() {
        let Some(library) = std::env::var_os("MODELYARD_ONNXRUNTIME").filter(|path| !path.is_empty()) else {
            println!("skipped: no ONNX Runtime library (MODELYARD_ONNXRUNTIME)");
            return;
        };
        let cpu = Arc::new(Runtime::open(RuntimeOptions::cpu(library)).unwrap());
        let mut device = engine::open("cpu:0", 256 << 20).unwrap();
        for case in cases() {
            let weights = case.weights().unwrap();
            let expected = case.run(&cpu, weights.clone()).unwrap();
            let there = on_device(device.as_mut(), &weights).unwrap();
            let found = case.run(&cpu, there).unwrap();
            assert!(difference(&expected, &found).unwrap() < 1e-9, "{}", case.name);
        }
    }
}
