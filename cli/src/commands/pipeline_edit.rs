//! `modelyard pipelines set` and `loras`: declaring, and changing a stack.

use std::collections::BTreeMap;

use clap::Args;
use shared::{
    ids::JobId,
    job::Target,
    wire::{JobView, LoraChange, LoraFields, LorasPatch, PipelineDeclaration, PipelineView},
};

use super::{
    assembly::{EncoderArg, LoraArg, blocks_at_end},
    engine::SettingsArgs,
    load::KeepArgs,
    pipeline_views::show,
    pipelines::path_of,
    settle,
};
use crate::{
    args::{PlaceArgs, WaitArgs, finite},
    client::Client,
    error::CliError,
    output::Output,
};

/// Options of `pipelines set`.
#[derive(Debug, Args)]
pub struct SetArgs {
    /// Name: letters, digits, `.`, `_` and `-`.
    name: String,

    /// The model.
    #[arg(long, value_name = "MODEL")]
    model: String,

    /// Another model whose VAE takes the place of its own.
    #[arg(long, value_name = "MODEL")]
    vae: Option<String>,

    /// A LoRA, with its weight and that in the text encoders: `NAME`, `NAME:0.8` or `NAME:0.8:0.5`; then factors of
    /// blocks: `NAME:0.8:mid_block=0.5,down_blocks.1=0`; may be given several times.
    #[arg(long = "lora", value_name = "LORA[:WEIGHT[:TEXT]][:BLOCKS]")]
    loras: Vec<LoraArg>,

    /// Another model's text encoder in place of the one of this kind, e.g. `text_encoder_2=MODEL`; may be given several times.
    #[arg(long = "text-encoder", value_name = "KIND=MODEL")]
    text_encoders: Vec<EncoderArg>,

    /// For people.
    #[arg(long)]
    description: Option<String>,

    #[command(flatten)]
    place: PlaceArgs,

    /// Only where this label is; may be given several times.
    #[arg(long = "label")]
    labels: Vec<String>,

    #[command(flatten)]
    keep: KeepArgs,

    /// Apply it at once, where it is applied already or else at its place.
    #[arg(long)]
    apply: bool,

    #[command(flatten)]
    wait: WaitArgs,

    // last: its heading holds for all that follow
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Options of `pipelines loras`.
#[derive(Debug, Args)]
pub struct LorasArgs {
    /// Id or name of the pipeline.
    name: String,

    /// Change the weight of a LoRA of the stack, e.g. `NAME=0.5`, and that in the text encoders with `NAME=0.5:0.2`, or
    /// `NAME=0.5:same` for no other one; then all factors of its blocks: `NAME=0.5:mid_block=0.5,down_blocks.1=0`.
    #[arg(long, value_name = "LORA=WEIGHT[:TEXT][:BLOCKS]", value_parser = weight)]
    set: Vec<(String, LoraFields)>,

    /// Add a LoRA, as `pipelines set --lora`, e.g. `NAME:0.8:mid_block=0.5`.
    #[arg(long, value_name = "LORA[:WEIGHT[:TEXT]][:BLOCKS]")]
    add: Vec<LoraArg>,

    /// Take a LoRA off the stack.
    #[arg(long, value_name = "LORA")]
    rm: Vec<String>,

    /// Only declare it.
    #[arg(long)]
    no_apply: bool,

