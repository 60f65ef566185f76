//! States of chunks of prompts: one run serves two layers, what is kept is what a run gives, and what runs took is heard.

use std::sync::{Arc, Mutex};

use engine::{
    Control, Weights,
    arch::clip::Config,
    generate::{ChunkStates, EmbeddingCache, Keeping, PromptEncoder, chunk_states},
    models::{EncodeOptions, TextEncoder},
    runtime::{Part, Took},
    tokenize::{Chunk, ClipTokenizer, TokenizerSettings},
};

use crate::{golden::Golden, made, support::runtime};

const LAYERS: [EncodeOptions; 2] = [EncodeOptions::LAST, EncodeOptions::PENULTIMATE];

/// A control that notes every run of a graph.
fn noting() -> (Control, Arc<Mutex<Vec<Took>>>) {
    let heard = Arc::<Mutex<Vec<Took>>>::default();
    let into = Arc::clone(&heard);
    (Control { note: Some(Arc::new(move |took| into.lock().unwrap().push(took))), ..Control::default() }, heard)
}

#[test]
fn the_last_states_come_with_those_of_another_layer_and_both_are_kept() {
    let Some(runtime) = runtime().map(Arc::new) else { return };
    let golden = Golden::open("clip-g");
    let config = Config::from_json(&golden.config, &Weights::new().facts()).unwrap();
    let encoder = TextEncoder::new(&runtime, config.clone(), made::plain(&config.tensors())).unwrap();
    let tokenizer = ClipTokenizer::shipped(&TokenizerSettings::default()).unwrap();
    let of = PromptEncoder { tokenizer: &tokenizer, encoder: &encoder, digest: Some("a") };
    let ids: Vec<Vec<i64>> = serde_json::from_value(golden.cases["ids"].clone()).unwrap();
    let chunk = Chunk { weights: vec![1.0; ids[0].len()], ids: ids[0].clone(), end: 1 };
    let (cache, (control, heard)) = (EmbeddingCache::new(1 << 20), noting());
    let keeping = Keeping { cache: Some(&cache), memory_bytes: None };
    let states = |keeping: &Keeping<'_>| chunk_states(&of, &chunk, &LAYERS, keeping, &control).unwrap();

    let first = states(&keeping);
    for (found, layer) in first.iter().zip(LAYERS) {
        let alone = encoder.encode(&ids[..1], layer, &Control::default()).unwrap();
        let values = |tensor: &engine::Tensor| tensor.as_f32().unwrap().to_vec();
        let expected = ChunkStates {
            hidden: values(&alone.hidden),
            width: config.width,
            pooled: values(&alone.pooled),
            projected: alone.projected.as_ref().map(values),
        };
        assert_eq!(**found, expected, "{layer:?}");
    }
    assert_ne!(first[0].hidden, first[1].hidden);
    assert_eq!(heard.lock().unwrap().len(), 1, "one run for both");
    assert_eq!(states(&keeping), first);
    let figures = cache.figures();
    assert_eq!((figures.misses, figures.hits, heard.lock().unwrap().len()), (2, 2, 1), "nothing ran again");
    assert_eq!(states(&Keeping::default()), first, "without a cache");
    let took = heard.lock().unwrap()[0];
    assert!(took.part == Part::TextEncoder && took.estimated_bytes > 0 && took.peak_bytes > Some(0), "{took:?}");
}
