//! Arguments of `generate`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    assembly::{LoraUse, TakingPart, check_encoders, check_loras, name_encoders, name_loras, no_encoders, parts},
    faults::{Fault, Faults},
    input::{ImageFormat, Input},
    role::Role,
    seed,
    text::{PROMPT_BYTES, check_clip_skip},
    unet::GUIDANCE,
    vae::VaeSettings,
};
use crate::ids::ModelId;

/// Arguments of `generate`: a prompt to images. Leaves `image-<n>.<format>`, and `latents.safetensors` if asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GenerateArgs<M = ModelId> {
    /// The model; left out where `pipeline` is given.
    #[schema(required = false)]
    pub model: M,
    /// What the images show.
    pub prompt: String,
    /// What they shall not show.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub negative_prompt: String,
    /// Read `(word:1.2)` and `[word]` in both as weights; as written when false.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub weights: bool,
    /// Pixels, a multiple of 8, 64 to 4096; what the base was trained for when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// Pixels, a multiple of 8, 64 to 4096; what the base was trained for when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// Denoising steps, 1 to 1000.
    #[serde(default = "steps")]
    pub steps: u32,
    /// How far the prompt pulls, 0 to 100; at 1 and below the negative prompt is not looked at.
    #[serde(default = "guidance_scale")]
    pub guidance_scale: f64,
    /// The sampler.
    #[serde(default)]
    pub sampler: Sampler,
    /// How noise falls over the steps.
    #[serde(default)]
    pub schedule: Schedule,
    /// Seed of the noise; drawn when the job is accepted if absent, and shown with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Images, 1 to 16.
    #[serde(default = "one")]
    pub batch: u32,
    /// Layers of the text encoder that are skipped from the end; as the model says when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_skip: Option<u32>,
    /// Another model whose VAE decodes.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub vae: Option<M>,
    /// How the VAE runs.
    #[serde(default)]
    pub vae_settings: VaeSettings,
    /// Other models whose text encoder takes the place of the one of this kind (`text_encoder`, `text_encoder_2`).
    #[serde(default = "no_encoders", skip_serializing_if = "BTreeMap::is_empty")]
    pub text_encoders: BTreeMap<String, M>,
    /// A stack of LoRAs that the model is changed by for this; their order makes no difference.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub loras: Vec<LoraUse<M>>,
    /// Name of the pipeline that said which models; in a request in their place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<String>,
    /// A safetensors file with the tensor `noise`, (batch, C, H/8, W/8), unscaled, in place of the seed's first noise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise: Option<Input>,
    /// Leave the latents of every step as an artifact.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_latents: bool,
    /// Show a preview every so many steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview_every: Option<u32>,
    /// The tiny autoencoder that decodes previews. When absent one for the model's base that the host has; without any, each pixel of
    /// a preview is a weighted sum of its latent.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub preview_vae: Option<M>,
    /// In which form the images are left.
    #[serde(default)]
    pub format: ImageFormat,
}

/// How one step leads to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize, utoipa::ToSchema)]
pub enum Sampler {
    /// Euler.
    #[default]
    #[serde(rename = "euler")]
    Euler,
    /// Euler ancestral: new noise at every step.
    #[serde(rename = "euler_ancestral")]
    EulerAncestral,
    /// DDIM, eta 0.
    #[serde(rename = "ddim")]
    Ddim,
    /// DPM-Solver++ 2M.
    #[serde(rename = "dpmpp_2m")]
    DpmPp2m,
}

impl Sampler {
    /// All samplers.
    pub const ALL: [Self; 4] = [Self::Euler, Self::EulerAncestral, Self::Ddim, Self::DpmPp2m];

    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Euler => "euler",
            Self::EulerAncestral => "euler_ancestral",
            Self::Ddim => "ddim",
            Self::DpmPp2m => "dpmpp_2m",
        }
    }
}

impl std::str::FromStr for Sampler {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::as_str).join(", ");
        Self::ALL
            .into_iter()
            .find(|sampler| sampler.as_str() == text)
            .ok_or_else(|| format!("`{text}` is not one of {}", names()))
    }
}

/// How noise falls over the steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// As the model's scheduler config says: noise as it was trained, at evenly spaced timesteps, or Karras' where the config asks for
    /// them (`use_karras_sigmas`; not with DDIM).
    #[default]
    Default,
    /// Karras et al.: more steps where there is little noise.
    Karras,
}

impl std::str::FromStr for Schedule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "default" => Ok(Self::Default),
            "karras" => Ok(Self::Karras),
            _ => Err(format!("`{text}` is neither default nor karras")),
        }
    }
}

fn steps() -> u32 {
    25
}

fn guidance_scale() -> f64 {
    7.0
}

