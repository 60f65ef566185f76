//! Whole checkpoints: UNet, VAE and text encoders in one file or in a pipeline folder.

use serde_json::{Map, Value, json};

use super::{
    arch::{self, Naming, Weights},
    configs::{self, Scheduler},
    metadata::metadata,
    options::{Arch, Precision},
    plan::{FolderPlan, Output, Request, single},
    sizes::{self, ClipSize, UnetSize, VaeSize},
    tokenizer,
    write::TensorFile,
};

/// A text encoder of a family.
#[derive(Debug)]
struct Encoder {
    size: ClipSize,
    naming: Naming,
    /// Before the original names.
    prefix: &'static str,
    /// Ends the folder names `text_encoder` and `tokenizer`.
    suffix: &'static str,
    pad: &'static str,
}

impl Encoder {
    fn weights(&self) -> Weights {
        arch::clip(&self.size, self.naming)
    }

    const fn class(&self) -> &'static str {
        if self.size.projected { "CLIPTextModelWithProjection" } else { "CLIPTextModel" }
    }
}

/// What a family consists of.
#[derive(Debug)]
struct Family {
    unet: UnetSize,
    vae: VaeSize,
    encoders: Vec<Encoder>,
    scheduler: Scheduler,
    pipeline: &'static str,
    /// Its files hold the noise schedule of the training.
    keeps_training: bool,
    /// More entries of `model_index.json`.
    index: Value,
}

fn clip_l(request: &Request, prefix: &'static str) -> Encoder {
    let (size, naming) = (sizes::clip_l(request.scale), Naming::HfWithPositions);
    Encoder { size, naming, prefix, suffix: "", pad: tokenizer::PAD_END }
}

fn clip_g(request: &Request, prefix: &'static str) -> Encoder {
    let (size, naming) = (sizes::clip_g(request.scale), Naming::OpenClip);
    Encoder { size, naming, prefix, suffix: "_2", pad: tokenizer::PAD_ZERO }
}

fn sd15(request: &Request) -> Family {
    Family {
        unet: sizes::unet_sd15(request.scale),
        vae: sizes::vae_sd(request.scale),
        encoders: vec![clip_l(request, "cond_stage_model.transformer.")],
        scheduler: Scheduler::Pndm,
        pipeline: "StableDiffusionPipeline",
        keeps_training: true,
        index: no_safety_checker(),
    }
}

fn sd21(request: &Request) -> Family {
    let (size, naming) = (sizes::clip_h(request.scale), Naming::OpenClip);
    let (prefix, pad) = ("cond_stage_model.model.", tokenizer::PAD_ZERO);
    Family {
        unet: sizes::unet_sd21(request.scale),
        encoders: vec![Encoder { size, naming, prefix, suffix: "", pad }],
        scheduler: Scheduler::DdimV,
        ..sd15(request)
    }
}

fn sdxl(request: &Request) -> Family {
    Family {
        unet: sizes::unet_sdxl(request.scale),
        vae: sizes::vae_sdxl(request.scale),
        encoders: vec![
            clip_l(request, "conditioner.embedders.0.transformer."),
            clip_g(request, "conditioner.embedders.1.model."),
        ],
        scheduler: Scheduler::Euler,
        pipeline: "StableDiffusionXLPipeline",
        keeps_training: false,
        index: json!({ "force_zeros_for_empty_prompt": true }),
    }
}

fn refiner(request: &Request) -> Family {
    let none = json!([null, null]);
    Family {
        unet: sizes::unet_refiner(request.scale),
        encoders: vec![clip_g(request, "conditioner.embedders.0.model.")],
        pipeline: "StableDiffusionXLImg2ImgPipeline",
        index: json!({
            "force_zeros_for_empty_prompt": false,
            "requires_aesthetics_score": true,
            "text_encoder": none,
            "tokenizer": none,
        }),
        ..sdxl(request)
    }
}

