//! A request through all its models: text, denoising, decoding.

use super::{
    GenerateError, Request,
    cache::EmbeddingCache,
    chunk::Keeping,
    conditions::{Prompt, PromptEncoder, PromptOptions, encode_prompts},
    denoise::{Seeds, Step, denoise},
    predict::Predictor,
    preview::{Preview, PreviewKind, has_linear, linear_pictures},
};
use crate::{
    error::EngineError,
    images::Picture,
    models::{
        Unet,
        vae::{Plan, Vae},
    },
    runtime::Control,
    samplers::{Sampler, SchedulerConfig},
    tensor::{Tensor, elements},
};

/// Bytes of latents that a request may keep, of all its steps.
const KEPT_LIMIT: usize = 1 << 30;

/// The models of a pipeline, all of one base.
#[derive(Debug, Clone)]
pub struct Pipeline<'m> {
    /// `sd15`, `sd21`, `sdxl`, `sdxl-refiner`.
    pub base: &'m str,
    /// Text encoders in the order in which their states stand beside each other.
    pub encoders: Vec<PromptEncoder<'m>>,
    /// The UNet.
    pub unet: &'m Unet,
    /// The VAE.
    pub vae: &'m Vae,
    /// The noise schedule.
    pub scheduler: &'m SchedulerConfig,
    /// Where states of prompts are kept.
    pub cache: Option<&'m EmbeddingCache>,
    /// A tiny autoencoder for previews; without one they are linear.
    pub preview: Option<&'m Vae>,
    /// Whether images that memory does not hold at once are decoded in slices and tiles; otherwise they are refused.
    pub cuts_decode: bool,
    /// An empty negative prompt has states of zeros (`force_zeros_for_empty_prompt` of SDXL's `model_index.json`).
    pub zero_empty_negative: bool,
}

/// What came of a request.
#[derive(Debug, Clone)]
pub struct Generated {
    /// The images.
    pub pictures: Vec<Picture>,
    /// The same as they left the VAE: F32 \[batch, 3, height, width\] in −1..1.
    pub sample: Tensor,
    /// The latents that they were decoded from, as the UNet made them: F32 \[batch, channels, h, w\].
    pub latents: Tensor,
    /// The latents after each step, where they were asked for.
    pub steps: Vec<Tensor>,
    /// What the model was told at each step.
    pub timesteps: Vec<f32>,
    /// Chunks that the prompts were cut into.
    pub chunks: usize,
    /// The VAE in parts, and the memory it was planned to take.
    pub decode: Plan,
    /// The most memory that decoding took, where it was measured.
    pub decode_peak_bytes: Option<u64>,
}

