//! Whole generations against diffusers' pipelines: latents after every step, images at the end.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

use engine::{
    Cancel, Control, ElementType, EngineError, Runtime, Weights,
    arch::{clip, unet2d},
    generate::{EmbeddingCache, GenerateError, Generated, Pipeline, Preview, PreviewKind, PromptEncoder, Request},
    images::Picture,
    models::{
        TextEncoder, Unet,
        vae::{Architecture, Vae, VaeSettings},
    },
    prompt::PromptSyntax,
    samplers::{SamplerKind, SchedulerConfig},
    tokenize::{ClipTokenizer, TokenizerSettings},
};
use safetensors::SafeTensors;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    made,
    support::{assert_close, golden_path, runtime, synthetic},
};

/// Of the range of the latents after a step. Guidance multiplies the difference of two predictions by 7.5 and a step builds on
/// the one before, so this is wider than a single UNet's bound.
const BOUND: f32 = 2e-5;

#[derive(Deserialize)]
struct Case {
    sampler: SamplerKind,
    prompt: String,
    negative_prompt: String,
    width: usize,
    height: usize,
    steps: usize,
    guidance_scale: f32,
    seed: u64,
    #[serde(default = "one")]
    batch: usize,
    karras: Option<bool>,
    #[serde(default)]
    clip_skip: usize,
    #[serde(default)]
    given_noise: bool,
    #[serde(default)]
    scheduler: Value,
}

fn one() -> usize {
    1
}

impl Case {
    fn request(&self) -> Request {
        let noise = [self.batch, 4, self.height / 8, self.width / 8];
        Request {
            prompt: self.prompt.clone(),
            negative_prompt: self.negative_prompt.clone(),
            syntax: PromptSyntax::Plain,
            width: self.width,
            height: self.height,
            steps: self.steps,
            guidance_scale: self.guidance_scale,
            sampler: self.sampler,
            karras: self.karras,
            seed: self.seed,
            batch: self.batch,
            clip_skip: self.clip_skip,
            noise: self.given_noise.then(|| made::input("noise", &noise)),
            keep_latents: true,
            ..Request::default()
        }
    }
}

struct Golden {
    bytes: Vec<u8>,
    metadata: HashMap<String, String>,
}

impl Golden {
    fn open(base: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference/golden/engine");
        let bytes = fs::read(folder.join(format!("pipeline-{base}.safetensors"))).unwrap();
        let metadata = SafeTensors::read_metadata(&bytes).unwrap().1.metadata().clone().unwrap();
        Self { bytes, metadata }
    }

    fn json(&self, key: &str) -> Value {
        serde_json::from_str(&self.metadata[key]).unwrap()
    }

    fn cases(&self) -> Vec<Case> {
        serde_json::from_value(self.json("cases")).unwrap()
    }

    fn scheduler(&self, more: &Value) -> SchedulerConfig {
        let mut config = self.json("scheduler");
        config.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        SchedulerConfig::from_json(config.to_string().as_bytes()).unwrap()
    }

    /// The latents of a case, step by step.
    fn latents(&self, case: usize, steps: usize) -> Vec<Vec<f32>> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let view = file.tensor(&format!("latents.{case}")).unwrap();
        let numbers: Vec<f32> = view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        numbers.chunks(numbers.len() / steps).map(<[f32]>::to_vec).collect()
    }

    fn images(&self, case: usize) -> Option<Vec<u8>> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        file.tensor(&format!("images.{case}")).ok().map(|view| view.data().to_vec())
    }
}

/// The models of a golden pipeline, with weights made from their names.
struct Models {
    base: &'static str,
    golden: Golden,
    encoders: Vec<(ClipTokenizer, TextEncoder)>,
    unet: Unet,
    vae: Vae,
}

