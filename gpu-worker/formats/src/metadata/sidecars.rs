//! What side-cars say: version documents of the publishing site, library managers' files, notes, configs.

use serde_json::Value;

use super::{
    embedded::commas,
    extracted::{Civitai, Gathering, SidecarFacts},
};
use crate::{
    sidecar::{self, Content, Sidecar, SidecarKind},
    write,
};

/// Notes the side-car and takes what it says. One that cannot be read is named.
pub(super) fn read(found: &mut Gathering, sidecar: &Sidecar) {
    let name = sidecar.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match sidecar::facts(sidecar) {
        Ok(file) => found.out.sidecars.push(SidecarFacts {
            name: file.rel_path,
            kind: sidecar.kind,
            size_bytes: file.size,
            mtime_ns: file.mtime_ns,
            inode: file.inode,
        }),
        Err(error) => return found.problem(format!("{name}: {}", error.full_text())),
    }
    match sidecar::read(sidecar) {
        Ok(Content::Document(document)) => self::document(found, sidecar.kind, &document),
        Ok(Content::Text(text)) => config(found, &text),
        Ok(Content::None) => {}
        Err(error) => found.problem(format!("{name}: {}", error.full_text())),
    }
    found.out.sidecars.sort_by(|a, b| a.name.cmp(&b.name));
}

fn document(found: &mut Gathering, kind: SidecarKind, document: &Value) {
    match kind {
        SidecarKind::CivitaiInfo => version(found, "civitai.info", document),
        SidecarKind::ManagerMetadata => manager_metadata(found, document),
        SidecarKind::ManagerInfo => manager_info(found, document),
        SidecarKind::Notes => notes(found, document),
        SidecarKind::Config | SidecarKind::Preview | SidecarKind::CompanionVae | SidecarKind::Text => {}
    }
}

fn text<'d>(document: &'d Value, key: &str) -> Option<&'d str> {
    document.get(key).and_then(Value::as_str)
}

fn list<'d>(document: &'d Value, key: &str) -> impl Iterator<Item = &'d str> {
    document.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// A model version as the site describes it.
fn version(found: &mut Gathering, source: &str, document: &Value) {
    let model = document.get("model").unwrap_or(&Value::Null);
    found.text("title", |out| &mut out.title, source, text(model, "name"));
    let description = text(document, "description").or_else(|| text(model, "description"));
    found.text("description", |out| &mut out.description, source, description);
    let author = document.get("creator").and_then(|creator| text(creator, "username"));
    found.text("author", |out| &mut out.author, source, author);
    let date = text(document, "publishedAt").or_else(|| text(document, "createdAt"));
    found.text("date", |out| &mut out.date, source, date);
    found.words("tags", |out| &mut out.tags, source, list(model, "tags"));
    let words = list(document, "trainedWords").flat_map(|words| commas(Some(words)));
    found.words("trigger_words", |out| &mut out.trigger_words, source, words);
    found.claim_base(source, text(document, "baseModel"));
    let number = |key| document.get(key).and_then(Value::as_u64);
    civitai(
        found,
        source,
        Civitai {
            model_id: number("modelId"),
            version_id: number("id"),
            version_name: text(document, "name").map(str::to_owned),
        },
    );
    let files = document.get("files").and_then(Value::as_array).into_iter().flatten();
    let primary = files.clone().find(|file| file.get("primary").and_then(Value::as_bool) == Some(true));
    let file = primary.or_else(|| files.clone().next());
    let hash = file.and_then(|file| file.get("hashes")).and_then(|hashes| text(hashes, "SHA256"));
    sha256(found, source, hash);
}

fn civitai(found: &mut Gathering, source: &str, ids: Civitai) {
    if found.out.civitai.is_none() && (ids.model_id.is_some() || ids.version_id.is_some()) {
        found.out.civitai = Some(ids);
        found.note("civitai", source);
    }
}

