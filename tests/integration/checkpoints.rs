//! PyTorch checkpoints: their weights are read, whatever is in them is never run.

use std::fs;

use harness::{Farm, SHORT};
use serde_json::json;

use crate::support::loaded;

/// Files that torch itself wrote: `tests/reference/make_pickles.py`.
fn torch_wrote(name: &str) -> Vec<u8> {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/reference/golden/pickles/");
    fs::read(format!("{golden}{name}")).expect("golden files are committed")
}

#[tokio::test]
async fn both_containers_of_one_tensor_are_one_component() {
    let farm = Farm::start().await;
    fs::create_dir_all(farm.library()).unwrap();
    for (from, to) in [("embedding.zip.pt", "new.pt"), ("embedding.legacy.pt", "old.pt")] {
        fs::write(farm.library().join(to), torch_wrote(from)).unwrap();
    }
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    assert_eq!(farm.model("new").await.summary.format, "torch_zip");
    assert_eq!(farm.model("old").await.summary.format, "pickle");
    for name in ["new", "old"] {
        assert_eq!(farm.model(name).await.summary.model_type, "embedding");
        loaded(&farm, name).await;
    }
    let component = async |name: &str| farm.model(name).await.components[0].id;
    assert_eq!(component("new").await, component("old").await);
}

#[tokio::test]
async fn a_pickle_that_would_run_code_is_named_and_runs_nothing() {
    let farm = Farm::start().await;
    let canary = farm.path("canary");
    let attack = format!("\u{2}cposix\nsystem\n(S'touch {}'\ntR.", canary.display());
    let attack = [&[0x80], attack.as_bytes()].concat();
    fs::create_dir_all(farm.library()).unwrap();
    for name in ["attack.ckpt", "renamed.safetensors"] {
        fs::write(farm.library().join(name), &attack).unwrap();
    }
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let model = farm.model("attack").await;
    assert!(model.summary.model_type == "unknown" && model.components.is_empty(), "{model:?}");
    let reason = model.summary.reason.unwrap();
    assert!(reason.contains("posix.system"), "{reason}");
    let refused = farm.api.post("/v1/models/attack/load", &json!({})).await;
    let problem = refused.problem(415);
    assert!(problem.detail.contains("posix.system"), "{problem:?}");

    let job = farm.api.submit("/v1/models/attack/validate", json!({})).await;
    let ended = farm.api.job_ended(job.id, shared::job::JobState::Succeeded, SHORT).await;
    assert_eq!(ended.job.result.unwrap()["verdict"], "unsafe");
    assert!(!canary.exists());
}
