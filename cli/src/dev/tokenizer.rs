//! A small valid CLIP tokenizer. The release's 48 894 merges cannot be had here: the vocabulary has the
//! right size and form, the byte symbols and the two marks where the release has them, and merges of our own.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Value, json};

use super::sizes::POSITIONS;

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";
/// Ends a word's last symbol.
const WORD_END: &str = "</w>";
/// Words whose beginnings become tokens first.
const WORDS: &str = "a an the of in on at with and or by from photo picture image painting drawing portrait landscape \
    cat dog bird horse fox tree river lake sea mountain forest city street house castle garden flower sky cloud sun \
    moon star rain snow light shadow night day red green blue yellow black white old young small large woman man \
    child face hand eye detailed sharp soft wide close view colour style film lens oil ink pencil watercolour";

/// The files of a tokenizer folder. `pad` fills prompts up.
pub(super) fn files(vocabulary: u64, pad: &str) -> anyhow::Result<Vec<(&'static str, String)>> {
    let merges = merges(usize::try_from(vocabulary)?.saturating_sub(514));
    let mut lines = String::from("#version: 0.2\n");
    for (left, right) in &merges {
        lines.push_str(&format!("{left} {right}\n"));
    }
    Ok(vec![
        ("vocab.json", vocabulary_json(&merges)?),
        ("merges.txt", lines),
        ("tokenizer_config.json", serde_json::to_string_pretty(&config(pad))?),
        ("special_tokens_map.json", serde_json::to_string_pretty(&special(pad))?),
    ])
}

fn vocabulary_json(merges: &[(String, String)]) -> anyhow::Result<String> {
    let bytes = byte_symbols();
    let ended = bytes.iter().map(|symbol| format!("{symbol}{WORD_END}"));
    let merged = merges.iter().map(|(left, right)| format!("{left}{right}"));
    let marks = [START.to_owned(), END.to_owned()];
    let tokens = bytes.iter().cloned().chain(ended).chain(merged).chain(marks);
    let numbered: BTreeMap<String, usize> = tokens.enumerate().map(|(number, token)| (token, number)).collect();
    Ok(serde_json::to_string(&numbered)?)
}

/// The printable stand-ins of all bytes, in the order of their numbers in CLIP's vocabulary.
fn byte_symbols() -> Vec<String> {
    let is_printable = |byte: &u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let printable = (0..256).filter(is_printable);
    let others = (0..256).filter(|byte| !is_printable(byte)).zip(256..).map(|(_, stand_in)| stand_in);
    printable.chain(others).filter_map(char::from_u32).map(String::from).collect()
}

/// So many merges, each of two tokens that exist before it: first the beginnings of words, then all
/// pairs, triples and quadruples of letters.
fn merges(count: usize) -> Vec<(String, String)> {
    let mut seen = HashSet::new();
    let words = WORDS.split_whitespace().flat_map(word_merges);
    let fresh = words.chain(letter_merges()).filter(|(left, right)| seen.insert(format!("{left}{right}")));
    fresh.take(count).collect()
}

fn word_merges(word: &str) -> Vec<(String, String)> {
    let last = word.chars().count().saturating_sub(1);
    let mut left = String::new();
    let mut merges = Vec::new();
    for (index, letter) in word.chars().enumerate() {
        let right = if index == last { format!("{letter}{WORD_END}") } else { letter.to_string() };
        if !left.is_empty() {
            merges.push((left.clone(), right));
        }
        left.push(letter);
    }
    merges
}

fn letter_merges() -> impl Iterator<Item = (String, String)> {
    let extend = |from: Vec<String>| -> Vec<String> {
        from.iter().flat_map(|begin| ('a'..='z').map(move |letter| format!("{begin}{letter}"))).collect()
    };
    let ones: Vec<String> = ('a'..='z').map(String::from).collect();
    let twos = extend(ones.clone());
    let threes = extend(twos.clone());
    let step = |begins: Vec<String>, end: &'static str| {
        begins.into_iter().flat_map(move |begin| {
            ('a'..='z').map(move |letter| (begin.clone(), format!("{letter}{end}"))).collect::<Vec<_>>()
        })
    };
    step(ones.clone(), "")
        .chain(step(ones, WORD_END))
        .chain(step(twos.clone(), ""))
        .chain(step(twos, WORD_END))
        .chain(step(threes, ""))
}

fn config(pad: &str) -> Value {
    json!({
        "add_prefix_space": false,
        "bos_token": START,
        "do_lower_case": true,
        "eos_token": END,
        "errors": "replace",
        "model_max_length": POSITIONS,
        "pad_token": pad,
        "tokenizer_class": "CLIPTokenizer",
        "unk_token": END,
    })
}

fn special(pad: &str) -> Value {
    json!({ "bos_token": START, "eos_token": END, "pad_token": pad, "unk_token": END })
}

/// Pads as CLIP-L's tokenizer does.
pub(super) const PAD_END: &str = END;
/// Pads as CLIP-G's tokenizer does: with token 0.
pub(super) const PAD_ZERO: &str = "!";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_merge_joins_tokens_that_exist_and_makes_a_new_one() {
        let mut known: HashSet<String> = byte_symbols().into_iter().collect();
        assert_eq!(known.len(), 256);
        known.extend(byte_symbols().iter().map(|symbol| format!("{symbol}{WORD_END}")));
        let merges = merges(48_894);
        assert_eq!(merges.len(), 48_894);
        for (left, right) in merges {
            assert!(known.contains(&left) && known.contains(&right), "{left} {right}");
            assert!(known.insert(format!("{left}{right}")), "{left}{right} is there twice");
        }
    }

    #[test]
    fn marks_are_the_last_numbers() {
        for vocabulary in [800, 49_408u64] {
            let files = files(vocabulary, PAD_ZERO).unwrap();
            let numbers: BTreeMap<String, u64> = serde_json::from_str(&files[0].1).unwrap();
            assert_eq!(numbers.len() as u64, vocabulary);
            assert_eq!((numbers[START], numbers[END], numbers["!"]), (vocabulary - 2, vocabulary - 1, 0));
        }
    }
}