impl Pipeline<'_> {
    /// What an empty negative prompt means for a base that has no `model_index.json`: SDXL was released with states of zeros.
    #[must_use]
    pub fn zeroes_empty_negative(base: &str) -> bool {
        base == "sdxl"
    }

    /// Makes the images of `request`. Runs take at most `memory_bytes` beside the weights, as far as estimates tell; a batch
    /// that does not fit is denoised in parts, a VAE tiles. Progress counts steps; `preview` is called as often as asked.
    ///
    /// Nothing runs before request, sampler and prompts are found good.
    ///
    /// # Errors
    /// [`GenerateError`].
    pub fn generate(
        &self,
        request: &Request,
        memory_bytes: Option<u64>,
        control: &Control,
        preview: &mut dyn FnMut(Preview),
    ) -> Result<Generated, GenerateError> {
        let shape = self.check(request)?;
        let mut sampler = self.sampler(request)?;
        // models report tiles and the like to nobody: progress counts steps
        let inner = Control { progress: None, ..control.clone() };
        let decode_bytes = memory_bytes.filter(|_| self.cuts_decode);
        let plan = self.vae.plan_decode(&shape, decode_bytes)?;
        if let Some(available_bytes) = memory_bytes.filter(|bytes| plan.estimated_bytes > *bytes) {
            return Err(EngineError::OutOfMemory { needed_bytes: plan.estimated_bytes, available_bytes }.into());
        }
        // set aside before the first step: nobody wants an image that cannot be decoded
        control.reserve(plan.estimated_bytes)?;
        let predictor = self.predictor(request, shape, memory_bytes, &inner)?;
        let mut seeds = Seeds::new((0..request.batch).map(|number| request.seed_of(number)));
        let noise = match &request.noise {
            Some(noise) => noise.clone(),
            None => Tensor::f32(&shape, seeds.draw(elements(&shape).unwrap_or_default()))?,
        };
        let mut steps = Vec::new();
        let mut predict = |sample: &Tensor, timestep: f32| predictor.1.predict(sample, timestep, &inner);
        let mut after = |step: Step<'_>| {
            if request.keep_latents {
                steps.push(step.latents.clone());
            }
            match request.preview_every {
                0 => Ok(()),
                every if !step.done.is_multiple_of(every) => Ok(()),
                _ => self.preview(&step, memory_bytes, &inner).map(&mut *preview),
            }
        };
        let latents = denoise(noise, &mut sampler, &mut seeds, control, &mut predict, &mut after)?;
        let done = self.vae.decode(&latents, decode_bytes, &inner)?;
        control.cancel.check()?;
        let pictures = Picture::from_sample(&done.sample.shape, super::denoise::values(&done.sample)?)?;
        let timesteps = sampler.schedule().timesteps.clone();
        let (chunks, decode_peak_bytes, sample) = (predictor.0, done.peak_bytes, done.sample);
        Ok(Generated { pictures, sample, latents, steps, timesteps, chunks, decode: plan, decode_peak_bytes })
    }

    fn check(&self, request: &Request) -> Result<[usize; 4], GenerateError> {
        let (config, vae) = (self.unet.config(), self.vae.architecture());
        let channels = vae.latent_channels();
        if config.in_channels != channels || config.out_channels != channels {
            return Err(EngineError::Config {
                architecture: "UNet2DConditionModel",
                field: "in_channels".to_owned(),
                found: format!("{} in, {} out", config.in_channels, config.out_channels),
                expected: format!("{channels}, as the VAE's latents have"),
            }
            .into());
        }
        if request.preview_every > 0 && self.preview.is_none() && !has_linear(self.base) {
            return Err(EngineError::Input {
                name: "preview_every".to_owned(),
                found: format!("a preview of `{}`", self.base),
                expected: "a tiny autoencoder for it".to_owned(),
            }
            .into());
        }
        let shape = request.latent_shape(channels, vae.scale())?;
        let each = shape.iter().fold(size_of::<f32>(), |bytes, side| bytes.saturating_mul(*side));
        if request.keep_latents && each.saturating_mul(request.steps) > KEPT_LIMIT {
            return Err(EngineError::Input {
                name: "keep_latents".to_owned(),
                found: format!("{} steps of {each} bytes", request.steps),
                expected: format!("at most {KEPT_LIMIT} bytes in all"),
            }
            .into());
        }
        Ok(shape)
    }

    fn sampler(&self, request: &Request) -> Result<Sampler, GenerateError> {
        let mut config = self.scheduler.clone();
        config.prediction_type = request.prediction.unwrap_or(config.prediction_type);
        Ok(Sampler::new(request.sampler, &config, request.steps, request.karras)?.with_eta(request.eta))
    }

    /// Encodes the prompts; gives the number of their chunks, too.
    fn predictor(
        &self,
        request: &Request,
        shape: [usize; 4],
        memory_bytes: Option<u64>,
        control: &Control,
    ) -> Result<(usize, Predictor<'_>), GenerateError> {
        let keeping = Keeping { cache: self.cache, memory_bytes };
        let options = PromptOptions { base: self.base, syntax: request.syntax, keeping };
        let zeros = self.zero_empty_negative && request.negative_prompt.is_empty();
        let is_guided = request.is_guided();
        let negative_skip = if request.skip_negative { request.clip_skip } else { 0 };
        let prompts = [
            Prompt { text: &request.prompt, clip_skip: request.clip_skip },
            Prompt { text: &request.negative_prompt, clip_skip: negative_skip },
        ];
        let wanted = if is_guided && !zeros { &prompts[..] } else { &prompts[..1] };
        let fits = |tokens: usize| Predictor::rows_that_fit(self.unet, shape, tokens, memory_bytes).map(drop);
        let mut texts = encode_prompts(&self.encoders, wanted, &options, &fits, control)?.into_iter();
        let positive = texts
            .next()
            .ok_or_else(|| EngineError::Onnx { what: "encoding prompts", answer: "no states".to_owned() })?;
        let negative = if is_guided && zeros { Some(positive.zeros()) } else { texts.next() };
        let size = (request.width, request.height);
        let texts = (&positive, negative.as_ref());
        let predictor = Predictor::new(self.unet, texts, request.guidance_scale, (shape, size), memory_bytes)?;
        Ok((positive.chunks, predictor))
    }

    fn preview(&self, step: &Step<'_>, memory_bytes: Option<u64>, control: &Control) -> Result<Preview, GenerateError> {
        let (kind, pictures) = match self.preview {
            Some(tiny) => {
                let sample = tiny.decode(&step.denoised, memory_bytes, control)?.sample;
                let pictures = Picture::from_sample(&sample.shape, super::denoise::values(&sample)?)?;
                (PreviewKind::TinyAutoencoder, pictures)
            }
            None => (PreviewKind::Linear, linear_pictures(self.base, &step.denoised)?),
        };
        Ok(Preview { step: step.done, kind, pictures })
    }
}
