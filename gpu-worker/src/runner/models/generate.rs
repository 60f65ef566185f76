//! A prompt to images: text encoders, UNet and VAE of one model, or the VAE of another.

use engine::{
    generate::{CacheFigures, Generated, LoraMention, Pipeline, Preview, PromptEncoder, Request, width_mismatch},
    images, latents_io,
    models::{
        TextEncoder,
        vae::{Architecture, Vae},
    },
    prompt::PromptSyntax,
    runtime::Part,
    samplers::{Prediction, SamplerKind, SchedulerConfig},
    tokenize::ClipTokenizer,
};
use serde_json::{Value, json};
use shared::{
    error::{Classify, ErrorBody, ErrorCode},
    ids::ModelId,
    job::engine::{GenerateArgs, ImageFormat, Sampler, Schedule, VaeSettings},
};

use super::{Bench, kept::must_be_kept, tensors, text, unet, vae};
use crate::runner::{
    Blob, GenerateWork, LoraTold, PartFacts, TENSORS,
    engine_thread::{Outcome, RunFailure, Said},
    protocol::RunPhase,
};

/// Pixels of a side for bases that were trained for no one size.
const SIDE: usize = 512;

pub(super) fn run(bench: &Bench<'_>, work: &GenerateWork) -> Result<Outcome, RunFailure> {
    bench.at(RunPhase::Preparing, 0, 1);
    if work.fresh {
        bench.cache.clear();
        bench.order.aside.regained(bench.runtime.regain());
    }
    let base = work.unet.base.as_deref().ok_or_else(|| no_base(&work.unet.kind))?;
    let mut encoders: Vec<(ClipTokenizer, TextEncoder, Option<String>)> = Vec::new();
    for facts in &work.encoders {
        bench.go_on()?;
        encoders.push((text::tokenizer(facts)?, text::open(bench, facts)?, bench.digest(&facts.part)));
    }
    let (unet, vae) = (unet::open(bench, &work.unet)?, vae::open(bench, &work.vae, &work.args.vae_settings)?);
    must_fit_together(work, &encoders, &unet)?;
    let preview = work.preview.as_ref().map(|facts| previewer(bench, facts)).transpose()?;
    let scheduler = scheduler(work, base)?;
    let pipeline = Pipeline {
        base,
        encoders: encoders.iter().map(prompt_encoder).collect(),
        unet: &unet,
        vae: &vae,
        scheduler: &scheduler,
        cache: Some(bench.cache),
        preview: preview.as_ref(),
        cuts_decode: !vae::is_whole(&work.args.vae_settings),
        zero_empty_negative: work.zero_empty_negative.unwrap_or_else(|| Pipeline::zeroes_empty_negative(base)),
    };
    let (channels, scale) = (vae.architecture().latent_channels(), vae.architecture().scale());
    let request = request(bench, work, (base, &scheduler), channels)?;
    must_be_kept(&floats(work, &request, (channels, scale)), work.limit_bytes)?;
    let (room, before) = (bench.room(), bench.cache.figures());
    let mut show = |preview: Preview| shown(bench, &preview);
    let made = pipeline.generate(&request, Some(room), &bench.control(RunPhase::Denoising), &mut show);
    let made = made?;
    Ok(Outcome {
        facts: told(bench, &request, &made, (before, bench.cache.figures())),
        blobs: blobs(bench, work, &request, &made)?,
    })
}

/// The decoder of previews: only a tiny one is quick enough to run after each step.
fn previewer(bench: &Bench<'_>, facts: &PartFacts) -> Result<Vae, RunFailure> {
    let vae = vae::open(bench, facts, &VaeSettings::default())?;
    match vae.architecture() {
        Architecture::Tiny(_) => Ok(vae),
        Architecture::Kl(_) => {
            let message = format!("`preview_vae` is an {}, not a tiny autoencoder", vae.architecture().name());
            Err(RunFailure::Work(ErrorBody::new(ErrorCode::InvalidArgument, message)))
        }
    }
}

