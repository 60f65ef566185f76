//! A library as people have it: headers of real size and naming, side-cars beside some, the weights themselves left as holes.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
};

use serde_json::{Map, Value, json};

/// Names and shapes of real components.
const VAE: &str = include_str!("../../reference/golden/vae.txt");
const UNET: &str = include_str!("../../reference/golden/unet-sd15.txt");
/// Diffusers folders among the rest.
const FOLDERS: usize = 20;

/// How much the headers of the single files have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Likeness {
    /// As people have it: few architectures and ranks; those files differ in their metadata and their weights.
    Usual,
    /// Each has a tensor that no other has, so that nothing can be told from another one.
    None,
}

/// Makes `count` single files and some diffusers folders below `root`.
///
/// # Errors
/// When the folder cannot be written.
pub(crate) fn make(root: &Path, count: usize, likeness: Likeness) -> anyhow::Result<()> {
    for number in 0..count {
        let (kind, mut tensors) = tensors(number);
        if likeness == Likeness::None {
            tensors.push((format!("of_file_{number}"), vec![1 + number as u64 % 64]));
        }
        let folder = root.join(kind).join(format!("{:03}", number / 100));
        fs::create_dir_all(&folder)?;
        let stem = format!("{kind}-{number:05}");
        write(&folder.join(format!("{stem}.safetensors")), &metadata(number, kind), &tensors)?;
        if kind.ends_with("lora") && number % 4 == 0 {
            fs::write(folder.join(format!("{stem}.civitai.info")), version(number).to_string())?;
        }
        if number % 3 == 0 {
            fs::write(folder.join(format!("{stem}.preview.png")), [0x89, b'P', b'N', b'G'])?;
        }
    }
    (0..FOLDERS).try_for_each(|number| pipeline(&root.join("diffusers").join(format!("pipe-{number}")), number))
}

type Tensors = Vec<(String, Vec<u64>)>;

/// Of a hundred files 55 LoRAs of SD 1.5, 20 of SDXL, 10 as PEFT writes them, 7 embeddings, 5 VAEs, 3 UNets.
fn tensors(number: usize) -> (&'static str, Tensors) {
    let rank = [4, 8, 16, 32, 64, 128].into_iter().nth(number % 6).unwrap_or(16);
    match number % 100 {
        0..55 => ("sd15-lora", kohya(&[(4, 2, 1), (4, 3, 1)], 768, rank, 12)),
        55..75 => ("sdxl-lora", kohya(&[(3, 2, 10), (2, 3, 10)], 2048, rank, 12)),
        75..85 => ("peft-lora", peft(rank)),
        85..92 => ("embedding", vec![("emb_params".to_owned(), vec![1 + number as u64 % 8, 768])]),
        92..97 => ("vae", golden(VAE)),
        _ => ("unet", golden(UNET)),
    }
}

/// Alpha, down and up of every attention and feed-forward projection.
fn kohya(sides: &[(usize, usize, usize)], context: u64, rank: u64, encoder_layers: usize) -> Tensors {
    let mut tensors = Vec::new();
    let mut module = |name: String, (input, output): (u64, u64)| {
        tensors.push((format!("{name}.alpha"), Vec::new()));
        tensors.push((format!("{name}.lora_down.weight"), vec![rank, input]));
        tensors.push((format!("{name}.lora_up.weight"), vec![output, rank]));
    };
    for (side, (levels, attentions, depth)) in ["down", "up"].into_iter().zip(sides) {
        for (level, attention, block) in triples(*levels, *attentions, *depth) {
            let at = format!("lora_unet_{side}_blocks_{level}_attentions_{attention}");
            if block == 0 {
                module(format!("{at}_proj_in"), (640, 640));
                module(format!("{at}_proj_out"), (640, 640));
            }
            let at = format!("{at}_transformer_blocks_{block}");
            for (attn, width) in [("attn1", 640), ("attn2", context)] {
                for (part, input) in [("to_q", 640), ("to_k", width), ("to_v", width), ("to_out_0", 640)] {
                    module(format!("{at}_{attn}_{part}"), (input, 640));
                }
            }
            module(format!("{at}_ff_net_0_proj"), (640, 5120));
            module(format!("{at}_ff_net_2"), (2560, 640));
        }
    }
    for layer in 0..encoder_layers {
        for part in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            module(format!("lora_te_text_model_encoder_layers_{layer}_self_attn_{part}"), (768, 768));
        }
        module(format!("lora_te_text_model_encoder_layers_{layer}_mlp_fc1"), (768, 3072));
        module(format!("lora_te_text_model_encoder_layers_{layer}_mlp_fc2"), (3072, 768));
    }
    tensors
}

