//! The timed run that benchmarks repeat.

use std::{fs, sync::Arc, time::Duration};

use engine::{
    Control, ElementType, EngineError, Runtime, Weights,
    arch::{clip, unet2d},
    forward::Component,
    measure::{Amount, Measured, Operation, once},
    models::vae::VaeSettings,
};
use serde_json::Value;

use crate::{
    golden::Golden,
    made,
    support::{golden_path, runtime, synthetic},
};

fn measured(
    runtime: &Arc<Runtime>,
    component: &Component<'_>,
    weights: &Weights,
    operation: Operation,
    bound: Option<u64>,
) -> Result<Measured, EngineError> {
    let amount = Amount { batch: 2, width: 128, height: 64 };
    once(runtime, component, (weights.clone(), VaeSettings::default()), (operation, amount), bound, &Control::default())
}

#[test]
fn a_session_that_was_given_up_is_measured_anew() {
    let Some(runtime) = runtime().map(Arc::new) else { return };
    let text = fs::read_to_string(golden_path("vae.json")).unwrap();
    let case = serde_json::from_str::<Value>(&text).unwrap()["kl4"].take();
    let weights = synthetic(&case["tensors"], ElementType::F32);
    let component = Component { kind: "vae", base: Some("sd15"), config: Some(&case["config"]), graph: None };
    for operation in Operation::of_kind("vae") {
        let once = || measured(&runtime, &component, &weights, *operation, None).unwrap();
        let first = once();
        assert!(first.seconds > 0.0 && first.peak_bytes.is_some_and(|bytes| bytes > 0), "{first:?}");
        assert!(once().peak_bytes.is_none(), "no more than the first");
        runtime.release_idle(Duration::ZERO);
        assert!(once().peak_bytes.is_some());
    }
}

#[test]
fn unets_and_text_encoders_are_measured_within_their_bound() {
    let Some(runtime) = runtime().map(Arc::new) else { return };
    let golden = Golden::open("unet-sdxl");
    let weights = made::plain(&unet2d::Config::from_json(&golden.config).unwrap().tensors());
    let unet = Component { kind: "unet", base: Some("sdxl"), config: Some(&golden.config), graph: None };
    let free = measured(&runtime, &unet, &weights, Operation::UnetStep, None).unwrap();
    assert!(free.seconds > 0.0 && free.peak_bytes.is_some() && free.estimated_bytes.is_some(), "{free:?}");
    let refused = measured(&runtime, &unet, &weights, Operation::UnetStep, Some(1));
    assert!(matches!(refused, Err(EngineError::OutOfMemory { available_bytes: 1, .. })), "{refused:?}");

    let golden = Golden::open("clip-g");
    let weights = made::plain(&clip::Config::from_json(&golden.config, &Weights::new().facts()).unwrap().tensors());
    let encoder = Component { kind: "text_encoder_2", base: Some("sdxl"), config: Some(&golden.config), graph: None };
    assert!(measured(&runtime, &encoder, &weights, Operation::EncodeText, None).unwrap().seconds > 0.0);
    assert!(measured(&runtime, &encoder, &weights, Operation::EncodeText, Some(1)).is_err());
}
