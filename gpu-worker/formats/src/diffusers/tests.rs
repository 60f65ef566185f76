//! Pipeline folders on disk: whole, sharded, with variants, incomplete, hostile.

use std::{fs, path::Path};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    Base, Correction, Format, Inspection, ModelType, inspect, inspect_all, inspect_as,
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

/// The folder as it is read once somebody chose a variant of it.
fn chosen(path: &Path, variant: &str) -> Inspection {
    inspect_all(path, &Correction::named(None, None, Some(variant))).unwrap()
}

/// Variant, component, first file, dtypes, whether it is complete and why it is read, of all parts.
fn parts(found: &Inspection) -> Vec<(String, String, String, String, bool, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let of = |variant: &Value| {
        let parts = variant["parts"].as_array().unwrap().iter();
        let part = |part: &Value| {
            let dtypes = part["dtypes"].as_array().unwrap().iter().map(text).collect::<Vec<_>>().join("+");
            let (component, file) = (text(&part["component"]), text(&part["files"][0]));
            let complete = part["complete"] == true;
            assert_eq!(complete, part.get("problem").is_none(), "{part}");
            (text(&variant["name"]), component, file, dtypes, complete, text(&part["read"]))
        };
        parts.map(part).collect::<Vec<_>>()
    };
    found.metadata["variants"].as_array().unwrap().iter().flat_map(of).collect()
}

fn part(of: (&str, &str, &str, &str, bool, &str)) -> (String, String, String, String, bool, String) {
    let (variant, component, file, dtypes, complete, read) = of;
    (variant.into(), component.into(), file.into(), dtypes.into(), complete, read.into())
}

/// A folder whose UNet is there in 32 bits, in 16 as a file and as a pickle, and in part averaged; everything else only without a variant.
fn with_variants(root: &Path) {
    folder(root);
    let unet = root.join("unet");
    model_in(&unet.join("diffusion_pytorch_model.safetensors"), "F32", &whole_unet(), &[]);
    model(&unet.join("diffusion_pytorch_model.fp16.safetensors"), &whole_unet());
    fs::write(unet.join("diffusion_pytorch_model.fp16.bin"), b"PK\x03\x04").unwrap();
    model(&unet.join("diffusion_pytorch_model.ema-00001-of-00002.safetensors"), &UNET);
}

#[test]
fn every_variant_is_listed_with_what_is_there_of_it() {
    let root = TempDir::new().unwrap();
    with_variants(root.path());
    let found = inspect_all(root.path(), &Correction::default()).unwrap();
    let (plain, half) = ("unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors");
    let vae = "vae/diffusion_pytorch_model.safetensors";
    let ema = "unet/diffusion_pytorch_model.ema-00001-of-00002.safetensors";
    assert_eq!(
        parts(&found),
        [
            ("default", "text_encoder", "text_encoder/model.safetensors", "F16", true, "usual_order"),
            ("default", "unet", plain, "F32", true, "usual_order"),
            ("default", "vae", vae, "F16", true, "usual_order"),
            ("fp16", "unet", half, "F16", true, ""),
            ("fp16", "unet", "unet/diffusion_pytorch_model.fp16.bin", "", false, ""),
            ("ema", "unet", ema, "", false, ""),
        ]
        .map(part)
    );
    let variants = &found.metadata["variants"];
    let complete: Vec<bool> = (0..3).map(|at| variants[at]["complete"] == true).collect();
    assert_eq!(complete, [true, false, false], "the others lack components");
    let size = fs::metadata(root.path().join(half)).unwrap().len();
    assert_eq!(variants[1]["parts"][0]["size_bytes"], size);
    assert_eq!(variants[2]["parts"][0]["problem"], "shards without an index");
}

