//! What may be said of a model: lengths, counts and shapes, every fault named by its field.

use serde_json::Value;
use shared::wire::{FieldError, Overrides, UserMetadata, VariantView};

use crate::{near, problem::ApiError};

const TITLE_CHARS: usize = 200;
const DESCRIPTION_CHARS: usize = 16_384;
const NOTES_CHARS: usize = 65_536;
const LICENSE_CHARS: usize = 200;
const TAGS: usize = 64;
const TAG_CHARS: usize = 64;
const RATING: u8 = 5;
const EXTRA_BYTES: usize = 65_536;
const CONFIG_BYTES: usize = 262_144;
const DEPTH: usize = 16;
/// Longest name of a type, base, prediction or component.
const WORD_CHARS: usize = 64;

/// The predictions that there are.
const PREDICTIONS: [&str; 6] = ["epsilon", "v_prediction", "sample", "flow", "edm", "edm_v_prediction"];

/// Collects faults.
#[derive(Debug, Default)]
struct Faults(Vec<FieldError>);

impl Faults {
    fn add(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        self.0.push(FieldError { pointer: pointer.into(), detail: detail.into() });
    }

    fn text(&mut self, pointer: &str, text: Option<&str>, most: usize) {
        let Some(text) = text else { return };
        if text.chars().count() > most {
            self.add(pointer, format!("longer than {most} characters"));
        }
        if text.trim().is_empty() {
            self.add(pointer, "empty; leave it out, or send null with PATCH");
        }
        if text.contains('\0') {
            self.add(pointer, "holds a NUL character");
        }
    }

    fn json(&mut self, pointer: &str, value: &Value, most_bytes: usize) {
        if value.to_string().len() > most_bytes {
            self.add(pointer, format!("larger than {most_bytes} bytes of JSON"));
        }
        if depth_of(value) > DEPTH {
            self.add(pointer, format!("nested deeper than {DEPTH}"));
        }
        if holds_nul(value) {
            self.add(pointer, "holds a NUL character");
        }
    }

    fn word(&mut self, pointer: &str, word: &str) {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-.".contains(c);
        if word.is_empty() || word.len() > WORD_CHARS || !word.chars().all(plain) {
            let rule = "small letters, digits, `_`, `-` and `.`";
            self.add(pointer, format!("`{}` is not a name of 1 to {WORD_CHARS} {rule}", short(word)));
        }
    }

    fn end(self) -> Result<(), ApiError> {
        if self.0.is_empty() { Ok(()) } else { Err(ApiError::fields(self.0)) }
    }
}

fn short(text: &str) -> String {
    text.chars().take(WORD_CHARS).collect()
}

fn depth_of(value: &Value) -> usize {
    match value {
        Value::Object(fields) => 1 + fields.values().map(depth_of).max().unwrap_or(0),
        Value::Array(items) => 1 + items.iter().map(depth_of).max().unwrap_or(0),
        _ => 0,
    }
}

/// Postgres stores no NUL, neither in text nor in JSON.
fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Object(fields) => fields.iter().any(|(name, value)| name.contains('\0') || holds_nul(value)),
        Value::Array(items) => items.iter().any(holds_nul),
        _ => false,
    }
}

/// What people may say of a model.
///
/// # Errors
/// A 400 problem with all faults.
pub(crate) fn metadata(said: &UserMetadata) -> Result<(), ApiError> {
    let mut faults = Faults::default();
    faults.text("/title", said.title.as_deref(), TITLE_CHARS);
    faults.text("/description", said.description.as_deref(), DESCRIPTION_CHARS);
    faults.text("/notes", said.notes.as_deref(), NOTES_CHARS);
    faults.text("/license", said.license.as_deref(), LICENSE_CHARS);
    if let Some(rating) = said.rating.filter(|rating| *rating > RATING) {
        faults.add("/rating", format!("`{rating}` is not 0 to {RATING}"));
    }
    if said.tags.len() > TAGS {
        faults.add("/tags", format!("more than {TAGS} tags"));
    }
    for (index, tag) in said.tags.iter().enumerate().take(TAGS) {
        let pointer = format!("/tags/{index}");
        faults.text(&pointer, Some(tag), TAG_CHARS);
        if said.tags.iter().take(index).any(|earlier| earlier.to_lowercase() == tag.to_lowercase()) {
            faults.add(pointer, format!("`{}` is there twice", short(tag)));
        }
    }
    faults.json("/extra", &Value::Object(said.extra.clone()), EXTRA_BYTES);
    faults.end()
}

