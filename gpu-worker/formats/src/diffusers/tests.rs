//! Pipeline folders on disk: whole, sharded, with variants, incomplete, hostile.

use std::{fs, path::Path};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    Base, Format, Inspection, ModelType, inspect,
    testing::{Spec, document, model, model_in},
};

const UNET: [Spec<'_>; 6] = [
    ("conv_in.weight", &[8, 4, 3, 3]),
    ("time_embedding.linear_1.weight", &[32, 8]),
    ("add_embedding.linear_1.weight", &[8, 8]),
    ("down_blocks.0.resnets.0.conv1.weight", &[8, 8, 3, 3]),
    ("down_blocks.1.resnets.0.conv1.weight", &[8, 8, 3, 3]),
    ("down_blocks.2.resnets.0.conv1.weight", &[8, 8, 3, 3]),
];
const ATTENTION: Spec<'_> = ("down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight", &[8, 24]);

/// A reduced SDXL folder whose UNet has no weights yet.
fn folder(root: &Path) {
    document(
        &root.join("model_index.json"),
        &json!({
            "_class_name": "StableDiffusionXLPipeline",
            "_diffusers_version": "0.30.0",
            "force_zeros_for_empty_prompt": true,
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "scheduler": ["diffusers", "EulerDiscreteScheduler"],
            "safety_checker": [null, null],
            "feature_extractor": ["transformers", "CLIPImageProcessor"],
        }),
    );
    for part in ["unet", "vae", "text_encoder"] {
        document(&root.join(part).join("config.json"), &json!({ "_class_name": part }));
    }
    document(&root.join("scheduler/scheduler_config.json"), &json!({ "prediction_type": "v_prediction" }));
    document(&root.join("tokenizer/vocab.json"), &json!({}));
    model(&root.join("vae/diffusion_pytorch_model.safetensors"), &[("decoder.conv_in.weight", &[8, 4, 3, 3])]);
    model(&root.join("text_encoder/model.safetensors"), &[("text_model.final_layer_norm.weight", &[8])]);
}

fn whole_unet() -> Vec<Spec<'static>> {
    UNET.into_iter().chain([ATTENTION]).collect()
}

fn kinds(found: &Inspection) -> Vec<&str> {
    found.components.iter().map(|component| component.kind.as_str()).collect()
}

/// The tensors of every component lie inside the file they point to.
fn check_places(found: &Inspection) {
    for tensor in found.components.iter().flat_map(|component| &component.tensors) {
        let file = &found.files[tensor.file];
        assert!(file.rel_path.ends_with(".safetensors"), "{} is in {}", tensor.name, file.rel_path);
        assert!(tensor.end <= file.size);
    }
}

#[test]
fn a_whole_folder_is_one_checkpoint() {
    let root = TempDir::new().unwrap();
    folder(root.path());
    model(&root.path().join("unet/diffusion_pytorch_model.safetensors"), &whole_unet());
    let found = inspect(root.path()).unwrap();
    assert_eq!((found.model_type, found.base, found.format), (ModelType::Checkpoint, Base::Sdxl, Format::Diffusers));
    let mut parts = kinds(&found);
    parts.sort_unstable();
    assert_eq!(parts, ["text_encoder", "unet", "vae"]);
    assert_eq!(found.prediction.as_deref(), Some("v_prediction"));
    assert_eq!((found.reason.as_deref(), found.variant.as_deref()), (None, Some("fp16")));
    assert_eq!(found.metadata["facts"]["tokenizers"], json!(["tokenizer"]));
    assert!(found.files.iter().any(|file| file.rel_path == "tokenizer/vocab.json"));
    assert_eq!(found.size_bytes, found.files.iter().map(|file| file.size).sum::<u64>());
    check_places(&found);
}

fn index(root: &Path, places: &[(&str, &str)]) {
    let map: serde_json::Map<String, Value> =
        places.iter().map(|(name, file)| ((*name).to_owned(), json!(file))).collect();
    let name = "unet/diffusion_pytorch_model.safetensors.index.json";
    document(&root.join(name), &json!({ "metadata": { "total_size": 1 }, "weight_map": map }));
}

const ONE: &str = "diffusion_pytorch_model-00001-of-00002.safetensors";
const TWO: &str = "diffusion_pytorch_model-00002-of-00002.safetensors";

fn sharded(root: &Path) -> Vec<(&'static str, &'static str)> {
    folder(root);
    model(&root.join("unet").join(ONE), &UNET);
    model(&root.join("unet").join(TWO), &[ATTENTION]);
    UNET.iter().map(|(name, _)| (*name, ONE)).chain([(ATTENTION.0, TWO)]).collect()
}

