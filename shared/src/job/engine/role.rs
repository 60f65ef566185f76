//! What a model does in a job of the engine, and which of its components that takes.

/// A part of the work that a model does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Its VAE decodes.
    VaeDecoder,
    /// Its VAE encodes.
    VaeEncoder,
    /// Its text encoders encode.
    TextEncoders,
    /// Its UNet predicts.
    Unet,
    /// Its text encoders and its UNet, with the VAE of another model.
    WithoutVae,
    /// All of it.
    Pipeline,
    /// Its tokenizers, which are files beside the weights.
    Tokenizers,
    /// It is applied to another model.
    Lora,
    /// A LoRA is applied to it.
    LoraBase,
}

/// Components of which a model must have one; all that it has take part.
type Group = (&'static str, &'static [&'static str]);

const DECODER: Group = ("VAE that decodes", &["vae", "vae_decoder"]);
const ENCODER: Group = ("VAE that encodes", &["vae", "vae_encoder"]);
const TEXT: Group = ("text encoder", &["text_encoder", "text_encoder_2", "text_encoder_3"]);
const UNET: Group = ("UNet", &["unet"]);
const LORA: Group = ("LoRA", &["lora"]);
const ADAPTED: Group =
    ("UNet, transformer or text encoder", &["unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3"]);

impl Role {
    /// What a model must have for this: the name of each part, and the kinds of components that can be it.
    pub fn groups(self) -> &'static [Group] {
        match self {
            Self::VaeDecoder => &[DECODER],
            Self::VaeEncoder => &[ENCODER],
            Self::TextEncoders => &[TEXT],
            Self::Unet => &[UNET],
            Self::WithoutVae => &[TEXT, UNET],
            Self::Pipeline => &[TEXT, UNET, DECODER],
            Self::Tokenizers => &[],
            Self::Lora => &[LORA],
            Self::LoraBase => &[ADAPTED],
        }
    }

    /// True when a component of this kind takes part.
    pub fn means(self, kind: &str) -> bool {
        self.groups().iter().any(|(_, kinds)| kinds.contains(&kind))
    }

    /// True when a component of this kind can be run alone.
    pub fn any_means(kind: &str) -> bool {
        [DECODER, ENCODER, TEXT, UNET].iter().any(|(_, kinds)| kinds.contains(&kind))
    }
}