fn triples(levels: usize, attentions: usize, depth: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..levels).flat_map(move |level| {
        (0..attentions).flat_map(move |attention| (0..depth).map(move |block| (level, attention, block)))
    })
}

fn peft(rank: u64) -> Tensors {
    let mut tensors = Vec::new();
    for (level, attention, _) in triples(3, 2, 1) {
        for (attn, width) in [("attn1", 320), ("attn2", 768)] {
            for (part, input) in [("to_q", 320), ("to_k", width), ("to_v", width), ("to_out.0", 320)] {
                let at = format!("unet.down_blocks.{level}.attentions.{attention}.transformer_blocks.0.{attn}.{part}");
                tensors.push((format!("{at}.lora_A.weight"), vec![rank, input]));
                tensors.push((format!("{at}.lora_B.weight"), vec![320, rank]));
            }
        }
    }
    tensors
}

/// Lines of `name<tab>1x2x3`.
fn golden(text: &str) -> Tensors {
    let lines = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('\t'));
    lines
        .map(|(name, shape)| (name.to_owned(), shape.split('x').filter_map(|size| size.parse().ok()).collect()))
        .collect()
}

/// What a trainer writes into its files.
fn metadata(number: usize, kind: &str) -> Value {
    if !kind.ends_with("lora") {
        return json!({ "format": "pt" });
    }
    let tags: Map<String, Value> = (0..60).map(|tag| (format!("tag {}", tag * 7 + number % 50), json!(tag))).collect();
    let dirs = json!({ format!("10_subject{number}"): { "n_repeats": 10, "img_count": 40 } });
    json!({
        "ss_output_name": format!("subject {number}"),
        "ss_network_module": "networks.lora", "ss_network_dim": "32", "ss_network_alpha": "16",
        "ss_sd_model_name": "v1-5-pruned.safetensors", "ss_base_model_version": "sd_v1", "ss_resolution": "(512, 512)",
        "ss_num_train_images": "400", "ss_epoch": "10", "ss_steps": "4000", "ss_learning_rate": "0.0001",
        "ss_dataset_dirs": dirs.to_string(), "ss_tag_frequency": json!({ "10_subject": tags }).to_string(),
    })
}

fn version(number: usize) -> Value {
    json!({
        "id": number, "modelId": number / 3, "name": "v1", "baseModel": "SD 1.5", "trainedWords": [format!("word{number}")],
        "description": "<p>Made for a benchmark.</p>", "model": { "name": format!("Model {number}"), "tags": ["style", "person"] },
        "files": [{ "primary": true, "hashes": { "SHA256": format!("{number:064x}") } }],
    })
}

/// A header and a hole of the size that it promises.
fn write(path: &Path, metadata: &Value, tensors: &Tensors) -> anyhow::Result<()> {
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), metadata.clone());
    let mut at = 0;
    for (name, shape) in tensors {
        let end = at + shape.iter().product::<u64>() * 2;
        header.insert(name.clone(), json!({ "dtype": "F16", "shape": shape, "data_offsets": [at, end] }));
        at = end;
    }
    let mut text = Value::Object(header).to_string();
    while !text.len().is_multiple_of(8) {
        text.push(' ');
    }
    let mut file = File::create(path)?;
    file.write_all(&(text.len() as u64).to_le_bytes())?;
    file.write_all(text.as_bytes())?;
    file.set_len(8 + text.len() as u64 + at)?;
    Ok(())
}

fn pipeline(folder: &Path, number: usize) -> anyhow::Result<()> {
    let index = json!({
        "_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.30.0",
        "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
    });
    fs::create_dir_all(folder)?;
    fs::write(folder.join("model_index.json"), index.to_string())?;
    for (part, class, names) in [("unet", "UNet2DConditionModel", UNET), ("vae", "AutoencoderKL", VAE)] {
        fs::create_dir_all(folder.join(part))?;
        let config = json!({ "_class_name": class, "cross_attention_dim": 768, "latent_channels": 4 });
        fs::write(folder.join(part).join("config.json"), config.to_string())?;
        let file = folder.join(part).join("diffusion_pytorch_model.safetensors");
        write(&file, &metadata(number, part), &golden(names))?;
    }
    Ok(())
}
