//! A UNet and LoRAs of its size: random 16-bit floats under the names of the releases.

use anyhow::Context;
use engine::arch::unet2d::Config;
use gpu_worker::runner::DeviceTensor;
use residency::arena::{Arenas, Draft};
use serde_json::json;

/// Bytes of a value.
const EACH: u64 = 2;
const ALIGN: u64 = 256;

/// Which modules a LoRA has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Modules {
    /// Attention, feed-forward and the projections around them: what trainers call all linear layers.
    All,
    /// The four matrices of each attention.
    Attention,
    /// Those of the middle block only.
    Middle,
}

impl Modules {
    fn has(self, path: &str) -> bool {
        let attention = path.contains(".attn1.") || path.contains(".attn2.");
        let last = path.rsplit('.').next().unwrap_or_default();
        match self {
            Self::Attention => attention && !last.starts_with("norm"),
            Self::Middle => Self::Attention.has(path) && path.starts_with("mid_block."),
            Self::All => {
                let wide = path.contains(".ff.net.") || (path.contains("attentions.") && last.starts_with("proj_"));
                Self::Attention.has(path) || wide
            }
        }
    }
}

/// A component in a sealed memory file's making: its tensors and its bytes.
pub(crate) struct Component {
    pub(crate) tensors: Vec<DeviceTensor>,
    pub(crate) bytes: u64,
}

/// SDXL's UNet; with `small` a tenth as wide.
pub(crate) fn unet(small: bool) -> anyhow::Result<Vec<(String, Vec<usize>)>> {
    let (channels, context) = if small { ([32, 64, 128], 204) } else { ([320, 640, 1280], 2048) };
    let config = Config::from_json(&json!({
        "block_out_channels": channels, "transformer_layers_per_block": [1, 2, 10], "cross_attention_dim": context,
        "attention_head_dim": if small { [1, 2, 4] } else { [5, 10, 20] }, "use_linear_projection": true,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
    }))?;
    Ok(config.tensors())
}

/// The weights that such a LoRA changes: path, rows, columns.
pub(crate) fn changed(unet: &[(String, Vec<usize>)], modules: Modules) -> Vec<(String, usize, usize)> {
    let matrix = |(name, shape): &(String, Vec<usize>)| {
        let path = name.strip_suffix(".weight").filter(|path| modules.has(path))?;
        (shape.len() == 2).then(|| (path.to_owned(), shape[0], shape[1]))
    };
    unet.iter().filter_map(matrix).collect()
}

/// A LoRA of this rank.
pub(crate) fn lora(changed: &[(String, usize, usize)], rank: usize) -> Vec<(String, Vec<usize>)> {
    let factors = |(path, rows, columns): &(String, usize, usize)| {
        [
            (format!("unet.{path}.lora_A.weight"), vec![rank, *columns]),
            (format!("unet.{path}.lora_B.weight"), vec![*rows, rank]),
        ]
    };
    changed.iter().flat_map(factors).collect()
}

impl Component {
    /// Where the tensors lie.
    pub(crate) fn of(tensors: &[(String, Vec<usize>)]) -> Self {
        let mut end = 0_u64;
        let place = |(name, shape): &(String, Vec<usize>)| {
            let (offset, shape) = (end.next_multiple_of(ALIGN), shape.iter().map(|side| *side as u64));
            let shape: Vec<u64> = shape.collect();
            let len = shape.iter().product::<u64>() * EACH;
            end = offset + len;
            DeviceTensor { name: name.clone(), dtype: "F16".into(), shape, offset, len }
        };
        let tensors = tensors.iter().map(place).collect();
        Self { tensors, bytes: end }
    }

    /// Its bytes: numbers as large as a weight's, from a seed.
    pub(crate) fn fill(&self, seed: u64) -> anyhow::Result<Draft> {
        let draft = Arenas::default().create(self.bytes).context("memory for a component")?;
        draft.allocate(0, self.bytes)?;
        let mut state = seed | 1;
        let block: Vec<u8> = (0..1 << 20)
            .flat_map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                // a sign, an exponent of a few hundredths, ten bits of fraction
                let bits = ((state >> 33) as u16 & 0x83ff) | 0x2800;
                bits.to_le_bytes()
            })
            .collect();
        let mut at = 0;
        while at < self.bytes {
            let length = usize::try_from(self.bytes - at).unwrap_or(usize::MAX).min(block.len());
            draft.write_at(block.get(..length).unwrap_or_default(), at)?;
            at += length as u64;
        }
        Ok(draft)
    }
}
