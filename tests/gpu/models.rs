//! Models on the CUDA execution provider: small ones, from weights in the device's memory, beside the same on the CPU.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use engine::{
    Control, Device, ElementType, EngineError, Runtime, RuntimeOptions, TensorFacts, Weights,
    arch::{clip, unet2d, vae},
    forward::{Component, Forward, ForwardReport, check, values::uniform},
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
    /// Largest difference of a figure, as a part of the greatest value: a GPU multiplies 32-bit floats with 10 bits of
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
            Err(error) if is_refused(&error) => return Ok(format!("skipped: {error:#}")),
            found => found.with_context(|| case.name)?,
        };
        let worst = difference(&expected, &found)?;
        ensure!(worst <= case.bound, "{}: {worst:.1e} off the CPU, {:.0e} allowed", case.name, case.bound);
        said.push(format!("{} {worst:.0e}", case.name));
    }
    Ok(format!("off the CPU's figures by {}", said.join(", ")))
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

    fn run(&self, runtime: &Arc<Runtime>, weights: Weights) -> Result<ForwardReport> {
        let component = Component { kind: self.kind, base: None, config: Some(&self.config), graph: None };
        match check(runtime, &component, weights, &Control::default())? {
            Forward::Ran(report) => Ok(report),
            Forward::Unsupported { reason } => bail!(reason),
        }
    }
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

/// The largest difference of a figure of an output, as a part of its greatest value.
fn difference(expected: &ForwardReport, found: &ForwardReport) -> Result<f64> {
    ensure!(found.is_finite, "values that are no numbers");
    ensure!(expected.outputs.len() == found.outputs.len(), "another number of outputs");
    let pairs = expected.outputs.iter().zip(&found.outputs);
    let off = pairs.map(|(expected, found)| {
        let (a, b) = (&expected.statistics, &found.statistics);
        let range = a.min.abs().max(a.max.abs()).max(f64::MIN_POSITIVE);
        let differences = [a.mean - b.mean, a.std - b.std, a.min - b.min, a.max - b.max];
        differences.into_iter().fold(0.0, |most: f64, off| most.max(off.abs() / range))
    });
    Ok(off.fold(0.0, f64::max))
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
