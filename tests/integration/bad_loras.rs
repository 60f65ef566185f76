//! LoRAs that cannot be used, through the whole farm: each is refused with what is wrong with it and nothing else suffers.

#![expect(clippy::unwrap_used, reason = "a failed step of a story is a failed story")]

use std::{fs, path::Path};

use harness::{Daemon, Farm, SHORT};
use serde_json::{Value, json};
use shared::{error::ErrorCode, job::JobState};

use crate::lora_files::{self, Entry};

/// A farm with a tiny SD 1.5 model, a LoRA for it, and what `make` puts beside them, given the LoRA's tensors.
async fn farm_with(make: impl FnOnce(&Path, &[Entry])) -> (Farm, Daemon) {
    let farm = Farm::start().await;
    let made = std::process::Command::new(harness::binary("modelyard"))
        .args(["dev", "make-models", "--arch", "sd15,lora-sd15", "--layout", "single", "--out"])
        .arg(farm.library())
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let good = fs::read_dir(farm.library())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().contains("lora-sd15-tiny"))
        .unwrap();
    make(&farm.library(), &lora_files::read(&good));
    let agent = farm.agent_with_library(farm.agent("a")).await;
    (farm, agent)
}

async fn check(farm: &Farm, lora: &str, state: JobState) -> shared::wire::JobView {
    let job = farm.api.submit("/v1/loras/check", json!({ "lora": lora, "base": "sd15-tiny" })).await;
    farm.api.job_ended(job.id, state, SHORT).await.job
}

async fn checked(farm: &Farm, lora: &str) -> Value {
    check(farm, lora, JobState::Succeeded).await.result.expect("a result")
}

/// The code and text of the error that a check ends with.
async fn failed(farm: &Farm, lora: &str) -> (ErrorCode, String) {
    let error = check(farm, lora, JobState::Failed).await.error.expect("an error");
    let causes = serde_json::to_string(&error).expect("JSON");
    (error.code, causes)
}

fn first<'a>(tensors: &'a mut [Entry], ending: &str) -> &'a mut Entry {
    tensors.iter_mut().find(|tensor| tensor.name.ends_with(ending)).expect("such a tensor")
}

