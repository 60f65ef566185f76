//! `modelyard models`: the catalogue.

use clap::{Args, Subcommand, ValueEnum};
use shared::{
    bytes::ByteSize,
    wire::{
        Hashes, JobView, ModelDetail, ModelForgotten, ModelPage, ModelSummary, SearchRequest, VariantPart, VariantView,
        WhyRead,
    },
};

use super::{
    meta, settle,
    text::{age, bytes, dash, joined},
};
use crate::{
    args::WaitArgs,
    client::{Client, segment},
    error::CliError,
    output::Output,
};

/// Largest page that the API gives.
const PAGE: usize = 1000;

/// Said instead of an empty table.
const NONE: &str = "no models; `modelyard scan` looks for them";

/// What to do with the catalogue.
#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    /// List models.
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Find models by words of their names, titles, tags, trigger words, descriptions and paths; the best first.
    Search(SearchArgs),
    /// One model with its components and where it is.
    Show {
        /// Id or name.
        model: String,
    },
    /// What people say of a model; its files are never changed.
    #[command(subcommand)]
    Meta(meta::MetaCommand),
    /// Correct what was detected of a model.
    Override(meta::OverrideArgs),
    /// Read a model's files again, even if they did not change; marks of them as corrupt are taken off.
    Reidentify {
        /// Id or name.
        model: String,

        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Hash a model's files, if they are not hashed yet: SHA-256, BLAKE3 and the digests of its components.
    Hash {
        /// Id or name.
        model: String,

        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Take models whose files are gone out of the catalogue, with all that was said of them.
    Forget {
        /// Ids or names.
        #[arg(required = true, value_name = "MODEL")]
        models: Vec<String>,
    },
    /// The tensors of a model's components: names, shapes and bytes.
    Tensors(super::tensors::TensorsArgs),
    /// Look for what is wrong with a model; ends with 8 when it is invalid or unsafe.
    Validate(super::validate::ValidateArgs),
}

/// Options of `models ls`.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    filter: FilterArgs,

    /// Only names that contain this.
    #[arg(value_name = "TEXT")]
    contains: Option<String>,

    /// Order: `name`, `size`, `created` or `updated`, with `-` in front for the other way.
    #[arg(long, default_value = "name", allow_hyphen_values = true)]
    sort: String,
}

/// Options of `models search`.
#[derive(Debug, Args)]
pub struct SearchArgs {
    /// Words; each begins a word of the model, or is near to one.
    #[arg(required = true, value_name = "TEXT")]
    words: Vec<String>,

    #[command(flatten)]
    filter: FilterArgs,

    /// Order: `rank` (the best first), `name`, `size`, `created` or `updated`, with `-` in front for the other way.
    #[arg(long, default_value = "rank", allow_hyphen_values = true)]
    sort: String,
}

/// Which models. Lists are separated by commas.
#[derive(Debug, Args)]
struct FilterArgs {
    /// Only these types, e.g. `checkpoint`, `vae`, `lora`.
    #[arg(long = "type", value_name = "TYPES", value_delimiter = ',')]
    types: Vec<String>,

    /// Only these bases, e.g. `sd15`, `sdxl`.
    #[arg(long, value_name = "BASES", value_delimiter = ',')]
    base: Vec<String>,

    /// Only these formats, e.g. `safetensors`, `diffusers`.
    #[arg(long, value_name = "FORMATS", value_delimiter = ',')]
    format: Vec<String>,

    /// Only these dtypes of the weights, e.g. `fp16`.
    #[arg(long, value_name = "DTYPES", value_delimiter = ',')]
    dtype: Vec<String>,

    /// Only these prediction types, e.g. `v_prediction`.
    #[arg(long, value_name = "TYPES", value_delimiter = ',')]
    prediction: Vec<String>,

    /// Only these states: `available`, `missing`, `unreadable`.
    #[arg(long, value_name = "STATES", value_delimiter = ',')]
    state: Vec<String>,

