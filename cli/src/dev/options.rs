//! What can be asked for: architectures, scale, layout, element type.

use clap::ValueEnum;

/// A model to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Arch {
    /// Stable Diffusion 1.5 checkpoint.
    Sd15,
    /// Stable Diffusion 2.1 (768, v-prediction) checkpoint.
    Sd21,
    /// SDXL base checkpoint.
    Sdxl,
    /// SDXL refiner checkpoint.
    SdxlRefiner,
    /// VAE of SD 1.x and 2.x.
    Vae,
    /// VAE with the scaling of SDXL.
    VaeSdxl,
    /// VAE with 16 latent channels (SD3).
    Vae16,
    /// Tiny preview autoencoder.
    Taesd,
    /// CLIP-L text encoder.
    ClipL,
    /// CLIP-G text encoder.
    ClipG,
    /// LoRA for SD 1.5, UNet and text encoder.
    LoraSd15,
    /// LoRA for SDXL, UNet and both text encoders.
    LoraSdxl,
    /// ControlNet for SD 1.5.
    ControlnetSd15,
    /// Textual inversion for SD 1.5.
    #[value(alias = "embedding-sd15")]
    Embedding,
    /// Textual inversion for SDXL.
    EmbeddingSdxl,
}

impl Arch {
    /// UNet, VAE and encoders in one model.
    pub(super) const fn is_checkpoint(self) -> bool {
        matches!(self, Self::Sd15 | Self::Sd21 | Self::Sdxl | Self::SdxlRefiner)
    }

    /// The name on the command line and in file names.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Sd15 => "sd15",
            Self::Sd21 => "sd21",
            Self::Sdxl => "sdxl",
            Self::SdxlRefiner => "sdxl-refiner",
            Self::Vae => "vae",
            Self::VaeSdxl => "vae-sdxl",
            Self::Vae16 => "vae16",
            Self::Taesd => "taesd",
            Self::ClipL => "clip-l",
            Self::ClipG => "clip-g",
            Self::LoraSd15 => "lora-sd15",
            Self::LoraSdxl => "lora-sdxl",
            Self::ControlnetSd15 => "controlnet-sd15",
            Self::Embedding => "embedding",
            Self::EmbeddingSdxl => "embedding-sdxl",
        }
    }
}

/// How large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scale {
    /// Few channels and layers, a few MB: the structure of the release.
    Tiny,
    /// Names and shapes of the release.
    Real,
}

impl Scale {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Tiny => "tiny",
            Self::Real => "real",
        }
    }
}

/// In which files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Layout {
    /// One file with the original names.
    Single,
    /// A folder as diffusers and transformers write it.
    Diffusers,
    /// Both, with the same values.
    Both,
}

/// How the weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    Fp16,
    Bf16,
    Fp32,
}

impl Precision {
    /// The name that configs use.
    pub(super) const fn torch_name(self) -> &'static str {
        match self {
            Self::Fp16 => "float16",
            Self::Bf16 => "bfloat16",
            Self::Fp32 => "float32",
        }
    }

    pub(super) const fn dtype(self) -> Dtype {
        match self {
            Self::Fp16 => Dtype::F16,
            Self::Bf16 => Dtype::Bf16,
            Self::Fp32 => Dtype::F32,
        }
    }
}

/// Element types that are written, in ascending order of the file format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Dtype {
    F16,
    Bf16,
    I32,
    F32,
    I64,
}

impl Dtype {
    /// Bytes of an element.
    pub(super) const fn bytes(self) -> u64 {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::I32 | Self::F32 => 4,
            Self::I64 => 8,
        }
    }

    /// The name in a header.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::I32 => "I32",
            Self::F32 => "F32",
            Self::I64 => "I64",
        }
    }
}
