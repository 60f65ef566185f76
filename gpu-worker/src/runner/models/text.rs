//! Prompts to states: every encoder of a model over the chunks of each prompt.

use std::sync::Arc;

use engine::{
    Tensor,
    generate::{ChunkStates, Keeping, PromptEncoder, chunk_states},
    models::{EncodeOptions, TextEncoder},
    prompt::{self, PromptSyntax},
    runtime::Part,
    tokenize::{Chunk, ClipTokenizer},
};
use serde_json::{Value, json};
use shared::{
    error::{Classify, ErrorBody, ErrorCode},
    job::engine::EncoderOutput,
};

use super::{Bench, parts::component, tensors::file};
use crate::runner::{
    EncoderFacts, TextWork,
    engine_thread::{Outcome, RunFailure},
    protocol::RunPhase,
};

pub(super) fn encode(bench: &Bench<'_>, encoders: &[EncoderFacts], text: &TextWork) -> Result<Outcome, RunFailure> {
    let tokenizers = encoders.iter().map(tokenizer).collect::<Result<Vec<_>, _>>()?;
    let (cut, count) = cut(&tokenizers, text)?;
    let total = cut.iter().flatten().map(Vec::len).sum();
    let (mut outputs, mut told, mut done) = (Vec::new(), Vec::new(), 0);
    let before = bench.cache.figures();
    for ((facts, tokenizer), rows) in encoders.iter().zip(&tokenizers).zip(&cut) {
        bench.go_on()?;
        let (encoder, digest) = (open(bench, facts)?, bench.digest(&facts.part));
        let prompt_encoder = PromptEncoder { tokenizer, encoder: &encoder, digest: digest.as_deref() };
        let wanted = Wanted::of(facts, &encoder, text);
        let states = states(bench, &prompt_encoder, rows, &wanted, (&mut done, total))?;
        let (positions, width) = (encoder.config().positions, encoder.config().width);
        told.push(json!({
            "encoder": facts.part.kind, "chunks": count, "tokenizer": facts.tokenizer,
            "shape": [rows.len(), count.saturating_mul(positions), width],
        }));
        outputs.extend(wanted.tensors(&facts.part.kind, &states, (rows.len(), positions))?);
    }
    let after = bench.cache.figures();
    let named: Vec<(&str, &Tensor)> = outputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let mut facts = json!({
        "encoders": told, "outputs": shapes(&outputs),
        "embedding_cache": { "hits": after.hits - before.hits, "misses": after.misses - before.misses },
    });
    // where everything was kept, nothing ran and nothing was taken
    if let (Some(facts), Value::Object(took)) = (facts.as_object_mut(), bench.meter.of(Part::TextEncoder)) {
        facts.extend(took);
    }
    Ok(Outcome { facts, blobs: vec![file("embeddings.safetensors", &named)?] })
}

fn shapes(outputs: &[(String, Tensor)]) -> Value {
    outputs.iter().map(|(name, tensor)| (name.clone(), Value::from(tensor.shape.clone()))).collect()
}

/// The encoder of these facts over its weights.
pub(super) fn open(bench: &Bench<'_>, facts: &EncoderFacts) -> Result<TextEncoder, RunFailure> {
    let graph = bench.graph(&facts.part)?;
    Ok(TextEncoder::open(bench.runtime, &component(&facts.part, graph.as_deref()), bench.weights(&facts.part)?)?)
}

/// The encoder's tokenizer, from its model's files or from the vocabulary that ships with us.
pub(super) fn tokenizer(facts: &EncoderFacts) -> Result<ClipTokenizer, RunFailure> {
    facts.tokenizer.open().map_err(|error| work(&error))
}

/// Chunks by encoder and prompt.
type Cut = Vec<Vec<Vec<Chunk>>>;

/// The chunks of each prompt by each tokenizer, the negative prompt's last, all of them equally many.
fn cut(tokenizers: &[ClipTokenizer], text: &TextWork) -> Result<(Cut, usize), RunFailure> {
    let syntax = if text.weights { PromptSyntax::Weighted } else { PromptSyntax::Plain };
    let prompts: Vec<&str> = text.prompts.iter().chain(&text.negative).map(String::as_str).collect();
    let (cut, count) = prompt::cut(tokenizers, &prompts, syntax).map_err(|error| work(&error))?;
    if count > text.max_chunks as usize {
        let message = format!("a prompt has {count} chunks of tokens, more than {}", text.max_chunks);
        return Err(RunFailure::Work(ErrorBody::new(ErrorCode::InvalidArgument, message)));
    }
    Ok((cut, count))
}