fn one() -> u32 {
    1
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_true(value: &bool) -> bool {
    *value
}

/// `Option<M>::default` without the bound that serde would put on `M`.
fn none<M>() -> Option<M> {
    None
}

impl<M> GenerateArgs<M> {
    /// What is wrong with them.
    pub(super) fn faults(&self) -> Vec<Fault> {
        let mut faults = Faults::default();
        faults.text("/prompt", &self.prompt, PROMPT_BYTES);
        faults.text("/negative_prompt", &self.negative_prompt, PROMPT_BYTES);
        for (pointer, side) in [("/width", self.width), ("/height", self.height)] {
            if let Some(pixels) = side {
                faults.side(pointer, pixels, &(64..=4096));
            }
        }
        faults.range("/steps", self.steps, &(1..=1000));
        faults.range("/guidance_scale", self.guidance_scale, &GUIDANCE);
        if self.sampler == Sampler::Ddim && self.schedule == Schedule::Karras {
            faults.add("/schedule", "`ddim` has its own schedule; `karras` goes with the other samplers");
        }
        seed::check(self.seed, &mut faults);
        faults.range("/batch", self.batch, &(1..=16));
        check_clip_skip(self.clip_skip, &mut faults);
        self.vae_settings.check("/vae_settings", &mut faults);
        check_encoders(&self.text_encoders, "/text_encoders", &mut faults);
        check_loras(&self.loras, "/loras", &mut faults);
        if let Some(noise) = &self.noise {
            noise.check("/noise", &mut faults);
        }
        if let Some(steps) = self.preview_every {
            faults.range("/preview_every", steps, &(1..=1000));
        } else if self.preview_vae.is_some() {
            faults.add("/preview_vae", "it decodes previews, and none are asked for with `preview_every`");
        }
        faults.end()
    }

    /// The models that take part.
    pub(super) fn models(&self) -> Vec<TakingPart<'_, M>> {
        let base = if self.vae.is_some() { Role::WithoutVae } else { Role::Pipeline };
        let vae = self.vae.iter().map(|vae| ("/vae".into(), vae, Role::VaeDecoder));
        let preview = self.preview_vae.iter().map(|tiny| ("/preview_vae".into(), tiny, Role::VaeDecoder));
        let others = parts(&self.text_encoders, &self.loras);
        [("/model".into(), &self.model, base)].into_iter().chain(vae).chain(preview).chain(others).collect()
    }

    pub(super) fn try_with_models<N, E>(self, name: &mut impl FnMut(M) -> Result<N, E>) -> Result<GenerateArgs<N>, E> {
        Ok(GenerateArgs {
            model: name(self.model)?,
            prompt: self.prompt,
            negative_prompt: self.negative_prompt,
            weights: self.weights,
            width: self.width,
            height: self.height,
            steps: self.steps,
            guidance_scale: self.guidance_scale,
            sampler: self.sampler,
            schedule: self.schedule,
            seed: self.seed,
            batch: self.batch,
            clip_skip: self.clip_skip,
            vae: self.vae.map(&mut *name).transpose()?,
            preview_vae: self.preview_vae.map(&mut *name).transpose()?,
            vae_settings: self.vae_settings,
            text_encoders: name_encoders(self.text_encoders, name)?,
            loras: name_loras(self.loras, name)?,
            pipeline: self.pipeline,
            noise: self.noise,
            keep_latents: self.keep_latents,
            preview_every: self.preview_every,
            format: self.format,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pointers(more: serde_json::Value) -> Vec<String> {
        let mut value = json!({ "model": "m", "prompt": "a cat" });
        value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let args: GenerateArgs<String> = serde_json::from_value(value).unwrap();
        args.faults().into_iter().map(|fault| fault.pointer).collect()
    }

    #[test]
    fn every_fault_is_named_and_the_defaults_have_none() {
        assert!(pointers(json!({})).is_empty());
        let wrong = json!({
            "prompt": "a\u{0}", "width": 100, "height": 8192, "steps": 0, "guidance_scale": -1, "seed": 1u64 << 53,
            "batch": 17, "clip_skip": 12, "noise": { "root": "main", "path": "../n" }, "preview_every": 0,
            "sampler": "ddim", "schedule": "karras", "vae_settings": { "tiling": { "size": 32 } },
        });
        let named = pointers(wrong);
        let expected = [
            "/prompt",
            "/width",
            "/height",
            "/steps",
            "/guidance_scale",
            "/schedule",
            "/seed",
            "/batch",
            "/clip_skip",
            "/vae_settings/tiling/size",
            "/noise/path",
            "/preview_every",
        ];
        assert_eq!(named, expected);
    }

    #[test]
    fn a_decoder_of_previews_goes_with_previews() {
        assert!(pointers(json!({ "preview_every": 2, "preview_vae": "taesd" })).is_empty());
        assert_eq!(pointers(json!({ "preview_vae": "taesd" })), ["/preview_vae"]);
    }

    #[test]
    fn samplers_are_named_alike_on_the_wire_and_in_text() {
        for sampler in Sampler::ALL {
            assert_eq!(serde_json::to_value(sampler).unwrap(), json!(sampler.as_str()));
            assert_eq!(sampler.as_str().parse(), Ok(sampler));
        }
    }
}