/// Text encoders may be those of other models.
fn must_fit_together(
    work: &GenerateWork,
    encoders: &[(ClipTokenizer, TextEncoder, Option<String>)],
    unet: &engine::models::Unet,
) -> Result<(), RunFailure> {
    let kinds = work.encoders.iter().map(|facts| facts.part.kind.as_str());
    let configs: Vec<_> = kinds.zip(encoders.iter().map(|(_, encoder, _)| encoder.config())).collect();
    let Some(why) = width_mismatch(&configs, unet.config()) else { return Ok(()) };
    let hint = Some("take text encoders of the model's own family".to_owned());
    Err(RunFailure::Work(ErrorBody { hint, ..ErrorBody::new(ErrorCode::InvalidArgument, why) }))
}

fn mention(lora: &LoraTold) -> LoraMention<'_> {
    let LoraTold { name, hash, weight, text_encoder_weight, .. } = lora;
    LoraMention { name, hash, weight: *weight, text_encoder_weight: text_encoder_weight.unwrap_or(*weight) }
}

fn mentions(work: &GenerateWork) -> Vec<LoraMention<'_>> {
    work.loras.iter().map(mention).collect()
}

/// The floats that the run will leave: latents of each step and the last ones, the image, as asked for.
fn floats(work: &GenerateWork, request: &Request, (channels, scale): (usize, usize)) -> [([usize; 4], usize); 2] {
    let (batch, scale) = (request.batch, scale.max(1));
    let latents = [batch, channels, request.height / scale, request.width / scale];
    let image = [batch, 3, request.height, request.width];
    let times = if request.keep_latents { request.steps.saturating_add(1) } else { 0 };
    [(latents, times), (image, usize::from(work.args.format == ImageFormat::Safetensors))]
}

fn prompt_encoder((tokenizer, encoder, digest): &(ClipTokenizer, TextEncoder, Option<String>)) -> PromptEncoder<'_> {
    PromptEncoder { tokenizer, encoder, digest: digest.as_deref() }
}

/// Shows a preview; one that cannot be written, or comes after a cancel, is not missed.
fn shown(bench: &Bench<'_>, preview: &Preview) {
    let blob = |(number, picture): (usize, &images::Picture)| {
        bench.go_on().ok()?;
        let bytes = picture.encode(images::ImageFormat::Png, None).ok()?;
        Some(Blob { name: format!("preview-{number}.png"), media_type: "image/png".to_owned(), bytes })
    };
    let blobs = preview.pictures.iter().enumerate().filter_map(blob).collect();
    (bench.tell)(Said::Preview(blobs, json!({ "step": preview.step, "kind": preview.kind })));
}

/// The model's schedule, else the one of its family.
fn scheduler(work: &GenerateWork, base: &str) -> Result<SchedulerConfig, RunFailure> {
    match &work.scheduler {
        Some(config) => SchedulerConfig::from_json(config.to_string().as_bytes()).map_err(|error| wrong(&error)),
        None => SchedulerConfig::of_base(base).ok_or_else(|| no_base(&work.unet.kind)),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "graphs compute in 32-bit floats")]
fn request(
    bench: &Bench<'_>,
    work: &GenerateWork,
    (base, scheduler): (&str, &SchedulerConfig),
    channels: usize,
) -> Result<Request, RunFailure> {
    let args: &GenerateArgs<ModelId> = &work.args;
    let side = Request::side_of_base(base).unwrap_or(SIDE);
    let noise = match bench.order.payload.get(TENSORS) {
        Some(bytes) => {
            let shape = [Some(args.batch as usize), Some(channels), None, None];
            Some(latents_io::take(&mut latents_io::read(bytes)?, "noise", &shape)?)
        }
        None => None,
    };
    let sampler = match args.sampler {
        Sampler::Euler => SamplerKind::Euler,
        Sampler::EulerAncestral => SamplerKind::EulerAncestral,
        Sampler::Ddim => SamplerKind::Ddim,
        Sampler::DpmPp2m => SamplerKind::DpmPlusPlus2M,
    };
    let karras = sampler.is_karras(scheduler, (args.schedule == Schedule::Karras).then_some(true));
    Ok(Request {
        prompt: args.prompt.clone(),
        negative_prompt: args.negative_prompt.clone(),
        syntax: if args.weights { PromptSyntax::Weighted } else { PromptSyntax::Plain },
        width: args.width.map_or(side, |width| width as usize),
        height: args.height.map_or(side, |height| height as usize),
        steps: args.steps as usize,
        guidance_scale: args.guidance_scale as f32,
        sampler,
        // what is done, whoever said it: the images' parameters tell it
        karras: Some(karras),
        prediction: prediction(work.prediction.as_deref()),
        seed: args.seed.unwrap_or_default(),
        batch: args.batch as usize,
        clip_skip: args.clip_skip.unwrap_or_default() as usize,
        noise,
        keep_latents: args.keep_latents,
        preview_every: args.preview_every.unwrap_or_default() as usize,
        ..Request::default()
    })
}

