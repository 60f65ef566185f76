//! LoRAs of two trainers against bases they are for, and against one that they are not for.

use std::process::Command;

use harness::{Farm, SHORT};
use serde_json::{Value, json};
use shared::job::JobState;

async fn checked(farm: &Farm, lora: &str, base: &str) -> Value {
    let args = json!({ "lora": lora, "base": base });
    let job = farm.api.submit("/v1/loras/check", args).await;
    farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await.job.result.expect("a result")
}

fn count(report: &Value, list: &str) -> usize {
    report[list].as_array().expect("a list").len()
}

#[tokio::test]
async fn a_lora_is_matched_by_every_trainers_names_and_refused_on_another_base() {
    let farm = Farm::start().await;
    let made = Command::new(harness::binary("modelyard"))
        .args(["dev", "make-models", "--arch", "sd15,sdxl,lora-sd15,lora-sdxl", "--layout", "both", "--out"])
        .arg(farm.library())
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let _agent = farm.agent_with_library(farm.agent("a")).await;

    // names as kohya and as PEFT write them, on a single file and on a folder: all modules found, the same tensors changed
    let mut touched = Vec::new();
    for base in ["sdxl-tiny", "sdxl-tiny-diffusers"] {
        for lora in ["lora-sdxl-tiny", "lora-sdxl-tiny-diffusers"] {
            let report = checked(&farm, lora, base).await;
            assert_eq!((&report["fits"], count(&report, "unmatched")), (&json!(true), 0), "{lora} {base}: {report}");
            assert_eq!(report["components"], json!(["text_encoder", "text_encoder_2", "unet"]), "{lora} {base}");
            assert!(report["estimated_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{report}");
            touched.push((count(&report, "matched"), report["estimated_bytes"].clone(), report["ranks"].clone()));
        }
    }
    touched.dedup();
    assert!(matches!(touched.as_slice(), [(100.., _, _)]), "{touched:?}");

    // the names of text encoders fit both families: the LoRA is refused all the same, with a reason
    let other = checked(&farm, "lora-sdxl-tiny", "sd15-tiny").await;
    assert_eq!(other["fits"], false, "{other}");
    assert!(other["refusal"].as_str().is_some_and(|why| why.contains("of its modules")), "{other}");
    // what is checked is in RAM for the next time
    assert_eq!(checked(&farm, "lora-sd15-tiny", "sd15-tiny").await["from"], "disk");
    assert_eq!(checked(&farm, "lora-sd15-tiny", "sd15-tiny").await["from"], "ram");

    // a base is no LoRA, and a LoRA is no base
    let args = json!({ "lora": "sd15-tiny", "base": "sd15-tiny" });
    let refused = farm.api.post("/v1/jobs", &json!({ "kind": "lora_check", "args": args })).await;
    assert!(refused.problem(415).detail.contains("has no LoRA"));
    farm.assert_ledger_is_clean().await;
}
