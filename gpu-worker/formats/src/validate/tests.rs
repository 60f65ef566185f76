//! Planted damage is found by name.

use std::{ops::ControlFlow, os::unix::fs::FileExt, path::Path};

use serde_json::json;

use super::*;
use crate::{
    correction::Correction,
    dtype::Dtype,
    inspection::Inspection,
    testing::{document, model_in, raw},
};

const GO: fn(u64) -> ControlFlow<()> = |_| ControlFlow::Continue(());

fn vae(path: &Path) -> Inspection {
    let tensors: [(&str, &[u64]); 8] = [
        ("encoder.conv_in.weight", &[16, 3, 3, 3]),
        ("encoder.conv_out.weight", &[8, 16, 3, 3]),
        ("decoder.conv_in.weight", &[16, 4, 3, 3]),
        ("decoder.conv_out.weight", &[3, 16, 3, 3]),
        ("decoder.conv_out.bias", &[3]),
        ("quant_conv.weight", &[8, 8, 1, 1]),
        ("post_quant_conv.weight", &[4, 4, 1, 1]),
        ("decoder.mid.block_1.conv1.weight", &[16, 16, 3, 3]),
    ];
    model_in(path, "F32", &tensors, &[]);
    let (inspection, findings) = structure(path, Correction::default()).unwrap();
    assert_eq!(verdict(&findings), Verdict::Ok, "{findings:?}");
    let inspection = inspection.unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    for tensor in inspection.components.iter().flat_map(|part| &part.tensors) {
        let values = (0..tensor.elements()).map(|n| (n as f32).sin() + 0.01);
        let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
        file.write_all_at(&bytes, tensor.begin).unwrap();
    }
    structure(path, Correction::default()).unwrap().0.unwrap()
}

/// Overwrites elements of one tensor, from the first.
fn plant(inspection: &Inspection, name: &str, values: impl Fn(usize) -> f32, count: u64) {
    let tensor =
        inspection.components.iter().flat_map(|part| &part.tensors).find(|tensor| tensor.name == name).unwrap();
    let bytes: Vec<u8> = (0..count.min(tensor.elements())).flat_map(|n| values(n as usize).to_le_bytes()).collect();
    let file = std::fs::OpenOptions::new().write(true).open(&inspection.files[tensor.file].path).unwrap();
    file.write_all_at(&bytes, tensor.begin).unwrap();
}

fn found(path: &Path) -> Vec<(String, String)> {
    let inspection = structure(path, Correction::default()).unwrap().0.unwrap();
    let checked = weights(&inspection, &mut { GO }).unwrap().unwrap();
    checked.findings.into_iter().filter_map(|finding| Some((finding.tensor?, finding.code))).collect()
}

#[test]
fn every_kind_of_bad_number_is_found_at_its_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.safetensors");
    let inspection = vae(&path);
    assert_eq!(found(&path), []);
    plant(&inspection, "decoder.conv_in.weight", |_| f32::NAN, 1);
    plant(&inspection, "encoder.conv_in.weight", |_| f32::INFINITY, 2);
    plant(&inspection, "quant_conv.weight", |_| 0.0, u64::MAX);
    plant(&inspection, "post_quant_conv.weight", |_| 0.5, u64::MAX);
    plant(&inspection, "encoder.conv_out.weight", |_| 1e-40, u64::MAX);
    plant(&inspection, "decoder.conv_out.weight", |_| 70_000.0, 1);
    plant(&inspection, "decoder.conv_out.bias", |_| 0.0, u64::MAX);
    let mut all = found(&path);
    all.sort();
    let expected = [
        ("decoder.conv_in.weight", "nan"),
        ("decoder.conv_out.weight", "degenerate"),
        ("decoder.conv_out.weight", "fp16_overflow"),
        ("encoder.conv_in.weight", "infinite"),
        ("encoder.conv_out.weight", "constant"),
        ("encoder.conv_out.weight", "subnormal"),
        ("post_quant_conv.weight", "constant"),
        ("quant_conv.weight", "all_zero"),
    ];
    assert_eq!(all, expected.map(|(tensor, code)| (tensor.to_owned(), code.to_owned())));
}