/// What the operator may say against the detection.
///
/// # Errors
/// A 400 problem with all faults.
pub(crate) fn overrides(said: &Overrides) -> Result<(), ApiError> {
    let mut faults = Faults::default();
    for (pointer, word) in [("/type", &said.model_type), ("/base", &said.base)] {
        if let Some(word) = word {
            faults.word(pointer, word);
        }
    }
    if let Some(prediction) = said.prediction.as_deref().filter(|word| !PREDICTIONS.contains(word)) {
        faults.add("/prediction", format!("`{}` is not one of {}", short(prediction), PREDICTIONS.join(", ")));
    }
    for (component, config) in &said.config {
        let pointer = format!("/config/{}", short(component).replace('~', "~0").replace('/', "~1"));
        faults.word(&pointer, component);
        faults.json(&pointer, &Value::Object(config.clone()), CONFIG_BYTES);
    }
    faults.end()
}

/// Formats of folders, which may have variants.
const FOLDERS: [&str; 2] = ["diffusers", "component"];

/// A chosen variant is one that the model has, as far as a scan has told.
///
/// # Errors
/// A 400 problem that names those; 409 for a folder of which they are not known.
pub(crate) fn variant(chosen: Option<&str>, format: &str, has: Option<&[VariantView]>) -> Result<(), ApiError> {
    let Some(chosen) = chosen else { return Ok(()) };
    if has.is_none() && FOLDERS.contains(&format) {
        let detail = "the variants of this folder are not known: no scan by this version has read it";
        return Err(
            ApiError::conflict(detail).hint("scan its root, and if the folder then has a reason, mend that first")
        );
    }
    let has = has.unwrap_or_default();
    if has.iter().any(|variant| variant.name == chosen) {
        return Ok(());
    }
    if has.is_empty() {
        let detail =
            format!("this model of the format `{format}` has no variants; diffusers folders with weights have some");
        return Err(ApiError::field("/variant", detail));
    }
    let names: Vec<String> = has.iter().map(|variant| format!("`{}`", variant.name)).collect();
    let detail = format!("`{}` is none of the model's variants: {}", short(chosen), names.join(", "));
    let near = near::hint(chosen, has.iter().map(|variant| variant.name.clone()));
    Err(ApiError::field("/variant", detail).maybe_hint(near))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pointers(said: Value) -> Vec<String> {
        let said: UserMetadata = serde_json::from_value(said).unwrap();
        let Err(error) = metadata(&said) else { return Vec::new() };
        error.body().errors.into_iter().map(|fault| fault.pointer).collect()
    }

    #[test]
    fn every_fault_is_named() {
        let said = json!({ "title": "t".repeat(201), "rating": 6, "license": " ", "tags": ["a", "A", "n\u{0}"] });
        assert_eq!(pointers(said), ["/title", "/license", "/rating", "/tags/1", "/tags/2"]);
        assert_eq!(pointers(json!({ "tags": vec!["x"; 65] }))[0], "/tags");
        assert_eq!(pointers(json!({ "extra": { "a\u{0}": 1 } })), ["/extra"]);
        assert_eq!(pointers(json!({ "extra": { "a": "x".repeat(65_536) } })), ["/extra"]);
        let deep = (0..16).fold(json!(1), |inner, _| json!([inner]));
        assert_eq!(pointers(json!({ "extra": { "deep": deep } })), ["/extra"]);
        let good =
            json!({ "title": "é".repeat(200), "rating": 5, "tags": ["a", "b"], "extra": { "a": [1, { "b": null }] } });
        assert!(pointers(good).is_empty());
    }

    #[test]
    fn corrections_are_names() {
        let said = |said: Value| overrides(&serde_json::from_value(said).unwrap());
        assert!(said(json!({ "type": "vae", "base": "sdxl-refiner", "config": { "unet": { "a": null } } })).is_ok());
        let error = said(json!({ "type": "V AE", "prediction": "x", "config": { "a/b": {} } })).unwrap_err();
        let pointers: Vec<_> = error.body().errors.into_iter().map(|fault| fault.pointer).collect();
        assert_eq!(pointers, ["/type", "/prediction", "/config/a~1b"]);
    }

    #[test]
    fn a_variant_is_one_that_the_model_has() {
        let has = ["default", "fp16"].map(|name| VariantView { name: name.into(), complete: true, parts: Vec::new() });
        let has = has.as_slice();
        assert!(variant(None, "diffusers", None).is_ok() && variant(Some("fp16"), "diffusers", Some(has)).is_ok());
        let error = variant(Some("fp61"), "diffusers", Some(has)).unwrap_err().body();
        assert_eq!(error.errors[0].pointer, "/variant");
        assert!(error.detail.contains("`default`, `fp16`"), "{}", error.detail);
        for (format, has) in [("safetensors", None), ("diffusers", Some(&[][..]))] {
            let error = variant(Some("fp16"), format, has).unwrap_err().body();
            assert!(error.detail.contains(&format!("`{format}` has no variants")), "{}", error.detail);
        }
        let unknown = variant(Some("fp16"), "diffusers", None).unwrap_err().body();
        assert!(unknown.detail.contains("no scan by this version") && unknown.hint.is_some(), "{unknown:?}");
    }
}