#[test]
fn shards_are_read_as_one_component() {
    let root = TempDir::new().unwrap();
    let places = sharded(root.path());
    index(root.path(), &places);
    let found = inspect(root.path()).unwrap();
    assert_eq!((found.base, found.reason.as_deref()), (Base::Sdxl, None));
    let unet = found.components.iter().find(|component| component.kind.as_str() == "unet").unwrap();
    assert_eq!(unet.tensors.len(), 7);
    check_places(&found);
    // the same set outside a pipeline is a model by its index
    let alone = inspect(&root.path().join("unet/diffusion_pytorch_model.safetensors.index.json")).unwrap();
    assert_eq!((alone.model_type, alone.base), (ModelType::Unet, Base::Sdxl));
    assert_eq!(alone.files.iter().map(|file| file.rel_path.as_str()).collect::<Vec<_>>(), ["", ONE, TWO]);
    check_places(&alone);
}

/// The reason given when the index says `places`.
fn refused(places: &[(&str, &str)]) -> String {
    let root = TempDir::new().unwrap();
    sharded(root.path());
    index(root.path(), places);
    let found = inspect(root.path()).unwrap();
    assert!(!kinds(&found).contains(&"unet"));
    assert_eq!(found.metadata["facts"]["missing_components"], json!(["unet"]));
    found.reason.unwrap()
}

#[test]
fn an_index_that_lies_or_leaves_the_folder_is_refused() {
    assert!(refused(&[]).contains("names no shard"));
    assert!(refused(&[(ATTENTION.0, TWO)]).contains("names 1 shards of 2"));
    let swapped = [(ATTENTION.0, ONE), (UNET[0].0, TWO)];
    assert!(refused(&swapped).contains("where the index puts it"));
    for name in
        ["../vae/diffusion_pytorch_model.safetensors", "..", "/etc/x.safetensors", "a\\b.safetensors", ".x.safetensors"]
    {
        assert!(refused(&[("a", name)]).contains("not a plain file name"), "{name}");
    }
    let gone = [("a", "x-00001-of-00001.safetensors")];
    assert!(refused(&gone).contains("no such file"));
}

#[test]
fn the_unsuffixed_variant_is_preferred_then_fp16() {
    let root = TempDir::new().unwrap();
    folder(root.path());
    let unet = root.path().join("unet");
    model(&unet.join("diffusion_pytorch_model.fp16.safetensors"), &whole_unet());
    model(&unet.join("diffusion_pytorch_model.ema.safetensors"), &whole_unet());
    let chosen = |found: &Inspection| {
        let evidence = found.evidence.iter().filter(|evidence| evidence.rule == "diffusers.weights");
        evidence.map(|evidence| evidence.matched.clone()).find(|file| file.starts_with("unet/")).unwrap()
    };
    let found = inspect(root.path()).unwrap();
    assert_eq!(chosen(&found), "unet/diffusion_pytorch_model.fp16.safetensors");
    assert!(found.evidence.iter().any(|evidence| evidence.rule == "diffusers.other_variants"));
    model_in(&unet.join("diffusion_pytorch_model.safetensors"), "F32", &whole_unet(), &[]);
    let found = inspect(root.path()).unwrap();
    assert_eq!(chosen(&found), "unet/diffusion_pytorch_model.safetensors");
    assert_eq!(found.variant.as_deref(), Some("mixed"));
}

#[test]
fn broken_pickle_weights_are_a_missing_component_with_a_reason() {
    let root = TempDir::new().unwrap();
    folder(root.path());
    fs::write(root.path().join("unet/diffusion_pytorch_model.bin"), b"PK\x03\x04").unwrap();
    let found = inspect(root.path()).unwrap();
    assert_eq!((found.model_type, found.base), (ModelType::Checkpoint, Base::Sdxl));
    assert!(found.reason.unwrap().contains("no end record"));
}

#[test]
fn a_folder_without_a_usable_index_is_unknown() {
    let root = TempDir::new().unwrap();
    let found = inspect(root.path()).unwrap();
    assert_eq!((found.model_type, found.format), (ModelType::Unknown, Format::Unknown));
    fs::write(root.path().join("model_index.json"), b"{").unwrap();
    let found = inspect(root.path()).unwrap();
    assert_eq!((found.model_type, found.format), (ModelType::Unknown, Format::Diffusers));
    assert!(found.reason.unwrap().contains("pipeline index"));
    document(&root.path().join("model_index.json"), &json!({ "_class_name": "X", "../up": ["a", "b"] }));
    let found = inspect(root.path()).unwrap();
    assert!(found.components.is_empty());
    assert!(found.reason.unwrap().contains("not a plain folder name"));
}
