//! What is asked for, and the text that images carry about it.

use std::fmt::Write;

use crate::{
    error::EngineError,
    prompt::PromptSyntax,
    samplers::{Prediction, SamplerKind},
    tensor::Tensor,
};

/// A request for images.
#[derive(Debug, Clone)]
pub struct Request {
    /// What the images show.
    pub prompt: String,
    /// What they shall not show.
    pub negative_prompt: String,
    /// How both are read.
    pub syntax: PromptSyntax,
    /// Pixels, a multiple of the VAE's factor (8).
    pub width: usize,
    /// Pixels, a multiple of the VAE's factor (8).
    pub height: usize,
    /// Denoising steps.
    pub steps: usize,
    /// How far the prompt pulls away from the negative one; at 1 and below the negative prompt is not looked at.
    pub guidance_scale: f32,
    /// The sampler.
    pub sampler: SamplerKind,
    /// Karras sigmas; as the scheduler's config says when absent.
    pub karras: Option<bool>,
    /// DDIM's share of fresh noise, 0 to 1.
    pub eta: f32,
    /// What the model predicts, where the config must be corrected (SD 2's 512 pixel model without one).
    pub prediction: Option<Prediction>,
    /// Seed of the first image; each further one has the next seed, so that it can be made again alone.
    pub seed: u64,
    /// Images.
    pub batch: usize,
    /// Layers of the text encoders left out at the end, beyond what the base leaves out.
    pub clip_skip: usize,
    /// Whether they are left out for the negative prompt, too, as AUTOMATIC1111's web UI does; diffusers does not.
    pub skip_negative: bool,
    /// First noise in place of the seeds': F32 \[batch, channels, height/8, width/8\], unscaled. The seeds' first draw is then what a
    /// sampler adds at its first step, as with the `latents` of diffusers' pipelines.
    pub noise: Option<Tensor>,
    /// Whether the latents after each step are kept.
    pub keep_latents: bool,
    /// A preview after every so many steps; none at 0.
    pub preview_every: usize,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            prompt: String::new(),
            negative_prompt: String::new(),
            syntax: PromptSyntax::Weighted,
            width: 512,
            height: 512,
            steps: 25,
            guidance_scale: 7.0,
            sampler: SamplerKind::Euler,
            karras: None,
            eta: 0.0,
            prediction: None,
            seed: 0,
            batch: 1,
            clip_skip: 0,
            skip_negative: false,
            noise: None,
            keep_latents: false,
            preview_every: 0,
        }
    }
}

impl Request {
    /// Pixels of a side that a base was trained for.
    #[must_use]
    pub fn side_of_base(base: &str) -> Option<usize> {
        match base {
            "sd15" => Some(512),
            "sd21" => Some(768),
            "sdxl" | "sdxl-refiner" => Some(1024),
            _ => None,
        }
    }

    /// Whether the negative prompt takes part.
    #[must_use]
    pub fn is_guided(&self) -> bool {
        self.guidance_scale > 1.0
    }

    /// The seed of image `number`, from 0.
    #[must_use]
    pub fn seed_of(&self, number: usize) -> u64 {
        self.seed.wrapping_add(number as u64)
    }

    /// The latents' shape for a VAE with `channels` and `factor`, and that of the given noise.
    ///
    /// # Errors
    /// [`EngineError::Input`] for sides, counts or numbers that cannot be.
    pub(super) fn latent_shape(&self, channels: usize, factor: usize) -> Result<[usize; 4], EngineError> {
        let wrong = |name: &str, found: String, expected: &str| {
            Err(EngineError::Input { name: name.to_owned(), found, expected: expected.to_owned() })
        };
        for (name, side) in [("width", self.width), ("height", self.height)] {
            if side == 0 || !side.is_multiple_of(factor) {
                return wrong(name, side.to_string(), &format!("a multiple of {factor} above 0"));
            }
        }
        if self.batch == 0 {
            return wrong("batch", "0".to_owned(), "at least one image");
        }
        if !self.guidance_scale.is_finite() {
            return wrong("guidance_scale", self.guidance_scale.to_string(), "a finite number");
        }
        if !(0.0..=1.0).contains(&self.eta) {
            return wrong("eta", self.eta.to_string(), "0 to 1");
        }
        let shape = [self.batch, channels, self.height / factor, self.width / factor];
        match &self.noise {
            Some(noise) if noise.shape != shape || noise.as_f32().is_none() => {
                let found = format!("{} {:?}", noise.data.element(), noise.shape);
                wrong("noise", found, &format!("F32 {shape:?}"))
            }
            _ => Ok(shape),
        }
    }

