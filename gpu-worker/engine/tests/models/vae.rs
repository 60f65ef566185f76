//! VAEs against diffusers (`tests/reference/make_vae.py`): both sides compute weights and inputs from names.

use std::{
    collections::BTreeMap,
    fs,
    sync::{Arc, Mutex},
};

use engine::{
    Control, ElementType, EngineError, Runtime, Tensor, Weights,
    models::vae::{Architecture, Posterior, Tiling, Vae, VaeSettings},
    weights::{Memory, Weight},
};
use serde_json::Value;

use crate::support::{assert_close, given, golden_path, runtime, synthetic};

/// Allowed error, as a part of the greatest value, in 32-bit floats.
const BOUND: f32 = 1e-5;

fn case(name: &str) -> Value {
    let text = fs::read_to_string(golden_path("vae.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()[name].clone()
}

fn weights(name: &str, dtype: ElementType) -> Weights {
    synthetic(&case(name)["tensors"], dtype)
}

fn vae(runtime: &Arc<Runtime>, name: &str, settings: VaeSettings) -> Vae {
    let architecture = Architecture::from_json(&case(name)["config"]).unwrap();
    Vae::new(Arc::clone(runtime), architecture, weights(name, ElementType::F32), settings).unwrap()
}

#[track_caller]
fn assert_golden(found: &Tensor, name: &str, bound: f32) {
    let golden = Weights::open(&golden_path("vae.safetensors")).unwrap();
    let expected = golden.get(name).unwrap_or_else(|| panic!("no golden output {name}"));
    assert_eq!(found.shape, expected.shape, "{name}");
    let bytes = expected.memory.as_host().unwrap().chunks(4);
    let expected: Vec<f32> = bytes.map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
    assert_close(found.as_f32().unwrap(), &expected, bound);
}

/// The inputs of the script: latents [2, channels, 6, 5] and the image that they stand for.
fn inputs(vae: &Vae) -> (Tensor, Tensor) {
    let architecture = vae.architecture();
    let scale = architecture.scale();
    (
        given("latents", &[2, architecture.latent_channels(), 6, 5]),
        given("image", &[2, architecture.in_channels(), 6 * scale, 5 * scale]),
    )
}

#[test]
fn every_kind_decodes_and_encodes_as_diffusers_does() {
    let Some(runtime) = runtime().map(Arc::new) else { return };
    let control = Control::default();
    for name in ["kl4", "kl16", "plain", "groups32", "tiny"] {
        let vae = vae(&runtime, name, VaeSettings::default());
        let (latents, image) = inputs(&vae);
        let decoded = vae.decode(&latents, None, &control).unwrap();
        assert_golden(&decoded.sample, &format!("{name}.decode"), BOUND);
        assert!(!decoded.plan.automatic && decoded.plan.tiling.is_none());
        let encoded = vae.encode(&image, Posterior::Mode, None, &control).unwrap();
        assert_golden(&encoded.sample, &format!("{name}.encode"), BOUND);
        if name != "tiny" {
            let noise = given("noise", &latents.shape);
            let sampled = vae.encode(&image, Posterior::Sample(&noise), None, &control).unwrap();
            assert_golden(&sampled.sample, &format!("{name}.encode_sample"), BOUND);
        }
    }
}

#[test]
fn slices_and_ragged_tiles_are_joined_as_diffusers_joins_them() {
    let Some(runtime) = runtime().map(Arc::new) else { return };
    let control = Control::default();
    let sliced = vae(&runtime, "kl4", VaeSettings { slicing: true, ..VaeSettings::default() });
    let (latents, image) = inputs(&sliced);
    assert_golden(&sliced.decode(&latents, None, &control).unwrap().sample, "kl4.decode", BOUND);
    assert_golden(&sliced.encode(&image, Posterior::Mode, None, &control).unwrap().sample, "kl4.encode", BOUND);
    for (name, size, image, latents) in [("kl4", 32, [44, 68], [11, 17]), ("tiny", 128, [152, 104], [19, 13])] {
        let tiling = Some(Tiling { size, overlap: 0.25 });
        let vae = vae(&runtime, name, VaeSettings { tiling, ..VaeSettings::default() });
        let latents = given("ragged", &[1, 4, latents[0], latents[1]]);
        let decoded = vae.decode(&latents, None, &control).unwrap();
        assert!(decoded.plan.tiles > 1);
        assert_golden(&decoded.sample, &format!("{name}.decode_tiled"), BOUND);
        let image = given("ragged image", &[1, 3, image[0], image[1]]);
        let encoded = vae.encode(&image, Posterior::Mode, None, &control).unwrap();
        assert_golden(&encoded.sample, &format!("{name}.encode_tiled"), BOUND);
    }
}

#[test]
fn shorter_storage_computes_in_32_bits() {
    let Some(runtime) = runtime().map(Arc::new) else { return };
    let architecture = Architecture::from_json(&case("kl4")["config"]).unwrap();
    for (dtype, name) in [(ElementType::F16, "float16"), (ElementType::Bf16, "bfloat16")] {
        let weights = weights("kl4", dtype);
        let vae = Vae::new(Arc::clone(&runtime), architecture.clone(), weights, VaeSettings::default()).unwrap();
        let decoded = vae.decode(&inputs(&vae).0, None, &Control::default()).unwrap();
        // diffusers computes in 32 bits from the same rounded weights
        assert_golden(&decoded.sample, &format!("kl4.decode_{name}"), BOUND);
    }
}

#[test]
fn sizes_are_inferred_from_tensors() {
    for name in ["kl4", "kl16", "plain", "groups32", "tiny"] {
        let read = Architecture::from_json(&case(name)["config"]).unwrap();
        let facts = weights(name, ElementType::F32).facts();
        match (name, Architecture::infer(&facts, Some("sd15"))) {
            // nothing tells how many groups the others have
            ("groups32", inferred) => {
                let (Architecture::Kl(mut inferred), Architecture::Kl(read)) = (inferred.unwrap(), read) else {
                    panic!("both are AutoencoderKL")
                };
                inferred.force_upcast = read.force_upcast;
                assert_eq!(inferred, read);
            }
            ("tiny", inferred) => assert_eq!(inferred.unwrap(), read),
            (_, inferred) => assert!(matches!(inferred, Err(EngineError::Config { .. })), "{name}"),
        }
    }
}

#[test]
fn the_graphs_take_exactly_the_tensors_that_diffusers_has() {
    for name in ["kl4", "kl16", "plain", "groups32"] {
        let Architecture::Kl(config) = Architecture::from_json(&case(name)["config"]).unwrap() else {
            panic!("{name} is an AutoencoderKL")
        };
        let taken: BTreeMap<String, Vec<usize>> = engine::arch::vae::tensors(&config).into_iter().collect();
        let theirs: BTreeMap<String, Vec<usize>> = serde_json::from_value(case(name)["tensors"].clone()).unwrap();
        assert_eq!(taken, theirs, "{name}");
    }
    // none is optional
    let mut fewer = Weights::new();
    for (name, weight) in weights("kl4", ElementType::F32).iter().filter(|(name, _)| *name != "decoder.conv_in.bias") {
        fewer.insert(name, weight.clone()).unwrap();
    }
    let Some(runtime) = runtime().map(Arc::new) else { return };
    let architecture = Architecture::from_json(&case("kl4")["config"]).unwrap();
    let missing = Vae::new(runtime, architecture, fewer, VaeSettings::default()).unwrap_err();
    assert!(matches!(missing, EngineError::MissingWeights { first, .. } if first == "decoder.conv_in.bias"));
}

#[test]
fn factors_come_from_the_base_or_the_settings() {
    let Some(runtime) = runtime().map(Arc::new) else { return };
    let weights = weights("groups32", ElementType::F32);
    let latents = given("latents", &[2, 4, 6, 5]);
    let decode = |base: Option<&str>, settings: VaeSettings| {
        let architecture = Architecture::infer(&weights.facts(), base).unwrap();
        let vae = Vae::new(Arc::clone(&runtime), architecture, weights.clone(), settings).unwrap();
        vae.decode(&latents, None, &Control::default()).unwrap().sample
    };
    assert_golden(&decode(Some("sd15"), VaeSettings::default()), "groups32.decode", BOUND);
    let set = VaeSettings { scaling_factor: Some(0.18215), shift_factor: Some(0.0), ..VaeSettings::default() };
    assert_eq!(decode(Some("sdxl"), set), decode(Some("sd15"), VaeSettings::default()));
    assert_ne!(decode(Some("sdxl"), VaeSettings::default()), decode(Some("sd15"), VaeSettings::default()));
}

#[test]
fn an_image_that_does_not_fit_is_tiled_and_what_runs_take_corrects_the_estimate() {
    let Some(runtime) = runtime().map(Arc::new) else { return };
    let vae = vae(&runtime, "kl4", VaeSettings::default());
    let latents = given("ragged", &[1, 4, 11, 17]);
    let supposed = vae.plan_decode(&latents.shape, None).unwrap();
    assert_eq!(supposed.tiling, None);
    let tight = Some(supposed.estimated_bytes - 1);
    let decoded = vae.decode(&latents, tight, &Control::default()).unwrap();
    assert!(decoded.plan.automatic && decoded.plan.estimated_bytes < supposed.estimated_bytes);
    assert_golden(&decoded.sample, "kl4.decode_tiled", BOUND);
    // large enough for its values to be more than what the allocator takes at least
    let large = given("large", &[1, 4, 96, 96]);
    let whole = vae.decode(&large, None, &Control::default()).unwrap();
    let peak = whole.peak_bytes.expect("the library counts, and a large image takes more than small tiles");
    let learned = vae.plan_decode(&large.shape, None).unwrap().estimated_bytes;
    assert!(learned >= peak && learned < peak * 2, "{learned} estimated, {peak} measured");
    let none = vae.decode(&latents, Some(1000), &Control::default());
    assert!(matches!(none, Err(EngineError::OutOfMemory { available_bytes: 1000, .. })));
}

#[test]
fn progress_is_told_by_tile_and_a_cancelled_run_ends() {
    let Some(runtime) = runtime().map(Arc::new) else { return };
    let tiling = Some(Tiling { size: 32, overlap: 0.25 });
    let vae = vae(&runtime, "kl4", VaeSettings { tiling, ..VaeSettings::default() });
    let latents = given("ragged", &[1, 4, 11, 17]);
    let told = Arc::new(Mutex::new(Vec::new()));
    let (tell, control) = (Arc::clone(&told), Control::default());
    let cancel = control.cancel.clone();
    let progress = Arc::new(move |done, of| {
        tell.lock().unwrap().push((done, of));
        if done == 3 {
            cancel.cancel();
        }
    });
    let control = Control { progress: Some(progress), ..control };
    assert!(matches!(vae.decode(&latents, None, &control), Err(EngineError::Cancelled)));
    assert_eq!(*told.lock().unwrap(), [(1, 6), (2, 6), (3, 6)]);
}

#[test]
fn nan_and_wrong_shapes_are_typed_errors() {
    let Some(runtime) = runtime().map(Arc::new) else { return };
    let vae = vae(&runtime, "plain", VaeSettings::default());
    let control = Control::default();
    let mut latents = given("latents", &[1, 4, 6, 5]);
    let wrong = Tensor::zeros(&[1, 3, 6, 5]);
    assert!(matches!(vae.decode(&wrong, None, &control), Err(EngineError::Input { .. })));
    let odd = Tensor::zeros(&[1, 1, 7, 8]);
    assert!(matches!(vae.encode(&odd, Posterior::Mode, None, &control), Err(EngineError::Input { .. })));
    let engine::TensorData::F32(values) = &mut latents.data else { panic!("floats were given") };
    values[0] = f32::NAN;
    assert!(matches!(vae.decode(&latents, None, &control), Err(EngineError::NotFinite { .. })));

    let mut broken = weights("plain", ElementType::F32);
    let bytes: Vec<u8> = [f32::NAN; 16].iter().flat_map(|value| value.to_le_bytes()).collect();
    let memory = Memory::host(Arc::new(bytes), 0..64).unwrap();
    let weight = Weight { dtype: ElementType::F32, shape: vec![16], memory };
    broken.insert("decoder.conv_norm_out.bias", weight).unwrap();
    let broken = Vae::new(Arc::clone(&runtime), vae.architecture().clone(), broken, VaeSettings::default()).unwrap();
    let decoded = broken.decode(&given("latents", &[1, 4, 6, 5]), None, &control);
    assert!(matches!(decoded, Err(EngineError::NotFinite { nan, elements, .. }) if nan == elements));
}