#[test]
fn spreads_that_no_training_gives_are_found_and_numbers_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.safetensors");
    let inspection = vae(&path);
    plant(&inspection, "decoder.conv_in.weight", |n| if n % 2 == 0 { 5000.0 } else { -5000.0 }, u64::MAX);
    plant(&inspection, "encoder.conv_in.weight", |n| 1e-12 * (n as f32).sin(), u64::MAX);
    plant(&inspection, "encoder.conv_out.weight", |n| 9.0 + 1e-3 * (n as f32).sin(), u64::MAX);
    let mut all = found(&path);
    all.sort();
    let expected = ["decoder.conv_in.weight", "encoder.conv_in.weight", "encoder.conv_out.weight"];
    assert_eq!(all, expected.map(|tensor| (tensor.to_owned(), "degenerate".to_owned())));
    let inspection = structure(&path, Correction::default()).unwrap().0.unwrap();
    let checked = weights(&inspection, &mut { GO }).unwrap().unwrap();
    assert_eq!(checked.statistics.len(), 8);
    let wide = checked.statistics.iter().find(|tensor| tensor.tensor == "decoder.conv_in.weight").unwrap();
    assert_eq!((wide.elements, wide.component.unwrap().as_str()), (576, "vae"));
    assert_eq!(wide.moments, Some(Moments { mean: 0.0, std: 5000.0, min: -5000.0, max: 5000.0 }));
    assert_eq!((wide.dtype, wide.nan, wide.infinite, wide.zero), (Dtype::F32, 0, 0, 0));
    let summary = checked.findings.iter().find(|finding| finding.code == "statistics").unwrap();
    assert_eq!((summary.severity, summary.component.as_deref()), (Severity::Info, Some("vae")));
    assert!(summary.message.contains("`decoder.conv_in.weight`"), "{summary:?}");
}

#[test]
fn tensors_of_no_component_are_read_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.safetensors");
    let unet = crate::testing::family_unet("model.diffusion_model.", "sd15");
    let mut tensors = crate::testing::specs(&unet);
    tensors.push(("first_stage_model.decoder.conv_in.weight", &[8, 4, 3, 3]));
    tensors.push(("model_ema.diffusion_modelinput_blocks00weight", &[8, 4, 3, 3]));
    model_in(&path, "F32", &tensors, &[]);
    let inspection = structure(&path, Correction::default()).unwrap().0.unwrap();
    let whole: u64 = inspection.components.iter().map(|part| part.bytes).sum();
    assert_eq!(weight_bytes(&inspection).unwrap(), whole + 4 * 8 * 4 * 9);
    // the last tensor of the file
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&f32::NAN.to_le_bytes(), file.metadata().unwrap().len() - 4).unwrap();
    let inspection = structure(&path, Correction::default()).unwrap().0.unwrap();
    let checked = weights(&inspection, &mut { GO }).unwrap().unwrap();
    let nan = checked.findings.iter().find(|finding| finding.code == "nan").unwrap();
    assert_eq!((nan.severity, nan.component.as_deref()), (Severity::Warning, None));
    assert_eq!(nan.tensor.as_deref(), Some("model_ema.diffusion_modelinput_blocks00weight"));
    assert_eq!(checked.bytes, whole + 4 * 8 * 4 * 9);
}