    /// The parameters of image `number` in the form that AUTOMATIC1111's web UI writes and reads; `model` is name and hash.
    /// LoRAs that no prompt names stand as its extension for additional networks writes them: the web UI makes prompts of these.
    #[must_use]
    pub fn parameters(&self, number: usize, model: Option<(&str, &str)>, loras: &[LoraMention<'_>]) -> String {
        let mut text = self.prompt.clone();
        if !self.negative_prompt.is_empty() {
            text.push_str("\nNegative prompt: ");
            text.push_str(&self.negative_prompt);
        }
        let sampler = match self.sampler {
            SamplerKind::Euler => "Euler",
            SamplerKind::EulerAncestral => "Euler a",
            SamplerKind::Ddim => "DDIM",
            SamplerKind::DpmPlusPlus2M => "DPM++ 2M",
        };
        // writing to a string cannot fail
        let _ = write!(text, "\nSteps: {}, Sampler: {sampler}", self.steps);
        if self.karras == Some(true) {
            text.push_str(", Schedule type: Karras");
        }
        let (scale, seed) = (self.guidance_scale, self.seed_of(number));
        let _ = write!(text, ", CFG scale: {scale}, Seed: {seed}, Size: {}x{}", self.width, self.height);
        if let Some((name, hash)) = model {
            let _ = write!(text, ", Model hash: {hash}, Model: {name}");
        }
        if self.clip_skip > 0 {
            let _ = write!(text, ", Clip skip: {}", self.clip_skip + 1);
        }
        mention(&mut text, loras);
        text.push_str(", Version: modelyard");
        text
    }
}

/// A LoRA of an image's parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoraMention<'a> {
    /// Its name.
    pub name: &'a str,
    /// The beginning of its hash; empty while it is not known.
    pub hash: &'a str,
    /// Its weight in the UNet.
    pub weight: f64,
    /// Its weight in text encoders.
    pub text_encoder_weight: f64,
}

fn mention(text: &mut String, loras: &[LoraMention<'_>]) {
    let hashes: Vec<String> =
        loras.iter().filter(|lora| !lora.hash.is_empty()).map(|lora| format!("{}: {}", lora.name, lora.hash)).collect();
    if !hashes.is_empty() {
        let _ = write!(text, ", Lora hashes: {}", quoted(&hashes.join(", ")));
    }
    if !loras.is_empty() {
        text.push_str(", AddNet Enabled: True");
    }
    for (number, lora) in (1..).zip(loras) {
        let name = if lora.hash.is_empty() { lora.name.to_owned() } else { format!("{}({})", lora.name, lora.hash) };
        let (unet, encoders) = (lora.weight, lora.text_encoder_weight);
        let _ = write!(
            text,
            ", AddNet Module {number}: LoRA, AddNet Model {number}: {}, AddNet Weight A {number}: {unet}, AddNet Weight B {number}: {encoders}",
            quoted(&name)
        );
    }
}

/// As the web UI writes values that hold its own marks.
fn quoted(value: &str) -> String {
    if value.contains([',', ':', '\n']) { serde_json::Value::from(value).to_string() } else { value.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_read_as_the_web_ui_writes_them() {
        let request = Request {
            prompt: "a cat".to_owned(),
            negative_prompt: "blurry".to_owned(),
            sampler: SamplerKind::DpmPlusPlus2M,
            karras: Some(true),
            guidance_scale: 7.5,
            seed: 41,
            clip_skip: 1,
            ..Request::default()
        };
        let wanted = "a cat\nNegative prompt: blurry\nSteps: 25, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, \
                      Seed: 42, Size: 512x512, Model hash: 0123456789, Model: sd, Clip skip: 2, Version: modelyard";
        assert_eq!(request.parameters(1, Some(("sd", "0123456789")), &[]), wanted);
        let plain = Request { prompt: "x".to_owned(), ..Request::default() };
        assert_eq!(
            plain.parameters(0, None, &[]),
            "x\nSteps: 25, Sampler: Euler, CFG scale: 7, Seed: 0, Size: 512x512, Version: modelyard"
        );
        let lora = |name, hash| LoraMention { name, hash, weight: 0.8, text_encoder_weight: -0.5 };
        let told = plain.parameters(0, None, &[lora("ink", "0123456789ab"), lora("a, b", "")]);
        let wanted = "Lora hashes: \"ink: 0123456789ab\", AddNet Enabled: True, AddNet Module 1: LoRA, \
                      AddNet Model 1: ink(0123456789ab), AddNet Weight A 1: 0.8, AddNet Weight B 1: -0.5, \
                      AddNet Module 2: LoRA, AddNet Model 2: \"a, b\", AddNet Weight A 2: 0.8, AddNet Weight B 2: -0.5, Version";
        assert!(told.contains(wanted), "{told}");
    }

    #[test]
    fn what_cannot_be_made_is_named() {
        let name = |request: Request| match request.latent_shape(4, 8) {
            Err(EngineError::Input { name, .. }) => name,
            other => panic!("{other:?}"),
        };
        assert_eq!(Request::default().latent_shape(4, 8).unwrap(), [1, 4, 64, 64]);
        assert_eq!(name(Request { width: 100, ..Request::default() }), "width");
        assert_eq!(name(Request { height: 0, ..Request::default() }), "height");
        assert_eq!(name(Request { batch: 0, ..Request::default() }), "batch");
        assert_eq!(name(Request { guidance_scale: f32::NAN, ..Request::default() }), "guidance_scale");
        assert_eq!(name(Request { eta: 2.0, ..Request::default() }), "eta");
        assert_eq!(name(Request { noise: Some(Tensor::zeros(&[1, 4, 8, 8])), ..Request::default() }), "noise");
    }
}