/// As the catalogue calls it.
fn prediction(said: Option<&str>) -> Option<Prediction> {
    match said {
        Some("epsilon") => Some(Prediction::Epsilon),
        Some("v_prediction" | "v") => Some(Prediction::VPrediction),
        Some("sample") => Some(Prediction::Sample),
        _ => None,
    }
}

/// The images, each with the parameters that made it, and the latents where they are to be kept.
fn blobs(bench: &Bench<'_>, work: &GenerateWork, request: &Request, made: &Generated) -> Result<Vec<Blob>, RunFailure> {
    let format = work.args.format;
    let written = match format {
        ImageFormat::Png | ImageFormat::Safetensors => images::ImageFormat::Png,
        ImageFormat::Webp => images::ImageFormat::Webp,
    };
    let mut blobs = Vec::new();
    if format == ImageFormat::Safetensors {
        blobs.push(tensors::file("image.safetensors", &[("image", &made.sample)])?);
    } else {
        for (number, picture) in made.pictures.iter().enumerate() {
            bench.go_on()?;
            let parameters = request.parameters(number, Some((&work.model, &work.hash)), &mentions(work));
            blobs.push(Blob {
                name: format!("image-{number}.{}", format.as_str()),
                media_type: format.media_type().to_owned(),
                bytes: picture.encode(written, Some(&parameters)).map_err(|error| wrong(&error))?,
            });
        }
    }
    if work.args.keep_latents {
        bench.go_on()?;
        let names: Vec<String> = (1..=made.steps.len()).map(|step| format!("step-{step:04}")).collect();
        let steps = names.iter().map(String::as_str).zip(&made.steps);
        let all: Vec<_> = steps.chain([("latents", &made.latents)]).collect();
        blobs.push(tensors::file("latents.safetensors", &all)?);
    }
    Ok(blobs)
}

fn told(
    bench: &Bench<'_>,
    request: &Request,
    made: &Generated,
    (before, after): (CacheFigures, CacheFigures),
) -> Value {
    let plan = &made.decode;
    json!({
        "width": request.width, "height": request.height, "seed": request.seed, "steps": request.steps,
        "chunks": made.chunks, "timesteps": made.timesteps, "latents_shape": made.latents.shape,
        "decode": {
            "tiling_is_automatic": plan.automatic, "tiles": plan.tiles, "estimated_bytes": plan.estimated_bytes,
            "peak_bytes": made.decode_peak_bytes,
        },
        "encode": bench.meter.of(Part::TextEncoder), "denoise": bench.meter.of(Part::Unet),
        "estimated_bytes": bench.meter.estimated_bytes().max(plan.estimated_bytes), "peak_bytes": bench.meter.peak_bytes(),
        "embedding_cache": { "hits": after.hits - before.hits, "misses": after.misses - before.misses },
    })
}

fn no_base(kind: &str) -> RunFailure {
    let message = format!("the family of the model's `{kind}` is not known, or is none that images are generated with");
    let hint = Some("say it with a correction of the model's `base`".to_owned());
    RunFailure::Work(ErrorBody { hint, ..ErrorBody::new(ErrorCode::Unsupported, message) })
}

fn wrong(error: &(impl Classify + 'static)) -> RunFailure {
    RunFailure::Work(ErrorBody::of(error))
}
