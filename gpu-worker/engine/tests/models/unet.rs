//! UNets against diffusers.

use std::sync::Arc;

use engine::{
    Control, ElementType, EngineError, Runtime, Tensor, Weights,
    arch::unet2d::Config,
    graph::Provider,
    models::{Added, Conditions, Unet},
};

use crate::{
    golden::Golden,
    made,
    support::{assert_close, runtime},
};

const ALL: [&str; 6] = ["sd15", "sd21", "sdxl", "refiner", "distilled", "uneven"];
/// Of the range of the expected values.
const BOUND: f32 = 5e-6;

/// A golden model with its inputs.
struct Case {
    golden: Golden,
    config: Config,
    sample: Tensor,
    states: Tensor,
    added: Option<(Tensor, Tensor)>,
}

impl Case {
    fn open(name: &str) -> Self {
        let golden = Golden::open(&format!("unet-{name}"));
        let input = |name: &str| made::input(name, &golden.numbers(name));
        let time_ids = golden.cases.get("time_ids").map(|ids| {
            let rows: Vec<Vec<f32>> = serde_json::from_value(ids.clone()).unwrap();
            Tensor::f32(&[rows.len(), rows[0].len()], rows.concat()).unwrap()
        });
        let added = time_ids.map(|time_ids| (input("text_embeds"), time_ids));
        let config = Config::from_json(&golden.config).unwrap();
        Self { sample: input("sample"), states: input("encoder_hidden_states"), config, added, golden }
    }

    fn conditions(&self) -> Conditions<'_> {
        let added = self.added.as_ref().map(|(text_embeds, time_ids)| Added { text_embeds, time_ids });
        Conditions { encoder_hidden_states: &self.states, added }
    }

    fn unet(&self, runtime: &Arc<Runtime>, weights: Weights) -> Unet {
        Unet::new(runtime, self.config.clone(), weights).unwrap()
    }

    fn predict(&self, unet: &Unet, timestep: usize) -> Tensor {
        unet.predict(&self.sample, timestep as f32, &self.conditions(), &Control::default()).unwrap()
    }

    fn expected(&self, timestep: usize) -> Vec<f32> {
        self.golden.tensor(&format!("prediction.{timestep}")).as_f32().unwrap().to_vec()
    }
}

#[test]
fn predictions_are_those_of_diffusers() {
    let Some(runtime) = runtime().map(Arc::new) else { return };
    for name in ALL {
        let case = Case::open(name);
        let unet = case.unet(&runtime, made::plain(&case.config.tensors()));
        for timestep in [1, 981] {
            let prediction = case.predict(&unet, timestep);
            println!("{name} at {timestep}");
            assert_close(prediction.as_f32().unwrap(), &case.expected(timestep), BOUND);
        }
    }
}

/// Weights of 64 bits go through the library's own operators on every machine, as all do on a processor that lacks what ours takes.
#[test]
fn the_librarys_own_linear_layers_give_the_same() {
    let Some(runtime) = runtime().map(Arc::new) else { return };
    for name in ["sd15", "sdxl"] {
        let case = Case::open(name);
        let tensors = case.config.tensors();
        let unet = case.unet(&runtime, made::weights(&tensors, ElementType::F32, ElementType::F64));
        assert_close(case.predict(&unet, 981).as_f32().unwrap(), &case.expected(981), BOUND);
    }
}

#[test]
fn weights_of_16_bits_give_what_their_values_give_in_32() {
    let Some(runtime) = runtime().map(Arc::new) else { return };
    let case = Case::open("sdxl");
    let tensors = case.config.tensors();
    for dtype in [ElementType::F16, ElementType::Bf16] {
        let stored = case.predict(&case.unet(&runtime, made::weights(&tensors, dtype, dtype)), 981);
        let plain = case.predict(&case.unet(&runtime, made::weights(&tensors, dtype, ElementType::F32)), 981);
        assert_close(stored.as_f32().unwrap(), plain.as_f32().unwrap(), 1e-6);
    }
}

#[test]
fn projections_are_read_as_matrices_and_as_convolutions() {
    let Some(runtime) = runtime().map(Arc::new) else { return };
    let case = Case::open("sd15");
    assert!(!case.config.has_linear_projection);
    let mut weights = made::plain(&case.config.tensors());
    let projections: Vec<String> =
        weights.iter().map(|(name, _)| name.to_owned()).filter(|name| name.contains(".proj_")).collect();
    for name in projections.iter().filter(|name| name.ends_with(".weight")) {
        let mut weight = weights.get(name).unwrap().clone();
        weight.shape.truncate(2);
        weights.insert(name.clone(), weight).unwrap();
    }
    let prediction = case.predict(&case.unet(&runtime, weights), 1);
    assert_close(prediction.as_f32().unwrap(), &case.expected(1), BOUND);
}

