//! Arguments of `encode_text` and `tokenize`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    assembly::{LoraUse, check_encoders, check_loras, name_encoders, name_loras, no_encoders},
    faults::{Fault, Faults},
};
use crate::ids::ModelId;

/// Longest prompt, in bytes.
pub(super) const PROMPT_BYTES: usize = 16 * 1024;
/// Most prompts or texts of one job.
const TEXTS: usize = 64;
/// Most token ids of one text to decode.
const IDS: usize = 16 * 1024;
/// Most layers that may be skipped from the end of an encoder.
const CLIP_SKIP: u32 = 11;
/// Most chunks of one prompt.
const CHUNKS: u32 = 64;

/// Arguments of `encode_text`. Leaves `embeddings.safetensors`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EncodeTextArgs<M = ModelId> {
    /// The model whose text encoders encode; left out where `pipeline` is given.
    #[schema(required = false)]
    pub model: M,
    /// What is encoded, 1 to 64 prompts.
    pub prompts: Vec<String>,
    /// What the image shall not show; encoded to the same number of chunks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negative: Option<String>,
    /// Layers that are skipped from the end for `hidden`, beyond those that the model's family skips; none when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_skip: Option<u32>,
    /// Read `(word:1.2)` and `[word]` as weights; as written when false.
    #[serde(default = "yes")]
    pub weights: bool,
    /// Longer prompts are refused; 64 chunks when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_chunks: Option<u32>,
    /// What is left; all that the encoders have when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<EncoderOutput>,
    /// Other models whose text encoder takes the place of the one of this kind (`text_encoder`, `text_encoder_2`).
    #[serde(default = "no_encoders", skip_serializing_if = "BTreeMap::is_empty")]
    pub text_encoders: BTreeMap<String, M>,
    /// A stack of LoRAs that the model is changed by for this; their order makes no difference.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub loras: Vec<LoraUse<M>>,
    /// Name of the pipeline that said which models; in a request in their place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<String>,
}

/// What a text encoder gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EncoderOutput {
    /// The last hidden state, after the final layer norm.
    Last,
    /// The hidden state before the last layer, without a norm over it; `clip_skip` makes no difference to it.
    Penultimate,
    /// What the model's UNet takes: of SDXL the penultimate one, of other families the last one; each `clip_skip` layers earlier.
    Hidden,
    /// The last hidden state at the end of the text.
    Pooled,
    /// The pooled one through the text projection.
    Projected,
}

impl EncoderOutput {
    /// All outputs.
    pub const ALL: [Self; 5] = [Self::Last, Self::Penultimate, Self::Hidden, Self::Pooled, Self::Projected];

    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Last => "last",
            Self::Penultimate => "penultimate",
            Self::Hidden => "hidden",
            Self::Pooled => "pooled",
            Self::Projected => "projected",
        }
    }
}

impl std::str::FromStr for EncoderOutput {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::as_str).join(", ");
        let found = Self::ALL.into_iter().find(|output| output.as_str() == text);
        found.ok_or_else(|| format!("`{text}` is not one of {}", names()))
    }
}

/// Arguments of `tokenize`: texts to ids, ids to texts, or both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenizeArgs<M = ModelId> {
    /// The model whose tokenizers are used; the CLIP vocabulary that comes with the agent when absent.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub model: Option<M>,
    /// What is tokenized, at most 64 texts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub texts: Vec<String>,
    /// Token ids that are decoded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub decode: Vec<Vec<u32>>,
    /// Read `(word:1.2)` and `[word]` as weights.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub weights: bool,
}

fn yes() -> bool {
    true
}

/// `Option<M>::default` without the bound that serde would put on `M`.
fn none<M>() -> Option<M> {
    None
}

pub(super) fn check_clip_skip(clip_skip: Option<u32>, faults: &mut Faults) {
    if let Some(layers) = clip_skip {
        faults.range("/clip_skip", layers, &(0..=CLIP_SKIP));
    }
}

impl<M> EncodeTextArgs<M> {
    /// What is wrong with them.
    pub(super) fn faults(&self) -> Vec<Fault> {
        let mut faults = Faults::default();
        faults.texts("/prompts", &self.prompts, TEXTS, PROMPT_BYTES);
        faults.text("/negative", self.negative.as_deref().unwrap_or_default(), PROMPT_BYTES);
        check_clip_skip(self.clip_skip, &mut faults);
        if let Some(chunks) = self.max_chunks {
            faults.range("/max_chunks", chunks, &(1..=CHUNKS));
        }
        check_encoders(&self.text_encoders, "/text_encoders", &mut faults);
        check_loras(&self.loras, "/loras", &mut faults);
        faults.end()
    }

    pub(super) fn try_with_models<N, E>(
        self,
        name: &mut impl FnMut(M) -> Result<N, E>,
    ) -> Result<EncodeTextArgs<N>, E> {
        Ok(EncodeTextArgs {
            model: name(self.model)?,
            prompts: self.prompts,
            negative: self.negative,
            clip_skip: self.clip_skip,
            weights: self.weights,
            max_chunks: self.max_chunks,
            outputs: self.outputs,
            text_encoders: name_encoders(self.text_encoders, name)?,
            loras: name_loras(self.loras, name)?,
            pipeline: self.pipeline,
        })
    }
}

impl<M> TokenizeArgs<M> {
    /// What is wrong with them.
    pub(super) fn faults(&self) -> Vec<Fault> {
        let mut faults = Faults::default();
        if self.texts.is_empty() && self.decode.is_empty() {
            faults.add("/texts", "give texts, or ids to `decode`");
        } else if !self.texts.is_empty() {
            faults.texts("/texts", &self.texts, TEXTS, PROMPT_BYTES);
        }
        if self.decode.len() > TEXTS {
            faults.add("/decode", format!("{} lists of ids, more than {TEXTS}", self.decode.len()));
        }
        for (index, ids) in self.decode.iter().enumerate().filter(|(_, ids)| ids.len() > IDS) {
            faults.add(format!("/decode/{index}"), format!("{} ids, more than {IDS}", ids.len()));
        }
        faults.end()
    }

    pub(super) fn try_with_models<N, E>(self, name: &mut impl FnMut(M) -> Result<N, E>) -> Result<TokenizeArgs<N>, E> {
        let Self { model, texts, decode, weights } = self;
        Ok(TokenizeArgs { model: model.map(name).transpose()?, texts, decode, weights })
    }
}
