//! Requests that cannot be served: each refusal says what is wrong and what would help.

use harness::{Farm, LONG, ModelFile, SHORT, mebibytes, wait_for};
use reqwest::Method;
use rustix::process::Signal;
use serde_json::json;
use shared::{
    error::ErrorCode,
    job::JobState,
    wire::{CacheView, ModelSummary, Page},
};

use crate::support::{big_model, load, loaded, small_model};

#[tokio::test]
async fn a_model_larger_than_any_device_is_507_with_the_numbers() {
    let farm = Farm::start().await;
    let file = ModelFile::checkpoint(mebibytes(40), mebibytes(4), mebibytes(8));
    file.write(&farm.library(), "huge.safetensors");
    let _agent = farm.agent_with_library(farm.agent("a").cpu_memory("32MiB")).await;
    let problem = farm.api.post("/v1/models/huge/load", &json!({})).await.problem(507);
    assert_eq!(problem.code, ErrorCode::InsufficientCapacity);
    let (needed, capacity) = (file.tensor_bytes(), mebibytes(32));
    for number in [needed, capacity, needed - capacity] {
        assert!(problem.detail.contains(&number.to_string()), "{number} in {problem:?}");
    }
    assert!(problem.detail.contains("a/cpu:0"), "{problem:?}");
    // what would help: fewer components, with their sizes
    assert!(problem.hint.as_deref().is_some_and(|hint| hint.contains("vae")), "{problem:?}");
    assert_eq!(farm.ledger.number("select count(*) from jobs where kind = 'load'").await, 0);
    let job = farm.api.submit("/v1/models/huge/load", json!({ "components": ["vae", "text_encoder"] })).await;
    farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
}

#[tokio::test]
async fn unknown_names_are_404_with_near_ones() {
    let farm = Farm::start().await;
    small_model(&farm);
    let _agent = farm.agent_with_library(farm.agent("gpu-07")).await;
    let nothing = json!({});
    let post = |path: &'static str| farm.api.post(path, &nothing);
    let get = |path: &'static str| farm.api.ask(path);
    for (answer, near) in [
        (post("/v1/models/smal/load").await, "small"),
        (get("/v1/models/smalll").await, "small"),
        (get("/v1/models/smalll/status").await, "small"),
        (get("/v1/hosts/gpu-7").await, "gpu-07"),
        (get("/v1/devices/gpu-07/cpu:1").await, "gpu-07/cpu:0"),
        (farm.api.post("/v1/models/small/load", &json!({ "target": "host:gpu-70" })).await, "gpu-07"),
        (farm.api.post("/v1/models/small/load", &json!({ "target": "device:gpu-07/cuda:0" })).await, "gpu-07/cpu:0"),
    ] {
        let problem = answer.problem(404);
        assert!(problem.hint.as_deref().is_some_and(|hint| hint.contains(near)), "{near} in {problem:?}");
    }
    farm.api.ask("/v1/jobs/01JD9Z8M3V6Q2X4K7T5R1W0YBC").await.problem(404);
    farm.api.ask("/v1/nonsense").await.problem(404);
}

#[tokio::test]
async fn what_is_in_use_is_409() {
    let farm = Farm::start().await;
    let file = big_model(&farm, 8);
    let agent = farm.agent_with_library(farm.agent("a")).await;
    let component = farm.model("big").await.components[0].id;
    let runner = agent.runner().await;
    // the copy waits, and its source is in use for as long
    harness::signal(runner, Signal::STOP);
    let job = load(&farm, "big").await;
    farm.api
        .job_is(job.id, "waits for the copy", SHORT, |seen| {
            seen.job.progress.as_ref().is_some_and(|progress| progress.bytes_done >= file.tensor_bytes())
        })
        .await;
    wait_for("the lease to be shown", SHORT, || async {
        let cache: CacheView = farm.api.get("/v1/cache").await;
        let leased = cache.hosts.iter().flat_map(|host| &host.components).any(|held| held.leases > 0);
        if leased { Ok(()) } else { Err(format!("{cache:?}")) }
    })
    .await;
    let problem = farm.api.delete(&format!("/v1/cache/components/{component}")).await.problem(409);
    assert!(problem.detail.contains("in use") && problem.hint.is_some(), "{problem:?}");
    // clearing everything leaves what is in use, and says so
    let clear = farm.api.delete("/v1/cache").await.accepted();
    let cleared = farm.api.job_ended(clear.id, JobState::Succeeded, SHORT).await;
    let result = cleared.job.result.expect("a result").to_string();
    assert!(result.contains("kept"), "{result}");
    harness::signal(runner, Signal::CONT);
    farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
}

#[tokio::test]
async fn unloading_what_is_not_there_is_409() {
    let farm = Farm::start().await;
    small_model(&farm);
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let problem = farm.api.post("/v1/models/small/unload", &json!({})).await.problem(409);
    assert!(problem.detail.contains("not resident"), "{problem:?}");
}