#[test]
fn a_chosen_variant_is_read_and_what_lacks_it_from_the_plain_files() {
    let root = TempDir::new().unwrap();
    with_variants(root.path());
    let usual = inspect_all(root.path(), &Correction::default()).unwrap();
    let half = chosen(root.path(), "fp16");
    assert_eq!((usual.variant.as_deref(), half.variant.as_deref()), (Some("mixed"), Some("fp16")));
    let read: Vec<_> = parts(&half).into_iter().filter(|part| !part.5.is_empty()).collect();
    assert_eq!(
        read,
        [
            ("default", "text_encoder", "text_encoder/model.safetensors", "F16", true, "without_chosen"),
            ("default", "vae", "vae/diffusion_pytorch_model.safetensors", "F16", true, "without_chosen"),
            ("fp16", "unet", "unet/diffusion_pytorch_model.fp16.safetensors", "F16", true, "chosen"),
        ]
        .map(part)
    );
    assert_eq!(kinds(&usual), kinds(&half));
    let weights = |found: &Inspection| found.components.iter().map(|part| part.bytes).sum::<u64>();
    assert!(weights(&half) < weights(&usual));
    assert!(half.files.iter().all(|file| file.rel_path != "unet/diffusion_pytorch_model.safetensors"));
    check_places(&half);
    // the plain weights by their own name are what is read without a choice
    let plain = chosen(root.path(), "default");
    assert_eq!((&plain.components, &plain.files), (&usual.components, &usual.files));
    assert!(parts(&plain).iter().any(|part| part.5 == "chosen"));
}

#[test]
fn a_variant_that_cannot_be_read_is_no_reason_to_read_another() {
    let root = TempDir::new().unwrap();
    with_variants(root.path());
    let broken = chosen(root.path(), "ema");
    assert!(!kinds(&broken).contains(&"unet"));
    assert!(broken.reason.as_deref().unwrap().contains("of the variant `ema` only shards without an index"));
    // a name that the folder has nowhere is a mistake
    let none = chosen(root.path(), "fp61");
    assert!(none.components.is_empty());
    let why = none.reason.as_deref().unwrap();
    assert!(why.contains("variant `fp61`") && why.contains("`default`, `ema`, `fp16`"), "{why}");
    assert!(parts(&none).iter().all(|part| part.5.is_empty()) && parts(&none).len() == 6);
    // without plain weights there is nothing to read instead
    fs::remove_file(root.path().join("unet/diffusion_pytorch_model.safetensors")).unwrap();
    assert!(kinds(&inspect_all(root.path(), &Correction::default()).unwrap()).contains(&"unet"));
    let plain = chosen(root.path(), "default");
    assert!(!kinds(&plain).contains(&"unet") && kinds(&plain).contains(&"vae"));
    assert!(plain.reason.unwrap().contains("no weights of the variant `default`"));
}

#[test]
fn shards_of_a_variant_are_read_under_both_names_that_diffusers_gave_them() {
    let (one, two) = ("00001-of-00002", "00002-of-00002");
    let now = [
        "diffusion_pytorch_model.safetensors.index.fp16.json".to_owned(),
        format!("diffusion_pytorch_model.fp16-{one}.safetensors"),
        format!("diffusion_pytorch_model.fp16-{two}.safetensors"),
    ];
    let before = [
        "diffusion_pytorch_model.safetensors.fp16.index.json".to_owned(),
        format!("diffusion_pytorch_model-{one}.fp16.safetensors"),
        format!("diffusion_pytorch_model-{two}.fp16.safetensors"),
    ];
    for [index, one, two] in [now, before] {
        let root = TempDir::new().unwrap();
        folder(root.path());
        let unet = root.path().join("unet");
        model_in(&unet.join("diffusion_pytorch_model.safetensors"), "F32", &whole_unet(), &[]);
        model(&unet.join(&one), &UNET);
        model(&unet.join(&two), &[ATTENTION]);
        let map: serde_json::Map<String, Value> = UNET
            .iter()
            .map(|(name, _)| ((*name).to_owned(), json!(one)))
            .chain([(ATTENTION.0.to_owned(), json!(two))])
            .collect();
        document(&unet.join(&index), &json!({ "metadata": {}, "weight_map": map }));
        let half = chosen(root.path(), "fp16");
        let files = &half.metadata["variants"][1]["parts"][0]["files"];
        assert_eq!(*files, json!([&index, &one, &two].map(|file| format!("unet/{file}"))));
        assert!(parts(&half).contains(&part(("fp16", "unet", &format!("unet/{index}"), "F16", true, "chosen"))));
        check_places(&half);
        // one lost: the variant is there in part
        fs::remove_file(unet.join(&two)).unwrap();
        let found = inspect_all(root.path(), &Correction::default()).unwrap();
        assert!(kinds(&found).contains(&"unet"));
        let lost = &found.metadata["variants"][1]["parts"][0];
        assert_eq!((&lost["complete"], &lost["files"][1]), (&json!(false), &json!(format!("unet/{one}"))));
        assert!(lost["problem"].as_str().unwrap().contains("no such file"), "{lost}");
    }
}