fn no_safety_checker() -> Value {
    let none = json!([null, null]);
    json!({ "feature_extractor": none, "requires_safety_checker": false, "safety_checker": none })
}

/// The outputs of a checkpoint.
pub(super) fn plan(arch: Arch, request: &Request) -> anyhow::Result<Vec<Output>> {
    let family = match arch {
        Arch::Sd15 => sd15(request),
        Arch::Sd21 => sd21(request),
        Arch::SdxlRefiner => refiner(request),
        _ => sdxl(request),
    };
    let unet = arch::unet(&request.unet_key(arch), &family.unet);
    let vae = arch::vae(&format!("{}/vae", arch.name()), &family.vae);
    let mut outputs = Vec::new();
    if request.wants_single() {
        outputs.push(single(arch, request, file(arch, request, &family, (&unet, &vae))));
    }
    if request.wants_diffusers() {
        outputs.push(folder(request, &family, (&unet, &vae))?.output(arch, request));
    }
    Ok(outputs)
}

fn file(arch: Arch, request: &Request, family: &Family, (unet, vae): (&Weights, &Weights)) -> TensorFile {
    let dtype = request.dtype();
    let mut tensors = unet.in_original("model.diffusion_model.", dtype);
    tensors.extend(vae.in_original("first_stage_model.", dtype));
    for encoder in &family.encoders {
        tensors.extend(encoder.weights().in_original(encoder.prefix, dtype));
    }
    if family.keeps_training {
        tensors.extend(arch::training().in_original("", dtype));
    }
    TensorFile::new(tensors, metadata(arch, request))
}

fn folder(request: &Request, family: &Family, (unet, vae): (&Weights, &Weights)) -> anyhow::Result<FolderPlan> {
    let (mut folder, dtype) = (FolderPlan::default(), request.dtype());
    folder.json("model_index.json", &index(family))?;
    folder.json("scheduler/scheduler_config.json", &family.scheduler.config())?;
    folder.json("unet/config.json", &configs::unet(&family.unet))?;
    folder.weights("unet/diffusion_pytorch_model.safetensors", unet, dtype);
    folder.json("vae/config.json", &configs::vae(&family.vae))?;
    folder.weights("vae/diffusion_pytorch_model.safetensors", vae, dtype);
    for encoder in &family.encoders {
        add_encoder(&mut folder, encoder, request.precision)?;
    }
    Ok(folder)
}

fn add_encoder(folder: &mut FolderPlan, encoder: &Encoder, precision: Precision) -> anyhow::Result<()> {
    let suffix = encoder.suffix;
    folder.json(format!("text_encoder{suffix}/config.json"), &configs::clip(&encoder.size, precision))?;
    folder.weights(format!("text_encoder{suffix}/model.safetensors"), &encoder.weights(), precision.dtype());
    for (name, text) in tokenizer::files(encoder.size.vocabulary, encoder.pad)? {
        folder.text(format!("tokenizer{suffix}/{name}"), text);
    }
    Ok(())
}

fn index(family: &Family) -> Value {
    let mut index = Map::new();
    let mut put = |key: String, value: Value| _ = index.insert(key, value);
    put("_class_name".to_owned(), json!(family.pipeline));
    put("_diffusers_version".to_owned(), json!(configs::DIFFUSERS));
    put("scheduler".to_owned(), json!(["diffusers", family.scheduler.class()]));
    put("unet".to_owned(), json!(["diffusers", "UNet2DConditionModel"]));
    put("vae".to_owned(), json!(["diffusers", "AutoencoderKL"]));
    for (key, value) in family.index.as_object().into_iter().flatten() {
        put(key.clone(), value.clone());
    }
    for encoder in &family.encoders {
        put(format!("text_encoder{}", encoder.suffix), json!(["transformers", encoder.class()]));
        put(format!("tokenizer{}", encoder.suffix), json!(["transformers", "CLIPTokenizer"]));
    }
    Value::Object(index)
}
