//! Work of the engine: the kinds that run models, their arguments, and what all of them have in common.
//!
//! `M` names a model: an id as stored, an id or a name as requested.

mod assembly;
mod faults;
mod generate;
mod input;
mod lora;
mod role;
mod seed;
mod text;
mod unet;
mod vae;

pub use assembly::{Assembly, ENCODER_KINDS, LoraUse, TakingPart, stand_in};
pub(super) use assembly::{name_encoders, name_loras, parts, stack_faults};
pub use faults::Fault;
pub use generate::{GenerateArgs, Sampler, Schedule};
pub use input::{ArtifactRef, ImageFormat, Input, check_artifact_name};
pub use lora::{BlendLorasArgs, LoraCheckArgs, LoraDtype, LoraOutput, LoraSpelling};
pub use role::Role;
pub use seed::{SEED_MAX, draw as draw_seed};
pub use text::{EncodeTextArgs, EncoderOutput, TokenizeArgs};
pub use unet::UnetStepArgs;
pub use vae::{LatentSample, Tiles, Tiling, TilingMode, VaeDecodeArgs, VaeEncodeArgs, VaeSettings};

use super::kind::JobKind;
use crate::ids::ModelId;

/// A kind of the engine's work with its arguments.
#[derive(Debug, Clone, PartialEq)]
pub enum EngineArgs<M = ModelId> {
    /// See [`JobKind::VaeDecode`].
    VaeDecode(VaeDecodeArgs<M>),
    /// See [`JobKind::VaeEncode`].
    VaeEncode(VaeEncodeArgs<M>),
    /// See [`JobKind::EncodeText`].
    EncodeText(EncodeTextArgs<M>),
    /// See [`JobKind::UnetStep`].
    UnetStep(UnetStepArgs<M>),
    /// See [`JobKind::Tokenize`].
    Tokenize(TokenizeArgs<M>),
    /// See [`JobKind::Generate`].
    Generate(GenerateArgs<M>),
    /// See [`JobKind::LoraCheck`].
    LoraCheck(LoraCheckArgs<M>),
    /// See [`JobKind::BlendLoras`].
    BlendLoras(BlendLorasArgs<M>),
}

impl<M> EngineArgs<M> {
    /// The kind.
    pub fn kind(&self) -> JobKind {
        match self {
            Self::VaeDecode(_) => JobKind::VaeDecode,
            Self::VaeEncode(_) => JobKind::VaeEncode,
            Self::EncodeText(_) => JobKind::EncodeText,
            Self::UnetStep(_) => JobKind::UnetStep,
            Self::Tokenize(_) => JobKind::Tokenize,
            Self::Generate(_) => JobKind::Generate,
            Self::LoraCheck(_) => JobKind::LoraCheck,
            Self::BlendLoras(_) => JobKind::BlendLoras,
        }
    }

    /// What is wrong with the arguments themselves.
    pub fn faults(&self) -> Vec<Fault> {
        match self {
            Self::VaeDecode(args) => args.faults(),
            Self::VaeEncode(args) => args.faults(),
            Self::EncodeText(args) => args.faults(),
            Self::UnetStep(args) => args.faults(),
            Self::Tokenize(args) => args.faults(),
            Self::Generate(args) => args.faults(),
            Self::LoraCheck(_) => Vec::new(),
            Self::BlendLoras(args) => args.faults(),
        }
    }

    /// The models that take part: the pointer to the field that names each, and what it does. The first is the one that
    /// the job is about.
    pub fn models(&self) -> Vec<TakingPart<'_, M>> {
        match self {
            Self::VaeDecode(args) => vec![("/model".into(), &args.model, Role::VaeDecoder)],
            Self::VaeEncode(args) => vec![("/model".into(), &args.model, Role::VaeEncoder)],
            Self::EncodeText(args) => {
                let base = [("/model".into(), &args.model, Role::TextEncoders)];
                base.into_iter().chain(parts(&args.text_encoders, &args.loras)).collect()
            }
            Self::UnetStep(args) => {
                let base = [("/model".into(), &args.model, Role::Unet)];
                base.into_iter().chain(assembly::lora_parts(&args.loras)).collect()
            }
            Self::Tokenize(args) => args.model.iter().map(|model| ("/model".into(), model, Role::Tokenizers)).collect(),
            Self::Generate(args) => args.models(),
            Self::LoraCheck(args) => {
                vec![("/lora".into(), &args.lora, Role::Lora), ("/base".into(), &args.base, Role::LoraBase)]
            }
            Self::BlendLoras(args) => args.models(),
        }
    }

    /// Kinds of the first model's components in whose place those of other models work.
    pub fn replaced_encoders(&self) -> impl Iterator<Item = &str> {
        let encoders = match self {
            Self::EncodeText(args) => Some(&args.text_encoders),
            Self::Generate(args) => Some(&args.text_encoders),
            _ => None,
        };
        encoders.into_iter().flat_map(|encoders| encoders.keys().map(String::as_str))
    }

    /// Data from outside, with the pointer to its field.
    pub fn input(&self) -> Option<(&'static str, &Input)> {
        match self {
            Self::VaeDecode(args) => Some(("/latents", &args.latents)),
            Self::VaeEncode(args) => Some(("/image", &args.image)),
            Self::UnetStep(args) => Some(("/inputs", &args.inputs)),
            Self::Generate(args) => args.noise.as_ref().map(|noise| ("/noise", noise)),
            Self::EncodeText(_) | Self::Tokenize(_) | Self::LoraCheck(_) | Self::BlendLoras(_) => None,
        }
    }

    /// True when the work needs a seed and none was given.
    pub fn wants_seed(&self) -> bool {
        match self {
            Self::Generate(args) => args.seed.is_none(),
            Self::VaeEncode(args) => args.sample == LatentSample::Sample && args.seed.is_none(),
            _ => false,
        }
    }

    /// The same work with this seed, where one is wanted: a retry then does what the first attempt did.
    #[must_use]
    pub fn with_seed(mut self, drawn: u64) -> Self {
        if self.wants_seed() {
            match &mut self {
                Self::Generate(args) => args.seed = Some(drawn),
                Self::VaeEncode(args) => args.seed = Some(drawn),
                _ => {}
            }
        }
        self
    }

    /// The same work with every model named otherwise, in the order of [`EngineArgs::models`].
    ///
    /// # Errors
    /// The first of `name`.
    pub fn try_with_models<N, E>(self, mut name: impl FnMut(M) -> Result<N, E>) -> Result<EngineArgs<N>, E> {
        let name = &mut name;
        Ok(match self {
            Self::VaeDecode(args) => EngineArgs::VaeDecode(args.try_with_models(name)?),
            Self::VaeEncode(args) => EngineArgs::VaeEncode(args.try_with_models(name)?),
            Self::EncodeText(args) => EngineArgs::EncodeText(args.try_with_models(name)?),
            Self::UnetStep(args) => EngineArgs::UnetStep(args.try_with_models(name)?),
            Self::Tokenize(args) => EngineArgs::Tokenize(args.try_with_models(name)?),
            Self::Generate(args) => EngineArgs::Generate(args.try_with_models(name)?),
            Self::LoraCheck(args) => EngineArgs::LoraCheck(args.try_with_models(name)?),
            Self::BlendLoras(args) => EngineArgs::BlendLoras(args.try_with_models(name)?),
        })
    }
}