#[tokio::test]
async fn every_bad_lora_is_named_with_its_fault_and_the_farm_goes_on() {
    let make = |folder: &Path, good: &[Entry]| {
        let path = |name: &str| folder.join(format!("{name}.safetensors"));
        lora_files::write(&path("nan"), &{
            let mut tensors = good.to_vec();
            let down = first(&mut tensors, ".lora_down.weight");
            let width = down.bytes.len() / down.shape.iter().product::<usize>();
            down.bytes[..width].fill(0xff);
            tensors
        });
        lora_files::write(&path("silent"), &{
            let mut tensors = good.to_vec();
            tensors.iter_mut().filter(|tensor| tensor.name.ends_with(".alpha")).for_each(|alpha| alpha.bytes.fill(0));
            tensors
        });
        lora_files::write(&path("twice"), &{
            let mut tensors = good.to_vec();
            let down = first(&mut tensors, ".lora_down.weight").clone();
            let name = down.name.replace(".lora_down.weight", ".lora_A.weight");
            tensors.push(Entry { name, ..down });
            tensors
        });
        lora_files::write(&path("half"), &{
            let mut tensors = good.to_vec();
            let up = first(&mut tensors, ".lora_up.weight").name.clone();
            tensors.retain(|tensor| tensor.name != up);
            tensors
        });
        let elsewhere =
            good.iter().cloned().map(|tensor| Entry { name: tensor.name.replace("_blocks_", "_bricks_"), ..tensor });
        let elsewhere: Vec<Entry> = elsewhere.filter(|tensor| tensor.name.starts_with("lora_unet_down")).collect();
        lora_files::write(&path("elsewhere"), &elsewhere);
        let rotated =
            Entry::new("lora_unet_down_blocks_0_attentions_0_proj_in.oft_blocks", &[2, 4, 4], std::iter::repeat(0.0));
        lora_files::write(&path("rotated"), &[rotated]);
        lora_files::write(&path("wide"), &wide(good, 5000));
        let whole = fs::read(path("nan")).unwrap();
        fs::write(path("cut"), &whole[..whole.len() / 2]).unwrap();
    };
    let (farm, _agent) = farm_with(make).await;

    let (code, why) = failed(&farm, "nan").await;
    assert!(code == ErrorCode::Corrupt && why.contains("lora_down.weight") && why.contains("not finite"), "{why}");
    let (code, why) = failed(&farm, "twice").await;
    assert!(code == ErrorCode::Corrupt && why.contains("the same part"), "{why}");
    let (code, why) = failed(&farm, "half").await;
    assert!(code == ErrorCode::Corrupt && why.contains("is incomplete"), "{why}");
    let (code, why) = failed(&farm, "rotated").await;
    assert!(code == ErrorCode::Unsupported && why.contains("OFT"), "{why}");

    let silent = checked(&farm, "silent").await;
    assert!(
        silent["fits"] == true && silent["without_effect"].as_u64().is_some_and(|modules| modules > 10),
        "{silent}"
    );
    let elsewhere = checked(&farm, "elsewhere").await;
    assert_eq!((&elsewhere["fits"], elsewhere["matched"].as_array().map(Vec::len)), (&json!(false), Some(0)));
    assert!(elsewhere["refusal"].as_str().is_some_and(|why| why.contains("only 0 of its")), "{elsewhere}");
    // a rank beyond that of any weight is as good as any other
    let wide = checked(&farm, "wide").await;
    assert_eq!((&wide["fits"], &wide["ranks"]), (&json!(true), &json!({ "5000": 1 })));

    // a file that is cut short is listed with the reason, and no job begins
    let cut = farm.model("cut").await;
    assert!(cut.summary.state != "available" || cut.summary.reason.is_some(), "{cut:?}");
    let refused = farm.api.post("/v1/loras/check", &json!({ "lora": "cut", "base": "sd15-tiny" })).await;
    assert!((400..500).contains(&refused.status), "{refused:?}");

    let good = checked(&farm, "lora-sd15-tiny").await;
    assert_eq!((&good["fits"], &good["without_effect"]), (&json!(true), &json!(0)), "{good}");
    farm.assert_ledger_is_clean().await;
}

/// Settings beside a LoRA that cannot be read: refused where a module is scaled by them, told where every module has its own alpha.
#[tokio::test]
async fn settings_that_cannot_be_read_are_refused_only_where_they_are_needed() {
    let make = |folder: &Path, good: &[Entry]| {
        let beside = |name: &str, tensors: &[Entry]| {
            let folder = folder.join(name);
            fs::create_dir(&folder).unwrap();
            lora_files::write(&folder.join("adapter_model.safetensors"), tensors);
            fs::write(folder.join("adapter_config.json"), "{\"lora_alpha\": 8,").unwrap();
        };
        beside("unneeded", good);
        let first = good.iter().find(|tensor| tensor.name.ends_with(".alpha")).unwrap().name.clone();
        let one_less: Vec<Entry> = good.iter().filter(|tensor| tensor.name != first).cloned().collect();
        beside("needed", &one_less);
    };
    let (farm, _agent) = farm_with(make).await;
    let report = checked(&farm, "unneeded").await;
    assert_eq!((&report["fits"], report["warnings"].as_array().map(Vec::len)), (&json!(true), Some(1)), "{report}");
    let warning = report["warnings"][0].as_str().unwrap_or_default();
    assert!(warning.contains("adapter_config.json") && warning.contains("an `alpha` of its own"), "{warning}");
    // it changes what the LoRA without such a file changes, and is applied as that is
    let plain = checked(&farm, "lora-sd15-tiny").await;
    assert_eq!((&report["matched"], &report["digest"]), (&plain["matched"], &plain["digest"]));
    assert!(plain["warnings"].is_null(), "{plain}");
    let (code, why) = failed(&farm, "needed").await;
    assert!(code == ErrorCode::Corrupt && why.contains("its settings are not known"), "{why}");
    assert!(why.contains("adapter_config.json"), "{why}");
    farm.assert_ledger_is_clean().await;
}

