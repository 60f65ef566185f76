//! From a prompt to images: tokens, states, denoising under guidance, decoding. Everything that a request needs is in memory before
//! it starts; nothing here loads, waits or knows jobs.

mod cache;
mod chunk;
mod conditions;
mod denoise;
mod error;
mod pipeline;
mod predict;
mod preview;
mod request;
mod widths;

pub use self::{
    cache::{CacheFigures, ChunkStates, EmbeddingCache, EmbeddingKey},
    chunk::{Keeping, chunk_states},
    conditions::{Prompt, PromptEncoder, PromptOptions, TextCondition, encode_prompts},
    error::GenerateError,
    pipeline::{Generated, Pipeline},
    preview::{Preview, PreviewKind, has_linear, linear_pictures},
    request::{LoraMention, Request},
    widths::width_mismatch,
};