#[test]
fn an_index_that_lies_about_its_shards_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let tensors = crate::testing::family_unet("", "sd15");
    let specs = crate::testing::specs(&tensors);
    let (first, second) = specs.split_at(3);
    let bytes: u64 = tensors.iter().map(|(_, shape)| 2 * shape.iter().product::<u64>()).sum();
    let shard = |number: u64| format!("unet-{number:05}-of-00002.safetensors");
    model_in(&folder.path().join(shard(1)), "F16", first, &[]);
    model_in(&folder.path().join(shard(2)), "F16", second, &[]);
    let home = |number: u64, specs: &[crate::testing::Spec<'_>]| -> Vec<(String, serde_json::Value)> {
        specs.iter().map(|(name, _)| ((*name).to_owned(), json!(shard(number)))).collect()
    };
    let map: serde_json::Map<_, _> = home(1, first).into_iter().chain(home(2, second)).collect();
    let path = folder.path().join("unet.safetensors.index.json");
    for (total, expected) in [
        (json!(bytes), vec![]),
        (json!(bytes as f64), vec![]),
        (json!(bytes + 2), vec!["index_size_mismatch".to_owned()]),
    ] {
        document(&path, &json!({ "metadata": { "total_size": total }, "weight_map": map }));
        let (verdict, codes) = codes(&path);
        assert_eq!(codes, expected);
        assert_eq!(verdict, if expected.is_empty() { Verdict::Ok } else { Verdict::Degraded });
    }
}

#[test]
fn reading_stops_when_asked_and_at_a_changed_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.safetensors");
    let inspection = vae(&path);
    assert_eq!(weights(&inspection, &mut |_| ControlFlow::Break(())).unwrap(), None);
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(100).unwrap();
    assert!(matches!(weights(&inspection, &mut { GO }), Err(crate::FormatError::Changed { .. })));
}

fn codes(path: &Path) -> (Verdict, Vec<String>) {
    let (_, findings) = structure(path, Correction::default()).unwrap();
    (verdict(&findings), findings.into_iter().map(|finding| finding.code).collect())
}

#[test]
fn damaged_files_are_answers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.safetensors");
    vae(&path);
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    assert_eq!(codes(&path), (Verdict::Invalid, vec!["corrupt_file".to_owned()]));
    raw(&path, br#"{"other.a":{"dtype":"F16","shape":[2,2,1,1,1],"data_offsets":[0,8]}}"#, 8);
    assert_eq!(codes(&path), (Verdict::Degraded, vec!["not_recognised".to_owned()]));
    let fifo = folder.path().join("f.safetensors");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert_eq!(codes(&fifo), (Verdict::Unsafe, vec!["unsafe_file".to_owned()]));
    assert!(structure(&folder.path().join("gone.safetensors"), Correction::default()).is_err());
}

/// A small SD1-like folder whose parts fit.
fn pipeline(folder: &Path) {
    let index = json!({
        "_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"], "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
    });
    document(&folder.join("model_index.json"), &index);
    document(
        &folder.join("unet/config.json"),
        &json!({"cross_attention_dim": 768, "in_channels": 4, "out_channels": 4}),
    );
    document(&folder.join("vae/config.json"), &json!({"latent_channels": 4}));
    document(&folder.join("text_encoder/config.json"), &json!({"hidden_size": 768, "vocab_size": 10}));
    document(&folder.join("tokenizer/vocab.json"), &json!({"a": 0, "b": 9}));
    let unet: [(&str, &[u64]); 3] = [
        ("conv_in.weight", &[8, 4, 3, 3]),
        ("conv_out.weight", &[4, 8, 3, 3]),
        ("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight", &[8, 768]),
    ];
    model_in(&folder.join("unet/diffusion_pytorch_model.safetensors"), "F16", &unet, &[]);
    let vae: [(&str, &[u64]); 2] =
        [("decoder.conv_in.weight", &[8, 4, 3, 3]), ("encoder.conv_in.weight", &[8, 3, 3, 3])];
    model_in(&folder.join("vae/diffusion_pytorch_model.safetensors"), "F16", &vae, &[]);
    let encoder: [(&str, &[u64]); 2] = [
        ("text_model.embeddings.token_embedding.weight", &[10, 768]),
        ("text_model.embeddings.position_embedding.weight", &[8, 768]),
    ];
    model_in(&folder.join("text_encoder/model.safetensors"), "F16", &encoder, &[]);
}