/// One module of the LoRA with this rank.
fn wide(good: &[Entry], rank: usize) -> Vec<Entry> {
    let down = good.iter().find(|tensor| tensor.name.ends_with("attn1_to_q.lora_down.weight")).expect("a query");
    let stem = down.name.trim_end_matches(".lora_down.weight");
    let up = good.iter().find(|tensor| tensor.name == format!("{stem}.lora_up.weight")).expect("its other factor");
    let numbers = |scale: f32| (0_usize..).map(move |at| (f32::from(u8::try_from(at % 17).unwrap()) - 8.0) * scale);
    vec![
        Entry::new(&down.name, &[rank, down.shape[1]], numbers(1e-3)),
        Entry::new(&up.name, &[up.shape[0], rank], numbers(1e-3)),
        Entry::new(&format!("{stem}.alpha"), &[], std::iter::once(4.0)),
    ]
}

#[tokio::test]
async fn bad_loras_are_not_blended_and_leave_no_file() {
    let make = |folder: &Path, good: &[Entry]| {
        let path = |name: &str| folder.join(format!("{name}.safetensors"));
        let mut tensors = good.to_vec();
        tensors.iter_mut().filter(|tensor| tensor.name.ends_with(".alpha")).for_each(|alpha| alpha.bytes.fill(0));
        lora_files::write(&path("silent"), &tensors);
        let mut tensors = good.to_vec();
        let down = first(&mut tensors, "attn1_to_q.lora_down.weight").clone();
        let stem = down.name.trim_end_matches(".lora_down.weight").to_owned();
        let outputs = first(&mut tensors, &format!("{stem}.lora_up.weight")).shape[0];
        tensors.push(Entry::new(&format!("{stem}.dora_scale"), &[outputs, 1], std::iter::repeat(1.0)));
        lora_files::write(&path("dora"), &tensors);
        lora_files::write(&path("wide"), &wide(good, 3000));
    };
    let (farm, _agent) = farm_with(make).await;
    let blend = |loras: Value| json!({ "loras": loras, "output": { "path": "made.safetensors" } });
    let refused = async |request: Value| {
        let job = farm.api.submit("/v1/loras/blend", request).await;
        let error = farm.api.job_ended(job.id, JobState::Failed, SHORT).await.job.error.expect("an error");
        (error.code, serde_json::to_string(&error).expect("JSON"))
    };
    let (code, why) = refused(blend(json!([{ "lora": "dora" }]))).await;
    assert!(code == ErrorCode::Unsupported && why.contains("DoRA") && why.contains("bake"), "{why}");
    let (code, why) = refused(blend(json!([{ "lora": "silent" }]))).await;
    assert!(code == ErrorCode::InvalidArgument && why.contains("nothing is changed"), "{why}");
    let (code, why) = refused(blend(json!([{ "lora": "lora-sd15-tiny", "blocks": { "mid_block": 0.5 } }]))).await;
    assert!(code == ErrorCode::InvalidArgument && why.contains("name a base"), "{why}");
    let twice = blend(json!([{ "lora": "lora-sd15-tiny" }, { "lora": "lora-sd15-tiny", "weight": 0.5 }]));
    let twice = farm.api.post("/v1/loras/blend", &twice).await.problem(400);
    assert_eq!(twice.errors[0].pointer, "/loras/1/lora", "{twice:?}");
    let elsewhere =
        json!({ "loras": [{ "lora": "lora-sd15-tiny" }], "output": { "root": "none", "path": "a.safetensors" } });
    let elsewhere = farm.api.post("/v1/loras/blend", &elsewhere).await.problem(400);
    assert_eq!(elsewhere.errors[0].pointer, "/output/root", "{elsewhere:?}");
    assert!(!farm.library().join("made.safetensors").exists());
    farm.assert_ledger_is_clean().await;
}
