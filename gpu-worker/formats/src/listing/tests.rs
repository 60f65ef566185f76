//! Whatever headers follow each other, a listing with memory answers as an inspection without.

use std::{fs, path::Path};

use proptest::{
    prelude::*,
    test_runner::{TestCaseError, TestRunner},
};
use tempfile::TempDir;

use super::Lister;
use crate::{
    Base, Correction, FormatError, Inspection, Listing, Memo, ModelType, inspect_as,
    testing::{document, model_in},
};

/// Names that lead to different rules, some of which leave the family open to the metadata.
const NAMES: [&str; 7] = [
    "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight",
    "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight",
    "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight",
    "emb_params",
    "clip_l",
    "position_ids",
    "some.other.weight",
];

/// Where the metadata stands, if anywhere, and what it says.
type Claim = Option<(bool, &'static str)>;

/// A header made of few parts, so that many of them are alike.
fn headers() -> impl Strategy<Value = (Vec<u8>, u64)> {
    let names = prop::sample::subsequence(NAMES.to_vec(), 0..4);
    let said = prop::sample::select(vec![
        r#"{}"#,
        r#"{"format":"pt"}"#,
        r#"{"ss_base_model_version":"sdxl_base_v1-0"}"#,
        r#"{"modelspec.architecture":"flux-1-dev"}"#,
        r#"{"a":"1","a":"2"}"#,
        r#"{"a":1}"#,
    ]);
    let claim = prop::option::of((any::<bool>(), said));
    let edit = prop::option::weighted(0.2, (any::<prop::sample::Index>(), any::<u8>()));
    let data = prop_oneof![8 => Just(0i64), 1 => Just(1), 1 => Just(-1)];
    (names, 1u64..3, claim, edit, data).prop_map(|(names, width, claim, edit, data)| {
        let (mut text, bytes) = header(&names, width, claim);
        if let Some((at, byte)) = edit {
            let at = at.index(text.len());
            text[at] = byte;
        }
        (text, bytes.saturating_add_signed(data))
    })
}

fn header(names: &[&str], width: u64, claim: Claim) -> (Vec<u8>, u64) {
    let mut entries = Vec::new();
    let mut end = 0;
    for name in names {
        let begin = end;
        end += width * 768 * 2;
        entries.push(format!(r#""{name}":{{"dtype":"F16","shape":[{width},768],"data_offsets":[{begin},{end}]}}"#));
    }
    if let Some((is_first, said)) = claim {
        let at = if is_first { 0 } else { entries.len() };
        entries.insert(at, format!(r#""__metadata__":{said}"#));
    }
    (format!("{{{}}}", entries.join(",")).into_bytes(), end)
}

fn corrections() -> impl Strategy<Value = Correction> {
    let model_type = prop::option::of(prop::sample::select(vec![ModelType::Vae, ModelType::Checkpoint]));
    let base = prop::option::of(prop::sample::select(vec![Base::Sdxl, Base::Flux]));
    (model_type, base).prop_map(|(model_type, base)| Correction { model_type, base, variant: None })
}

/// An answer, or the text of why there is none.
fn answer(read: Result<Listing, FormatError>) -> Result<Listing, String> {
    read.map_err(|error| format!("{error:?}"))
}

fn compare(lister: &mut Lister<'_>, path: &Path, correction: Correction) -> Result<(), TestCaseError> {
    let alone = answer(inspect_as(path, correction.clone()).map(Inspection::listing));
    prop_assert_eq!(answer(lister.list(path, correction)), alone);
    Ok(())
}

#[test]
fn headers_in_any_order_are_answered_as_alone() {
    let dir = TempDir::new().unwrap();
    // the second has room for a few headers only, so that it forgets all the time
    let (memo, crowded) = (Memo::default(), Memo::within(4 << 10));
    let path = dir.path().join("x.safetensors");
    let config = ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() };
    let outcome = TestRunner::new(config).run(&(headers(), corrections()), |((header, bytes), correction)| {
        crate::testing::raw(&path, &header, bytes);
        compare(&mut Lister::new(&memo), &path, correction.clone())?;
        compare(&mut Lister::new(&crowded), &path, correction)
    });
    outcome.unwrap();
}

#[test]
fn a_config_beside_a_file_counts_whatever_is_remembered() {
    let dir = TempDir::new().unwrap();
    let tensors: &[(&str, &[u64])] =
        &[("decoder.mid.block_1.conv1.weight", &[8, 8, 3, 3]), ("decoder.conv_in.weight", &[8, 4, 3, 3])];
    let alike = model_in(&dir.path().join("alike.safetensors"), "F16", tensors, &[]);
    let beside = model_in(&dir.path().join("diffusion_pytorch_model.safetensors"), "F16", tensors, &[]);
    let config = serde_json::json!({ "_class_name": "AutoencoderKL", "scaling_factor": 0.13025 });
    document(&dir.path().join("config.json"), &config);
    let memo = Memo::default();
    let mut lister = Lister::new(&memo);
    for path in [&alike, &beside, &alike] {
        let alone = inspect_as(path, Correction::default()).unwrap().listing();
        assert_eq!(lister.list(path, Correction::default()).unwrap(), alone, "{}", path.display());
    }
    let told = lister.list(&beside, Correction::default()).unwrap();
    assert_eq!((told.base, lister.list(&alike, Correction::default()).unwrap().base), (Base::Sdxl, Base::Unknown));

    // one that is a link counts where it stays beside the model or its bytes, and nowhere else
    let beside_it = dir.path().join("told.json");
    fs::rename(dir.path().join("config.json"), &beside_it).unwrap();
    let elsewhere = TempDir::new().unwrap();
    document(&elsewhere.path().join("config.json"), &config);
    for (target, base) in [(beside_it, Base::Sdxl), (elsewhere.path().join("config.json"), Base::Unknown)] {
        std::os::unix::fs::symlink(&target, dir.path().join("config.json")).unwrap();
        assert_eq!(lister.list(&beside, Correction::default()).unwrap().base, base, "{}", target.display());
        fs::remove_file(dir.path().join("config.json")).unwrap();
    }
}

#[test]
fn a_buffer_of_a_longer_header_leaves_nothing_in_a_shorter_one() {
    let dir = TempDir::new().unwrap();
    let long = model_in(&dir.path().join("long.safetensors"), "F16", &[("emb_params", &[1, 768])], &[("k", "v")]);
    let short = model_in(&dir.path().join("short.safetensors"), "F16", &[("e", &[1, 768])], &[]);
    let memo = Memo::default();
    let mut lister = Lister::new(&memo);
    assert_eq!(lister.list(&long, Correction::default()).unwrap().metadata["k"], "v");
    let found = lister.list(&short, Correction::default()).unwrap();
    assert_eq!(found, inspect_as(&short, Correction::default()).unwrap().listing());
    fs::remove_file(&short).unwrap();
    assert!(lister.list(&short, Correction::default()).is_err());
}
