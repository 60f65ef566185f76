//! A text encoder's smallest run: one prompt of a few tokens.

use std::sync::Arc;

use super::{Component, ForwardReport, report, values::uniform};
use crate::{
    arch::clip::{Config, EndOfText},
    error::EngineError,
    models::{EncodeOptions, TextEncoder},
    runtime::{Control, Runtime},
    tensor::Tensor,
    weights::Weights,
};

/// Tokens before the end mark.
const WORDS: usize = 12;

pub(super) fn check(
    runtime: &Arc<Runtime>,
    component: &Component<'_>,
    weights: Weights,
    control: &Control,
) -> Result<ForwardReport, EngineError> {
    let encoder = TextEncoder::open(runtime, component, weights)?;
    let prompt = prompt(encoder.config());
    let ids = Tensor::i64(&[1, prompt.len()], prompt.clone())?;
    let options = EncodeOptions::for_base(component.base, 0);
    // an encoder of one layer has no penultimate states but the embeddings, which is as good
    let options = EncodeOptions { skip: options.skip.min(encoder.config().layers), ..options };
    let outputs = encoder.run(&[prompt], options, control)?;
    let outputs: Vec<(&str, &Tensor)> = outputs.iter().map(|(name, tensor)| (*name, tensor)).collect();
    Ok(report("CLIPTextModel", &[("input_ids", &ids)], &outputs))
}

/// Tokens from all over the vocabulary, then end marks to the last position.
pub(crate) fn prompt(config: &Config) -> Vec<i64> {
    let last = i64::try_from(config.vocabulary.saturating_sub(1)).unwrap_or(i64::MAX);
    let end = match config.end {
        EndOfText::Id(id) => id.clamp(0, last),
        EndOfText::Highest => last,
    };
    let word = |value: f64| ((value + 1.0) / 2.0 * end as f64) as i64;
    let words = uniform("input_ids", WORDS.min(config.positions.saturating_sub(1))).into_iter().map(word);
    let mut prompt: Vec<i64> = words.collect();
    prompt.resize(config.positions, end);
    prompt
}