    /// Only with these verdicts of the last validation: `ok`, `degraded`, `invalid`, `unsafe`, `stale`, `none`.
    #[arg(long, value_name = "VERDICTS", value_delimiter = ',')]
    verdict: Vec<String>,

    /// Only with a component of these kinds, e.g. `text_encoder_2`.
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    component: Vec<String>,

    /// Only with all of these tags.
    #[arg(long, value_name = "TAGS", value_delimiter = ',')]
    tag: Vec<String>,

    /// Only of this size on disk or more, e.g. `2GiB`.
    #[arg(long, value_name = "SIZE")]
    min_size: Option<ByteSize>,

    /// Only of this size on disk or less.
    #[arg(long, value_name = "SIZE")]
    max_size: Option<ByteSize>,

    /// Only with a hash that begins with this: SHA-256 (AutoV2), payload SHA-256 or BLAKE3; 8 digits at least.
    #[arg(long, value_name = "HEX")]
    hash: Option<String>,

    /// Only models on this host's disk.
    #[arg(long, value_name = "NAME")]
    host: Option<String>,

    /// Only models with something resident in this tier.
    #[arg(long, value_enum)]
    tier: Option<Tier>,

    /// At most this many; all when absent.
    #[arg(long)]
    limit: Option<usize>,
}

impl FilterArgs {
    fn request(self, sort: String) -> SearchRequest {
        SearchRequest {
            types: self.types,
            bases: self.base,
            formats: self.format,
            dtypes: self.dtype,
            predictions: self.prediction,
            states: self.state,
            verdicts: self.verdict,
            components: self.component,
            tags: self.tag,
            size_min: self.min_size.map(|size| size.0),
            size_max: self.max_size.map(|size| size.0),
            hash: self.hash,
            host: self.host,
            tier: self.tier.map(Tier::text),
            sort: Some(sort),
            ..SearchRequest::default()
        }
    }
}

/// A tier of memory.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Tier {
    /// Host memory.
    Ram,
    /// Device memory.
    Vram,
}

impl Tier {
    fn text(self) -> String {
        match self {
            Self::Ram => "ram".to_owned(),
            Self::Vram => "vram".to_owned(),
        }
    }
}

pub(crate) async fn run(command: ModelsCommand, client: &Client, output: Output) -> Result<u8, CliError> {
    match command {
        ModelsCommand::Validate(args) => return super::validate::run(args, client, output).await,
        ModelsCommand::Ls(args) => list(args, client, output).await,
        ModelsCommand::Search(args) => search(args, client, output).await,
        ModelsCommand::Show { model } => show(&model, client, output).await,
        ModelsCommand::Tensors(args) => super::tensors::run(args, client, output).await,
        ModelsCommand::Meta(command) => meta::run(command, client, output).await,
        ModelsCommand::Override(args) => meta::override_model(args, client, output).await,
        ModelsCommand::Reidentify { model, wait } => {
            let path = format!("/v1/models/{}/reidentify", segment(&model));
            let job: JobView = client.post(&path, &serde_json::json!({})).await?;
            settle(client, output, job, &format!("reidentify {model}"), wait).await
        }
        ModelsCommand::Forget { models } => forget(&models, client, output).await,
        ModelsCommand::Hash { model, wait } => {
            let body = serde_json::json!({ "kind": "hash", "args": { "model": model } });
            let job: JobView = client.post("/v1/jobs", &body).await?;
            settle(client, output, job, &format!("hash {model}"), wait).await
        }
    }
    .map(|()| 0)
}

async fn forget(models: &[String], client: &Client, output: Output) -> Result<(), CliError> {
    for model in models {
        let none: [(&str, Option<String>); 0] = [];
        let forgotten: ModelForgotten = client.delete(&format!("/v1/models/{}", segment(model)), &none).await?;
        if output.json {
            output.value(&forgotten)?;
        } else {
            output.note(format!("`{}` is forgotten", forgotten.name));
        }
    }
    Ok(())
}