#[test]
fn a_pair_is_the_same_in_one_run_and_in_two() {
    let Some(runtime) = runtime().map(Arc::new) else { return };
    let case = Case::open("refiner");
    let unet = case.unet(&runtime, made::plain(&case.config.tensors()));
    let other_states = made::input("other", &case.states.shape);
    let other = Conditions { encoder_hidden_states: &other_states, ..case.conditions() };
    let pair = |memory_bytes| {
        let conditions = [&other, &case.conditions()];
        unet.predict_pair(&case.sample, 981.0, conditions, memory_bytes, &Control::default()).unwrap()
    };
    let (together, apart) = (pair(None), pair(Some(0)));
    let expected = case.expected(981);
    for pair in [&together, &apart] {
        assert_close(pair.conditional.as_f32().unwrap(), &expected, BOUND);
    }
    assert_close(together.unconditional.as_f32().unwrap(), apart.unconditional.as_f32().unwrap(), BOUND);
    assert_ne!(apart.unconditional, apart.conditional);
}

#[test]
fn a_run_that_was_measured_corrects_the_estimate() {
    let Some(runtime) = runtime().map(Arc::new) else { return };
    let case = Case::open("sd15");
    let unet = case.unet(&runtime, made::plain(&case.config.tensors()));
    // a small run takes what the allocator takes at least, and teaches nothing
    case.predict(&unet, 1);
    assert!(runtime.estimator().factors().is_empty());
    let large = made::input("large", &[case.sample.shape[0], 4, 64, 64]);
    let supposed = unet.estimate(&large.shape, 11);
    assert!(unet.estimate(&case.sample.shape, 11) < supposed);
    unet.predict(&large, 1.0, &case.conditions(), &Control::default()).unwrap();
    assert_eq!(runtime.estimator().factors().len(), 1);
    assert_ne!(unet.estimate(&large.shape, 11), supposed);
}

#[test]
fn a_graph_that_computes_in_16_bits_is_whole_and_near() {
    let Some(runtime) = runtime().map(Arc::new) else { return };
    let case = Case::open("sdxl");
    let weights = made::weights(&case.config.tensors(), ElementType::F16, ElementType::F16);
    // as a GPU runs it; the CPU converts around every operator
    let emitted = case.config.emit(Provider::Cpu, ElementType::F16, &weights).unwrap();
    let timestep = Tensor::f32(&[1], vec![981.0]).unwrap();
    let (text, ids) = case.added.as_ref().unwrap();
    let inputs = [
        ("sample", &case.sample),
        ("timestep", &timestep),
        ("encoder_hidden_states", &case.states),
        ("text_embeds", text),
        ("time_ids", ids),
    ];
    let session = runtime.session(&emitted).unwrap();
    let outputs = session.run(&weights, &inputs, &Control::default()).unwrap();
    assert_close(outputs[0].as_f32().unwrap(), &case.expected(981), 2e-2);
}

#[test]
fn weights_of_16_bits_are_converted_one_by_one() {
    let Some(runtime) = runtime().map(Arc::new) else { return };
    let case = Case::open("sd15");
    let tensors = case.config.tensors();
    let peak = |dtype| {
        let weights = made::weights(&tensors, dtype, dtype);
        let emitted = case.config.emit(Provider::Cpu, ElementType::F32, &weights).unwrap();
        let timestep = Tensor::f32(&[1], vec![1.0]).unwrap();
        let inputs = [("sample", &case.sample), ("timestep", &timestep), ("encoder_hidden_states", &case.states)];
        let session = runtime.session(&emitted).unwrap();
        session.run_measured(&weights, &inputs, &Control::default()).unwrap().peak_bytes.unwrap()
    };
    let bytes = |(_, shape): &(String, Vec<usize>)| 4 * shape.iter().product::<usize>() as u64;
    let (all, largest) = (tensors.iter().map(bytes).sum::<u64>(), tensors.iter().map(bytes).max().unwrap());
    let more = peak(ElementType::F16) - peak(ElementType::F32);
    assert!(more <= 3 * largest && 3 * largest < all / 4, "{more} more, {largest} the largest of {all}");
}

