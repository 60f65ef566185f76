//! Metadata of the kinds that occur, whole and broken, through the extraction.

use std::{fs, path::Path};

use serde_json::json;
use tempfile::TempDir;

use super::{Extracted, attach, extract};
use crate::{
    Base, Format, Inspection, ModelType, inspect,
    inspect::unknown,
    sidecar::{Sidecar, SidecarKind},
    testing::{document, family_unet, model_in, specs},
};

fn sidecar(dir: &Path, name: &str, kind: SidecarKind) -> Sidecar {
    Sidecar { kind, path: dir.join(name) }
}

fn of(metadata: &[(&str, &str)], sidecars: &[Sidecar]) -> Extracted {
    let dir = TempDir::new().unwrap();
    let unet = family_unet("", "sd15");
    let found = inspect(&model_in(&dir.path().join("x.safetensors"), "F16", &specs(&unet), metadata)).unwrap();
    extract(&found, sidecars)
}

#[test]
fn model_spec_comes_first_and_says_so() {
    let found = of(
        &[
            ("modelspec.title", "Paper Cut Turbo"),
            ("modelspec.tags", "paper, cut"),
            ("modelspec.trigger_phrase", "papercut"),
            ("modelspec.architecture", "stable-diffusion-xl-v1-base/lora"),
            ("modelspec.prediction_type", "v"),
            ("ss_output_name", "pc_v3"),
        ],
        &[],
    );
    assert_eq!(found.title.as_deref(), Some("Paper Cut Turbo"));
    assert_eq!((found.tags.len(), found.trigger_words.as_slice()), (2, &["papercut".to_owned()][..]));
    assert_eq!((found.sources["title"].as_str(), found.sources["base_claim"].as_str()), ("modelspec", "modelspec"));
    assert_eq!(found.prediction_claim.as_deref(), Some("v_prediction"));
    assert_eq!(found.distilled_claim, Some("turbo"));
    // the tensors are SD 1's
    assert!(found.base_disagrees);
    assert_eq!(found.base_claim.unwrap().base, Some(Base::Sdxl));
}

