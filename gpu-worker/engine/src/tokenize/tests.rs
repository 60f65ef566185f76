//! Held against transformers' `CLIPTokenizer` (`tests/reference/make_tokens.py`), and what damaged files give.

use std::{fs, path::PathBuf, sync::OnceLock};

use serde::Deserialize;
use serde_json::{Value, json};

use super::*;

#[derive(Deserialize)]
struct Case {
    text: String,
    #[serde(rename = "clip-l")]
    clip_l: Vec<u32>,
    #[serde(rename = "clip-g")]
    clip_g: Option<Vec<u32>>,
    decoded: String,
}

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference/golden/tokens").join(name)
}

fn cases() -> Vec<Case> {
    serde_json::from_slice(&fs::read(golden("cases.json")).unwrap()).unwrap()
}

fn clip_l() -> &'static ClipTokenizer {
    static ONE: OnceLock<ClipTokenizer> = OnceLock::new();
    ONE.get_or_init(|| ClipTokenizer::shipped(&TokenizerSettings::default()).unwrap())
}

#[track_caller]
fn assert_equal(tokenizer: &ClipTokenizer, second: bool) {
    let cases = cases();
    assert!(cases.len() > 190);
    for case in &cases {
        let wanted = case.clip_g.as_ref().filter(|_| second).unwrap_or(&case.clip_l);
        assert_eq!(&tokenizer.encode(&case.text).unwrap(), wanted, "{:?}", case.text);
    }
}

#[test]
fn the_shipped_vocabulary_gives_the_tokens_of_transformers() {
    assert_eq!(clip_l().vocabulary_size(), 49408);
    assert_eq!((clip_l().end_id(), clip_l().pad_id()), (49407, 49407));
    assert_equal(clip_l(), false);
    let second = ClipTokenizer::shipped(&TokenizerSettings::padded_with_zero()).unwrap();
    assert_eq!(second.pad_id(), 0);
    assert_equal(&second, true);
}

#[test]
fn files_as_transformers_writes_them_give_the_same() {
    let shipped: Value = serde_json::from_slice(&document::shipped(&TokenizerSettings::default()).unwrap()).unwrap();
    for (frame, pad) in [("clip-l.json", None), ("clip-g.json", Some("!"))] {
        let mut whole: Value = serde_json::from_slice(&fs::read(golden(frame)).unwrap()).unwrap();
        whole["model"]["vocab"] = shipped["model"]["vocab"].clone();
        whole["model"]["merges"] = shipped["model"]["merges"].clone();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("tokenizer.json"), serde_json::to_vec(&whole).unwrap()).unwrap();
        let config = json!({ "pad_token": pad.unwrap_or("<|endoftext|>"), "model_max_length": 77 });
        fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
        assert_equal(&ClipTokenizer::open(folder.path()).unwrap(), pad.is_some());
    }
}

#[test]
fn vocabulary_and_merges_give_the_same() {
    let shipped: Value = serde_json::from_slice(&document::shipped(&TokenizerSettings::default()).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("vocab.json"), shipped["model"]["vocab"].to_string()).unwrap();
    fs::write(folder.path().join("merges.txt"), include_str!("clip/merges.txt")).unwrap();
    let map = json!({ "pad_token": { "content": "!", "lstrip": false } });
    fs::write(folder.path().join("special_tokens_map.json"), map.to_string()).unwrap();
    let config = json!({ "model_max_length": 1e30 });
    fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let tokenizer = ClipTokenizer::open(folder.path()).unwrap();
    assert_equal(&tokenizer, true);
    assert_eq!(tokenizer.chunk_tokens(), 75);
}

#[test]
fn ids_are_decoded_as_transformers_does() {
    for case in cases() {
        assert_eq!(clip_l().decode(&case.clip_l).unwrap(), case.decoded, "{:?}", case.text);
    }
    assert!(matches!(clip_l().decode(&[60_000]), Err(TokenizeError::UnknownId { id: 60_000, size: 49408 })));
}

#[test]
fn a_chunk_has_marks_padding_and_the_place_of_its_end() {
    let second = ClipTokenizer::shipped(&TokenizerSettings::padded_with_zero()).unwrap();
    let chunk = second.encode_padded("a cat").unwrap();
    assert_eq!((&chunk.ids[..5], chunk.end, chunk.ids.len()), (&[49406, 320, 2368, 49407, 0][..], 3, 77));
    let long = clip_l().encode_padded(&"word ".repeat(200)).unwrap();
    assert_eq!((long.ids.len(), long.end, long.ids[76]), (77, 76, 49407));
    // the mark inside the prompt is what models find first
    assert_eq!(clip_l().encode_padded("a <|endoftext|> b").unwrap().end, 2);
}

#[test]
fn long_prompts_are_cut_and_sections_start_anew() {
    let tokens = |count: u32| (0..count).map(WeightedToken::plain).collect::<Vec<_>>();
    let chunks = clip_l().chunks(&[tokens(151), tokens(2)]);
    let ends: Vec<usize> = chunks.iter().map(|chunk| chunk.end).collect();
    assert_eq!(ends, [76, 76, 2, 3]);
    assert_eq!(clip_l().chunks(&[]), [clip_l().empty_chunk()]);
    assert_eq!(clip_l().chunks(&[vec![]]).len(), 1);
}

#[test]
fn what_is_wrong_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let open = || ClipTokenizer::open(folder.path());
    assert!(matches!(open(), Err(TokenizeError::Missing { .. })));
    fs::write(folder.path().join("vocab.json"), r#"{ "a": 0, "b</w>": 1 }"#).unwrap();
    assert!(matches!(open(), Err(TokenizeError::Missing { .. })));
    fs::write(folder.path().join("merges.txt"), "#version: 0.2\na b</w>\n").unwrap();
    assert!(matches!(open(), Err(TokenizeError::UnknownToken { token, .. }) if token == "<|startoftext|>"));
    let marks = r#"{ "a": 0, "b</w>": 1, "<|startoftext|>": 2, "<|endoftext|>": 3 }"#;
    fs::write(folder.path().join("vocab.json"), marks).unwrap();
    let Err(TokenizeError::Malformed { reason, .. }) = open() else { panic!("a merge outside the vocabulary passed") };
    assert!(reason.contains("vocabulary"), "{reason}");
    fs::write(folder.path().join("tokenizer.json"), "{ not json").unwrap();
    assert!(matches!(open(), Err(TokenizeError::Malformed { file, .. }) if file.ends_with("tokenizer.json")));
    let unigram = r#"{ "version": "1.0", "added_tokens": [], "model": { "type": "Unigram", "vocab": [["a", -1.0]], "unk_id": 0 } }"#;
    fs::write(folder.path().join("tokenizer.json"), unigram).unwrap();
    assert!(matches!(open(), Err(TokenizeError::NotClip { .. })));
    fs::write(folder.path().join("tokenizer_config.json"), [0xff, 0xfe]).unwrap();
    assert!(matches!(open(), Err(TokenizeError::Malformed { file, .. }) if file.ends_with("tokenizer_config.json")));
    let long = "x".repeat(PROMPT_LIMIT_BYTES + 1);
    assert!(matches!(clip_l().encode(&long), Err(TokenizeError::PromptTooLong { .. })));
}