fn sha256(found: &mut Gathering, source: &str, hash: Option<&str>) {
    let plausible = hash.filter(|hash| hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let lower = plausible.map(str::to_ascii_lowercase);
    found.text("sha256_claim", |out| &mut out.sha256_claim, source, lower.as_deref());
}

fn manager_metadata(found: &mut Gathering, document: &Value) {
    let source = "metadata.json";
    found.text("title", |out| &mut out.title, source, text(document, "model_name"));
    found.text("description", |out| &mut out.description, source, text(document, "modelDescription"));
    found.text("usage_hint", |out| &mut out.usage_hint, source, text(document, "notes"));
    found.words("tags", |out| &mut out.tags, source, list(document, "tags"));
    found.words("trigger_words", |out| &mut out.trigger_words, source, list(document, "trainedWords"));
    found.claim_base(source, text(document, "base_model"));
    sha256(found, source, text(document, "sha256"));
    if let Some(inner) = document.get("civitai").filter(|inner| inner.is_object()) {
        version(found, source, inner);
    }
}

fn manager_info(found: &mut Gathering, document: &Value) {
    let source = "cm-info.json";
    let title = text(document, "UserTitle").or_else(|| text(document, "ModelName"));
    found.text("title", |out| &mut out.title, source, title);
    let description = text(document, "VersionDescription").or_else(|| text(document, "ModelDescription"));
    found.text("description", |out| &mut out.description, source, description);
    found.words("tags", |out| &mut out.tags, source, list(document, "Tags"));
    found.words("trigger_words", |out| &mut out.trigger_words, source, list(document, "TrainedWords"));
    found.claim_base(source, text(document, "BaseModel"));
    let number = |key| document.get(key).and_then(Value::as_u64);
    let version_name = text(document, "VersionName").map(str::to_owned);
    civitai(found, source, Civitai { model_id: number("ModelId"), version_id: number("VersionId"), version_name });
    sha256(found, source, document.get("Hashes").and_then(|hashes| text(hashes, "SHA256")));
}

/// Notes of a web interface; any other JSON of the same name says nothing here.
fn notes(found: &mut Gathering, document: &Value) {
    if write::is_ours(document) {
        return ours(found, document);
    }
    let source = "notes";
    found.text("description", |out| &mut out.description, source, text(document, "description"));
    found.text("usage_hint", |out| &mut out.usage_hint, source, text(document, "notes"));
    found.words("trigger_words", |out| &mut out.trigger_words, source, commas(text(document, "activation text")));
    found.claim_base(source, text(document, "sd version"));
}

/// A side-car that we wrote: everything in it, except where the model came from.
fn ours(found: &mut Gathering, document: &Value) {
    let source = "modelyard";
    found.text("title", |out| &mut out.title, source, text(document, "title"));
    found.text("description", |out| &mut out.description, source, text(document, "description"));
    found.text("license", |out| &mut out.license, source, text(document, "license"));
    found.text("notes", |out| &mut out.notes, source, text(document, "notes"));
    found.words("tags", |out| &mut out.tags, source, list(document, "tags"));
    found.words("trigger_words", |out| &mut out.trigger_words, source, list(document, "trigger_words"));
    found.claim_base(source, text(document, "base"));
    found.claim_prediction(source, text(document, "prediction"));
    sha256(found, source, document.get("hashes").and_then(|hashes| text(hashes, "sha256")));
    let rating = document.get("rating").and_then(Value::as_u64).and_then(|rating| u8::try_from(rating).ok());
    if let Some(rating) = rating.filter(|rating| *rating <= 5) {
        found.out.rating = Some(rating);
        found.note("rating", source);
    }
    if let Some(extra) = document.get("extra").filter(|extra| extra.is_object()) {
        found.out.extra = Some(extra.clone());
        found.note("extra", source);
    }
}

/// The original architecture config: only how the model predicts is looked up, as a line of its own.
fn config(found: &mut Gathering, text: &str) {
    let setting = text.lines().find_map(|line| line.trim().strip_prefix("parameterization:"));
    let value = setting.map(|value| value.split('#').next().unwrap_or_default().trim().trim_matches(['"', '\'']));
    found.claim_prediction("yaml", value);
}