#[test]
fn a_component_alone_has_variants_too_and_no_stand_in() {
    let root = TempDir::new().unwrap();
    with_variants(root.path());
    let unet = root.path().join("unet");
    let half = chosen(&unet, "fp16");
    assert_eq!((half.format, half.variant.as_deref()), (Format::Component, Some("fp16")));
    let read = parts(&half).into_iter().find(|part| part.5 == "chosen").unwrap();
    assert_eq!(read, part(("fp16", "unet", "diffusion_pytorch_model.fp16.safetensors", "F16", true, "chosen")));
    let none = chosen(&unet, "bf16");
    assert!(none.components.is_empty() && parts(&none).len() == 4);
    assert!(none.reason.unwrap().contains("`default`, `ema`, `fp16`"));
}

#[test]
fn only_what_is_read_is_looked_at_where_nobody_lists_variants() {
    let root = TempDir::new().unwrap();
    with_variants(root.path());
    let read = inspect_as(root.path(), Correction::named(None, None, Some("fp16"))).unwrap();
    assert!(!read.metadata.contains_key("variants"));
    let listed = chosen(root.path(), "fp16");
    assert_eq!((&read.components, &read.files, &read.evidence), (&listed.components, &listed.files, &listed.evidence));
}

/// What an index may name beside what is read is bounded, whatever it names.
#[test]
fn an_index_of_more_shards_than_are_looked_at_is_passed_over() {
    let root = TempDir::new().unwrap();
    with_variants(root.path());
    let shard = |number: usize| format!("diffusion_pytorch_model.huge-{number:05}-of-00513.safetensors");
    let map: serde_json::Map<String, Value> = (1..=513).map(|at| (format!("t{at}"), json!(shard(at)))).collect();
    let index = root.path().join("unet/diffusion_pytorch_model.safetensors.index.huge.json");
    document(&index, &json!({ "weight_map": map }));
    let found = inspect_all(root.path(), &Correction::default()).unwrap();
    assert!(parts(&found).iter().all(|part| part.0 != "huge"));
    let passed_over = found.evidence.iter().find(|evidence| evidence.rule == "diffusers.more_variants").unwrap();
    assert_eq!((passed_over.matched.as_str(), &passed_over.value), ("unet", &json!(1)));
}

/// What could not be looked at just now is looked at again; what is broken stays so until its file changes.
#[test]
fn a_variant_that_cannot_be_read_now_is_told_from_one_that_is_broken() {
    let root = TempDir::new().unwrap();
    with_variants(root.path());
    let half = root.path().join("unet/diffusion_pytorch_model.fp16.safetensors");
    fs::write(&half, b"cut").unwrap();
    let all = || inspect_all(root.path(), &Correction::default()).unwrap();
    assert!(!all().is_passing());
    fs::remove_file(&half).unwrap();
    std::os::unix::fs::symlink(&half, &half).unwrap();
    let found = all();
    assert!(found.is_passing() && kinds(&found).contains(&"unet"), "{:?}", found.evidence);
}

#[test]
fn weights_of_a_variant_named_as_the_plain_ones_are_left_out_and_said_to_be() {
    let root = TempDir::new().unwrap();
    with_variants(root.path());
    let named = "diffusion_pytorch_model.default.safetensors";
    model(&root.path().join("unet").join(named), &whole_unet());
    let found = inspect_all(root.path(), &Correction::default()).unwrap();
    assert_eq!(parts(&found).iter().filter(|part| part.0 == "default" && part.1 == "unet").count(), 1);
    let left_out = found.evidence.iter().find(|evidence| evidence.rule == "diffusers.variant_default").unwrap();
    assert_eq!((left_out.matched.as_str(), &left_out.value), ("unet", &json!([named])));
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