impl Models {
    fn open(runtime: &Arc<Runtime>, base: &'static str) -> Self {
        let golden = Golden::open(base);
        let components = golden.json("components");
        let part = |name: &str| {
            let tensors: Vec<(String, Vec<usize>)> =
                serde_json::from_value(components[name]["tensors"].clone()).unwrap();
            (components[name]["config"].clone(), made::plain(&tensors))
        };
        let encoder = |name: &str, settings: TokenizerSettings| {
            let (config, weights): (Value, Weights) = part(name);
            let config = clip::Config::from_json(&config, &weights.facts()).unwrap();
            (ClipTokenizer::shipped(&settings).unwrap(), TextEncoder::new(runtime, config, weights).unwrap())
        };
        let mut encoders = Vec::new();
        if base != "sdxl-refiner" {
            encoders.push(encoder("text_encoder", TokenizerSettings::default()));
        }
        if base != "sd15" {
            encoders.push(encoder("text_encoder_2", TokenizerSettings::padded_with_zero()));
        }
        let (config, weights) = part("unet");
        let unet = Unet::new(runtime, unet2d::Config::from_json(&config).unwrap(), weights).unwrap();
        let (config, weights) = part("vae");
        let architecture = Architecture::from_json(&config).unwrap();
        let vae = Vae::new(Arc::clone(runtime), architecture, weights, VaeSettings::default()).unwrap();
        Self { base, golden, encoders, unet, vae }
    }

    fn pipeline<'m>(&'m self, scheduler: &'m SchedulerConfig, cache: Option<&'m EmbeddingCache>) -> Pipeline<'m> {
        let digests = ["first", "second"];
        let encoders = self.encoders.iter().zip(digests).map(|((tokenizer, encoder), digest)| PromptEncoder {
            tokenizer,
            encoder,
            digest: Some(digest),
        });
        Pipeline {
            base: self.base,
            encoders: encoders.collect(),
            unet: &self.unet,
            vae: &self.vae,
            scheduler,
            cache,
            preview: None,
            cuts_decode: true,
            zero_empty_negative: Pipeline::zeroes_empty_negative(self.base),
        }
    }

    fn generate(&self, request: &Request, memory_bytes: Option<u64>) -> Result<Generated, GenerateError> {
        let scheduler = self.golden.scheduler(&Value::Null);
        self.pipeline(&scheduler, None).generate(request, memory_bytes, &Control::default(), &mut |_| ())
    }
}

/// The tiny autoencoder of the VAEs' golden file.
fn tiny(runtime: &Arc<Runtime>) -> Vae {
    let cases: Value = serde_json::from_slice(&fs::read(golden_path("vae.json")).unwrap()).unwrap();
    let weights = synthetic(&cases["tiny"]["tensors"], ElementType::F32);
    let architecture = Architecture::from_json(&cases["tiny"]["config"]).unwrap();
    Vae::new(Arc::clone(runtime), architecture, weights, VaeSettings::default()).unwrap()
}

fn values(tensor: &engine::Tensor) -> &[f32] {
    tensor.as_f32().unwrap()
}

/// The largest difference, of the range of what is wanted.
fn distance(found: &[f32], wanted: &[f32]) -> f32 {
    assert_eq!(found.len(), wanted.len());
    let range = wanted.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    found.iter().zip(wanted).fold(0.0_f32, |most, (found, wanted)| most.max((found - wanted).abs() / range))
}

#[track_caller]
fn assert_equals_diffusers(base: &'static str) {
    let Some(runtime) = runtime().map(Arc::new) else { return };
    let models = Models::open(&runtime, base);
    for (number, case) in models.golden.cases().iter().enumerate() {
        let scheduler = models.golden.scheduler(&case.scheduler);
        let pipeline = models.pipeline(&scheduler, None);
        let found = pipeline.generate(&case.request(), None, &Control::default(), &mut |_| ()).unwrap();
        let wanted = models.golden.latents(number, case.steps);
        assert_eq!((found.steps.len(), found.pictures.len()), (case.steps, case.batch));
        for (step, (found, wanted)) in found.steps.iter().zip(&wanted).enumerate() {
            let off = distance(values(found), wanted);
            assert!(off <= BOUND, "{base} case {number} ({}): step {step} is off by {off:e}", case.sampler);
        }
        if let Some(wanted) = models.golden.images(number) {
            let pixels: Vec<u8> = found.pictures.iter().flat_map(|picture| picture.pixels().to_vec()).collect();
            let furthest = pixels.iter().zip(&wanted).map(|(a, b)| a.abs_diff(*b)).max();
            assert!(pixels.len() == wanted.len() && furthest <= Some(1), "{base} case {number}: off by {furthest:?}");
        }
    }
}

#[test]
fn a_pipeline_of_sd15_is_that_of_diffusers_step_by_step() {
    assert_equals_diffusers("sd15");
}

#[test]
fn a_pipeline_of_sdxl_is_that_of_diffusers_step_by_step() {
    assert_equals_diffusers("sdxl");
}