#[test]
fn the_links_of_a_folder_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    pipeline(&path);
    assert_eq!(codes(&path), (Verdict::Ok, vec![]));
    document(&path.join("tokenizer/vocab.json"), &json!({"a": 0, "b": 10}));
    assert_eq!(codes(&path), (Verdict::Invalid, vec!["vocabulary_mismatch".to_owned()]));
    pipeline(&path);
    document(&path.join("unet/config.json"), &json!({"cross_attention_dim": 1024, "in_channels": 9}));
    let mut all = codes(&path).1;
    all.sort();
    assert_eq!(all, ["conditioning_mismatch", "config_mismatch"]);
    // every other link: the index, its folders, the classes, positions and ids
    let change = |file: &str, value: serde_json::Value, expected: &[&str]| {
        pipeline(&path);
        document(&path.join(file), &value);
        let mut all = codes(&path).1;
        all.sort();
        assert_eq!(all, expected, "{file}");
        std::fs::remove_dir_all(&path).unwrap();
    };
    let class = json!({"latent_channels": 4, "_class_name": "AutoencoderTiny"});
    change("vae/config.json", class, &["class_mismatch"]);
    change("image_encoder/config.json", json!({}), &["unnamed_folder"]);
    change("vae/config.json", json!({"latent_channels": 16}), &["config_mismatch"]);
    let tokens = json!({"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 77}]});
    change("tokenizer/tokenizer.json", tokens, &["vocabulary_mismatch"]);
    change("tokenizer/tokenizer_config.json", json!({"model_max_length": 12}), &["length_mismatch"]);
    change("tokenizer/tokenizer_config.json", json!({"model_max_length": 1e30}), &[]);
    change("tokenizer/vocab.json", json!([1]), &["corrupt_tokenizer"]);
    pipeline(&path);
    std::fs::remove_dir_all(path.join("tokenizer")).unwrap();
    let mut all = codes(&path).1;
    all.sort();
    assert_eq!(all, ["missing_folder", "missing_part", "missing_tokenizer"]);
    pipeline(&path);
    std::fs::remove_file(path.join("vae/diffusion_pytorch_model.safetensors")).unwrap();
    let (verdict, codes) = codes(&path);
    assert_eq!(verdict, Verdict::Invalid, "{codes:?}");
}

#[test]
fn the_architecture_names_missing_wrong_and_unexpected_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    pipeline(&path);
    let config = json!({
        "_class_name": "AutoencoderKL", "in_channels": 3, "out_channels": 3, "latent_channels": 4, "layers_per_block": 1,
        "block_out_channels": [8], "norm_num_groups": 8, "down_block_types": ["DownEncoderBlock2D"],
        "up_block_types": ["UpDecoderBlock2D"],
    });
    let tensors: [(&str, &[u64]); 3] = [
        ("decoder.conv_in.weight", &[8, 4, 3, 3]),
        ("encoder.conv_in.weight", &[16, 3, 3, 3]),
        ("encoder.conv_in.biass", &[8]),
    ];
    model_in(&path.join("vae/diffusion_pytorch_model.safetensors"), "F16", &tensors, &[]);
    let inspection = structure(&path, Correction::default()).unwrap().0.unwrap();
    let findings = architecture(&inspection, Some(&json!({ "vae": config })));
    let of = |code: &str| -> Vec<String> {
        let these =
            findings.iter().filter(|finding| finding.code == code && finding.component.as_deref() == Some("vae"));
        these.filter_map(|finding| finding.tensor.clone()).collect()
    };
    assert_eq!(of("wrong_shape"), ["encoder.conv_in.weight"]);
    assert_eq!(of("unexpected_tensor"), ["encoder.conv_in.biass"]);
    assert!(of("missing_tensor").contains(&"encoder.conv_in.bias".to_owned()), "{findings:?}");
    let unexpected = findings.iter().find(|finding| finding.code == "unexpected_tensor").unwrap();
    assert!(unexpected.message.contains("`encoder.conv_in.bias` is missing"), "{unexpected:?}");
    assert_eq!(verdict(&findings), Verdict::Invalid);
}