#[test]
fn trainers_json_in_strings_is_read_and_broken_json_is_named() {
    let found = of(
        &[
            ("ss_network_dim", "32"),
            ("ss_network_alpha", "Dynamic"),
            ("ss_network_args", r#"{"algo": "loha"}"#),
            ("ss_learning_rate", "0.0001"),
            ("ss_clip_skip", "None"),
            ("ss_full_fp16", "False"),
            ("ss_resolution", "(512, 768)"),
            ("ss_tag_frequency", r#"{"10_cat": {"cat": 12, "sofa": 3}, "2_dog": {"cat": 1, "dog": 5}}"#),
            ("ss_dataset_dirs", r#"{"10_cat": {"n_repeats": 10, "img_count": 12}}"#),
            ("ss_bucket_info", r#"{"buckets": {"0": {"resolution": [512, 768], "count": 40}}}"#),
            ("ss_datasets", r#"[{"n": 1, "#),
            ("ss_reg_dataset_dirs", "7"),
            ("ss_base_model_version", "sd_v1"),
        ],
        &[],
    );
    let network = found.network.unwrap();
    assert_eq!((network.dim, network.alpha, network.algo.as_deref()), (Some(32.0), None, Some("loha")));
    let training = found.training.unwrap();
    assert_eq!(training.settings["learning_rate"], json!(0.0001));
    assert_eq!(training.settings["full_fp16"], json!(false));
    assert!(!training.settings.contains_key("clip_skip"));
    assert_eq!(training.top_tags[0], ("cat".to_owned(), 13));
    assert_eq!(training.datasets["10_cat"]["n_repeats"], 10);
    assert_eq!(training.buckets["512x768"], 40);
    assert_eq!(found.resolution.as_deref(), Some("512, 768"));
    assert_eq!(found.problems.len(), 2);
    assert!(found.problems.iter().any(|problem| problem.starts_with("ss_datasets: not JSON")));
    assert!(!found.base_disagrees);
}

#[test]
fn side_cars_fill_what_the_file_leaves_open() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    document(
        &at("x.civitai.info"),
        &json!({
            "id": 7, "modelId": 3, "name": "v2", "baseModel": "SD 1.5", "trainedWords": ["one, two", "one"],
            "model": { "name": "Site name", "tags": ["style"] },
            "files": [{ "hashes": { "SHA256": "AB".repeat(32) } }],
        }),
    );
    document(&at("x.json"), &json!({ "activation text": "three", "sd version": "SDXL", "notes": "use 0.8" }));
    document(&at("x.cm-info.json"), &json!({ "ModelId": 9, "VersionId": 8, "Tags": ["more"] }));
    document(&at("x.metadata.json"), &json!({ "model_name": "Other", "civitai": { "id": 1, "modelId": 2 } }));
    fs::write(at("x.yaml"), "model:\n  params:\n    parameterization: \"v\"  # as trained\n").unwrap();
    fs::write(at("broken.json"), "{").unwrap();
    fs::write(at("x.png"), "no picture").unwrap();
    let sidecars = [
        sidecar(dir.path(), "x.json", SidecarKind::Notes),
        sidecar(dir.path(), "x.civitai.info", SidecarKind::CivitaiInfo),
        sidecar(dir.path(), "x.cm-info.json", SidecarKind::ManagerInfo),
        sidecar(dir.path(), "x.metadata.json", SidecarKind::ManagerMetadata),
        sidecar(dir.path(), "x.yaml", SidecarKind::Config),
        sidecar(dir.path(), "x.png", SidecarKind::Preview),
        sidecar(dir.path(), "broken.json", SidecarKind::Notes),
        sidecar(dir.path(), "gone.json", SidecarKind::Notes),
    ];
    let found = of(&[], &sidecars);
    assert_eq!((found.title.as_deref(), found.sources["title"].as_str()), (Some("Site name"), "civitai.info"));
    assert_eq!(found.trigger_words, ["one", "two", "three"]);
    assert_eq!(found.sources["trigger_words"], "civitai.info, notes");
    assert_eq!(found.civitai.unwrap().model_id, Some(3));
    assert_eq!(found.sha256_claim, Some("ab".repeat(32)));
    assert_eq!(found.prediction_claim.as_deref(), Some("v_prediction"));
    assert_eq!(found.usage_hint.as_deref(), Some("use 0.8"));
    assert_eq!(found.base_claim.unwrap().text, "SD 1.5");
    assert_eq!((found.sidecars.len(), found.problems.len()), (7, 2));
}

#[test]
fn it_is_attached_beside_the_raw_metadata_and_can_be_stored() {
    let dir = TempDir::new().unwrap();
    let unet = family_unet("", "sd15");
    let path = dir.path().join("x.safetensors");
    let long = "x".repeat(100_000);
    let metadata = [("modelspec.title", "a\u{0}b"), ("modelspec.description", long.as_str())];
    let mut found = inspect(&model_in(&path, "F16", &specs(&unet), &metadata)).unwrap();
    attach(&mut found, &[]);
    assert_eq!(found.metadata["extracted"]["title"], "a\u{fffd}b");
    assert_eq!(found.metadata["extracted"]["description"].as_str().unwrap().len(), 16 << 10);
    assert_eq!(found.metadata["modelspec.title"], "a\u{fffd}b");
}

/// Nothing in the tensors of an SD 1 checkpoint says how it predicts; the config that came with it does.
#[test]
fn a_claim_says_how_a_model_predicts_where_nothing_else_does() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("x.yaml"), "model:\n  params:\n    parameterization: \"v\" # velocity\n").unwrap();
    let sidecars = [sidecar(dir.path(), "x.yaml", SidecarKind::Config)];
    let attached = |model_type: ModelType, known: Option<&str>| {
        let mut inspection: Inspection = unknown(dir.path(), Format::Safetensors, Vec::new());
        (inspection.model_type, inspection.prediction) = (model_type, known.map(str::to_owned));
        attach(&mut inspection, &sidecars);
        let evidence = inspection.evidence.first().map(|evidence| (evidence.rule, evidence.matched.clone()));
        (inspection.prediction, evidence)
    };
    let claimed = (Some("v_prediction".to_owned()), Some(("prediction.claim", "yaml".to_owned())));
    assert_eq!(attached(ModelType::Checkpoint, None), claimed);
    assert_eq!(attached(ModelType::Unet, Some("epsilon")), (Some("epsilon".to_owned()), None));
    assert_eq!(attached(ModelType::Lora, None), (None, None));
}