#[test]
fn a_pipeline_of_the_refiner_with_its_one_encoder_is_that_of_diffusers_step_by_step() {
    assert_equals_diffusers("sdxl-refiner");
}

#[test]
fn a_batch_that_does_not_fit_is_denoised_in_parts_and_nothing_else_changes() {
    let Some(runtime) = runtime().map(Arc::new) else { return };
    let models = Models::open(&runtime, "sd15");
    let request = Request {
        width: 64,
        height: 64,
        steps: 3,
        batch: 3,
        sampler: SamplerKind::EulerAncestral,
        ..Request::default()
    };
    let whole = models.generate(&request, None).unwrap();
    let one = models.unet.estimate(&[1, 4, 8, 8], 77);
    let vae = models.vae.plan_decode(&[1, 4, 8, 8], None).unwrap().estimated_bytes;
    let text = models.encoders[0].1.estimate(1);
    // the two other images, and their latents, stand beside the one that is decoded
    let others = 2 * 64 * 64 * 4 * size_of::<f32>() as u64;
    let parts = models.generate(&request, Some(one.max(vae + others).max(text))).unwrap();
    assert_close(values(&parts.latents), values(&whole.latents), 1e-5);
    assert_eq!(
        models.generate(&request, None).unwrap().pictures,
        whole.pictures,
        "the same seeds give the same images"
    );
    let error = models.generate(&request, Some(1000)).unwrap_err();
    assert!(matches!(error, GenerateError::Engine(EngineError::OutOfMemory { .. })), "{error}");
}

#[test]
fn an_image_that_is_not_to_be_cut_is_refused_where_memory_does_not_hold_it() {
    let Some(runtime) = runtime().map(Arc::new) else { return };
    let models = Models::open(&runtime, "sd15");
    let scheduler = models.golden.scheduler(&Value::Null);
    let request = Request { width: 1024, height: 1024, steps: 1, ..Request::default() };
    let whole = models.vae.plan_decode(&[1, 4, 128, 128], None).unwrap().estimated_bytes;
    let pipeline = Pipeline { cuts_decode: false, ..models.pipeline(&scheduler, None) };
    let error = pipeline.generate(&request, Some(whole - 1), &Control::default(), &mut |_| ()).unwrap_err();
    match error {
        GenerateError::Engine(EngineError::OutOfMemory { needed_bytes, available_bytes }) => {
            assert_eq!((needed_bytes, available_bytes), (whole, whole - 1));
        }
        other => panic!("{other}"),
    }
}

#[test]
fn states_of_a_prompt_are_kept_and_give_the_same_image() {
    let Some(runtime) = runtime().map(Arc::new) else { return };
    let models = Models::open(&runtime, "sdxl");
    let scheduler = SchedulerConfig::of_base("sdxl").unwrap();
    let cache = EmbeddingCache::new(1 << 20);
    let pipeline = models.pipeline(&scheduler, Some(&cache));
    let request = Request {
        prompt: "a (red:1.4) house, ".repeat(20),
        negative_prompt: "grey BREAK dull".to_owned(),
        width: 64,
        height: 64,
        steps: 2,
        ..Request::default()
    };
    let generate = |request: &Request| pipeline.generate(request, None, &Control::default(), &mut |_| ()).unwrap();
    let first = generate(&request);
    let figures = cache.figures();
    assert_eq!((first.chunks, figures.hits, figures.entries), (2, 0, 8), "two prompts of two chunks for two encoders");
    let second = generate(&request);
    assert_eq!((second.latents == first.latents, cache.figures().hits), (true, 8));
    let plain = Request { prompt: request.prompt.replace(":1.4", ":1"), ..request };
    assert_ne!(generate(&plain).latents, first.latents, "weights move the image");
}

