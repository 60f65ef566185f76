//! The notation by examples and by properties.

use proptest::prelude::*;

use super::*;
use crate::tokenize::TokenizerSettings;

fn fragments(text: &str) -> Vec<(String, f32)> {
    let show = |fragment| match fragment {
        Fragment::Text { text, weight } => (text, (weight * 1000.0).round() / 1000.0),
        Fragment::Break => ("BREAK".to_owned(), 0.0),
    };
    parse(text).unwrap().into_iter().map(show).collect()
}

#[track_caller]
fn assert_parsed(text: &str, wanted: &[(&str, f32)]) {
    let wanted: Vec<(String, f32)> = wanted.iter().map(|(text, weight)| ((*text).to_owned(), *weight)).collect();
    assert_eq!(fragments(text), wanted, "{text}");
}

#[test]
fn prompts_are_read_as_the_web_ui_reads_them() {
    assert_parsed("normal text", &[("normal text", 1.0)]);
    assert_parsed("an (important) word", &[("an ", 1.0), ("important", 1.1), (" word", 1.0)]);
    assert_parsed("(unbalanced", &[("unbalanced", 1.1)]);
    assert_parsed(r"\(literal\]", &[("(literal]", 1.0)]);
    assert_parsed("(unnecessary)(parens)", &[("unnecessaryparens", 1.1)]);
    assert_parsed(
        "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
        &[
            ("a ", 1.0),
            ("house", 1.573),
            (" ", 1.1),
            ("on", 1.0),
            (" a ", 1.1),
            ("hill", 0.55),
            (", sun, ", 1.1),
            ("sky", 1.464),
            (".", 1.1),
        ],
    );
    assert_parsed("(a: -0.5 )b", &[("a", -0.5), ("b", 1.0)]);
    assert_parsed("a:1.2) b", &[("a:1.2) b", 1.0)]);
    assert_parsed("(a:b) (c:1.2.3)", &[("a:b", 1.1), (" ", 1.0), ("c:1.2.3", 1.1)]);
    assert_parsed("[a] ]", &[("a", 0.909), (" ]", 1.0)]);
    assert_parsed("sky BREAK sea BREAKFAST", &[("sky", 1.0), ("BREAK", 0.0), ("sea BREAKFAST", 1.0)]);
    assert_parsed(r"a\b \\ \", &[(r"a\b \ \", 1.0)]);
    assert_parsed("", &[]);
    assert_parsed("()", &[]);
    assert_parsed("(é:1.5)漢", &[("é", 1.5), ("漢", 1.0)]);
}

#[test]
fn what_no_model_can_use_is_refused() {
    assert!(parse(&"(".repeat(DEPTH_LIMIT)).is_ok());
    assert!(matches!(parse(&"(".repeat(DEPTH_LIMIT + 1)), Err(PromptError::TooDeep { .. })));
    assert!(matches!(parse("(x:101)"), Err(PromptError::Weight { weight, .. }) if weight == 101.0));
    assert!(matches!(parse(&format!("(x:{})", "9".repeat(60))), Err(PromptError::Weight { .. })));
}

/// SDXL's second tokenizer pads with `!`, which it therefore reads as a token each time; the first one has words of many.
#[test]
fn the_encoders_of_a_pair_get_equally_many_chunks() {
    let first = ClipTokenizer::shipped(&TokenizerSettings::default()).unwrap();
    let pads = TokenizerSettings { pad: Some("!".to_owned()), ..TokenizerSettings::default() };
    let second = ClipTokenizer::shipped(&pads).unwrap();
    let text = "!".repeat(80);
    let own = [&first, &second].map(|one| chunks(one, &text, PromptSyntax::Plain).unwrap().len());
    assert_eq!(own, [1, 2]);
    let (rows, longest) = cut([&first, &second], &[&text], PromptSyntax::Plain).unwrap();
    assert_eq!((longest, rows[0][0].len(), rows[1][0].len()), (2, 2, 2));
    assert_eq!(rows[0][0][1], first.empty_chunk());
}

#[test]
fn chunks_carry_weights_and_are_levelled() {
    let tokenizer = ClipTokenizer::shipped(&TokenizerSettings::default()).unwrap();
    let one = chunks(&tokenizer, "a (cat:1.5) BREAK dog", PromptSyntax::Weighted).unwrap();
    assert_eq!(one.len(), 2);
    assert_eq!((&one[0].ids[..4], &one[0].weights[..4]), (&[49406, 320, 2368, 49407][..], &[1.0, 1.0, 1.5, 1.0][..]));
    assert!(one[0].is_weighted() && !one[1].is_weighted());
    let (rows, longest) = cut([&tokenizer], &["a (cat:1.5) BREAK dog", ""], PromptSyntax::Weighted).unwrap();
    assert_eq!((longest, &rows[0][0], rows[0][1].len(), rows[0][1][1].end), (2, &one, 2, 1));
    let plain = chunks(&tokenizer, "a (cat:1.5)", PromptSyntax::Plain).unwrap();
    assert_eq!(plain, [tokenizer.encode_padded("a (cat:1.5)").unwrap()]);
    let long = "x ".repeat(crate::tokenize::PROMPT_LIMIT_BYTES);
    assert!(matches!(chunks(&tokenizer, &long, PromptSyntax::Weighted), Err(PromptError::Tokenize(_))));
}

#[test]
fn a_prompt_of_more_chunks_than_the_limit_is_refused_however_it_comes_to_them() {
    let tokenizer = ClipTokenizer::shipped(&TokenizerSettings::default()).unwrap();
    let most = "BREAK ".repeat(CHUNK_LIMIT - 1);
    assert_eq!(chunks(&tokenizer, &most, PromptSyntax::Weighted).unwrap().len(), CHUNK_LIMIT);
    let breaks = chunks(&tokenizer, &"BREAK ".repeat(CHUNK_LIMIT), PromptSyntax::Weighted);
    assert!(matches!(breaks, Err(PromptError::TooManyChunks { chunks, .. }) if chunks == CHUNK_LIMIT + 1));
    let words = "x ".repeat(75 * CHUNK_LIMIT + 1);
    for syntax in [PromptSyntax::Weighted, PromptSyntax::Plain] {
        assert!(matches!(chunks(&tokenizer, &words, syntax), Err(PromptError::TooManyChunks { .. })));
    }
}

proptest! {
    #[test]
    fn no_text_breaks_the_parser(text in r"[\\()\[\]:.0-9a-bBREAK é漢+-]{0,80}") {
        if let Ok(fragments) = parse(&text) {
            let finite = fragments.iter().all(|fragment| match fragment {
                Fragment::Text { text, weight } => weight.is_finite() && !text.is_empty(),
                Fragment::Break => true,
            });
            prop_assert!(finite);
        }
    }

    #[test]
    fn plain_text_is_itself(text in r"[^\\()\[\]:]{1,60}") {
        prop_assume!(!text.contains("BREAK"));
        prop_assert_eq!(parse(&text).unwrap(), vec![Fragment::Text { text, weight: 1.0 }]);
    }

    #[test]
    fn escaped_text_is_itself(text in r"[\\()\[\]a-c ]{1,60}") {
        let escaped: String = text.chars().flat_map(|c| if c.is_alphabetic() || c == ' ' { vec![c] } else { vec!['\\', c] }).collect();
        prop_assert_eq!(parse(&escaped).unwrap(), vec![Fragment::Text { text, weight: 1.0 }]);
    }

    #[test]
    fn nested_weights_multiply(outer in 1u32..30, inner in 1u32..30) {
        let (outer, inner) = (outer as f32 / 10.0, inner as f32 / 10.0);
        let found = parse(&format!("(a (b:{inner}):{outer})")).unwrap();
        let weight_of = |wanted: &str| found.iter().find_map(|fragment| match fragment {
            Fragment::Text { text, weight } if text.contains(wanted) => Some(*weight),
            _ => None,
        });
        prop_assert!((weight_of("a").unwrap() - outer).abs() < 1e-5);
        prop_assert!((weight_of("b").unwrap() - outer * inner).abs() < 1e-4);
    }
}
