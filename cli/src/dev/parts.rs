//! Models that are not whole checkpoints: VAEs, text encoders, LoRAs, ControlNets, textual inversions.

use serde_json::Value;

use super::{
    arch::{self, Naming, Target, Weights},
    configs,
    metadata::metadata,
    options::{Arch, Scale},
    plan::{FolderPlan, Output, Request, single},
    sizes::{self, ClipSize, VaeSize},
    tokenizer,
    write::TensorFile,
};

/// File of weights in a folder of diffusers.
const DIFFUSERS_WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

/// The outputs of one of these models.
pub(super) fn plan(arch: Arch, request: &Request) -> anyhow::Result<Vec<Output>> {
    let scale = request.scale;
    match arch {
        Arch::VaeSdxl => vae(arch, request, &sizes::vae_sdxl(scale)),
        Arch::Vae16 => vae(arch, request, &sizes::vae16(scale)),
        Arch::Taesd => {
            let channels = sizes::taesd(scale);
            both(arch, request, &arch::taesd(arch.name(), channels), DIFFUSERS_WEIGHTS, Some(configs::taesd(channels)))
        }
        Arch::ClipL => text_encoder(arch, request, &sizes::clip_l(scale), tokenizer::PAD_END),
        Arch::ClipG => text_encoder(arch, request, &sizes::clip_g(scale), tokenizer::PAD_ZERO),
        Arch::LoraSd15 => both(arch, request, &lora_sd15(scale), "pytorch_lora_weights.safetensors", None),
        Arch::LoraSdxl => both(arch, request, &lora_sdxl(scale), "pytorch_lora_weights.safetensors", None),
        Arch::ControlnetSd15 => controlnet(arch, request),
        Arch::Embedding => {
            both(arch, request, &arch::embedding_sd15(arch.name(), scale), "learned_embeds.safetensors", None)
        }
        Arch::EmbeddingSdxl => {
            both(arch, request, &arch::embedding_sdxl(arch.name(), scale), "learned_embeds.safetensors", None)
        }
        Arch::Vae | Arch::Sd15 | Arch::Sd21 | Arch::Sdxl | Arch::SdxlRefiner => {
            vae(arch, request, &sizes::vae_sd(scale))
        }
    }
}

fn vae(arch: Arch, request: &Request, size: &VaeSize) -> anyhow::Result<Vec<Output>> {
    both(arch, request, &arch::vae(arch.name(), size), DIFFUSERS_WEIGHTS, Some(configs::vae(size)))
}

fn controlnet(arch: Arch, request: &Request) -> anyhow::Result<Vec<Output>> {
    let (size, hint) = (sizes::unet_sd15(request.scale), sizes::hint(request.scale));
    let weights = arch::controlnet(arch.name(), &size, &hint);
    let config = configs::controlnet(&size, &hint);
    let mut outputs = Vec::new();
    if request.wants_single() {
        outputs.push(one(arch, request, &weights, "control_model."));
    }
    if request.wants_diffusers() {
        outputs.push(folder(request, &weights, DIFFUSERS_WEIGHTS, Some(config))?.output(arch, request));
    }
    Ok(outputs)
}

fn text_encoder(arch: Arch, request: &Request, size: &ClipSize, pad: &str) -> anyhow::Result<Vec<Output>> {
    let weights = arch::clip(size, Naming::Hf);
    let mut outputs = Vec::new();
    if request.wants_single() {
        outputs.push(one(arch, request, &weights, ""));
    }
    if request.wants_diffusers() {
        let config = configs::clip(size, request.precision);
        let mut folder = folder(request, &weights, "model.safetensors", Some(config))?;
        for (name, text) in tokenizer::files(size.vocabulary, pad)? {
            folder.text(name, text);
        }
        outputs.push(folder.output(arch, request));
    }
    Ok(outputs)
}

/// In the layouts that are wanted, the original names without prefix.
fn both(
    arch: Arch,
    request: &Request,
    weights: &Weights,
    file: &str,
    config: Option<Value>,
) -> anyhow::Result<Vec<Output>> {
    let mut outputs = Vec::new();
    if request.wants_single() {
        outputs.push(one(arch, request, weights, ""));
    }
    if request.wants_diffusers() {
        outputs.push(folder(request, weights, file, config)?.output(arch, request));
    }
    Ok(outputs)
}

fn one(arch: Arch, request: &Request, weights: &Weights, prefix: &str) -> Output {
    let tensors = weights.in_original(prefix, request.dtype());
    single(arch, request, TensorFile::new(tensors, metadata(arch, request)))
}

fn folder(request: &Request, weights: &Weights, file: &str, config: Option<Value>) -> anyhow::Result<FolderPlan> {
    let mut folder = FolderPlan::default();
    if let Some(config) = config {
        folder.json("config.json", &config)?;
    }
    folder.weights(file, weights, request.dtype());
    Ok(folder)
}

fn lora_sd15(scale: Scale) -> Weights {
    let unet = arch::unet("sd15/unet", &sizes::unet_sd15(scale));
    let text = arch::clip(&sizes::clip_l(scale), Naming::Hf);
    let targets = [
        Target { weights: &unet, kohya: "lora_unet", diffusers: "unet", original_names: false },
        Target { weights: &text, kohya: "lora_te", diffusers: "text_encoder", original_names: false },
    ];
    let (rank, alpha) = sizes::lora(scale);
    arch::lora(Arch::LoraSd15.name(), &targets, rank, alpha)
}

fn lora_sdxl(scale: Scale) -> Weights {
    let unet = arch::unet("sdxl/unet", &sizes::unet_sdxl(scale));
    let (first, second) =
        (arch::clip(&sizes::clip_l(scale), Naming::Hf), arch::clip(&sizes::clip_g(scale), Naming::Hf));
    let targets = [
        Target { weights: &unet, kohya: "lora_unet", diffusers: "unet", original_names: true },
        Target { weights: &first, kohya: "lora_te1", diffusers: "text_encoder", original_names: false },
        Target { weights: &second, kohya: "lora_te2", diffusers: "text_encoder_2", original_names: false },
    ];
    let (rank, alpha) = sizes::lora(scale);
    arch::lora(Arch::LoraSdxl.name(), &targets, rank, alpha)
}
