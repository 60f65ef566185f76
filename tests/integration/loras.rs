//! LoRAs of two trainers against bases they are for and against one that they are not for; and blended into one.

use std::process::Command;

use harness::{Farm, LONG, SHORT, wait_for};
use reqwest::Method;
use serde_json::{Value, json};
use shared::{
    error::ErrorCode,
    job::JobState,
    wire::{BlendLorasResult, LoraView},
};

use crate::{
    command_line::modelyard,
    corrections::{correct, settled},
    engine::make_models,
    lora_files::{self, Entry, metadata},
};

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

#[tokio::test]
async fn a_stack_is_blended_into_one_lora_that_is_catalogued_with_what_it_was_made_from() {
    let farm = Farm::start().await;
    let made = Command::new(harness::binary("modelyard"))
        .args(["dev", "make-models", "--arch", "sdxl,lora-sdxl", "--layout", "both", "--out"])
        .arg(farm.library())
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let url = ["--api", farm.api.url()];
    let folder = farm.path("cli");
    std::fs::create_dir(&folder).unwrap();
    let run = async |arguments: &[&str]| modelyard(&folder, &[arguments, &url].concat(), SHORT).await;

    // two trainers' names for one module need a base; with it the ranks add
    let stack = ["lora-sdxl-tiny:0.7:0.2", "lora-sdxl-tiny-diffusers:-0.3"];
    let blend = |more: &[&'static str]| [&["loras", "blend"], stack.as_slice(), more].concat();
    let refused = run(&blend(&["-o", "both.safetensors"])).await.with(2);
    assert!(refused.contains("name a base"), "{refused}");
    let exact =
        run(&blend(&["-o", "both.safetensors", "--base", "sdxl-tiny", "--dtype", "fp32", "--json"])).await.json();
    assert_eq!(
        (&exact["lora_misfits"], exact["ranks"].as_object().map(|ranks| ranks.len())),
        (&Value::Null, Some(1)),
        "{exact}"
    );
    assert!(exact["error"].as_f64().is_some_and(|error| error < 1e-6), "{exact}");
    let (path, told) = (farm.library().join("both.safetensors"), metadata(&farm.library().join("both.safetensors")));
    assert_eq!((&told["ss_network_module"], &told["modelspec.title"]), (&json!("networks.lora"), &json!("both")));
    let from: Value = serde_json::from_str(told["modelyard.made_from"].as_str().unwrap()).unwrap();
    assert_eq!((&from["loras"][0]["weight"], &from["loras"][1]["weight"]), (&json!(0.7), &json!(-0.3)));
    assert!(from["loras"][0]["digest"].as_str().is_some_and(|digest| digest.starts_with("blake3:")), "{from}");

    // the scan that follows lists it as what it is, and it is for the base as its sources are
    let listed = wait_for("the blend to be catalogued", SHORT, || async {
        let loras: Vec<LoraView> = farm.api.list("/v1/loras?q=both").await;
        loras.into_iter().next().ok_or_else(|| "not listed".to_owned())
    })
    .await;
    let source: LoraView =
        farm.api.list("/v1/loras?base=sdxl&q=lora-sdxl-tiny").await.into_iter().next().expect("the source");
    assert_eq!((listed.summary.base.as_str(), listed.facts.flavour.as_deref()), ("sdxl", Some("lora")));
    assert_eq!(listed.facts.rank_max, source.facts.rank_max.map(|rank| rank * 2));
    let report = checked(&farm, "both", "sdxl-tiny").await;
    assert_eq!((&report["fits"], count(&report, "unmatched")), (&json!(true), 0), "{report}");
    let shown = run(&["loras", "ls"]).await.with(0);
    assert!(shown.contains("both") && shown.contains("FLAVOUR"), "{shown}");
    let shown: Value = run(&["loras", "show", "both", "--json"]).await.json();
    assert_eq!(shown["facts"]["modules"], json!(count(&report, "matched")));
    let no_lora = farm.api.ask("/v1/loras/sdxl-tiny").await.problem(415);
    assert!(no_lora.detail.contains("no LoRA"), "{no_lora:?}");

    // what is there stays, unless it is ours and may be replaced; cut to a rank the file says how far it is off
    let before = std::fs::read(&path).unwrap();
    let again = ["-o", "both.safetensors", "--base", "sdxl-tiny", "--rank", "2"];
    run(&blend(&again)).await.with(4);
    assert_eq!(std::fs::read(&path).unwrap(), before);
    let cut = run(&blend(&[&again[..], &["--overwrite", "--json"]].concat())).await.json();
    // nor does it replace the base that it is for, though that was made here
    run(&["convert", "sdxl-tiny", "-o", "base.safetensors"]).await.with(0);
    let before = std::fs::read(farm.library().join("base.safetensors")).unwrap();
    let over = run(&blend(&["-o", "base.safetensors", "--base", "base", "--overwrite"])).await.with(4);
    assert!(over.contains("that this is made from"), "{over}");
    assert!(std::fs::read(farm.library().join("base.safetensors")).unwrap() == before);
    let error = cut["error"].as_f64().expect("an error");
    assert!(error > 1e-4 && error < 1.0 && cut["ranks"]["2"].is_number(), "{cut}");
    assert!(
        count(&cut, "worst") == 10 && cut["worst"][0]["error"].as_f64() >= cut["worst"][9]["error"].as_f64(),
        "{cut}"
    );
    farm.assert_ledger_is_clean().await;
}

/// A module that the model does not have, and a tensor that is no module: told by name in the check and in whatever uses the LoRA.
#[tokio::test]
async fn what_of_a_lora_is_not_used_is_told_wherever_it_is_used() {
    let farm = Farm::start().await;
    make_models(&farm, "sd15,lora-sd15", "single");
    let mut tensors = lora_files::read(&farm.library().join("lora-sd15-tiny.safetensors"));
    let stem = tensors.iter().find_map(|one| one.name.strip_suffix(".alpha")).expect("a module").to_owned();
    for tensor in &mut tensors {
        if let Some(part) = tensor.name.strip_prefix(&format!("{stem}.")) {
            tensor.name = format!("lora_unet_nowhere.{part}");
        }
    }
    tensors.push(Entry::new("bundle_emb.word", &[4], std::iter::repeat(0.5)));
    lora_files::write(&farm.library().join("odd.safetensors"), &tensors);
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let expected = json!({
        "lora": "odd", "unmatched": 1, "examples": ["lora_unet_nowhere"], "others": 1, "other_examples": ["bundle_emb.word"],
    });

    let report = checked(&farm, "odd", "sd15-tiny").await;
    assert_eq!((&report["fits"], &report["families"]), (&json!(true), &Value::Null), "{report}");
    assert_eq!((&report["unmatched"], &report["others"]), (&expected["examples"], &expected["other_examples"]));
    assert!(report["untouched"].as_array().is_some_and(|all| all.contains(&json!("unet.conv_in"))), "{report}");
    let folder = farm.path("cli");
    std::fs::create_dir(&folder).expect("a folder");
    let run = async |words: &str| {
        let arguments: Vec<&str> = ["--api", farm.api.url()].into_iter().chain(words.split(' ')).collect();
        modelyard(&folder, &arguments, SHORT).await.with(0)
    };
    let short = run("loras check odd sd15-tiny").await;
    assert!(short.contains("lora_unet_nowhere") && !short.contains("unet.conv_in"), "{short}");
    let long = run("loras check odd sd15-tiny --all").await;
    assert!(long.contains("as they are: ") && long.contains("unet.conv_in"), "{long}");

    let body = json!({ "model": "sd15-tiny", "loras": [{ "lora": "odd" }], "target": "device:a/cpu:0" });
    let declared = farm.api.request(Method::PUT, "/v1/pipelines/odd").json(&body);
    assert_eq!(farm.api.send(declared).await.status, 201);
    for dry_run in [true, false] {
        let job = farm.api.submit("/v1/pipelines/odd/apply", json!({ "dry_run": dry_run })).await;
        let applied = farm.api.job_ended(job.id, JobState::Succeeded, LONG).await.job.result.expect("a result");
        assert_eq!(applied["lora_misfits"], json!([expected]), "{applied}");
    }
    let said = run("convert sd15-tiny -o baked.safetensors --lora odd:0.5").await;
    assert!(said.contains("among them lora_unet_nowhere") && said.contains("among them bundle_emb.word"), "{said}");

    // a blend tells the same of each of its LoRAs, and of which nothing is in it
    let blend = "loras blend odd:0.5 lora-sd15-tiny:0 -o blend.safetensors --base sd15-tiny";
    let json = format!("--api {} {blend} --json", farm.api.url());
    let told = modelyard(&folder, &json.split(' ').collect::<Vec<_>>(), SHORT).await.json();
    let made: BlendLorasResult = serde_json::from_value(told).expect("a BlendLorasResult");
    assert_eq!(serde_json::to_value(&made.lora_misfits).expect("JSON"), json!([expected]));
    let [odd, idle] = made.loras.as_slice() else { panic!("{made:?}") };
    assert_eq!((odd.blended, odd.without_effect, odd.unmatched), (made.modules, 0, 1), "{made:?}");
    assert_eq!((idle.blended, idle.without_effect, idle.unmatched), (0, made.modules + 1, 0), "{made:?}");
    assert_eq!(made.loras_without_effect.iter().map(|one| one.lora.as_str()).collect::<Vec<_>>(), ["lora-sd15-tiny"]);
    let said = run(&format!("{blend} --overwrite --title again")).await;
    for words in ["among them lora_unet_nowhere", "among them bundle_emb.word", "`lora-sd15-tiny` changes nothing"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    farm.assert_ledger_is_clean().await;
}

/// A LoRA for another family, as its operator says, whose dimensions fit all the same: refused with the reason by the check and by
/// whatever would use it, and used once that is taken back.
#[tokio::test]
async fn a_lora_for_another_family_is_refused_though_its_dimensions_fit() {
    let farm = Farm::start().await;
    make_models(&farm, "sd15,lora-sd15", "single");
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let lora = "lora-sd15-tiny";
    correct(&farm, lora, json!({ "base": "sd21" })).await;
    settled(&farm, lora).await;
    let report = checked(&farm, lora, "sd15-tiny").await;
    assert_eq!((&report["fits"], count(&report, "unmatched")), (&json!(false), 0), "{report}");
    assert_eq!(report["families"], json!({ "lora": "sd21", "model": "sd15" }), "{report}");
    assert!(report["refusal"].as_str().is_some_and(|why| why.contains("sd21") && why.contains("sd15")), "{report}");

    let folder = farm.path("cli");
    std::fs::create_dir(&folder).expect("a folder");
    let words = ["loras", "check", lora, "sd15-tiny", "--api", farm.api.url()];
    let shown = modelyard(&folder, &words, SHORT).await.with(ErrorCode::Unsupported.exit_code().into());
    assert!(shown.contains("families") && shown.contains("the LoRA is for sd21, the model is of sd15"), "{shown}");

    let body = json!({ "model": "sd15-tiny", "loras": [{ "lora": lora }], "target": "device:a/cpu:0" });
    let declared = farm.api.request(Method::PUT, "/v1/pipelines/odd").json(&body);
    assert_eq!(farm.api.send(declared).await.status, 201);
    let stack = json!([{ "lora": lora }]);
    for (path, body) in [
        ("/v1/pipelines/odd/apply", json!({ "dry_run": true })),
        ("/v1/pipelines/odd/apply", json!({})),
        ("/v1/models/sd15-tiny/convert", json!({ "loras": stack, "output": { "path": "baked.safetensors" } })),
        ("/v1/loras/blend", json!({ "loras": stack, "base": "sd15-tiny", "output": { "path": "blend.safetensors" } })),
    ] {
        let job = farm.api.submit(path, body).await;
        let error = farm.api.job_ended(job.id, JobState::Failed, LONG).await.job.error.expect("an error");
        assert_eq!(error.code, ErrorCode::InvalidArgument, "{path}: {error:?}");
        assert!(error.message.contains("it is for sd21, the model is of sd15"), "{path}: {error:?}");
        // a blend says it before anything is read of which the dimensions could be told
        assert_eq!(error.message.contains("dimensions"), !path.ends_with("/blend"), "{path}: {error:?}");
        assert!(error.hint.is_some_and(|hint| hint.contains("correct `base`")), "{path}");
    }
    let left = ["baked", "blend"].map(|name| farm.library().join(format!("{name}.safetensors")).exists());
    assert_eq!(left, [false, false]);

    // words of an operator's own: of what names no known family nothing is concluded, other names of the same one are the same
    for (of_lora, of_model) in [("mine", "sd15"), ("sd1.5", "sd15"), ("sd15", "stable-diffusion-v1")] {
        for (model, base) in [(lora, of_lora), ("sd15-tiny", of_model)] {
            correct(&farm, model, json!({ "base": base })).await;
            settled(&farm, model).await;
        }
        let report = checked(&farm, lora, "sd15-tiny").await;
        assert_eq!((&report["fits"], &report["families"]), (&json!(true), &Value::Null), "{of_lora}: {report}");
    }
    for model in [lora, "sd15-tiny"] {
        correct(&farm, model, json!({ "base": null })).await;
        settled(&farm, model).await;
    }
    assert_eq!(checked(&farm, lora, "sd15-tiny").await["fits"], true);
    let job = farm.api.submit("/v1/pipelines/odd/apply", json!({})).await;
    farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
    farm.assert_ledger_is_clean().await;
}
