//! What is known of a model, put into words that files keep: a side-car's document, and fields of a safetensors header by the
//! ModelSpec. People are heard before files.

use std::collections::BTreeMap;

use model_formats::write::{Document, Hashes, SCHEMA, Written};
use serde_json::Value;
use shared::{
    db::models::{MetadataRow, ModelRow},
    ids::JobId,
    job::{MetadataWriteArgs, WritePart},
};

/// The side-car of a model.
pub fn document(model: &ModelRow, said: &MetadataRow, args: &MetadataWriteArgs, job: JobId) -> Document {
    let known = Known { model, said, args };
    let trigger_words = known.trigger_words();
    let hashes = Hashes {
        blake3: model.content_digest.clone(),
        sha256: model.sha256.clone(),
        payload_sha256: model.payload_sha256.clone(),
    };
    Document {
        schema: SCHEMA.to_owned(),
        written: Some(Written { job: job.to_string(), version: said.version }),
        name: Some(model.name.clone()),
        title: known.title(),
        description: known.description(),
        tags: known.tags(),
        activation_text: (!trigger_words.is_empty()).then(|| trigger_words.join(", ")),
        trigger_words,
        notes: known.if_asked(WritePart::Notes, said.notes.clone()),
        rating: known.if_asked(WritePart::Rating, said.rating.and_then(|rating| u8::try_from(rating).ok())),
        license: known.license(),
        extra: known.if_asked(WritePart::Extra, said.extra.as_object().cloned()).unwrap_or_default(),
        model_type: known.identity("type", Some(&model.model_type)),
        base: known.identity("base", Some(&model.base)),
        prediction: known.identity("prediction", model.prediction.as_ref()),
        hashes: known.if_asked(WritePart::Hashes, (hashes != Hashes::default()).then_some(hashes)),
    }
}

/// The fields of a copy's header.
pub fn header_fields(model: &ModelRow, said: &MetadataRow, args: &MetadataWriteArgs) -> BTreeMap<String, String> {
    let known = Known { model, said, args };
    let list = |words: Vec<String>| (!words.is_empty()).then(|| words.join(", "));
    let prediction = known.identity("prediction", model.prediction.as_ref());
    let prediction = prediction.map(|kind| if kind == "v_prediction" { "v".to_owned() } else { kind });
    let extra = said.extra.as_object().filter(|extra| !extra.is_empty()).map(|_| said.extra.to_string());
    let payload = model.payload_sha256.as_ref().map(|hash| format!("0x{hash}"));
    let fields = [
        ("modelspec.title", known.title()),
        ("modelspec.description", known.description()),
        ("modelspec.tags", list(known.tags())),
        ("modelspec.trigger_phrase", list(known.trigger_words())),
        ("modelspec.license", known.license()),
        ("modelspec.prediction_type", prediction),
        ("modelspec.hash_sha256", known.if_asked(WritePart::Hashes, payload)),
        ("modelyard.type", known.identity("type", Some(&model.model_type))),
        ("modelyard.base", known.identity("base", Some(&model.base))),
        ("modelyard.notes", known.if_asked(WritePart::Notes, said.notes.clone())),
        ("modelyard.rating", known.if_asked(WritePart::Rating, said.rating.map(|rating| rating.to_string()))),
        ("modelyard.extra", known.if_asked(WritePart::Extra, extra)),
    ];
    fields.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}

/// What is known, and which parts of it are asked for.
struct Known<'a> {
    model: &'a ModelRow,
    said: &'a MetadataRow,
    args: &'a MetadataWriteArgs,
}

impl Known<'_> {
    fn if_asked<T>(&self, part: WritePart, value: Option<T>) -> Option<T> {
        value.filter(|_| self.args.includes(part))
    }

    fn extracted(&self, field: &str) -> Option<&Value> {
        self.model.metadata.get("extracted")?.get(field)
    }

    fn text(&self, part: WritePart, said: Option<&String>, field: &str) -> Option<String> {
        let of_files = || self.extracted(field).and_then(Value::as_str).map(str::to_owned);
        self.if_asked(part, said.cloned().or_else(of_files))
    }

    fn words(&self, part: WritePart, said: &[String], field: &str) -> Vec<String> {
        if !self.args.includes(part) {
            return Vec::new();
        }
        let mut words = said.to_vec();
        for word in self.extracted(field).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            if !words.iter().any(|known| known.to_lowercase() == word.to_lowercase()) {
                words.push(word.to_owned());
            }
        }
        words
    }

    fn title(&self) -> Option<String> {
        self.text(WritePart::Title, self.said.title.as_ref(), "title")
    }

    fn description(&self) -> Option<String> {
        self.text(WritePart::Description, self.said.description.as_ref(), "description")
    }

    fn license(&self) -> Option<String> {
        self.text(WritePart::License, self.said.license.as_ref(), "license")
    }

    fn tags(&self) -> Vec<String> {
        self.words(WritePart::Tags, &self.said.tags, "tags")
    }

    fn trigger_words(&self) -> Vec<String> {
        self.words(WritePart::TriggerWords, &[], "trigger_words")
    }

    /// A fact as the operator says it, else as detected; what is unknown is not written.
    fn identity(&self, field: &str, detected: Option<&String>) -> Option<String> {
        let said = self.model.overrides.get(field).and_then(Value::as_str).map(str::to_owned);
        let fact = said.or_else(|| detected.cloned()).filter(|fact| fact != "unknown");
        self.if_asked(WritePart::Identity, fact)
    }
}
