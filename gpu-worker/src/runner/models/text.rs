//! Prompts to states: every encoder of a model over the chunks of each prompt.

use engine::{
    EngineError, Tensor,
    models::{EncodeOptions, TextEncoder, TextStates},
    prompt::{PromptSyntax, apply_weights, chunks, level},
    tokenize::{Chunk, ClipTokenizer},
};
use serde_json::{Value, json};
use shared::{
    error::{Classify, ErrorBody, ErrorCode},
    job::engine::EncoderOutput,
};

use super::{Bench, batches, parts::component, tensors::file};
use crate::runner::{
    EncoderFacts, TextWork,
    engine_thread::{Outcome, RunFailure},
    protocol::RunPhase,
};

pub(super) fn encode(bench: &Bench<'_>, encoders: &[EncoderFacts], text: &TextWork) -> Result<Outcome, RunFailure> {
    let (mut outputs, mut told) = (Vec::new(), Vec::new());
    let total = u32::try_from(encoders.len()).unwrap_or(u32::MAX);
    for (done, facts) in (0..).zip(encoders) {
        bench.at(RunPhase::Encoding, done, total);
        bench.go_on()?;
        let encoder = open(bench, facts)?;
        let tokenizer = tokenizer(facts)?;
        let rows = rows(&tokenizer, text)?;
        let options = EncodeOptions::for_base(facts.part.base.as_deref(), text.clip_skip as usize);
        let states = states(bench, &encoder, &rows, options)?;
        told.push(json!({
            "encoder": facts.part.kind, "chunks": rows.first().map_or(0, Vec::len), "tokenizer": facts.tokenizer,
            "shape": states.hidden.shape,
        }));
        outputs.extend(wanted(&facts.part.kind, states, &text.outputs));
    }
    bench.at(RunPhase::Encoding, total, total);
    let named: Vec<(&str, &Tensor)> = outputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let facts = json!({ "encoders": told, "outputs": shapes(&outputs) });
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

/// The chunks of each row, the negative prompt's last, all of them equally many.
fn rows(tokenizer: &ClipTokenizer, text: &TextWork) -> Result<Vec<Vec<Chunk>>, RunFailure> {
    let syntax = if text.weights { PromptSyntax::Weighted } else { PromptSyntax::Plain };
    let prompts = text.prompts.iter().chain(&text.negative);
    let mut rows: Vec<Vec<Chunk>> = prompts
        .map(|prompt| chunks(tokenizer, prompt, syntax).map_err(|error| work(&error)))
        .collect::<Result<_, _>>()?;
    let longest = rows.iter().map(Vec::len).max().unwrap_or(0);
    if longest > text.max_chunks as usize {
        let message = format!("a prompt has {longest} chunks of tokens, more than {}", text.max_chunks);
        return Err(RunFailure::Work(ErrorBody::new(ErrorCode::InvalidArgument, message)));
    }
    level(tokenizer, &mut rows.iter_mut().collect::<Vec<_>>());
    Ok(rows)
}

/// The states of all rows, chunks behind each other; pooled ones are those of each row's first chunk.
fn states(
    bench: &Bench<'_>,
    encoder: &TextEncoder,
    rows: &[Vec<Chunk>],
    options: EncodeOptions,
) -> Result<TextStates, RunFailure> {
    let count = rows.first().map_or(0, Vec::len);
    let flat: Vec<&Chunk> = rows.iter().flatten().collect();
    let mut states = batches::encode(bench, encoder, &flat, options)?;
    for tensor in [&mut states.last, &mut states.hidden] {
        weigh(tensor, &flat)?;
        *tensor = joined(tensor, rows.len(), count)?;
    }
    states.pooled = firsts(&states.pooled, count)?;
    states.projected = states.projected.as_ref().map(|projected| firsts(projected, count)).transpose()?;
    Ok(states)
}

fn weigh(states: &mut Tensor, chunks: &[&Chunk]) -> Result<(), EngineError> {
    let mut values = states.as_f32().unwrap_or_default().to_vec();
    let each = values.len().checked_div(chunks.len()).unwrap_or(0);
    for (state, chunk) in values.chunks_mut(each.max(1)).zip(chunks).filter(|(_, chunk)| chunk.is_weighted()) {
        apply_weights(state, &chunk.weights);
    }
    *states = Tensor::f32(&states.shape, values)?;
    Ok(())
}

/// [rows · chunks, tokens, width] as [rows, chunks · tokens, width].
fn joined(states: &Tensor, rows: usize, chunks: usize) -> Result<Tensor, EngineError> {
    let [_, tokens, width] = *states.shape.as_slice() else { return Ok(states.clone()) };
    Tensor::f32(&[rows, chunks * tokens, width], states.as_f32().unwrap_or_default().to_vec())
}

/// Every row's first of `each` states.
fn firsts(states: &Tensor, each: usize) -> Result<Tensor, EngineError> {
    let [count, width] = *states.shape.as_slice() else { return Ok(states.clone()) };
    let rows = states.as_f32().unwrap_or_default().chunks(width.max(1)).step_by(each.max(1));
    Tensor::f32(&[count / each.max(1), width], rows.flatten().copied().collect())
}

/// The outputs that were asked for, named `<encoder>.<output>`.
fn wanted(encoder: &str, states: TextStates, asked: &[EncoderOutput]) -> Vec<(String, Tensor)> {
    let is_asked = |output| asked.is_empty() || asked.contains(&output);
    let all = [
        (EncoderOutput::Last, "last", Some(states.last)),
        (EncoderOutput::Penultimate, "penultimate", Some(states.hidden)),
        (EncoderOutput::Pooled, "pooled", Some(states.pooled)),
        (EncoderOutput::Projected, "projected", states.projected),
    ];
    let named = all.into_iter().filter(|(output, _, _)| is_asked(*output));
    named.filter_map(|(_, name, tensor)| Some((format!("{encoder}.{name}"), tensor?))).collect()
}

fn work(error: &(impl Classify + 'static)) -> RunFailure {
    RunFailure::Work(ErrorBody::of(error))
}
