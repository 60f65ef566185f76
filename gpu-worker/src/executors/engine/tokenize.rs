//! `tokenize`: texts to tokens and ids to texts, by a model's tokenizers or the vocabulary that ships with us. Runs on the host.

use std::sync::Arc;

use engine::{
    prompt::{self, PromptError, PromptSyntax},
    tokenize::{Chunk, ClipTokenizer, TokenizeError},
};
use shared::{
    job::engine::TokenizeArgs,
    wire::{TokenizeResult, TokenizerView, TokensView},
};

use super::super::{
    Done,
    model::{self, blocking},
};
use crate::{
    commit::Effects,
    context::Agent,
    error::WorkError,
    managers::{parts, tokenizer},
    runner::TokenizerSource,
    running::Attempt,
};

pub(in crate::executors) async fn run(
    agent: &Arc<Agent>,
    args: TokenizeArgs,
    attempt: &Attempt,
) -> Result<Done, WorkError> {
    attempt.progress.enter("locating", 0);
    let sources = sources(agent, &args, attempt).await?;
    attempt.progress.enter("tokenizing", args.texts.len() as u64);
    let decoded: usize = args.decode.iter().map(Vec::len).sum();
    let work = move || {
        let view = |(name, source): (String, TokenizerSource)| view(name, &source, &args);
        sources.into_iter().map(view).collect::<Result<Vec<_>, PromptError>>()
    };
    let tokenizers = blocking("tokenizing", work).await??;
    let (texts, tokens) = tokenizers.iter().fold((0, 0), |(texts, tokens), one| {
        let count: usize = one.texts.iter().map(|text| text.ids.len()).sum();
        (texts + one.texts.len() + one.decoded.len(), tokens + count + decoded)
    });
    agent.metrics.engine.tokenized(texts as u64, tokens as u64);
    let result = serde_json::to_value(TokenizeResult { tokenizers })
        .map_err(|error| WorkError::System { what: "writing tokens".into(), source: error.into() })?;
    Ok(Done { result, effects: Effects::None })
}

/// The tokenizer of each text encoder, by the encoder's kind.
async fn sources(
    agent: &Agent,
    args: &TokenizeArgs,
    attempt: &Attempt,
) -> Result<Vec<(String, TokenizerSource)>, WorkError> {
    let Some(id) = args.model else {
        return Ok(vec![("clip".to_owned(), TokenizerSource::Shipped { pads_with_zero: false })]);
    };
    let wanted = model::wanted(agent, id, None).await?;
    let inspection = model::inspect(agent, attempt, &wanted).await?;
    let base = parts::base(&wanted.model, &inspection);
    let encoders = wanted.components.iter().filter(|row| row.kind.starts_with("text_encoder"));
    let found: Vec<_> =
        encoders.map(|row| (row.kind.clone(), tokenizer::find(&inspection, &row.kind, base.as_deref()))).collect();
    if found.is_empty() {
        return Err(WorkError::NoPart { model: wanted.model.name, part: "text encoder" });
    }
    Ok(found)
}

fn view(name: String, source: &TokenizerSource, args: &TokenizeArgs) -> Result<TokenizerView, PromptError> {
    let tokenizer = source.open()?;
    let syntax = if args.weights { PromptSyntax::Weighted } else { PromptSyntax::Plain };
    let texts = args.texts.iter().map(|text| tokens(&tokenizer, text, syntax)).collect::<Result<_, _>>()?;
    let decoded = args.decode.iter().map(|ids| tokenizer.decode(ids)).collect::<Result<_, TokenizeError>>()?;
    Ok(TokenizerView { name, texts, decoded })
}

/// The tokens of a text without marks and padding. As they are read as weights, what follows an end mark in the text is left
/// out: no encoder looks at it.
fn tokens(tokenizer: &ClipTokenizer, text: &str, syntax: PromptSyntax) -> Result<TokensView, PromptError> {
    let chunks = prompt::chunks(tokenizer, text, syntax)?;
    let inside =
        |chunk: &Chunk| (1..chunk.end).filter_map(|at| Some((*chunk.ids.get(at)?, *chunk.weights.get(at)?))).collect();
    let weighted: Vec<(i64, f32)> = chunks.iter().flat_map(|chunk| -> Vec<(i64, f32)> { inside(chunk) }).collect();
    let (ids, weights) = match syntax {
        PromptSyntax::Plain => (tokenizer.encode(text)?, Vec::new()),
        PromptSyntax::Weighted => {
            let id = |(id, _): &(i64, f32)| u32::try_from(*id).ok();
            (weighted.iter().filter_map(id).collect(), weighted.iter().map(|(_, weight)| *weight).collect())
        }
    };
    let tokens = ids.iter().map(|id| tokenizer.token(*id).unwrap_or_default()).collect();
    let small = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let chunk_lengths = chunks.iter().map(|chunk| small(chunk.end.saturating_sub(1))).collect();
    Ok(TokensView { ids, tokens, weights, chunks: small(chunks.len()), chunk_lengths })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_ids_are_told_as_the_vocabulary_has_them() {
        let source = TokenizerSource::Shipped { pads_with_zero: false };
        let args = |weights| TokenizeArgs {
            model: None,
            texts: vec!["a (cat:1.5)".into(), String::new()],
            decode: vec![vec![320, 2368]],
            weights,
        };
        let plain = view("clip".into(), &source, &args(false)).unwrap();
        let written = ["a</w>", "(</w>", "cat</w>", ":</w>", "1</w>", ".</w>", "5</w>", ")</w>"];
        assert_eq!(plain.texts[0].tokens, written, "parentheses and each digit are tokens");
        assert_eq!((plain.texts[1].ids.len(), plain.texts[1].chunks), (0, 1));
        assert_eq!(plain.decoded, ["a cat"]);
        let weighted = view("clip".into(), &source, &args(true)).unwrap();
        assert_eq!((&weighted.texts[0].ids[..], &weighted.texts[0].weights[..]), (&[320, 2368][..], &[1.0, 1.5][..]));
        assert_eq!(weighted.texts[0].tokens, ["a</w>", "cat</w>"]);
        let texts = vec![format!("a dog BREAK {}", "cat ".repeat(80))];
        let long = TokenizeArgs { texts, ..args(true) };
        let long = view("clip".into(), &source, &long).unwrap();
        assert_eq!((long.texts[0].chunks, &long.texts[0].chunk_lengths[..]), (3, &[2, 75, 5][..]));
        assert_eq!(plain.texts[0].chunk_lengths, [8], "as it is written");
    }
}
