//! The states of one chunk of a prompt: encoded alone, weighed, and kept, so that they are the same whether they were kept or not.

use std::sync::Arc;

use super::{
    GenerateError,
    cache::{ChunkStates, EmbeddingCache, EmbeddingKey},
    conditions::PromptEncoder,
    denoise::values,
};
use crate::{
    error::EngineError,
    models::{EncodeOptions, TextStates},
    prompt,
    runtime::Control,
    tensor::Tensor,
    tokenize::Chunk,
};

/// Where states of chunks are kept, and what making them may take.
#[derive(Debug, Clone, Copy, Default)]
pub struct Keeping<'m> {
    /// Where states are kept; nowhere without one.
    pub cache: Option<&'m EmbeddingCache>,
    /// What an encoder's run may take beside the weights.
    pub memory_bytes: Option<u64>,
}

/// The states of a chunk at each of these layers, in their order, weighed; those that are kept are not made again. A run gives
/// the last layer's states beside those of one other.
///
/// # Errors
/// [`GenerateError`] for a run that does not fit or fails, and for a layer that the encoder does not have.
pub fn chunk_states(
    encoder: &PromptEncoder<'_>,
    chunk: &Chunk,
    layers: &[EncodeOptions],
    keeping: &Keeping<'_>,
    control: &Control,
) -> Result<Vec<Arc<ChunkStates>>, GenerateError> {
    let mut found: Vec<Option<Arc<ChunkStates>>> =
        layers.iter().map(|layer| keeping.find(encoder, chunk, *layer)).collect();
    loop {
        let missing = |is_last: bool| {
            let mut open = layers.iter().zip(&found).filter(|(_, states)| states.is_none());
            open.find(|(layer, _)| (**layer == EncodeOptions::LAST) == is_last).map(|(layer, _)| *layer)
        };
        let Some(layer) = missing(false).or_else(|| missing(true)) else { break };
        let encoded = keeping.encode(encoder, chunk, layer, control)?;
        for (wanted, states) in layers.iter().zip(&mut found).filter(|(_, states)| states.is_none()) {
            let made = match *wanted {
                wanted if wanted == layer => &encoded.hidden,
                EncodeOptions::LAST => &encoded.last,
                _ => continue,
            };
            let made = Arc::new(weighed(chunk, made, &encoded)?);
            keeping.keep(encoder, chunk, *wanted, &made);
            *states = Some(made);
        }
    }
    Ok(found.into_iter().flatten().collect())
}

impl Keeping<'_> {
    fn key(&self, encoder: &PromptEncoder<'_>, chunk: &Chunk, options: EncodeOptions) -> Option<EmbeddingKey> {
        let digest = encoder.digest.filter(|_| self.cache.is_some())?.to_owned();
        let weights = chunk.weights.iter().map(|weight| weight.to_bits()).collect();
        Some(EmbeddingKey { digest, encoder: encoder.encoder.identity(), options, ids: chunk.ids.clone(), weights })
    }

    fn find(&self, encoder: &PromptEncoder<'_>, chunk: &Chunk, options: EncodeOptions) -> Option<Arc<ChunkStates>> {
        self.cache?.find(&self.key(encoder, chunk, options)?)
    }

    fn keep(&self, encoder: &PromptEncoder<'_>, chunk: &Chunk, options: EncodeOptions, states: &Arc<ChunkStates>) {
        if let Some((cache, key)) = self.cache.zip(self.key(encoder, chunk, options)) {
            cache.insert(key, Arc::clone(states));
        }
    }

    fn encode(
        &self,
        encoder: &PromptEncoder<'_>,
        chunk: &Chunk,
        options: EncodeOptions,
        control: &Control,
    ) -> Result<TextStates, GenerateError> {
        let needed_bytes = encoder.encoder.estimate(1);
        if let Some(available_bytes) = self.memory_bytes.filter(|bytes| needed_bytes > *bytes) {
            return Err(EngineError::OutOfMemory { needed_bytes, available_bytes }.into());
        }
        Ok(encoder.encoder.encode(std::slice::from_ref(&chunk.ids), options, control)?)
    }
}

/// One layer's states of a run, under the weights of the chunk's tokens.
fn weighed(chunk: &Chunk, states: &Tensor, encoded: &TextStates) -> Result<ChunkStates, EngineError> {
    let mut hidden = values(states)?.to_vec();
    if chunk.is_weighted() {
        prompt::apply_weights(&mut hidden, &chunk.weights);
    }
    let width = hidden.len() / chunk.ids.len().max(1);
    let projected = encoded.projected.as_ref().map(|projected| Ok::<_, EngineError>(values(projected)?.to_vec()));
    Ok(ChunkStates { hidden, width, pooled: values(&encoded.pooled)?.to_vec(), projected: projected.transpose()? })
}