#[test]
fn twenty_fine_tunes_share_one_session_and_keep_their_own_weights() {
    let Some(runtime) = runtime().map(Arc::new) else { return };
    let case = Case::open("sd15");
    let tensors = case.config.tensors();
    let tuned = |number: usize| {
        let mut weights = made::plain(&tensors);
        let bias = made::weight(&[4], &[number as f32; 4], ElementType::F32);
        weights.insert("conv_out.bias", bias).unwrap();
        case.unet(&runtime, weights)
    };
    let unets: Vec<Unet> = (0..20).map(tuned).collect();
    assert_eq!(runtime.session_count(), 1);
    let first = case.predict(&unets[0], 1);
    let last = case.predict(&unets[19], 1);
    let moved: Vec<f32> = first.as_f32().unwrap().iter().map(|value| value + 19.0).collect();
    assert_close(last.as_f32().unwrap(), &moved, 1e-6);
    assert_eq!(case.predict(&unets[0], 1), first);
}

#[test]
fn inputs_that_do_not_fit_are_named_before_a_run() {
    let Some(runtime) = runtime().map(Arc::new) else { return };
    let case = Case::open("sdxl");
    let unet = case.unet(&runtime, made::plain(&case.config.tensors()));
    let (text, ids) = case.added.as_ref().unwrap();
    let narrow = Tensor::zeros(&[2, 79, 8]);
    let short = Tensor::zeros(&[2, ids.shape[1] - 1]);
    let three = Tensor::zeros(&[3, 11, case.states.shape[2]]);
    let empty = Tensor::zeros(&[2, 4, 0, 8]);
    let added = Some(Added { text_embeds: text, time_ids: ids });
    let with = |states, added| Conditions { encoder_hidden_states: states, added };
    let cases = [
        ("encoder_hidden_states", &case.sample, with(&narrow, added)),
        ("encoder_hidden_states", &case.sample, with(&three, added)),
        ("text_embeds", &case.sample, with(&case.states, None)),
        ("time_ids", &case.sample, with(&case.states, Some(Added { text_embeds: text, time_ids: &short }))),
        ("sample", &empty, case.conditions()),
        ("sample", &case.states, case.conditions()),
    ];
    for (expected, sample, conditions) in cases {
        let error = unet.predict(sample, 1.0, &conditions, &Control::default()).unwrap_err();
        assert!(matches!(&error, EngineError::Input { name, .. } if name == expected), "{error}");
    }
    let plain = Case::open("sd15");
    let unet = plain.unet(&runtime, made::plain(&plain.config.tensors()));
    let error = unet.predict(&plain.sample, 1.0, &with(&plain.states, added), &Control::default()).unwrap_err();
    assert!(matches!(&error, EngineError::Input { name, .. } if name == "text_embeds"), "{error}");
}

#[test]
fn values_that_are_no_numbers_are_an_error_that_counts_them() {
    let Some(runtime) = runtime().map(Arc::new) else { return };
    let case = Case::open("sd15");
    let mut weights = made::plain(&case.config.tensors());
    weights.insert("conv_out.bias", made::weight(&[4], &[0.0, f32::NAN, 0.0, 0.0], ElementType::F32)).unwrap();
    let unet = case.unet(&runtime, weights);
    let error = unet.predict(&case.sample, 1.0, &case.conditions(), &Control::default()).unwrap_err();
    let quarter = case.sample.data.len() / 4;
    assert!(matches!(error, EngineError::NotFinite { nan, infinite: 0, .. } if nan == quarter), "{error}");
}

#[test]
fn a_weight_that_is_missing_is_named() {
    let case = Case::open("uneven");
    let facts = made::plain(&case.config.tensors()).facts();
    for gone in ["conv_in.bias", "mid_block.resnets.0.conv1.weight", "up_blocks.0.attentions.1.proj_out.weight"] {
        let fewer = facts.iter().filter(|(name, _)| *name != gone);
        let fewer: engine::TensorFacts = fewer.map(|(name, fact)| (name.to_owned(), fact.clone())).collect();
        let emitted = case.config.emit(Provider::Cpu, ElementType::F32, &fewer);
        match emitted {
            Err(EngineError::MissingWeights { count: 1, first, .. }) => assert_eq!(first, gone),
            // this one has no middle
            Ok(_) => assert!(gone.starts_with("mid_block")),
            Err(error) => panic!("{error}"),
        }
    }
}
