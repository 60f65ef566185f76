//! Model files: real safetensors files with the key names of real models and as many random bytes as a story needs.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

/// So many MiB.
pub const fn mebibytes(count: u64) -> u64 {
    count << 20
}

/// One tensor of 32-bit floats.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Name.
    pub name: String,
    /// Shape.
    pub shape: Vec<u64>,
}

impl Tensor {
    fn new(name: impl Into<String>, shape: &[u64]) -> Self {
        Self { name: name.into(), shape: shape.to_vec() }
    }

    fn bytes(&self) -> u64 {
        self.shape.iter().product::<u64>() * 4
    }
}

/// A file to be written.
#[derive(Debug, Clone)]
pub struct ModelFile {
    tensors: Vec<Tensor>,
    seed: u64,
    /// Bytes from the first on that are the same whatever the seed.
    common: u64,
}

impl ModelFile {
    /// A VAE of about this many bytes, with the original key names.
    pub fn vae(bytes: u64) -> Self {
        Self { tensors: vae("", bytes), seed: 1, common: 0 }
    }

    /// A file of about this many bytes whose names no rule knows.
    pub fn unnamed(bytes: u64) -> Self {
        Self {
            tensors: vec![Tensor::new("alpha.weight", &[16, 16]), filler("beta.weight".into(), bytes)],
            seed: 1,
            common: 0,
        }
    }

    /// An SD1 checkpoint whose UNet, VAE and text encoder have about this many bytes each.
    pub fn checkpoint(unet: u64, vae_bytes: u64, text_encoder: u64) -> Self {
        let mut tensors = unet_sd1(unet);
        tensors.extend(vae("first_stage_model.", vae_bytes));
        tensors.extend(clip_l("cond_stage_model.transformer.text_model.", text_encoder));
        Self { tensors, seed: 1, common: 0 }
    }

    /// An SD1 checkpoint of a VAE and a UNet of about this many bytes. The VAE is the same whatever the seed, the UNet is not.
    pub fn with_common_vae(vae_bytes: u64, unet: u64) -> Self {
        let mut tensors = vae("first_stage_model.", vae_bytes);
        let common = tensors.iter().map(Tensor::bytes).sum();
        tensors.extend(unet_sd1(unet));
        Self { tensors, seed: 1, common }
    }

    /// With other contents.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Bytes of all tensors.
    pub fn tensor_bytes(&self) -> u64 {
        self.tensors.iter().map(Tensor::bytes).sum()
    }

    /// Writes the file into this folder, whole or not at all; its path.
    ///
    /// # Panics
    /// When the folder cannot be written to.
    pub fn write(&self, folder: &Path, name: &str) -> PathBuf {
        let path = folder.join(name);
        let part = folder.join(format!(".{name}.part"));
        std::fs::create_dir_all(folder).expect("the library folder can be made");
        self.write_to(&part).unwrap_or_else(|error| panic!("{}: {error}", part.display()));
        std::fs::rename(&part, &path).expect("a written file can be named");
        path
    }

    fn write_to(&self, path: &Path) -> std::io::Result<()> {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
        let header = self.header();
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(header.as_bytes())?;
        let (mut common, mut own) = (random_block(1), random_block(self.seed));
        let mut left = self.tensor_bytes();
        let mut number = 0_u64;
        while left > 0 {
            let block = if number * (common.len() as u64) < self.common { &mut common } else { &mut own };
            // blocks differ in their first bytes, so that no two parts of a file are equal
            block[..8].copy_from_slice(&number.to_le_bytes());
            let take = left.min(block.len() as u64);
            out.write_all(&block[..usize::try_from(take).expect("a block fits")])?;
            left -= take;
            number += 1;
        }
        out.into_inner()?.sync_all()
    }

    fn header(&self) -> String {
        let mut entries = Map::new();
        entries.insert("__metadata__".into(), json!({ "made_by": "modelyard tests" }));
        let mut at = 0;
        for tensor in &self.tensors {
            let end = at + tensor.bytes();
            let entry = json!({ "dtype": "F32", "shape": tensor.shape, "data_offsets": [at, end] });
            entries.insert(tensor.name.clone(), entry);
            at = end;
        }
        let mut text = Value::Object(entries).to_string();
        // the data begins at a multiple of eight
        while !(text.len() + 8).is_multiple_of(8) {
            text.push(' ');
        }
        text
    }
}

/// 1 MiB of finite 32-bit floats between -2 and 2.
fn random_block(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    // sign and mantissa are random, the exponent is that of 0.5..2
    let float = |bits: u64| ((bits as u32) & 0x80FF_FFFF) | 0x3F00_0000;
    (0..1 << 18).flat_map(|_| float(next()).to_le_bytes()).collect()
}

/// Rows of 1024 floats that make up about this many bytes.
fn filler(name: String, bytes: u64) -> Tensor {
    Tensor::new(name, &[(bytes / 4096).max(1), 1024])
}

fn vae(prefix: &str, bytes: u64) -> Vec<Tensor> {
    let named = |name: &str, shape: &[u64]| Tensor::new(format!("{prefix}{name}"), shape);
    vec![
        named("encoder.conv_in.weight", &[16, 3, 3, 3]),
        named("encoder.conv_out.weight", &[8, 16, 3, 3]),
        named("decoder.conv_in.weight", &[16, 4, 3, 3]),
        named("decoder.conv_out.weight", &[3, 16, 3, 3]),
        named("encoder.mid.block_1.conv1.weight", &[16, 16, 3, 3]),
        named("decoder.mid.block_1.conv1.weight", &[16, 16, 3, 3]),
        named("quant_conv.weight", &[8, 8, 1, 1]),
        named("post_quant_conv.weight", &[4, 4, 1, 1]),
        named("decoder.norm_out.weight", &[16]),
        named("encoder.norm_out.weight", &[16]),
        filler(format!("{prefix}decoder.mid.attn_1.q.weight"), bytes),
    ]
}

fn unet_sd1(bytes: u64) -> Vec<Tensor> {
    let named = |name: &str, shape: &[u64]| Tensor::new(format!("model.diffusion_model.{name}"), shape);
    vec![
        named("input_blocks.0.0.weight", &[32, 4, 3, 3]),
        named("input_blocks.0.0.bias", &[32]),
        named("input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", &[32, 768]),
        named("input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight", &[32, 768]),
        named("time_embed.0.weight", &[128, 32]),
        named("time_embed.2.weight", &[128, 128]),
        named("out.2.weight", &[4, 32, 3, 3]),
        filler("model.diffusion_model.middle_block.1.transformer_blocks.0.ff.net.0.proj.weight".into(), bytes),
    ]
}

fn clip_l(prefix: &str, bytes: u64) -> Vec<Tensor> {
    let named = |name: &str, shape: &[u64]| Tensor::new(format!("{prefix}{name}"), shape);
    vec![
        named("embeddings.position_embedding.weight", &[77, 768]),
        named("encoder.layers.0.self_attn.q_proj.weight", &[768, 768]),
        named("encoder.layers.11.self_attn.q_proj.weight", &[768, 768]),
        named("final_layer_norm.weight", &[768]),
        filler(format!("{prefix}embeddings.token_embedding.weight"), bytes),
    ]
}
