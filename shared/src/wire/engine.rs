//! Requests that run models: the arguments of a kind, and where and how soon it is done, in one object.

use serde::{Deserialize, Serialize};

use crate::job::{
    Target,
    engine::{
        BlendLorasArgs, EncodeTextArgs, GenerateArgs, LoraCheckArgs, TokenizeArgs, UnetStepArgs, VaeDecodeArgs,
        VaeEncodeArgs,
    },
};

/// Where and how soon.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Placing {
    /// `any` (default), `host:<name>`, `device:<host>/<device>`.
    #[schema(value_type = String, example = "any")]
    pub target: Target,
    /// Higher goes first.
    pub priority: i32,
    /// Labels that the host or device must have.
    pub labels: Vec<String>,
}

macro_rules! requests {
    ($($(#[$doc:meta])* $name:ident of $args:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
        pub struct $name {
            /// What.
            #[serde(flatten)]
            pub args: $args<String>,
            /// Where and how soon.
            #[serde(flatten)]
            pub placing: Placing,
        }
    )*};
}

requests! {
    /// `POST /v1/vae/decode`.
    VaeDecodeRequest of VaeDecodeArgs;
    /// `POST /v1/vae/encode`.
    VaeEncodeRequest of VaeEncodeArgs;
    /// `POST /v1/encode`.
    EncodeTextRequest of EncodeTextArgs;
    /// `POST /v1/unet/step`.
    UnetStepRequest of UnetStepArgs;
    /// `POST /v1/tokenize`.
    TokenizeRequest of TokenizeArgs;
    /// `POST /v1/generate`.
    GenerateRequest of GenerateArgs;
    /// `POST /v1/loras/check`.
    LoraCheckRequest of LoraCheckArgs;
    /// `POST /v1/loras/blend`.
    BlendLorasRequest of BlendLorasArgs;
}

/// Result of a `tokenize` job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TokenizeResult {
    /// What each tokenizer says, in the order of the model's text encoders.
    pub tokenizers: Vec<TokenizerView>,
}

/// What one tokenizer says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TokenizerView {
    /// The encoder that it belongs to, `text_encoder` or `text_encoder_2`; `clip` for the vocabulary that comes with the agent.
    pub name: String,
    /// One entry for each text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub texts: Vec<TokensView>,
    /// One text for each list of ids.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub decoded: Vec<String>,
}

/// The tokens of one text, without start, end and padding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TokensView {
    /// Ids.
    pub ids: Vec<u32>,
    /// As the vocabulary writes each: `</w>` ends a word.
    pub tokens: Vec<String>,
    /// The weight of each; empty when weights are not read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<f32>,
    /// Chunks that an encoder is given, at least one.
    pub chunks: u32,
    /// Tokens of each chunk, 75 at most: where it is cut, and where `BREAK` begins another as weights are read.
    #[serde(default)]
    pub chunk_lengths: Vec<u32>,
}