#[test]
fn states_that_another_config_of_the_same_weights_made_are_not_taken() {
    let Some(runtime) = runtime().map(Arc::new) else { return };
    let mut models = Models::open(&runtime, "sd15");
    let (scheduler, cache) = (models.golden.scheduler(&Value::Null), EmbeddingCache::new(1 << 20));
    let request = Request { prompt: "a house".to_owned(), width: 64, height: 64, steps: 1, ..Request::default() };
    let generate = |models: &Models| {
        let pipeline = models.pipeline(&scheduler, Some(&cache));
        pipeline.generate(&request, None, &Control::default(), &mut |_| ()).unwrap().latents
    };
    let first = generate(&models);
    let components = models.golden.json("components");
    let tensors: Vec<(String, Vec<usize>)> =
        serde_json::from_value(components["text_encoder"]["tensors"].clone()).unwrap();
    let (mut config, weights) = (components["text_encoder"]["config"].clone(), made::plain(&tensors));
    config["hidden_act"] = if config["hidden_act"] == "gelu" { "quick_gelu" } else { "gelu" }.into();
    let config = clip::Config::from_json(&config, &weights.facts()).unwrap();
    models.encoders[0].1 = TextEncoder::new(&runtime, config, weights).unwrap();
    assert_ne!(generate(&models), first);
    assert_eq!(cache.figures().hits, 0);
}

#[test]
fn previews_come_as_asked_and_a_cancel_ends_the_run() {
    let Some(runtime) = runtime().map(Arc::new) else { return };
    let models = Models::open(&runtime, "sd15");
    let scheduler = models.golden.scheduler(&Value::Null);
    let pipeline = models.pipeline(&scheduler, None);
    let request = Request { width: 64, height: 48, steps: 5, preview_every: 2, ..Request::default() };
    let mut seen = Vec::new();
    let mut keep = |preview: Preview| seen.push((preview.step, preview.kind, preview.pictures[0].width()));
    pipeline.generate(&request, None, &Control::default(), &mut keep).unwrap();
    assert_eq!(seen, [(2, PreviewKind::Linear, 8), (4, PreviewKind::Linear, 8)]);
    let tiny = tiny(&runtime);
    let pipeline = Pipeline { preview: Some(&tiny), ..pipeline };
    let mut seen = Vec::new();
    let mut keep = |preview: Preview| seen.push((preview.step, preview.kind, preview.pictures[0].width()));
    pipeline.generate(&request, None, &Control::default(), &mut keep).unwrap();
    assert_eq!(seen, [(2, PreviewKind::TinyAutoencoder, 64), (4, PreviewKind::TinyAutoencoder, 64)]);

    // after the last step nothing is left to predict: the preview is what the decoder makes of the latents themselves
    let mut shown = Vec::new();
    let all = Request { preview_every: 5, ..request.clone() };
    let mut keep = |preview: Preview| shown = preview.pictures;
    let made = pipeline.generate(&all, None, &Control::default(), &mut keep).unwrap();
    let decoded = tiny.decode(&made.latents, None, &Control::default()).unwrap().sample;
    assert_eq!(shown, Picture::from_sample(&decoded.shape, values(&decoded)).unwrap());

    let (cancel, steps) = (Cancel::new(), Arc::new(Mutex::new(Vec::new())));
    let (stop, told) = (cancel.clone(), Arc::clone(&steps));
    let progress = move |done: usize, of: usize| {
        told.lock().unwrap().push((done, of));
        if done == 3 {
            stop.cancel();
        }
    };
    let control = Control { cancel, progress: Some(Arc::new(progress)), ..Control::default() };
    let error = pipeline.generate(&request, None, &control, &mut |_| ()).unwrap_err();
    assert!(matches!(error, GenerateError::Engine(EngineError::Cancelled)), "{error}");
    assert_eq!(*steps.lock().unwrap(), [(1, 5), (2, 5), (3, 5)]);
}

#[test]
fn what_cannot_be_made_is_refused_before_anything_runs() {
    let Some(runtime) = runtime().map(Arc::new) else { return };
    let models = Models::open(&runtime, "sd15");
    let small = Request { width: 64, height: 64, steps: 2, ..Request::default() };
    let code = |request: Request| shared::error::Classify::code(&models.generate(&request, None).unwrap_err());
    let wrong = [
        Request { width: 60, ..small.clone() },
        Request { steps: 0, ..small.clone() },
        Request { steps: 2000, ..small.clone() },
        Request { width: 16_384 + 64, ..small.clone() },
        Request { width: 8192, height: 8192, steps: 100, keep_latents: true, ..small.clone() },
        Request { clip_skip: 9, ..small.clone() },
        Request { prompt: "(x:1000)".to_owned(), ..small.clone() },
        Request { sampler: SamplerKind::Ddim, karras: Some(true), ..small },
    ];
    for request in wrong {
        let shown = format!("{request:?}");
        assert_eq!(json!(code(request)), json!("invalid_argument"), "{shown}");
    }
}
