//! The small real run of a component that `validate --level forward` makes.

use std::{fs, sync::Arc};

use engine::{
    Control, ElementType, EngineError, Runtime, Weights,
    arch::{clip, unet2d},
    forward::{Component, Forward, ForwardReport, check},
};
use serde_json::Value;

use crate::{
    golden::Golden,
    made,
    support::{golden_path, runtime, synthetic},
};

fn ran(runtime: &Arc<Runtime>, kind: &str, base: &str, config: Option<&Value>, weights: Weights) -> ForwardReport {
    let component = Component { kind, base: Some(base), config, graph: None };
    match check(runtime, &component, weights, &Control::default()).unwrap() {
        Forward::Ran(report) => report,
        Forward::Unsupported { reason } => panic!("{reason}"),
    }
}

fn names(report: &ForwardReport) -> Vec<&str> {
    report.outputs.iter().map(|output| output.name.as_str()).collect()
}

#[test]
fn unets_and_text_encoders_run_with_and_without_a_config() {
    let Some(runtime) = runtime().map(Arc::new) else { return };
    for (name, base) in [("sd15", "sd15"), ("sdxl", "sdxl"), ("refiner", "sdxl-refiner"), ("uneven", "sd15")] {
        let golden = Golden::open(&format!("unet-{name}"));
        let weights = made::plain(&unet2d::Config::from_json(&golden.config).unwrap().tensors());
        let report = ran(&runtime, "unet", base, Some(&golden.config), weights.clone());
        let again = ran(&runtime, "unet", base, Some(&golden.config), weights);
        assert_eq!(report, again, "{name}");
        let output = &report.outputs[0];
        assert!(report.is_finite && output.statistics.std > 0.1, "{name}: {output:?}");
        assert_eq!(output.shape[2..], [8, 8]);
    }
    let golden = Golden::open("clip-g");
    let config = clip::Config::from_json(&golden.config, &Weights::new().facts()).unwrap();
    let weights = made::plain(&config.tensors());
    let told = ran(&runtime, "text_encoder_2", "sdxl", Some(&golden.config), weights.clone());
    assert_eq!(names(&told), ["last", "hidden", "pooled", "projected"]);
    let inferred = ran(&runtime, "text_encoder_2", "sdxl", None, weights);
    assert!(told.is_finite && inferred.is_finite);
}

#[test]
fn vaes_run_in_both_directions() {
    let Some(runtime) = runtime().map(Arc::new) else { return };
    let cases: Value = serde_json::from_str(&fs::read_to_string(golden_path("vae.json")).unwrap()).unwrap();
    for (name, architecture) in [("kl4", "AutoencoderKL"), ("kl16", "AutoencoderKL"), ("tiny", "AutoencoderTiny")] {
        let case = &cases[name];
        let weights = synthetic(&case["tensors"], ElementType::F32);
        let report = ran(&runtime, "vae", "sd15", Some(&case["config"]), weights);
        assert_eq!((names(&report), report.architecture), (vec!["decoded", "encoded"], architecture));
        assert!(report.is_finite && report.outputs.iter().all(|output| output.statistics.std > 0.0), "{name}");
    }
}

#[test]
fn weights_that_are_no_numbers_are_reported_not_refused() {
    let Some(runtime) = runtime().map(Arc::new) else { return };
    let golden = Golden::open("unet-sd15");
    let mut weights = made::plain(&unet2d::Config::from_json(&golden.config).unwrap().tensors());
    weights
        .insert("conv_out.bias", made::weight(&[4], &[f32::NAN, 0.0, 0.0, f32::INFINITY], ElementType::F32))
        .unwrap();
    let report = ran(&runtime, "unet", "sd15", Some(&golden.config), weights);
    let statistics = &report.outputs[0].statistics;
    assert!(!report.is_finite);
    assert_eq!((statistics.nan, statistics.infinite, statistics.elements), (64, 64, 256));
}

#[test]
fn what_cannot_be_run_says_why() {
    let Some(runtime) = runtime().map(Arc::new) else { return };
    let unsupported = |kind: &str, config: Option<&Value>| {
        let component = Component { kind, base: None, config, graph: None };
        match check(&runtime, &component, Weights::new(), &Control::default()).unwrap() {
            Forward::Unsupported { reason } => reason,
            Forward::Ran(report) => panic!("{report:?}"),
        }
    };
    assert!(unsupported("lora", None).contains("only as part of a model"));
    assert!(unsupported("transformer", None).contains("no engine yet"));
    let t5 = serde_json::json!({ "model_type": "t5" });
    assert!(unsupported("text_encoder", Some(&t5)).contains("T5"));
    let other = serde_json::json!({ "class_embed_type": "projection" });
    assert!(unsupported("unet", Some(&other)).contains("`class_embed_type`"));
}

#[test]
fn a_tensor_that_is_missing_is_an_error() {
    let Some(runtime) = runtime().map(Arc::new) else { return };
    let golden = Golden::open("unet-sd15");
    let component = Component { kind: "unet", base: None, config: Some(&golden.config), graph: None };
    let error = check(&runtime, &component, Weights::new(), &Control::default()).unwrap_err();
    assert!(matches!(error, EngineError::MissingWeights { .. }), "{error}");
}
