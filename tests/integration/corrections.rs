//! What an operator says that a model is decides how it is read, cut into components, loaded and hashed.

use harness::{Farm, LONG, ModelFile, SHORT, mebibytes, wait_for};
use reqwest::Method;
use serde_json::{Value, json};
use shared::wire::{ModelDetail, Page, SharedComponent, TensorView};

use crate::support::loaded;

pub(crate) async fn correct(farm: &Farm, model: &str, said: Value) -> ModelDetail {
    let request = farm.api.request(Method::PATCH, &format!("/v1/models/{model}")).json(&said);
    farm.api.send(request).await.json()
}

pub(crate) async fn settled(farm: &Farm, model: &str) -> ModelDetail {
    wait_for("the correction to be read", SHORT, || async {
        let detail = farm.model(model).await;
        if detail.correction_pending { Err("pending".to_owned()) } else { Ok(detail) }
    })
    .await
}

/// A file that no rule knows is of no use until somebody says what it is; then it loads, and it goes back when that is taken back.
#[tokio::test]
async fn a_file_that_no_rule_knows_loads_once_somebody_says_what_it_is() {
    let farm = Farm::start().await;
    ModelFile::unnamed(mebibytes(2)).write(&farm.library(), "odd.safetensors");
    let agent = farm.agent_with_library(farm.agent("a")).await;
    let detected = farm.model("odd").await;
    assert_eq!((detected.summary.model_type.as_str(), detected.components.len()), ("unknown", 0));
    farm.api.post("/v1/models/odd/load", &json!({})).await.problem(415);

    let said = correct(&farm, "odd", json!({ "type": "upscaler" })).await;
    assert!(said.correction_pending && said.summary.model_type == "upscaler", "{said:?}");
    let now = settled(&farm, "odd").await;
    assert_eq!((now.components.len(), now.detected.model_type.as_str()), (1, "unknown"));
    assert_eq!(now.components[0].kind, "upscaler");
    loaded(&farm, "odd").await;

    // what was said outlives the scan and the agent that read it
    drop(agent);
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    assert_eq!(settled(&farm, "odd").await.components[0].id, now.components[0].id);

    let back = correct(&farm, "odd", json!({ "type": null })).await;
    assert!(back.correction_pending, "{back:?}");
    assert!(settled(&farm, "odd").await.components.is_empty());
}

/// Hashing knows equal components without a load, and lists the tensors of both.
#[tokio::test]
async fn hashing_finds_equal_components_and_lists_their_tensors() {
    let farm = Farm::start().await;
    ModelFile::vae(mebibytes(2)).write(&farm.library(), "one.safetensors");
    ModelFile::vae(mebibytes(2)).write(&farm.library(), "two.safetensors");
    ModelFile::checkpoint(mebibytes(2), mebibytes(1), mebibytes(1)).write(&farm.library(), "all.safetensors");
    let _agent = farm.agent_with_library(farm.agent("a").hash_limit("none")).await;
    wait_for("the digests of all components", LONG, || async {
        let all: Page<SharedComponent> = farm.api.get("/v1/components").await;
        let open = all.items.iter().filter(|component| component.component.digest.is_none()).count();
        if open == 0 && all.items.len() == 4 { Ok(()) } else { Err(format!("{open} of {} unknown", all.items.len())) }
    })
    .await;
    let of = async |name: &str| farm.model(name).await.components.remove(0);
    let before = of("one").await;
    assert_eq!(before.id, of("two").await.id);

    let tensors: Vec<TensorView> = farm.api.list("/v1/models/one/tensors").await;
    assert_eq!(tensors.len(), 11);
    let page: Page<TensorView> = farm.api.get("/v1/models/one/tensors?limit=6").await;
    let rest = format!("/v1/models/one/tensors?limit=6&cursor={}", page.next_cursor.expect("a second page"));
    let rest: Page<TensorView> = farm.api.get(&rest).await;
    assert_eq!((rest.next_cursor, [page.items, rest.items].concat()), (None, tensors.clone()));
    let first = &tensors[0];
    assert_eq!(
        (first.name.as_str(), first.canonical.join(" ").as_str()),
        ("encoder.conv_in.weight", "encoder.conv_in.weight")
    );
    assert_eq!((first.shape.as_slice(), first.end - first.begin), (&[16, 3, 3, 3][..], 16 * 3 * 3 * 3 * 4));
    assert!(tensors.windows(2).all(|pair| pair[0].end == pair[1].begin), "in the order of the file, without gaps");
    let named: Vec<TensorView> = farm.api.list("/v1/models/all/tensors?component=vae&name=mid_block.ATTENTIONS").await;
    assert_eq!(named.len(), 1);
    assert_eq!(named[0].name, "first_stage_model.decoder.mid.attn_1.q.weight");
    farm.api.ask("/v1/models/all/tensors?component=vea").await.problem(404);

    // a load finds what hashing found
    loaded(&farm, "two").await;
    let after = of("two").await;
    assert_eq!((after.id, after.digest), (before.id, before.digest));
}

/// Without hashing there is no list, and the answer says what to do.
#[tokio::test]
async fn tensors_are_listed_once_the_model_was_hashed() {
    let farm = Farm::start().await;
    ModelFile::vae(mebibytes(2)).write(&farm.library(), "one.safetensors");
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let problem = farm.api.ask("/v1/models/one/tensors").await.problem(409);
    assert!(problem.hint.is_some_and(|hint| hint.contains("models hash")));
    let job = farm.api.submit("/v1/jobs", json!({ "kind": "hash", "args": { "model": "one" } })).await;
    farm.api.job_ended(job.id, shared::job::JobState::Succeeded, LONG).await;
    assert!(farm.model("one").await.components[0].digest.is_some());
    let tensors: Vec<TensorView> = farm.api.list("/v1/models/one/tensors").await;
    assert_eq!(tensors.len(), 11);
}
