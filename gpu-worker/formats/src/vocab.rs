//! The closed vocabulary: model types, base families, file formats and component kinds.

use std::fmt;

macro_rules! vocabulary {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vmeta])* $variant,)* }

        impl $name {
            /// The stable name on the wire and in the database.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The value of a stable name.
            #[must_use]
            pub fn parse(name: &str) -> Option<Self> {
                match name {
                    $($text => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
    };
}

vocabulary! {
    /// What a model is.
    ModelType {
        /// Denoiser with VAE and/or text encoders: a single file or a diffusers folder.
        Checkpoint "checkpoint",
        /// A UNet alone.
        Unet "unet",
        /// A diffusion transformer alone (SD3, FLUX).
        Transformer "transformer",
        /// An autoencoder.
        Vae "vae",
        /// A tiny preview autoencoder.
        Taesd "taesd",
        /// A text encoder.
        TextEncoder "text_encoder",
        /// A CLIP image encoder.
        ImageEncoder "image_encoder",
        /// LoRA and its relatives (LoCon, LoHa, LoKr, DoRA, …).
        Lora "lora",
        /// ControlNet or Control-LoRA.
        ControlNet "controlnet",
        /// T2I-Adapter.
        T2iAdapter "t2i_adapter",
        /// IP-Adapter.
        IpAdapter "ip_adapter",
        /// Textual inversion.
        Embedding "embedding",
        /// Image upscaler.
        Upscaler "upscaler",
        /// AnimateDiff motion module.
        MotionModule "motion_module",
        /// A tokenizer on its own.
        Tokenizer "tokenizer",
        /// An ONNX graph with its weights.
        Onnx "onnx",
        /// Not recognised or not read; the reason says why.
        Unknown "unknown",
    }
}

vocabulary! {
    /// The family a model belongs to.
    Base {
        /// Stable Diffusion 1.x.
        Sd15 "sd15",
        /// Stable Diffusion 2.x.
        Sd21 "sd21",
        /// Stable Diffusion XL base.
        Sdxl "sdxl",
        /// Stable Diffusion XL refiner.
        SdxlRefiner "sdxl-refiner",
        /// Stable Diffusion 3 and 3.5.
        Sd3 "sd3",
        /// FLUX.1.
        Flux "flux",
        /// Not knowable from the content, or shared by several families.
        Unknown "unknown",
    }
}

vocabulary! {
    /// How the bytes are stored.
    Format {
        /// A safetensors file (or a sharded set of them).
        Safetensors "safetensors",
        /// A diffusers folder.
        Diffusers "diffusers",
        /// A bare pickle stream.
        Pickle "pickle",
        /// A PyTorch zip archive.
        TorchZip "torch_zip",
        /// GGUF.
        Gguf "gguf",
        /// ONNX.
        Onnx "onnx",
        /// A folder of tokenizer files.
        Tokenizer "tokenizer",
        /// A diffusers or transformers folder of one component.
        Component "component",
        /// A git-LFS pointer instead of the file.
        LfsPointer "lfs_pointer",
        /// A web page saved under the model's name.
        Html "html",
        /// None of these.
        Unknown "unknown",
    }
}

impl Format {
    /// The format with an article, for sentences.
    pub(crate) const fn description(self) -> &'static str {
        match self {
            Self::Safetensors => "a safetensors file",
            Self::Diffusers => "a diffusers folder",
            Self::Pickle => "a Python pickle",
            Self::TorchZip => "a zip archive (PyTorch checkpoint)",
            Self::Gguf => "a GGUF file",
            Self::Onnx => "an ONNX file",
            Self::Tokenizer => "a tokenizer folder",
            Self::Component => "a folder of one component",
            Self::LfsPointer => "a git-LFS pointer: the real file was never downloaded",
            Self::Html => "an HTML page: the download failed",
            Self::Unknown => "of an unknown format",
        }
    }
}

vocabulary! {
    /// A part of a model that is loaded on its own.
    ComponentKind {
        /// UNet.
        Unet "unet",
        /// Diffusion transformer.
        Transformer "transformer",
        /// Autoencoder.
        Vae "vae",
        /// First text encoder.
        TextEncoder "text_encoder",
        /// Second text encoder.
        TextEncoder2 "text_encoder_2",
        /// Third text encoder.
        TextEncoder3 "text_encoder_3",
        /// Image encoder.
        ImageEncoder "image_encoder",
        /// LoRA.
        Lora "lora",
        /// ControlNet.
        ControlNet "controlnet",
        /// T2I-Adapter.
        T2iAdapter "t2i_adapter",
        /// IP-Adapter.
        IpAdapter "ip_adapter",
        /// Textual inversion.
        Embedding "embedding",
        /// Upscaler.
        Upscaler "upscaler",
        /// Motion module.
        MotionModule "motion_module",
        /// ONNX graph.
        Onnx "onnx",
        /// The encoding half of a VAE, as its own graph.
        VaeEncoder "vae_encoder",
        /// The decoding half of a VAE, as its own graph.
        VaeDecoder "vae_decoder",
    }
}
