//! Tokenizer folders: the source's, or CLIP's own for encoders of its vocabulary.

use serde_json::json;

use super::{Document, Part, Request, copy, file_name, made};
use crate::{
    convert::Model,
    vocab::{Base, ComponentKind, Format},
};

/// Tokens of CLIP's vocabulary; encoders with more have learnt some beside them.
const VOCABULARY: u64 = 49_408;
const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";
/// Token 0, with which OpenCLIP's encoders are padded.
const ZERO: &str = "!";

/// CLIP's vocabulary and merges as files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokenizer {
    /// `vocab.json`.
    pub vocabulary: Vec<u8>,
    /// `merges.txt`.
    pub merges: Vec<u8>,
}

/// The files of all tokenizers, and the folders for which there are none.
pub(super) fn documents(model: &Model, parts: &[Part], request: &Request) -> (Vec<Document>, Vec<String>) {
    let (mut documents, mut missing) = (Vec::new(), Vec::new());
    let encoders = parts.iter().filter_map(|part| Some((part, folder(part.kind)?)));
    for (part, folder) in encoders {
        let own = source(model, folder);
        if !own.is_empty() {
            documents.extend(own);
            continue;
        }
        let pads_with_zero = part.kind == ComponentKind::TextEncoder2 || model.inspection.base == Base::Sd21;
        let tokens = part.canonical.get("text_model.embeddings.token_embedding.weight");
        let is_clip = tokens.and_then(|tokens| tokens.shape.first()).is_some_and(|rows| *rows >= VOCABULARY);
        match request.tokenizer.as_ref().filter(|_| is_clip) {
            Some(clip) => documents.extend(shipped(folder, clip, pads_with_zero)),
            None => missing.push(folder.to_owned()),
        }
    }
    (documents, missing)
}

/// The folder of an encoder's tokenizer.
pub(super) const fn folder(kind: ComponentKind) -> Option<&'static str> {
    match kind {
        ComponentKind::TextEncoder => Some("tokenizer"),
        ComponentKind::TextEncoder2 => Some("tokenizer_2"),
        _ => None,
    }
}

/// The files of the source's tokenizer.
fn source(model: &Model, folder: &str) -> Vec<Document> {
    if model.inspection.format != Format::Diffusers {
        return Vec::new();
    }
    let of = |path: &str| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
    let files = model.inspection.files.iter().filter(|file| of(&file.rel_path));
    files.map(|file| copy(file, &format!("{folder}/{}", file_name(&file.rel_path)))).collect()
}

fn shipped(folder: &str, tokenizer: &Tokenizer, pads_with_zero: bool) -> Vec<Document> {
    let pad = if pads_with_zero { ZERO } else { END };
    let plain =
        |name: &str, text: &[u8]| Document { path: format!("{folder}/{name}"), text: text.to_vec(), copy_of: None };
    let config = json!({
        "add_prefix_space": false, "bos_token": START, "do_lower_case": true, "eos_token": END, "errors": "replace",
        "model_max_length": 77, "pad_token": pad, "tokenizer_class": "CLIPTokenizer", "unk_token": END,
    });
    let special = json!({ "bos_token": START, "eos_token": END, "pad_token": pad, "unk_token": END });
    vec![
        plain("vocab.json", &tokenizer.vocabulary),
        plain("merges.txt", &tokenizer.merges),
        made(format!("{folder}/tokenizer_config.json"), &config),
        made(format!("{folder}/special_tokens_map.json"), &special),
    ]
}