/// What each chunk became, at each of the layers that are wanted, in the order of the prompts.
fn states(
    bench: &Bench<'_>,
    encoder: &PromptEncoder<'_>,
    rows: &[Vec<Chunk>],
    wanted: &Wanted,
    (done, total): (&mut usize, usize),
) -> Result<Vec<Vec<Arc<ChunkStates>>>, RunFailure> {
    let keeping = Keeping { cache: Some(bench.cache), memory_bytes: Some(bench.room()) };
    let small = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let mut states = Vec::new();
    for chunk in rows.iter().flatten() {
        bench.at(RunPhase::Encoding, small(*done), small(total));
        bench.go_on()?;
        states.push(chunk_states(encoder, chunk, &wanted.layers, &keeping, &bench.silent())?);
        *done += 1;
    }
    bench.at(RunPhase::Encoding, small(*done), small(total));
    Ok(states)
}

/// The outputs that were asked for, and the layers that they are of.
struct Wanted {
    outputs: Vec<(EncoderOutput, EncodeOptions)>,
    /// Each layer once.
    layers: Vec<EncodeOptions>,
}

impl Wanted {
    /// All that the encoder has where nothing is asked for.
    fn of(facts: &EncoderFacts, encoder: &TextEncoder, text: &TextWork) -> Self {
        let taken = EncodeOptions::for_base(facts.part.base.as_deref(), text.clip_skip as usize);
        // pooled states come with every layer's
        let all = [
            (EncoderOutput::Last, EncodeOptions::LAST),
            (EncoderOutput::Penultimate, EncodeOptions::PENULTIMATE),
            (EncoderOutput::Hidden, taken),
            (EncoderOutput::Pooled, EncodeOptions::LAST),
            (EncoderOutput::Projected, EncodeOptions::LAST),
        ];
        let is_wanted = |(output, layer): &(EncoderOutput, EncodeOptions)| match text.outputs.as_slice() {
            [] => *output != EncoderOutput::Penultimate || encoder.gives(*layer),
            asked => asked.contains(output),
        };
        let outputs: Vec<_> = all.into_iter().filter(is_wanted).collect();
        let mut layers = Vec::new();
        for (_, layer) in &outputs {
            if !layers.contains(layer) {
                layers.push(*layer);
            }
        }
        Self { outputs, layers }
    }

    /// The outputs, named `<encoder>.<output>`: states \[rows, chunks · positions, width\], pooled ones \[rows, width\] of each
    /// row's first chunk. An encoder without projection has no projected ones.
    fn tensors(
        &self,
        encoder: &str,
        states: &[Vec<Arc<ChunkStates>>],
        (rows, positions): (usize, usize),
    ) -> Result<Vec<(String, Tensor)>, RunFailure> {
        let each = states.len().checked_div(rows).unwrap_or(0).max(1);
        let mut tensors = Vec::new();
        for (output, layer) in &self.outputs {
            let at = self.layers.iter().position(|known| known == layer).unwrap_or_default();
            let of_layer = || states.iter().filter_map(|chunk| chunk.get(at));
            let firsts = || of_layer().step_by(each);
            let tensor = match output {
                EncoderOutput::Last | EncoderOutput::Hidden | EncoderOutput::Penultimate => {
                    let width = of_layer().next().map_or(0, |one| one.width);
                    let values = of_layer().flat_map(|one| &one.hidden).copied().collect();
                    Tensor::f32(&[rows, each * positions, width], values)?
                }
                EncoderOutput::Pooled => beside(rows, firsts().map(|one| one.pooled.as_slice()))?,
                EncoderOutput::Projected => {
                    let projected: Option<Vec<&[f32]>> = firsts().map(|one| one.projected.as_deref()).collect();
                    let Some(projected) = projected else { continue };
                    beside(rows, projected.into_iter())?
                }
            };
            tensors.push((format!("{encoder}.{}", output.as_str()), tensor));
        }
        Ok(tensors)
    }
}

/// Rows below each other.
fn beside<'s>(rows: usize, states: impl Iterator<Item = &'s [f32]>) -> Result<Tensor, RunFailure> {
    let values: Vec<f32> = states.flatten().copied().collect();
    Ok(Tensor::f32(&[rows, values.len().checked_div(rows).unwrap_or(0)], values)?)
}

fn work(error: &(impl Classify + 'static)) -> RunFailure {
    RunFailure::Work(ErrorBody::of(error))
}