#[tokio::test]
async fn malformed_requests_are_problems_that_point_at_the_fault() {
    let farm = Farm::start().await;
    small_model(&farm);
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let problem = farm.api.post("/v1/models/small/load", &json!({ "prioritty": 1 })).await.problem(400);
    assert!(!problem.errors.is_empty() && problem.request_id.is_some(), "{problem:?}");
    let problem = farm.api.post("/v1/models/small/load", &json!({ "components": ["hair"] })).await.problem(400);
    assert!(format!("{problem:?}").contains("vae"), "names what there is: {problem:?}");
    // the same fault is pointed at where the arguments stand
    let jobs = [
        (json!({ "kind": "load", "args": { "model": "small", "components": ["hair"] } }), "/args/components/0"),
        (json!({ "kind": "cache_keep", "args": { "model": "small" } }), "/args"),
        (json!({ "kind": "hash", "args": { "model": "small", "root": "main" } }), "/args/root"),
        (
            json!({ "kind": "convert", "args": { "model": "small", "output": { "root": "none", "path": "a.safetensors" } } }),
            "/args/output/root",
        ),
        (
            json!({ "kind": "vae_decode", "args": { "model": "small", "latents": { "root": "none", "path": "a" } } }),
            "/args/latents/root",
        ),
        (json!({ "kind": "optimize", "args": {} }), "/target"),
        (json!({ "kind": "load", "args": { "model": "small" }, "max_attempts": 11 }), "/max_attempts"),
    ];
    for (body, pointer) in jobs {
        let problem = farm.api.post("/v1/jobs", &body).await.problem(400);
        assert_eq!(problem.errors.first().map(|fault| fault.pointer.as_str()), Some(pointer), "{body}: {problem:?}");
    }
    let problem = farm.api.post("/v1/jobs", &json!({ "kind": "levitate" })).await.problem(400);
    assert!(format!("{problem:?}").contains("levitate"), "{problem:?}");
    farm.api.ask("/v1/models?colour=red").await.problem(400);
    farm.api.ask("/v1/cache/evictions?device=%00").await.problem(400);
    farm.api.ask("/v1/cache/evictions?host=a%00").await.problem(400);
    farm.api.ask("/v1/models/small/tensors?name=a%00").await.problem(400);
    farm.api.ask("/v1/models?limit=0").await.problem(400);
    farm.api.ask("/v1/models?cursor=invented").await.problem(400);

    let post = || farm.api.request(Method::POST, "/v1/models/small/load");
    farm.api.send(post().header("content-type", "application/json").body("{")).await.problem(400);
    farm.api.send(post().header("content-type", "text/plain").body("{}")).await.problem(415);
    let large = format!("{{\"labels\":[\"{}\"]}}", "x".repeat(2 << 20));
    farm.api.send(post().header("content-type", "application/json").body(large)).await.problem(413);
    farm.api.send(farm.api.request(Method::PUT, "/v1/models")).await.problem(405);
    let answer = farm.api.send(farm.api.request(Method::GET, "/v1/models/none").header("x-request-id", "mine-1")).await;
    assert_eq!(answer.header("x-request-id"), Some("mine-1"));
    assert_eq!(answer.problem(404).request_id.as_deref(), Some("mine-1"));
    assert_eq!(farm.ledger.number("select count(*) from jobs where kind = 'load'").await, 0);
}

/// Pages hold every model once, in order, whatever is added while one turns them.
#[tokio::test]
async fn pages_hold_every_model_once() {
    let farm = Farm::start().await;
    for number in 0..23 {
        ModelFile::vae(4096).seed(number).write(&farm.library(), &format!("m{number:02}.safetensors"));
    }
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let mut names = Vec::new();
    let mut path = "/v1/models?limit=5&sort=name".to_owned();
    loop {
        let page: Page<ModelSummary> = farm.api.get(&path).await;
        assert!(page.items.len() <= 5);
        names.extend(page.items.into_iter().map(|model| model.name));
        let Some(cursor) = page.next_cursor else { break };
        path = format!("/v1/models?limit=5&sort=name&cursor={cursor}");
        // a cursor belongs to its question
        farm.api.ask(&format!("/v1/models?limit=5&sort=-name&cursor={cursor}")).await.problem(400);
    }
    let expected: Vec<String> = (0..23).map(|number| format!("m{number:02}")).collect();
    assert_eq!(names, expected);
    loaded(&farm, "m07").await;
    let resident: Vec<ModelSummary> = wait_for("the filter to see it", SHORT, || async {
        let models: Vec<ModelSummary> = farm.api.list("/v1/models?tier=vram").await;
        if models.len() == 1 { Ok(models) } else { Err(format!("{models:?}")) }
    })
    .await;
    assert_eq!(resident[0].name, "m07");
    // an unchanged model need not be sent again
    let answer = farm.api.ask("/v1/models/m07").await;
    let tag = answer.header("etag").expect("a tag").to_owned();
    let again = farm.api.request(Method::GET, "/v1/models/m07").header("if-none-match", tag);
    assert_eq!(farm.api.send(again).await.status, 304);
}
