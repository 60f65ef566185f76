//! How long it takes to make a variant on the device: a LoRA of rank 32 over the linear layers of SDXL's UNet, in 16-bit weights.

use std::{collections::BTreeMap, num::NonZeroUsize, time::Instant};

use anyhow::{Context, Result};
use engine::{
    Cancel, Device, ElementType,
    arch::unet2d::Config,
    lora::{Change, LoraIndex, LoraTensor, Made, MergeControl, Place, VariantTensor},
};

use crate::steps::releases;

const RANK: usize = 32;
const PASSES: usize = 3;

/// A matrix: its name, rows and columns, and where it lies in a slab.
struct Matrix {
    path: String,
    name: String,
    shape: [usize; 2],
    begin: u64,
    end: u64,
}

/// Times variants of SDXL's UNet.
///
/// # Errors
/// What failed.
pub(crate) fn at_full_size(device: &str) -> Result<String> {
    let [_, (name, json, _)] = releases();
    let mut open = engine::open(device, 0)?;
    let (seconds, count, bytes) = variant(open.as_mut(), &Config::from_json(&json)?)?;
    let gib = bytes as f64 / f64::from(1 << 30);
    Ok(format!("{name}, rank {RANK} over {count} matrices, {gib:.1} GiB: {:.0} ms; median of {PASSES}", seconds * 1e3))
}

/// Seconds of a merge, how many matrices change, and their bytes.
fn variant(device: &mut dyn Device, config: &Config) -> Result<(f64, usize, u64)> {
    let matrices = matrices(config);
    let bytes = matrices.last().map(|last| last.end).context("no matrices")?;
    let base = device.allocate(bytes)?;
    let zeros = vec![0; 64 << 20];
    let mut at = 0;
    while at < bytes {
        let length = usize::try_from(bytes - at)?.min(zeros.len());
        device.write(base, at, zeros.get(..length).unwrap_or_default())?;
        at += length as u64;
    }
    let most = matrices.iter().flat_map(|matrix| matrix.shape).max().unwrap_or(0);
    // a tenth, as a 16-bit float
    let factor: Vec<u8> = std::iter::repeat_n(0x2e66_u16.to_le_bytes(), most * RANK).flatten().collect();
    let names: Vec<[(String, [usize; 2]); 2]> = matrices
        .iter()
        .map(|Matrix { path, shape: [rows, columns], .. }| {
            [(format!("{path}.lora_down.weight"), [RANK, *columns]), (format!("{path}.lora_up.weight"), [*rows, RANK])]
        })
        .collect();
    let tensors: Vec<LoraTensor<'_>> = names
        .iter()
        .flatten()
        .map(|(name, shape)| {
            let bytes = factor.get(..shape.iter().product::<usize>() * ElementType::F16.bytes()).unwrap_or_default();
            LoraTensor { name, element: ElementType::F16, shape, bytes }
        })
        .collect();
    let settings = BTreeMap::new();
    let lora = LoraIndex::read(&tensors, &settings)?;
    let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let cancel = Cancel::new();
    let mut seconds = Vec::new();
    let view = device.view(base)?;
    for _ in 0..PASSES {
        let slab = device.reserve(bytes)?;
        let mut writer = device.writer(slab)?;
        let made = matrices.iter().map(|matrix| VariantTensor {
            name: &matrix.name,
            element: ElementType::F16,
            shape: &matrix.shape,
            to: matrix.begin..matrix.end,
            made: Made::Changed(
                Place::Slab(&view, matrix.begin),
                vec![Change { lora: &lora, stem: &matrix.path, strength: 0.8 }],
            ),
        });
        let made = made.collect();
        let began = Instant::now();
        writer.merge(made, &MergeControl { threads, done: &|_| {}, cancel: &cancel })?;
        seconds.push(began.elapsed().as_secs_f64());
        drop(writer);
        device.free(slab)?;
    }
    drop(view);
    device.free(base)?;
    seconds.sort_by(f64::total_cmp);
    Ok((seconds.get(PASSES / 2).copied().unwrap_or(f64::NAN), matrices.len(), bytes))
}

fn matrices(config: &Config) -> Vec<Matrix> {
    let mut end = 0_u64;
    let matrix = |(name, shape): (String, Vec<usize>)| {
        let path =
            name.strip_suffix(".weight").filter(|path| path.contains("attentions.") && !path.contains(".norm"))?;
        let shape: [usize; 2] = shape.try_into().ok()?;
        let begin = end.next_multiple_of(engine::ALIGN);
        end = begin + (shape.iter().product::<usize>() * ElementType::F16.bytes()) as u64;
        Some(Matrix { path: path.to_owned(), name: name.clone(), shape, begin, end })
    };
    config.tensors().into_iter().filter_map(matrix).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_variant_of_a_narrow_unet_is_made_the_same_way() {
        let mut device = engine::open("cpu:0", 1 << 30).unwrap();
        let [_, (_, mut json, _)] = releases();
        json["block_out_channels"] = json!([32, 64, 128]);
        json["attention_head_dim"] = json!([1, 2, 4]);
        json["cross_attention_dim"] = json!(64);
        let (_, count, _) = variant(device.as_mut(), &Config::from_json(&json).unwrap()).unwrap();
        assert_eq!(count, 722);
        assert_eq!(device.memory().unwrap().used_bytes, 0);
    }
}