async fn list(args: ListArgs, client: &Client, output: Output) -> Result<(), CliError> {
    let limit = args.filter.limit;
    let request = SearchRequest { name: args.contains, ..args.filter.request(args.sort) };
    let (models, _) = found(request, limit, client).await?;
    print(&models, output)
}

async fn search(args: SearchArgs, client: &Client, output: Output) -> Result<(), CliError> {
    let limit = args.filter.limit;
    let request = SearchRequest { text: Some(args.words.join(" ")), ..args.filter.request(args.sort) };
    let (models, indexing) = found(request, limit, client).await?;
    print_or(&models, "no model has these words", output)?;
    if let Some(models) = indexing {
        output.note(format!("{models} models were just listed and are not searched by words yet"));
    }
    Ok(())
}

/// All pages of a search, at most `limit` rows, and how many models no text finds yet.
pub(super) async fn found(
    mut request: SearchRequest,
    limit: Option<usize>,
    client: &Client,
) -> Result<(Vec<ModelSummary>, Option<u64>), CliError> {
    let mut rows = Vec::new();
    loop {
        let wanted = limit.map_or(PAGE, |limit| (limit - rows.len()).min(PAGE));
        request.limit = Some(u32::try_from(wanted).unwrap_or(u32::MAX));
        let page: ModelPage = client.post("/v1/models/search", &request).await?;
        rows.extend(page.items);
        request.cursor = page.next_cursor;
        if request.cursor.is_none() || limit.is_some_and(|limit| rows.len() >= limit) {
            return Ok((rows, page.indexing));
        }
    }
}

/// Models as a table.
pub(crate) fn print(models: &[ModelSummary], output: Output) -> Result<(), CliError> {
    print_or(models, NONE, output)
}

fn print_or(models: &[ModelSummary], none: &str, output: Output) -> Result<(), CliError> {
    let header = ["NAME", "TYPE", "BASE", "FORMAT", "DTYPE", "SIZE", "STATE", "VERDICT", "RAM", "VRAM"];
    output.list(models, &header, none, |model| {
        vec![
            model.name.clone(),
            model.model_type.clone(),
            model.base.clone(),
            model.format.clone(),
            dash(model.variant.as_deref()),
            bytes(model.size_bytes),
            model.state.clone(),
            verdict(model),
            joined(&model.residency.ram),
            joined(&model.residency.vram),
        ]
    })
}

/// The last validation's verdict; empty without one.
fn verdict(model: &ModelSummary) -> String {
    let verdict = model.verdict.clone().unwrap_or_default();
    if model.verdict_stale { format!("{verdict} (stale)") } else { verdict }
}

async fn show(model: &str, client: &Client, output: Output) -> Result<(), CliError> {
    let detail: ModelDetail = client.get(&format!("/v1/models/{}", segment(model)), &[]).await?;
    if output.json {
        return output.value(&detail);
    }
    facts(&detail, output)?;
    meta::said(&detail.user, output)?;
    output.section(
        "components",
        &detail.components,
        &["KIND", "BYTES", "PARAMETERS", "TENSORS", "DTYPE", "ID"],
        "none",
        |component| {
            vec![
                component.kind.clone(),
                bytes(component.bytes),
                component.param_count.to_string(),
                component.tensor_count.to_string(),
                component.dtype.clone(),
                component.id.to_string(),
            ]
        },
    )?;
    variants(&detail.variants, output)?;
    output.section("on disk", &detail.locations, &["HOST", "PATH", "SEEN"], "nowhere", |location| {
        vec![location.host.clone(), location.path.clone(), age(location.seen_at)]
    })?;
    corrupt(&detail, output)
}

/// Files whose bytes are not the registered ones, if there are any.
fn corrupt(detail: &ModelDetail, output: Output) -> Result<(), CliError> {
    let files: Vec<_> = detail.locations.iter().flat_map(|at| at.corrupt.iter().map(move |file| (at, file))).collect();
    if files.is_empty() {
        return Ok(());
    }
    let header = ["HOST", "FILE", "COMPONENT", "REGISTERED", "READ", "FOUND"];
    output.section("corrupt", &files, &header, "none", |(at, file)| {
        vec![
            at.host.clone(),
            if file.file.is_empty() { at.path.clone() } else { file.file.clone() },
            dash(file.component.as_deref()),
            file.expected.clone(),
            file.actual.clone(),
            age(file.found_at),
        ]
    })
}

