//! CLIP text encoders against transformers.

use std::sync::Arc;

use engine::{
    Control, ElementType, EngineError, Tensor, Weights,
    arch::clip::{Config, Role},
    models::{EncodeOptions, TextEncoder, TextStates},
};

use crate::{
    golden::Golden,
    made,
    support::{assert_close, runtime},
};

/// Of the range of the expected values.
const BOUND: f32 = 2e-6;

fn config(golden: &Golden) -> Config {
    Config::from_json(&golden.config, &Weights::new().facts()).unwrap()
}

fn prompts(golden: &Golden) -> Vec<Vec<i64>> {
    serde_json::from_value(golden.cases["ids"].clone()).unwrap()
}

/// The positions that the golden file kept.
fn kept(golden: &Golden, states: &Tensor) -> Vec<f32> {
    let (positions, values) = (golden.numbers("positions"), states.as_f32().unwrap());
    let width = states.shape[2];
    let row = |row: &[f32]| positions.iter().flat_map(|at| row[at * width..][..width].to_vec()).collect::<Vec<f32>>();
    values.chunks(states.shape[1] * width).flat_map(row).collect()
}

fn close(golden: &Golden, found: &TextStates, hidden: &str) {
    let expected = |name: &str| golden.tensor(name).as_f32().unwrap().to_vec();
    assert_close(&kept(golden, &found.last), &expected("last"), BOUND);
    assert_close(&kept(golden, &found.hidden), &expected(hidden), BOUND);
    assert_close(found.pooled.as_f32().unwrap(), &expected("pooled"), BOUND);
    if let Some(projected) = &found.projected {
        assert_close(projected.as_f32().unwrap(), &expected("projected"), BOUND);
    }
}

#[test]
fn states_are_those_of_transformers_at_every_layer() {
    let Some(runtime) = runtime().map(Arc::new) else { return };
    for (name, is_projected) in [("clip-l", false), ("clip-l-old", false), ("clip-h", false), ("clip-g", true)] {
        let golden = Golden::open(name);
        let config = config(&golden);
        let weights = made::plain(&config.tensors());
        let encoder = TextEncoder::new(&runtime, config, weights).unwrap();
        for skip in 0..3 {
            for (is_normed, hidden) in [(false, "hidden"), (true, "normed")] {
                let options = match (skip, is_normed) {
                    (0, true) => EncodeOptions::LAST,
                    (1, false) => EncodeOptions::PENULTIMATE,
                    _ => EncodeOptions { skip, is_normed },
                };
                let states = encoder.encode(&prompts(&golden), options, &Control::default()).unwrap();
                assert_eq!(states.projected.is_some(), is_projected);
                close(&golden, &states, &format!("{hidden}.{skip}"));
            }
        }
    }
    // the old number of the end mark changes where the pooled state is, not the graph
    assert_eq!(runtime.session_count(), 3);
}

#[test]
fn weights_of_16_bits_give_what_their_values_give_in_32() {
    let Some(runtime) = runtime().map(Arc::new) else { return };
    let golden = Golden::open("clip-g");
    let config = config(&golden);
    let encode = |rounding, dtype| {
        let weights = made::weights(&config.tensors(), rounding, dtype);
        let encoder = TextEncoder::new(&runtime, config.clone(), weights).unwrap();
        let options = EncodeOptions { skip: 1, is_normed: false };
        encoder.encode(&prompts(&golden), options, &Control::default()).unwrap()
    };
    for dtype in [ElementType::F16, ElementType::Bf16] {
        let (stored, plain) = (encode(dtype, dtype), encode(dtype, ElementType::F32));
        assert_eq!(stored, plain, "{dtype}");
    }
}

/// A run of an encoder holds no converted copies where its linear layers read what is stored, and no larger value is estimated.
#[test]
fn an_encoder_of_16_bits_is_estimated_as_one_of_32_where_nothing_is_converted() {
    let Some(runtime) = runtime().map(Arc::new) else { return };
    let golden = Golden::open("clip-g");
    // wider than what a prompt's states take, so that a converted matrix shows
    let config = Config { inner: 512, ..config(&golden) };
    let estimate = |dtype| {
        let weights = made::weights(&config.tensors(), dtype, dtype);
        TextEncoder::new(&runtime, config.clone(), weights).unwrap().estimate(1)
    };
    let (halves, singles, doubles) =
        (estimate(ElementType::F16), estimate(ElementType::F32), estimate(ElementType::F64));
    assert_ne!(singles, doubles, "matrices of 64 bits are converted");
    assert_eq!(halves, if linear_kernel::is_preferred() { singles } else { doubles });
}

#[test]
fn a_config_is_inferred_from_the_tensors() {
    let golden = Golden::open("clip-g");
    let mut config = config(&golden);
    let facts = made::plain(&config.tensors()).facts();
    let inferred = Config::infer(&facts, Role::Second, Some("sdxl")).unwrap();
    // a vocabulary that is not CLIP's has no known end mark
    config.end = inferred.end;
    assert_eq!(inferred, config);
}

#[test]
fn prompts_that_cannot_be_encoded_are_refused_before_a_run() {
    let Some(runtime) = runtime().map(Arc::new) else { return };
    let golden = Golden::open("clip-l");
    let config = config(&golden);
    let weights = made::plain(&config.tensors());
    let encoder = TextEncoder::new(&runtime, config, weights).unwrap();
    let prompt = prompts(&golden).remove(0);
    let with = |at: usize, id: i64| {
        let mut prompt = prompt.clone();
        prompt[at] = id;
        prompt
    };
    let told = encoder.encode(&[with(2, 610)], EncodeOptions::for_base(None, 0), &Control::default()).unwrap_err();
    let vocabulary = golden.config["vocab_size"].as_u64().unwrap();
    for part in ["the token id 610", &format!("vocabulary of {vocabulary} tokens"), "tokenizer beside it"] {
        assert!(told.to_string().contains(part), "{told}");
    }
    let all_words = vec![1; prompt.len()];
    let cases = [vec![], vec![prompt[1..].to_vec()], vec![with(2, 610)], vec![with(2, -1)], vec![all_words]];
    for prompts in cases {
        let error = encoder.encode(&prompts, EncodeOptions::for_base(None, 0), &Control::default()).unwrap_err();
        assert!(matches!(&error, EngineError::Input { name, .. } if name == "input_ids"), "{error}");
    }
    let error = encoder.encode(&[prompt], EncodeOptions::for_base(None, 9), &Control::default()).unwrap_err();
    assert!(matches!(&error, EngineError::Input { name, .. } if name == "clip_skip"), "{error}");
}
