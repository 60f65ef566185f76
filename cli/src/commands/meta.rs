//! `modelyard models meta` and `models override`: what people say of a model.

use std::{
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use clap::{Args, Subcommand};
use serde_json::{Map, Value};
use shared::{
    error::ErrorCode,
    job::{Target, WriteForm, WritePart},
    wire::{JobView, MetadataChange, MetadataView, MetadataWriteRequest, ModelDetail, UserMetadata},
};

use super::{settle, text::age};
use crate::{
    args::WaitArgs,
    client::{Client, segment},
    error::CliError,
    output::Output,
};

/// What to do with a model's metadata.
#[derive(Debug, Subcommand)]
pub enum MetaCommand {
    /// Show what files and people say of a model.
    Get {
        /// Id or name.
        model: String,

        /// The changes so far, the newest first.
        #[arg(long)]
        history: bool,
    },
    /// Change what people say of a model; what is not named stays.
    Set(Box<SetArgs>),
    /// Write what is known of a model beside it: a side-car, or a copy with more metadata. Its own files are only read.
    Write(WriteArgs),
    /// Change what people say of a model in an editor.
    Edit {
        /// Id or name.
        model: String,

        /// The editor.
        #[arg(long, env = "EDITOR", hide_env_values = true, default_value = "vi", value_name = "COMMAND")]
        editor: String,
    },
}

/// Options of `models meta set`.
#[derive(Debug, Args)]
pub struct SetArgs {
    /// Id or name.
    model: String,

    /// Title.
    #[arg(long)]
    title: Option<String>,

    /// Description.
    #[arg(long)]
    description: Option<String>,

    /// All tags, separated by commas.
    #[arg(long, value_delimiter = ',')]
    tags: Option<Vec<String>>,

    /// Notes.
    #[arg(long)]
    notes: Option<String>,

    /// 0 to 5.
    #[arg(long)]
    rating: Option<u8>,

    /// Licence.
    #[arg(long)]
    license: Option<String>,

    /// A field of `extra` as NAME=JSON; `null` removes it.
    #[arg(long, value_name = "NAME=JSON", value_parser = named_json)]
    extra: Vec<(String, Value)>,

    /// Clear these fields.
    #[arg(long, value_name = "FIELDS", value_delimiter = ',')]
    #[arg(value_parser = ["title", "description", "tags", "notes", "rating", "license", "extra"])]
    clear: Vec<String>,
}

/// Options of `models meta write`.
#[derive(Debug, Args)]
pub struct WriteArgs {
    /// Id or name.
    model: String,

    /// A JSON document `<stem>.json`; what is written without `--copy`.
    #[arg(long, conflicts_with = "copy")]
    sidecar: bool,

    /// A safetensors file with the same tensors and the metadata in its header.
    #[arg(long)]
    copy: bool,

    /// Path below the model's root; beside the model when absent.
    #[arg(long, value_name = "PATH")]
    to: Option<String>,

    /// Replace what was written there by this command before. Nothing else is ever replaced.
    #[arg(long)]
    overwrite: bool,

    /// Only these parts, e.g. `title,tags,license,hashes`; all when absent.
    #[arg(long, value_name = "PARTS", value_delimiter = ',', value_parser = part)]
    include: Vec<WritePart>,

    /// On this host; on any that has the files when absent.
    #[arg(long, value_name = "NAME")]
    host: Option<String>,

    #[command(flatten)]
    wait: WaitArgs,
}

fn part(text: &str) -> Result<WritePart, String> {
    serde_json::from_value(Value::String(text.to_owned())).map_err(|error| error.to_string())
}

/// Options of `models override`.
#[derive(Debug, Args)]
pub struct OverrideArgs {
    /// Id or name.
    model: String,

    /// Type, e.g. `vae`.
    #[arg(long = "type", value_name = "TYPE")]
    model_type: Option<String>,

    /// Base, e.g. `sdxl`.
    #[arg(long)]
    base: Option<String>,

    /// Prediction type, e.g. `v_prediction`.
    #[arg(long)]
    prediction: Option<String>,

    /// The variant of a folder's weights that is read, e.g. `fp16`, or `default` for those without one in their names; `models show` lists them.
    #[arg(long)]
    variant: Option<String>,

    /// The configuration of a component: COMPONENT=FILE with a diffusers `config.json`.
    #[arg(long, value_name = "COMPONENT=FILE", value_parser = named_file)]
    config: Vec<(String, PathBuf)>,

    /// Go back to what was detected: these of `type`, `base`, `prediction`, `variant`, `config` (all components) and
    /// `config.COMPONENT`.
    #[arg(long, value_name = "FIELDS", value_delimiter = ',')]
    clear: Vec<String>,
}

fn named_json(text: &str) -> Result<(String, Value), String> {
    let (name, json) = text.split_once('=').ok_or("expected NAME=JSON")?;
    let value = serde_json::from_str(json).map_err(|error| format!("`{json}` is not JSON ({error}); quote texts"))?;
    Ok((name.to_owned(), value))
}

fn named_file(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = text.split_once('=').ok_or("expected COMPONENT=FILE")?;
    Ok((name.to_owned(), PathBuf::from(path)))
}

fn path_of(model: &str) -> String {
    format!("/v1/models/{}/metadata", segment(model))
}

pub(crate) async fn run(command: MetaCommand, client: &Client, output: Output) -> Result<(), CliError> {
    match command {
        MetaCommand::Get { model, history: true } => history(&model, client, output).await,
        MetaCommand::Get { model, history: false } => {
            let view: MetadataView = client.get(&path_of(&model), &[]).await?;
            print(&view, output)
        }
        MetaCommand::Set(args) => {
            let model = args.model.clone();
            let view: MetadataView = client.patch(&path_of(&model), &patch(*args)?).await?;
            print(&view, output)
        }
        MetaCommand::Write(args) => write(args, client, output).await,
        MetaCommand::Edit { model, editor } => edit(&model, &editor, client, output).await,
    }
}

async fn write(args: WriteArgs, client: &Client, output: Output) -> Result<(), CliError> {
    let request = MetadataWriteRequest {
        form: if args.copy { WriteForm::Copy } else { WriteForm::Sidecar },
        to: args.to,
        overwrite: args.overwrite,
        include: args.include,
        target: args.host.map_or(Target::Any, Target::Host),
        ..MetadataWriteRequest::default()
    };
    let job: JobView = client.post(&format!("{}/write", path_of(&args.model)), &request).await?;
    settle(client, output, job, &format!("write {}", args.model), args.wait).await
}

fn patch(args: SetArgs) -> Result<Value, CliError> {
    let mut fields = Map::new();
    for name in args.clear {
        fields.insert(name, Value::Null);
    }
    let texts =
        [("title", args.title), ("description", args.description), ("notes", args.notes), ("license", args.license)];
    for (name, text) in texts {
        if let Some(text) = text {
            fields.insert(name.to_owned(), Value::String(text));
        }
    }
    if let Some(tags) = args.tags {
        fields.insert("tags".to_owned(), tags.into());
    }
    if let Some(rating) = args.rating {
        fields.insert("rating".to_owned(), rating.into());
    }
    if !args.extra.is_empty() {
        fields.insert("extra".to_owned(), Value::Object(args.extra.into_iter().collect()));
    }
    if fields.is_empty() {
        return Err(CliError::Usage("name a field to change, e.g. `--title`; see --help".to_owned()));
    }
    Ok(Value::Object(fields))
}

fn print(view: &MetadataView, output: Output) -> Result<(), CliError> {
    if output.json {
        return output.value(view);
    }
    output.line(format!("{} ({})", view.name, view.model))?;
    said(&view.user, output)?;
    output.heading("of its files")?;
    output.line(serde_json::to_string_pretty(&view.extracted)?)
}

/// What people say, if anybody said anything.
pub(super) fn said(user: &UserMetadata, output: Output) -> Result<(), CliError> {
    if *user == UserMetadata::default() {
        return Ok(());
    }
    output.heading("of people")?;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let extra = if user.extra.is_empty() { String::new() } else { serde_json::to_string(&user.extra)? };
    output.facts(&[
        ("title", text(&user.title)),
        ("description", text(&user.description)),
        ("tags", user.tags.join(", ")),
        ("notes", text(&user.notes)),
        ("rating", user.rating.map(|rating| format!("{rating} of 5")).unwrap_or_default()),
        ("license", text(&user.license)),
        ("extra", extra),
    ])
}

async fn history(model: &str, client: &Client, output: Output) -> Result<(), CliError> {
    let path = format!("{}/history", path_of(model));
    let changes: Vec<MetadataChange> = client.list(&path, &[], None).await?;
    output.list(&changes, &["WHEN", "WHO", "VERSION", "CHANGED"], "nobody has said anything", |change| {
        vec![age(change.at), change.who.clone(), change.version.to_string(), changed(change)]
    })
}

/// The names of the fields that a change changed.
fn changed(change: &MetadataChange) -> String {
    let fields = |said: &UserMetadata| serde_json::to_value(said).unwrap_or_default();
    let (before, after) = (fields(&change.before), fields(&change.after));
    let names = ["title", "description", "tags", "notes", "rating", "license", "extra"];
    names.into_iter().filter(|name| before.get(name) != after.get(name)).collect::<Vec<_>>().join(", ")
}

async fn edit(model: &str, editor: &str, client: &Client, output: Output) -> Result<(), CliError> {
    let (view, etag): (MetadataView, _) = client.get_tagged(&path_of(model)).await?;
    let file = Draft::new(&view)?;
    let text = file.edited(editor)?;
    let said: UserMetadata = serde_json::from_str(&text)
        .map_err(|error| CliError::Usage(format!("what was written is not metadata: {error}; nothing was changed")))?;
    if said == view.user {
        output.note("nothing was changed");
        return Ok(());
    }
    let view: MetadataView = client.put(&path_of(model), &said, Some(&etag)).await?;
    print(&view, output)
}

/// A file for an editor, removed when it goes out of scope.
struct Draft(PathBuf);

impl Draft {
    fn new(view: &MetadataView) -> Result<Self, CliError> {
        let path = std::env::temp_dir().join(format!("modelyard-{}-{}.json", view.model, std::process::id()));
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let draft = Self(path);
        file.write_all(serde_json::to_string_pretty(&whole(&view.user)?)?.as_bytes())?;
        Ok(draft)
    }

    fn edited(&self, editor: &str) -> Result<String, CliError> {
        let mut words = editor.split_whitespace();
        let program = words.next().ok_or_else(|| CliError::Usage("the editor has no name".to_owned()))?;
        let status = Command::new(program).args(words).arg(&self.0).status();
        match status {
            Ok(status) if status.success() => Ok(std::fs::read_to_string(&self.0)?),
            Ok(status) => Err(editor_failed(program, &status.to_string())),
            Err(error) => Err(editor_failed(program, &error.to_string())),
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // a draft that is gone already needs no removal
        let _ = std::fs::remove_file(&self.0);
    }
}

fn editor_failed(program: &str, why: &str) -> CliError {
    CliError::failed(ErrorCode::Internal, format!("the editor `{program}` failed: {why}; nothing was changed"))
}

/// All fields, so that whoever edits sees what there is.
fn whole(user: &UserMetadata) -> Result<Value, CliError> {
    let mut value = serde_json::to_value(user)?;
    for name in ["title", "description", "notes", "rating", "license"] {
        if let Some(fields) = value.as_object_mut() {
            fields.entry(name).or_insert(Value::Null);
        }
    }
    Ok(value)
}

pub(crate) async fn override_model(args: OverrideArgs, client: &Client, output: Output) -> Result<(), CliError> {
    let path = format!("/v1/models/{}", segment(&args.model));
    let detail: ModelDetail = client.patch(&path, &correction(args)?).await?;
    if output.json {
        return output.value(&detail);
    }
    let summary = &detail.summary;
    output.facts(&[
        ("name", summary.name.clone()),
        ("type", summary.model_type.clone()),
        ("base", summary.base.clone()),
        ("prediction", detail.prediction.clone().unwrap_or_default()),
        ("variant", detail.overrides.variant.clone().unwrap_or_default()),
        ("configs", detail.overrides.config.keys().cloned().collect::<Vec<_>>().join(", ")),
    ])
}

fn correction(args: OverrideArgs) -> Result<Value, CliError> {
    let (mut fields, mut configs) = (Map::new(), Map::new());
    let mut all_configs = false;
    for name in &args.clear {
        match (name.as_str(), name.strip_prefix("config.")) {
            ("type" | "base" | "prediction" | "variant", _) => drop(fields.insert(name.clone(), Value::Null)),
            ("config", _) => all_configs = true,
            (_, Some(component)) => drop(configs.insert(component.to_owned(), Value::Null)),
            _ => {
                return Err(CliError::Usage(format!(
                    "`{name}` is not type, base, prediction, variant, config or config.COMPONENT"
                )));
            }
        }
    }
    let words =
        [("type", args.model_type), ("base", args.base), ("prediction", args.prediction), ("variant", args.variant)];
    for (name, word) in words {
        if let Some(word) = word {
            fields.insert(name.to_owned(), Value::String(word));
        }
    }
    for (component, path) in args.config {
        configs.insert(component, read_config(&path)?);
    }
    match (all_configs, configs.is_empty()) {
        (true, true) => drop(fields.insert("config".to_owned(), Value::Null)),
        (true, false) => return Err(CliError::Usage("clear all configs, or change some, not both".to_owned())),
        (false, true) => {}
        (false, false) => drop(fields.insert("config".to_owned(), Value::Object(configs))),
    }
    if fields.is_empty() {
        return Err(CliError::Usage("name something to correct, e.g. `--base sdxl`; see --help".to_owned()));
    }
    Ok(Value::Object(fields))
}

fn read_config(path: &Path) -> Result<Value, CliError> {
    let refused = |why: String| CliError::failed(ErrorCode::InvalidArgument, format!("{}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| refused(error.to_string()))?;
    let value: Value = serde_json::from_str(&text).map_err(|error| refused(error.to_string()))?;
    if value.is_object() { Ok(value) } else { Err(refused("not a JSON object".to_owned())) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Parser)]
    struct Set {
        #[command(flatten)]
        args: SetArgs,
    }

    #[derive(Parser)]
    struct Override {
        #[command(flatten)]
        args: OverrideArgs,
    }

    #[test]
    fn a_patch_holds_what_is_named() {
        let parsed = |words: &[&str]| Set::try_parse_from([&["set", "m"], words].concat()).unwrap().args;
        let words = ["--title", "T", "--tags", "a,b", "--rating", "4", "--extra", "url=\"x\"", "--clear", "notes"];
        let wanted = json!({ "title": "T", "tags": ["a", "b"], "rating": 4, "extra": { "url": "x" }, "notes": null });
        assert_eq!(patch(parsed(&words)).unwrap(), wanted);
        assert!(patch(parsed(&[])).is_err());
        assert!(Set::try_parse_from(["set", "m", "--extra", "url=x"]).is_err());
        assert!(Set::try_parse_from(["set", "m", "--clear", "name"]).is_err());
    }

    #[test]
    fn a_correction_clears_by_name() {
        let parsed = |words: &[&str]| Override::try_parse_from([&["override", "m"], words].concat()).unwrap().args;
        let wanted = json!({ "type": null, "base": "sdxl", "config": { "vae": null } });
        assert_eq!(correction(parsed(&["--base", "sdxl", "--clear", "type,config.vae"])).unwrap(), wanted);
        assert_eq!(correction(parsed(&["--clear", "config"])).unwrap(), json!({ "config": null }));
        assert_eq!(correction(parsed(&["--variant", "fp16"])).unwrap(), json!({ "variant": "fp16" }));
        assert_eq!(correction(parsed(&["--clear", "variant"])).unwrap(), json!({ "variant": null }));
        assert!(correction(parsed(&["--clear", "name"])).is_err() && correction(parsed(&[])).is_err());
    }
}