    #[command(flatten)]
    wait: WaitArgs,
}

fn weight(text: &str) -> Result<(String, LoraFields), String> {
    let bad = || format!("`{text}` is no weight: write LORA=0.5, LORA=0.5:0.2 or LORA=0.5:mid_block=0.5");
    // without factors of blocks it is a name that holds a colon and an equals sign
    let (rest, blocks) = blocks_at_end(text)?;
    if !blocks.is_empty()
        && let Some((name, fields)) = weights(rest)
    {
        return Ok((name, LoraFields { blocks: Some(blocks), ..fields }));
    }
    weights(text).ok_or_else(bad)
}

/// `NAME=WEIGHT[:TEXT]`.
fn weights(text: &str) -> Option<(String, LoraFields)> {
    let (name, weights) = text.rsplit_once('=')?;
    let (weight, in_text) = weights.split_once(':').map_or((weights, None), |(weight, text)| (weight, Some(text)));
    let number = |text: &str| finite(text).ok();
    let in_text = match in_text {
        None => None,
        Some("same") => Some(None),
        Some(text) => Some(Some(number(text)?)),
    };
    let fields = LoraFields { weight: Some(number(weight)?), text_encoder_weight: in_text, blocks: None };
    Some((name.to_owned(), fields))
}

/// Declares.
pub(super) async fn set(args: SetArgs, client: &Client, output: Output) -> Result<(), CliError> {
    let declaration = PipelineDeclaration {
        description: args.description,
        model: args.model,
        vae: args.vae,
        vae_settings: args.settings.settings(),
        text_encoders: args.text_encoders.into_iter().map(EncoderArg::named).collect(),
        loras: args.loras.into_iter().map(|lora| lora.0).collect(),
        target: args.place.target().unwrap_or(Target::Any),
        labels: args.labels,
        keep_alive: args.keep.keep_alive,
        protect: args.keep.protect,
        apply: args.apply.then_some(true),
    };
    let view: PipelineView = client.put(&path_of(&args.name), &declaration, None).await?;
    settled(view, client, output, args.wait).await
}

/// Changes a stack.
pub(super) async fn loras(args: LorasArgs, client: &Client, output: Output) -> Result<(), CliError> {
    let patch = LorasPatch {
        set: args.set.into_iter().map(|(name, fields)| (name, LoraChange::Fields(fields))).collect::<BTreeMap<_, _>>(),
        add: args.add.into_iter().map(|lora| lora.0).collect(),
        remove: args.rm,
        apply: args.no_apply.then_some(false),
    };
    if patch.set.is_empty() && patch.add.is_empty() && patch.remove.is_empty() {
        return Err(CliError::Usage("say what changes: `--set`, `--add` or `--rm`".to_owned()));
    }
    let view: PipelineView = client.patch(&format!("{}/loras", path_of(&args.name)), &patch).await?;
    settled(view, client, output, args.wait).await
}

/// Follows the jobs that apply what was declared, then shows the pipeline.
async fn settled(view: PipelineView, client: &Client, output: Output, wait: WaitArgs) -> Result<(), CliError> {
    let chosen = view.job.as_ref().filter(|job| !job.state.is_terminal()).map(|job| job.id);
    let jobs: Vec<JobId> = view.devices.iter().filter_map(|on| on.job).chain(chosen).collect();
    if jobs.is_empty() || wait.no_wait {
        return show(&view, output);
    }
    // the jobs are told of as they go; the pipeline is what the command shows
    let told = Output { json: false, ..output };
    for id in jobs {
        let job: JobView = client.get(&format!("/v1/jobs/{id}"), &[]).await?;
        settle(client, told, job, &format!("apply {}", view.name), wait).await?;
    }
    show(&client.get(&path_of(&view.name), &[]).await?, output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_written_beside_names() {
        let (name, fields) = weight("a=b=0.5:0").unwrap();
        assert_eq!((name.as_str(), fields.weight, fields.text_encoder_weight), ("a=b", Some(0.5), Some(Some(0.0))));
        assert_eq!(weight("a=0.5:same").unwrap().1.text_encoder_weight, Some(None));
        let (name, fields) = weight("a=0.5:0.2:mid_block=0.5,down_blocks.1=0").unwrap();
        let blocks = fields.blocks.unwrap_or_default();
        assert_eq!((name.as_str(), fields.weight, fields.text_encoder_weight), ("a", Some(0.5), Some(Some(0.2))));
        assert_eq!((blocks.len(), blocks["mid_block"]), (2, 0.5));
        assert_eq!(weight("a:b=0.5").unwrap().0, "a:b", "a name may hold colons");
        assert_eq!(weight("a=x:b=0.5").unwrap().0, "a=x:b");
        for bad in [
            "a",
            "a=much",
            "a=0.5:much",
            "a=0.5:mid_block=0.5,mid_block=1",
            // JSON would say `null`, which takes the weight away
            "a=nan",
            "a=0.5:nan",
            "a=0.5:-inf",
            "a=0.5:mid_block=inf",
        ] {
            assert!(weight(bad).is_err(), "{bad}");
        }
    }
}
