//! Arguments of `vae_decode` and `vae_encode`, and the settings of a VAE's run.

use serde::{Deserialize, Serialize};

use super::{
    faults::{Fault, Faults},
    input::{ImageFormat, Input},
    seed,
};
use crate::ids::ModelId;

/// How a VAE runs; what is left out is as the model says.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VaeSettings {
    /// One image of a batch after the other: less memory, more time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slicing: Option<bool>,
    /// Overlapping tiles that are blended; `auto` when the estimate does not fit the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tiling: Option<Tiling>,
    /// Compute in float32 whatever the weights are stored in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upcast: Option<bool>,
    /// Latents are multiplied by it after encoding and divided before decoding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaling_factor: Option<f64>,
    /// Subtracted from latents before they are scaled at encoding, added after at decoding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shift_factor: Option<f64>,
}

impl VaeSettings {
    /// What is wrong with them; `pointer` is where they stand.
    pub(crate) fn faults(&self, pointer: &str) -> Vec<Fault> {
        let mut faults = Faults::default();
        self.check(pointer, &mut faults);
        faults.end()
    }

    /// Nothing is said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Whether a VAE works in tiles.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(untagged, expecting = "tiling is `auto`, `off` or `{\"size\": <pixels>, \"overlap\": <part of a side>}`")]
pub enum Tiling {
    /// Decided by somebody else.
    Mode(TilingMode),
    /// These tiles.
    Tiles(Tiles),
}

/// Whether a VAE works in tiles, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TilingMode {
    /// When the estimate does not fit the device.
    Auto,
    /// Never.
    Off,
}

/// Overlapping tiles.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Tiles {
    /// Side of a tile in pixels of the image, a multiple of 8.
    pub size: u32,
    /// The part of a side that neighbours have in common, 0 to 0.9; 0.25 when absent.
    #[serde(default = "quarter")]
    pub overlap: f64,
}

fn quarter() -> f64 {
    0.25
}

/// Arguments of `vae_decode`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VaeDecodeArgs<M = ModelId> {
    /// The model whose VAE decodes.
    pub model: M,
    /// A safetensors file with the tensor `latents`, (N, C, H/8, W/8), scaled as the UNet sees them.
    pub latents: Input,
    /// How the VAE runs.
    #[serde(default)]
    pub settings: VaeSettings,
    /// In which form the images are left.
    #[serde(default)]
    pub format: ImageFormat,
}

/// Arguments of `vae_encode`. Leaves `latents.safetensors`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VaeEncodeArgs<M = ModelId> {
    /// The model whose VAE encodes.
    pub model: M,
    /// A PNG or WebP image, or a safetensors file with the tensor `image`, (N, 3, H, W) in −1..1.
    pub image: Input,
    /// How the VAE runs.
    #[serde(default)]
    pub settings: VaeSettings,
    /// What of the distribution is taken.
    #[serde(default)]
    pub sample: LatentSample,
    /// Seed of a `sample`; drawn when the job is accepted if absent, and shown with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// What of a VAE's distribution of latents is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LatentSample {
    /// Its mean: the same latents every time.
    #[default]
    Mean,
    /// A sample, by the seed. Refused where the encoder gives latents without their variance.
    Sample,
}

impl VaeSettings {
    pub(super) fn check(&self, pointer: &str, faults: &mut Faults) {
        if let Some(Tiling::Tiles(Tiles { size, overlap })) = self.tiling {
            faults.side(&format!("{pointer}/tiling/size"), size, &(64..=4096));
            faults.range(&format!("{pointer}/tiling/overlap"), overlap, &(0.0..=0.9));
        }
        if let Some(factor) = self.scaling_factor {
            faults.range(&format!("{pointer}/scaling_factor"), factor, &(1e-3..=1e3));
        }
        if let Some(factor) = self.shift_factor {
            faults.range(&format!("{pointer}/shift_factor"), factor, &(-1e3..=1e3));
        }
    }
}

impl<M> VaeDecodeArgs<M> {
    /// What is wrong with them.
    pub(super) fn faults(&self) -> Vec<Fault> {
        let mut faults = Faults::default();
        self.latents.check("/latents", &mut faults);
        self.settings.check("/settings", &mut faults);
        faults.end()
    }

    pub(super) fn try_with_models<N, E>(self, name: &mut impl FnMut(M) -> Result<N, E>) -> Result<VaeDecodeArgs<N>, E> {
        let Self { model, latents, settings, format } = self;
        Ok(VaeDecodeArgs { model: name(model)?, latents, settings, format })
    }
}

impl<M> VaeEncodeArgs<M> {
    /// What is wrong with them.
    pub(super) fn faults(&self) -> Vec<Fault> {
        let mut faults = Faults::default();
        self.image.check("/image", &mut faults);
        self.settings.check("/settings", &mut faults);
        seed::check(self.seed, &mut faults);
        faults.end()
    }

    pub(super) fn try_with_models<N, E>(self, name: &mut impl FnMut(M) -> Result<N, E>) -> Result<VaeEncodeArgs<N>, E> {
        let Self { model, image, settings, sample, seed } = self;
        Ok(VaeEncodeArgs { model: name(model)?, image, settings, sample, seed })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings(value: serde_json::Value) -> Result<VaeSettings, serde_json::Error> {
        serde_json::from_value(value)
    }

    #[test]
    fn tiling_is_a_word_or_tiles() {
        assert_eq!(settings(json!({ "tiling": "auto" })).unwrap().tiling, Some(Tiling::Mode(TilingMode::Auto)));
        let tiles = settings(json!({ "tiling": { "size": 512 } })).unwrap().tiling;
        assert_eq!(tiles, Some(Tiling::Tiles(Tiles { size: 512, overlap: 0.25 })));
        let error = settings(json!({ "tiling": "sometimes" })).unwrap_err();
        assert!(error.to_string().contains("tiling is `auto`, `off` or"), "{error}");
    }

    #[test]
    fn settings_are_within_bounds() {
        let wrong = json!({ "tiling": { "size": 100, "overlap": 1.0 }, "scaling_factor": 0.0, "shift_factor": -2000 });
        let mut faults = Faults::default();
        settings(wrong).unwrap().check("/settings", &mut faults);
        let pointers: Vec<String> = faults.end().into_iter().map(|fault| fault.pointer).collect();
        let expected = ["tiling/size", "tiling/overlap", "scaling_factor", "shift_factor"];
        assert_eq!(pointers, expected.map(|field| format!("/settings/{field}")));
    }
}