/// What is refused in a folder is as bad as it is in a file.
#[test]
fn folders_are_judged_by_what_was_refused_in_them() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let judged = |name: &str| {
        let findings = structure(&at(name), Correction::default()).unwrap().1;
        (verdict(&findings), findings.first().map(|finding| finding.code.clone()))
    };
    let config = json!({ "_class_name": "AutoencoderKL" });
    document(&at("cut/config.json"), &config);
    std::fs::write(at("cut/diffusion_pytorch_model.safetensors"), [9, 0, 0, 0, 0, 0, 0, 0, b'{']).unwrap();
    assert_eq!(judged("cut"), (Verdict::Invalid, Some("corrupt_file".to_owned())));
    document(&at("runs/config.json"), &config);
    let runs = b"\x80\x02cos\nsystem\nX\x01\0\0\0x\x85R.";
    std::fs::write(at("runs/diffusion_pytorch_model.bin"), runs).unwrap();
    assert_eq!(judged("runs"), (Verdict::Unsafe, Some(UNSAFE_FILE.to_owned())));
    document(&at("empty/config.json"), &config);
    document(
        &at("empty/diffusion_pytorch_model.safetensors.index.json"),
        &json!({ "weight_map": { "a": "x.safetensors" } }),
    );
    assert_eq!(judged("empty").0, Verdict::Invalid);
    std::fs::create_dir_all(at("pipe/unet")).unwrap();
    std::fs::write(at("pipe/model_index.json"), "{").unwrap();
    assert_eq!(judged("pipe"), (Verdict::Invalid, Some("corrupt_file".to_owned())));
    document(&at("words/vocab.json"), &json!({ "a": 0 }));
    std::fs::write(at("words/merges.txt"), "#version: 0.2\n").unwrap();
    assert_eq!(judged("words"), (Verdict::Ok, None), "a tokenizer lacks nothing");
    std::fs::write(at("words/tokenizer_config.json"), "{").unwrap();
    assert_eq!(judged("words"), (Verdict::Invalid, Some("corrupt_file".to_owned())));
}

/// A variant that nobody chose is looked at as well; what is wrong with it harms nobody yet.
#[test]
fn a_broken_variant_warns_until_it_is_chosen() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    vae(&at("diffusion_pytorch_model.safetensors"));
    document(&at("config.json"), &json!({ "_class_name": "AutoencoderKL" }));
    let judged = |variant: Option<&str>| {
        let findings = structure(folder.path(), Correction::named(None, None, variant)).unwrap().1;
        (verdict(&findings), findings)
    };
    std::fs::copy(at("diffusion_pytorch_model.safetensors"), at("diffusion_pytorch_model.ema.safetensors")).unwrap();
    assert_eq!(judged(None), (Verdict::Ok, Vec::new()));
    std::fs::write(at("diffusion_pytorch_model.ema.safetensors"), [9, 0, 0, 0, 0, 0, 0, 0, b'{']).unwrap();
    let (verdict, findings) = judged(None);
    let [finding] = findings.as_slice() else { panic!("{findings:?}") };
    assert_eq!(
        (verdict, finding.code.as_str(), finding.component.as_deref()),
        (Verdict::Degraded, "broken_variant", Some("vae"))
    );
    assert!(finding.message.contains("`diffusion_pytorch_model.ema.safetensors`"), "{}", finding.message);
    let (verdict, findings) = judged(Some("ema"));
    assert_eq!((verdict, findings[0].code.as_str()), (Verdict::Invalid, "corrupt_file"));
    let (verdict, findings) = judged(Some("fp16"));
    assert_eq!((verdict, findings[0].code.as_str()), (Verdict::Invalid, "missing_variant"));
    assert_eq!(findings[0].found.as_deref(), Some("default, ema"));
}
