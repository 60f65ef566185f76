//! Prompts to what a UNet is conditioned on: states of all chunks and encoders, the pooled state, sizes.

use std::sync::Arc;

use super::{
    GenerateError,
    cache::ChunkStates,
    chunk::{Keeping, chunk_states},
};
use crate::{
    error::EngineError,
    models::{EncodeOptions, TextEncoder},
    prompt::{self, PromptSyntax},
    runtime::Control,
    tensor::Tensor,
    tokenize::ClipTokenizer,
};

/// A text encoder with the tokenizer that makes its ids.
#[derive(Debug, Clone, Copy)]
pub struct PromptEncoder<'m> {
    /// Makes ids.
    pub tokenizer: &'m ClipTokenizer,
    /// Makes states of them.
    pub encoder: &'m TextEncoder,
    /// Digest of its weights, by which its states are kept; without one nothing is kept.
    pub digest: Option<&'m str>,
}

/// How prompts are encoded.
#[derive(Debug, Clone, Copy)]
pub struct PromptOptions<'m> {
    /// Base of the model: which layer's states are taken.
    pub base: &'m str,
    /// How the text is read.
    pub syntax: PromptSyntax,
    /// Where states are kept, and what making them may take.
    pub keeping: Keeping<'m>,
}

/// A text to encode.
#[derive(Debug, Clone, Copy)]
pub struct Prompt<'t> {
    /// The text.
    pub text: &'t str,
    /// Layers left out at the end, beyond what the base leaves out.
    pub clip_skip: usize,
}

/// What a prompt became.
#[derive(Debug, Clone, PartialEq)]
pub struct TextCondition {
    /// F32 \[1, 77 · chunks, width of all encoders\].
    pub states: Tensor,
    /// The last encoder's pooled state of the first chunk, projected where it has a projection: F32 \[1, width\].
    pub pooled: Tensor,
    /// Chunks that the prompt was cut into, filled up to the longest one beside it.
    pub chunks: usize,
}

impl TextCondition {
    /// The same shapes without anything in them: what SDXL takes for an empty negative prompt.
    pub(super) fn zeros(&self) -> Self {
        Self {
            states: Tensor::zeros(&self.states.shape),
            pooled: Tensor::zeros(&self.pooled.shape),
            chunks: self.chunks,
        }
    }
}

