//! `modelyard encode` and `tokenize`: prompts to embeddings, texts to tokens.

use std::path::PathBuf;

use clap::Args;
use serde::Deserialize;
use shared::{
    job::engine::{EncodeTextArgs, EncoderOutput, TokenizeArgs as Wanted},
    wire::{EncodeTextRequest, JobView, TokenizeRequest, TokenizeResult, TokenizerView, TokensView},
};

use super::{
    artifacts::collect,
    assembly::{EncodersArgs, StackArgs},
    engine::PlacingArgs,
};
use crate::{args::WaitArgs, client::Client, error::CliError, follow, output::Output};

/// Options of `encode`.
#[derive(Debug, Args)]
pub struct EncodeArgs {
    /// Id or name of the model; left out with `--pipeline`.
    #[arg(required = true)]
    model: String,

    /// What is encoded; several become a batch.
    #[arg(required_unless_present = "pipeline")]
    prompts: Vec<String>,

    /// Where the embeddings go. `-` for standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// What the image shall not show; encoded to the same number of chunks.
    #[arg(short, long, value_name = "PROMPT")]
    negative: Option<String>,

    /// Layers that are skipped from the end for `hidden`, beyond those that the model's family skips.
    #[arg(long, value_name = "LAYERS")]
    clip_skip: Option<u32>,

    /// Take `(word:1.2)` and `[word]` as they are written, not as weights.
    #[arg(long)]
    no_weights: bool,

    /// Refuse prompts of more chunks.
    #[arg(long, value_name = "CHUNKS")]
    max_chunks: Option<u32>,

    /// Only this: `hidden`, what the model's UNet takes, `last`, `penultimate`, `pooled` or `projected`; may be given several times.
    #[arg(long = "only", value_name = "OUTPUT")]
    outputs: Vec<EncoderOutput>,

    #[command(flatten)]
    stack: StackArgs,

    #[command(flatten)]
    encoders: EncodersArgs,

    #[command(flatten)]
    placing: PlacingArgs,

    #[command(flatten)]
    wait: WaitArgs,
}

/// Options of `tokenize`.
#[derive(Debug, Args)]
pub struct TokenizeArgs {
    /// What is tokenized.
    #[arg(required_unless_present = "decode")]
    texts: Vec<String>,

    /// The model whose tokenizers are used; the CLIP vocabulary that comes with the agent when absent.
    #[arg(short, long)]
    model: Option<String>,

    /// Token ids to decode, e.g. `320,2368`; may be given several times.
    #[arg(long, value_name = "IDS")]
    decode: Vec<Ids>,

    /// Read `(word:1.2)` and `[word]` as weights.
    #[arg(long)]
    weights: bool,

    #[command(flatten)]
    placing: PlacingArgs,

    #[command(flatten)]
    wait: WaitArgs,
}

/// Token ids, separated by commas or blanks.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ids(Vec<u32>);

impl std::str::FromStr for Ids {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split([',', ' ']).filter(|part| !part.is_empty());
        let ids = parts.map(|part| part.parse().map_err(|_| format!("`{part}` is no token id")));
        ids.collect::<Result<_, _>>().map(Self)
    }
}

pub(crate) async fn encode(args: EncodeArgs, client: &Client, output: Output) -> Result<(), CliError> {
    // in front of the prompts stands the model, where no pipeline says it
    let (model, mut prompts) = (args.model, args.prompts);
    let model = match args.stack.pipeline() {
        Some(_) => {
            prompts.insert(0, model);
            None
        }
        None => Some(model),
    };
    let (model, named) = args.stack.subject(model)?;
    let label = format!("encode with {named}");
    let wanted = EncodeTextArgs {
        model,
        prompts,
        negative: args.negative,
        clip_skip: args.clip_skip,
        weights: !args.no_weights,
        max_chunks: args.max_chunks,
        outputs: args.outputs,
        text_encoders: args.encoders.text_encoders(),
        loras: args.stack.loras(),
        pipeline: args.stack.pipeline(),
    };
    let request = EncodeTextRequest { args: wanted, placing: args.placing.placing() };
    let job: JobView = client.post("/v1/encode", &args.stack.body(&request)?).await?;
    collect(client, output, job, &label, (args.wait, args.output.as_deref())).await
}

pub(crate) async fn tokenize(args: TokenizeArgs, client: &Client, output: Output) -> Result<(), CliError> {
    let texts = args.texts.clone();
    let wanted = Wanted {
        model: args.model,
        texts: args.texts,
        decode: args.decode.into_iter().map(|ids| ids.0).collect(),
        weights: args.weights,
    };
    let request = TokenizeRequest { args: wanted, placing: args.placing.placing() };
    let job: JobView = client.post("/v1/tokenize", &request).await?;
    if args.wait.no_wait {
        return super::settle(client, output, job, "tokenize", args.wait).await;
    }
    let job = match job.state.is_terminal() {
        true => job,
        false => follow::follow(client, output, &job, "tokenize", args.wait.timeout).await?,
    };
    if output.json {
        return output.value(&job);
    }
    let result = TokenizeResult::deserialize(job.result.unwrap_or_default())?;
    result.tokenizers.iter().try_for_each(|tokenizer| show(tokenizer, &texts, output))
}

fn show(tokenizer: &TokenizerView, texts: &[String], output: Output) -> Result<(), CliError> {
    for (tokens, text) in tokenizer.texts.iter().zip(texts) {
        let chunks = if tokens.chunks == 1 { "1 chunk".to_owned() } else { format!("{} chunks", tokens.chunks) };
        output.heading(&format!("{}: {} tokens in {chunks}: {text}", tokenizer.name, tokens.ids.len()))?;
        let rows: Vec<usize> = (0..tokens.ids.len()).collect();
        output.list(&rows, &["", "CHUNK", "ID", "TOKEN", "WEIGHT"], "no tokens", |number| row(tokens, *number))?;
    }
    tokenizer.decoded.iter().try_for_each(|text| output.line(format!("{}: {text}", tokenizer.name)))
}

fn row(tokens: &TokensView, number: usize) -> Vec<String> {
    let id = tokens.ids.get(number).map(ToString::to_string).unwrap_or_default();
    let token = tokens.tokens.get(number).cloned().unwrap_or_default();
    let weight = tokens.weights.get(number).map(|weight| format!("{weight:.2}")).unwrap_or_default();
    vec![number.to_string(), chunk_of(&tokens.chunk_lengths, number), id, token, weight]
}

/// The chunk, from 0, that holds this token; nothing where the lengths do not say.
fn chunk_of(lengths: &[u32], number: usize) -> String {
    let mut end = 0;
    let held = lengths.iter().position(|length| {
        end += usize::try_from(*length).unwrap_or(usize::MAX);
        number < end
    });
    held.map(|chunk| chunk.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_in_the_chunk_that_its_number_falls_into() {
        let chunks = [0, 1, 2, 3, 5].map(|number| chunk_of(&[2, 0, 3], number));
        assert_eq!(chunks, ["0", "0", "2", "2", ""]);
    }

    #[test]
    fn ids_are_separated_by_commas_or_blanks() {
        assert_eq!("320, 2368".parse(), Ok(Ids(vec![320, 2368])));
        assert!("320,x".parse::<Ids>().unwrap_err().contains("`x`"));
    }
}