/// The variants of a folder's weights, by component.
fn variants(variants: &[VariantView], output: Output) -> Result<(), CliError> {
    let parts: Vec<(&str, &VariantPart)> =
        variants.iter().flat_map(|variant| variant.parts.iter().map(|part| (variant.name.as_str(), part))).collect();
    if parts.is_empty() {
        return Ok(());
    }
    let header = ["VARIANT", "COMPONENT", "FILES", "FORMAT", "DTYPES", "SIZE", "STATE"];
    output.section("variants", &parts, &header, "none", |(name, part)| {
        vec![
            (*name).to_owned(),
            part.component.clone(),
            first_of(&part.files),
            part.format.clone(),
            joined(&part.dtypes),
            bytes(part.size_bytes),
            standing(part),
        ]
    })
}

/// The first file, and how many more there are: of shards the index tells which.
fn first_of(files: &[String]) -> String {
    match files {
        [] => String::new(),
        [only] => only.clone(),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
    }
}

fn standing(part: &VariantPart) -> String {
    let read = match part.read {
        Some(WhyRead::UsualOrder) => "read: first in the usual order",
        Some(WhyRead::Chosen) => "read: chosen",
        Some(WhyRead::WithoutChosen) => "read: has no files of the chosen one",
        None => "not read",
    };
    match &part.problem {
        Some(problem) => format!("{read}; incomplete: {problem}"),
        None => read.to_owned(),
    }
}

fn facts(detail: &ModelDetail, output: Output) -> Result<(), CliError> {
    let summary = &detail.summary;
    let hash = |of: fn(&Hashes) -> Option<String>| detail.hashes.as_ref().and_then(of).unwrap_or_default();
    let detected = &detail.detected;
    let prediction = detail.prediction.clone().unwrap_or_default();
    output.facts(&[
        ("name", summary.name.clone()),
        ("id", summary.id.to_string()),
        ("type", corrected(&summary.model_type, &detected.model_type)),
        ("base", corrected(&summary.base, &detected.base)),
        ("format", summary.format.clone()),
        ("dtype", summary.variant.clone().unwrap_or_default()),
        ("prediction", corrected(&prediction, detected.prediction.as_deref().unwrap_or("unknown"))),
        ("chosen variant", detail.overrides.variant.clone().unwrap_or_default()),
        ("configs", detail.overrides.config.keys().cloned().collect::<Vec<_>>().join(", ")),
        ("size", bytes(summary.size_bytes)),
        ("state", summary.state.clone()),
        ("verdict", verdict(summary)),
        ("reason", summary.reason.clone().unwrap_or_default()),
        ("tags", summary.tags.join(", ")),
        ("blake3", detail.digest.clone().unwrap_or_default()),
        ("sha256", hash(|hashes| hashes.sha256.clone())),
        ("autov2", hash(|hashes| hashes.autov2.clone())),
        ("autov1", hash(|hashes| hashes.autov1.clone())),
        ("payload sha256", hash(|hashes| hashes.payload_sha256.clone())),
        ("root", format!("{}: {}", detail.root, detail.rel_path)),
        ("in RAM", joined(&summary.residency.ram)),
        ("in VRAM", joined(&summary.residency.vram)),
    ])
}

/// What holds, with what was detected where the operator says something else.
fn corrected(holds: &str, detected: &str) -> String {
    if holds.is_empty() || holds == detected { holds.to_owned() } else { format!("{holds} (detected: {detected})") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corrections_are_shown_beside_what_was_detected() {
        assert_eq!(corrected("sdxl", "sdxl"), "sdxl");
        assert_eq!(corrected("sdxl", "unknown"), "sdxl (detected: unknown)");
        assert_eq!(corrected("", "unknown"), "");
    }
}