/// Encodes `prompts` to states of one length: shorter ones are filled up with chunks of an empty prompt. Several encoders
/// stand beside each other in the last side, in the order given (SDXL's pair).
///
/// Each chunk is encoded alone, so that its states do not depend on what it is encoded with, or whether it was kept. `fits`
/// hears how many tokens the states will have before any of them is made, and may refuse them.
///
/// # Errors
/// [`GenerateError`] for prompts that cannot be read, runs that do not fit, and runs that fail.
pub fn encode_prompts(
    encoders: &[PromptEncoder<'_>],
    prompts: &[Prompt<'_>],
    options: &PromptOptions<'_>,
    fits: &dyn Fn(usize) -> Result<(), EngineError>,
    control: &Control,
) -> Result<Vec<TextCondition>, GenerateError> {
    let texts: Vec<&str> = prompts.iter().map(|one| one.text).collect();
    let (cut, count) = prompt::cut(encoders.iter().map(|encoder| encoder.tokenizer), &texts, options.syntax)?;
    let positions = encoders.iter().map(|encoder| encoder.encoder.config().positions).max().unwrap_or(0);
    fits(count.saturating_mul(positions))?;
    let mut conditions = Vec::new();
    for (number, prompt) in prompts.iter().enumerate() {
        let layer = EncodeOptions::for_base(Some(options.base), prompt.clip_skip);
        let mut parts = Vec::new();
        for (encoder, prompts) in encoders.iter().zip(&cut) {
            let mut states = Vec::new();
            for chunk in prompts.get(number).into_iter().flatten() {
                states.extend(chunk_states(encoder, chunk, &[layer], &options.keeping, control)?);
            }
            parts.push(states);
        }
        conditions.push(joined(&parts, count)?);
    }
    Ok(conditions)
}

/// Encoders beside each other, chunks behind each other.
fn joined(parts: &[Vec<Arc<ChunkStates>>], chunks: usize) -> Result<TextCondition, EngineError> {
    let wrong = |found: String| EngineError::Input {
        name: "text encoders".to_owned(),
        found,
        expected: "encoders with equally many positions".to_owned(),
    };
    let firsts: Vec<&Arc<ChunkStates>> = parts.iter().filter_map(|part| part.first()).collect();
    let Some(last) = firsts.last() else { return Err(wrong("no text encoder".to_owned())) };
    let positions = |states: &ChunkStates| states.hidden.len() / states.width.max(1);
    let tokens = positions(last);
    if let Some(other) = firsts.iter().find(|states| positions(states) != tokens) {
        return Err(wrong(format!("{} and {tokens} positions", positions(other))));
    }
    let width: usize = firsts.iter().map(|states| states.width).sum();
    let mut values = Vec::with_capacity(chunks * tokens * width);
    for chunk in 0..chunks {
        for token in 0..tokens {
            for states in parts.iter().filter_map(|part| part.get(chunk)) {
                values.extend_from_slice(
                    states.hidden.get(token * states.width..(token + 1) * states.width).unwrap_or(&[]),
                );
            }
        }
    }
    let pooled = last.conditioning();
    let pooled = Tensor::f32(&[1, pooled.len()], pooled.to_vec())?;
    Ok(TextCondition { states: Tensor::f32(&[1, chunks * tokens, width], values)?, pooled, chunks })
}

/// SDXL's numbers beside the text: original size, crop, target size, height first; the refiner has a score in place of the
/// target. F32 \[1, numbers\].
///
/// # Errors
/// [`EngineError::Config`] for a UNet that takes neither six nor five.
pub(super) fn time_ids(numbers: usize, width: usize, height: usize, is_negative: bool) -> Result<Tensor, EngineError> {
    /// What the refiner was trained to call beautiful, and what not.
    const SCORES: [f32; 2] = [6.0, 2.5];
    // sides are a few thousand: exact
    let (width, height) = (width as f32, height as f32);
    match numbers {
        6 => Tensor::f32(&[1, 6], vec![height, width, 0.0, 0.0, height, width]),
        5 => Tensor::f32(&[1, 5], vec![height, width, 0.0, 0.0, SCORES[usize::from(is_negative)]]),
        _ => Err(EngineError::Config {
            architecture: "UNet2DConditionModel",
            field: "projection_class_embeddings_input_dim".to_owned(),
            found: format!("room for {numbers} numbers beside the pooled text"),
            expected: "6 (SDXL) or 5 (its refiner)".to_owned(),
        }),
    }
}

/// `tensor` of one row as `rows` equal ones.
pub(super) fn repeated(tensor: &Tensor, rows: usize) -> Result<Tensor, EngineError> {
    let values = super::denoise::values(tensor)?;
    let mut shape = tensor.shape.clone();
    if let Some(first) = shape.first_mut() {
        *first = rows;
    }
    Tensor::f32(&shape, values.repeat(rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(width: usize, from: f32) -> Arc<ChunkStates> {
        let hidden = (0..2 * width).map(|at| from + at as f32).collect();
        Arc::new(ChunkStates { hidden, width, pooled: vec![from], projected: None })
    }

    #[test]
    fn encoders_stand_beside_and_chunks_behind_each_other() {
        let parts = [vec![chunk(1, 0.0), chunk(1, 10.0)], vec![chunk(2, 100.0), chunk(2, 200.0)]];
        let condition = joined(&parts, 2).unwrap();
        assert_eq!(condition.states.shape, [1, 4, 3]);
        let wanted = [0., 100., 101., 1., 102., 103., 10., 200., 201., 11., 202., 203.];
        assert_eq!(condition.states.as_f32(), Some(&wanted[..]));
        assert_eq!(condition.pooled.as_f32(), Some(&[100.0][..]));
        assert!(joined(&[], 0).is_err());
        let short = Arc::new(ChunkStates { hidden: vec![0.0], width: 1, pooled: vec![], projected: None });
        assert!(joined(&[vec![chunk(1, 0.0)], vec![short]], 1).is_err());
    }

    #[test]
    fn sizes_have_the_height_first_and_the_refiner_a_score() {
        assert_eq!(time_ids(6, 1024, 768, true).unwrap().as_f32(), Some(&[768., 1024., 0., 0., 768., 1024.][..]));
        assert_eq!(time_ids(5, 64, 32, false).unwrap().as_f32(), Some(&[32., 64., 0., 0., 6.][..]));
        assert_eq!(time_ids(5, 64, 32, true).unwrap().as_f32(), Some(&[32., 64., 0., 0., 2.5][..]));
        assert!(time_ids(4, 64, 32, true).is_err());
    }
}
