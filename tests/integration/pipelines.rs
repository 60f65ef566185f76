//! Pipelines: declared, applied, changed, compared, restored; applied again after a runner or a host died. What generates needs
//! ONNX Runtime (`MODELYARD_ONNXRUNTIME`; without it that part says that it is skipped).

use harness::{Answer, Daemon, Farm, LONG, SHORT, wait_for};
use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use shared::{
    error::ErrorCode,
    job::JobState,
    pipeline::Standing,
    wire::{JobDetail, JobView, PipelineDiff, PipelineEvent, PipelineRemoved, PipelineView},
};

use crate::{
    command_line::modelyard,
    engine::{artifact, done, make_models, with_library},
    variants::pixels,
};

const BASE: &str = "sd15-tiny-diffusers";
const LORA: &str = "lora-sd15-tiny";
const OTHER_LORA: &str = "lora-sd15-tiny-diffusers";
const DEVICE: &str = "a/cpu:0";

/// Small models of a family, with two files of LoRAs for it.
fn models(farm: &Farm) {
    make_models(farm, "sd15", "diffusers");
    make_models(farm, "lora-sd15", "both");
}

async fn farm_with_models() -> (Farm, Daemon) {
    let farm = Farm::start().await;
    models(&farm);
    let agent = farm.agent_with_library(farm.agent("a")).await;
    (farm, agent)
}

async fn send(farm: &Farm, method: Method, path: &str, body: &Value, headers: &[(&str, &str)]) -> Answer {
    let mut request = farm.api.request(method, path).json(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    farm.api.send(request).await
}

async fn put(farm: &Farm, name: &str, body: &Value) -> Answer {
    send(farm, Method::PUT, &format!("/v1/pipelines/{name}"), body, &[]).await
}

async fn patch(farm: &Farm, name: &str, body: &Value) -> Answer {
    send(farm, Method::PATCH, &format!("/v1/pipelines/{name}/loras"), body, &[]).await
}

async fn pipeline(farm: &Farm, name: &str) -> PipelineView {
    farm.api.get(&format!("/v1/pipelines/{name}")).await
}

/// Waits until the pipeline stands so on the device.
async fn stands(farm: &Farm, name: &str, state: Standing, generation: i64) -> PipelineView {
    wait_for(&format!("{name} to be {state:?} at {generation}"), LONG, || async {
        let view = pipeline(farm, name).await;
        let there = view.devices.iter().any(|on| {
            (on.device.as_str(), on.state, on.applied_generation.unwrap_or_default()) == (DEVICE, state, generation)
        });
        if there { Ok(view) } else { Err(format!("{view:?}")) }
    })
    .await
}

async fn post(farm: &Farm, name: &str, what: &str, body: Value) -> JobView {
    farm.api.submit(&format!("/v1/pipelines/{name}/{what}"), body).await
}

async fn events(farm: &Farm, name: &str) -> Vec<PipelineEvent> {
    farm.api.list(&format!("/v1/pipelines/{name}/history")).await
}

fn declared(loras: Value) -> Value {
    json!({ "model": BASE, "loras": loras, "target": format!("device:{DEVICE}") })
}

#[tokio::test]
async fn what_is_declared_is_checked_compared_and_kept() {
    let (farm, _agent) = farm_with_models().await;
    let body = json!({ "model": BASE, "vae": BASE, "loras": [{ "lora": LORA, "weight": 0.8, "blocks": { "mid_block": 0.5 } }] });
    let answer = send(&farm, Method::PUT, "/v1/pipelines/anime", &body, &[("modelyard-actor", "ada")]).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let etag = answer.header("etag").unwrap().to_owned();
    let first: PipelineView = answer.json();
    assert_eq!((first.generation, first.declared.model.as_str(), first.devices.len()), (1, BASE, 0));
    assert_eq!(first.declared.loras[0].blocks["mid_block"], 0.5);
    // what was shown can be declared again, and says nothing new
    let same: PipelineView = put(&farm, "anime", &serde_json::to_value(&first.declared).unwrap()).await.json();
    assert_eq!((same.generation, &same.declared), (1, &first.declared));
    assert_eq!(pipeline(&farm, &first.id.to_string()).await.name, "anime", "it goes by its id, too");
    let known = farm.api.request(Method::GET, "/v1/pipelines/anime").header("if-none-match", &etag);
    assert_eq!(farm.api.send(known).await.status, 304);

    let changed = patch(&farm, "anime", &json!({ "set": { LORA: 0.5 }, "add": [{ "lora": OTHER_LORA }] })).await;
    let changed: PipelineView = changed.json();
    let stack: Vec<(&str, f64)> = changed.declared.loras.iter().map(|used| (used.lora.as_str(), used.weight)).collect();
    assert_eq!((changed.generation, stack), (2, vec![(LORA, 0.5), (OTHER_LORA, 1.0)]));
    assert!(changed.devices.is_empty() && changed.job.is_none(), "it is applied nowhere: {changed:?}");
    let stale = [("if-match", etag.as_str())];
    send(&farm, Method::PUT, "/v1/pipelines/anime", &body, &stale).await.problem(412);
    send(&farm, Method::PATCH, "/v1/pipelines/anime/loras", &json!({ "remove": [LORA] }), &stale).await.problem(412);
    send(&farm, Method::PUT, "/v1/pipelines/none", &body, &stale).await.problem(412);

    let told: Vec<(String, Option<String>)> =
        events(&farm, "anime").await.into_iter().map(|event| (event.event, event.who)).collect();
    assert_eq!(
        told,
        [("declared".to_owned(), Some("unnamed".to_owned())), ("declared".to_owned(), Some("ada".to_owned()))]
    );
    let listed: Vec<PipelineView> = farm.api.list("/v1/pipelines").await;
    assert_eq!(listed.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(), ["anime"]);

    for (name, body, status, pointer) in [
        ("a b", json!({ "model": BASE }), 400, "name"),
        ("p", json!({ "model": "sd15-tiny-difusers" }), 404, ""),
        ("p", json!({ "model": LORA }), 415, ""),
        ("p", json!({ "model": BASE, "vae": LORA }), 415, ""),
        ("p", json!({ "model": BASE, "loras": [{ "lora": BASE }] }), 415, ""),
        ("p", json!({ "model": BASE, "loras": [{ "lora": LORA }, { "lora": LORA }] }), 400, "/loras/1/lora"),
        ("p", json!({ "model": BASE, "loras": [{ "lora": LORA, "weight": 1e9 }] }), 400, "/loras/0/weight"),
        ("p", json!({ "model": BASE, "text_encoders": { "nose": BASE } }), 400, "/text_encoders/nose"),
        ("p", json!({ "model": BASE, "text_encoders": { "text_encoder": LORA } }), 415, ""),
        ("p", json!({ "model": BASE, "target": "device:a/cpu:7", "apply": true }), 404, ""),
        ("p", json!({ "model": BASE, "lora": [] }), 400, "/lora"),
        ("p", json!({}), 400, "/model"),
    ] {
        let problem = put(&farm, &name.replace(' ', "%20"), &body).await.problem(status);
        assert_eq!(problem.errors.first().map_or("", |error| &error.pointer), pointer, "{body}: {problem:?}");
    }
    let hint = put(&farm, "p", &json!({ "model": "sd15-tiny-difusers" })).await.problem(404).hint;
    assert!(hint.is_some_and(|hint| hint.contains(BASE)));
    for (body, pointer) in [
        (json!({ "set": { "nose": 1 } }), "/set/nose"),
        (json!({ "remove": ["nose"] }), "/remove/0"),
        (json!({ "add": [{ "lora": LORA }] }), "/add/0"),
    ] {
        assert_eq!(patch(&farm, "anime", &body).await.problem(400).errors[0].pointer, pointer);
    }
    let hint = farm.api.ask("/v1/pipelines/anme").await.problem(404).hint;
    assert!(hint.is_some_and(|hint| hint.contains("`anime`")));
    let generate = json!({ "pipeline": "anime", "model": BASE, "prompt": "p" });
    assert_eq!(farm.api.post("/v1/generate", &generate).await.problem(400).errors[0].pointer, "/model");
    let generate = json!({ "kind": "generate", "args": { "pipeline": "anime", "prompt": "p", "loras": [] } });
    assert_eq!(farm.api.post("/v1/jobs", &generate).await.problem(400).errors[0].pointer, "/args/loras");
    farm.api.post("/v1/encode", &json!({ "pipeline": "anme", "prompts": ["p"] })).await.problem(404);
    farm.api.post("/v1/pipelines/anime/restore", &json!({})).await.problem(409);

    let removed: PipelineRemoved = farm.api.delete("/v1/pipelines/anime").await.json();
    assert!(removed.restoring.is_empty());
    farm.api.ask("/v1/pipelines/anime").await.problem(404);
    farm.assert_ledger_is_clean().await;
}

#[tokio::test]
async fn a_pipeline_is_tried_applied_changed_compared_and_restored() {
    let farm = Farm::start().await;
    models(&farm);
    let settings = with_library(&farm);
    let runs = settings.is_some();
    let _agent = farm.agent_with_library(settings.unwrap_or_else(|| farm.agent("a"))).await;
    put(&farm, "anime", &declared(json!([{ "lora": LORA, "weight": 0.8 }]))).await;

    // tried dry: what would be loaded and computed, and nothing is
    let job = post(&farm, "anime", "apply", json!({ "dry_run": true })).await;
    let tried = farm.api.job_ended(job.id, JobState::Succeeded, LONG).await.job.result.unwrap();
    assert!(tried["load_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{tried}");
    assert!(tried["variants"].as_array().is_some_and(|parts| parts.len() == 2), "{tried}");
    assert!(pipeline(&farm, "anime").await.devices.is_empty(), "nothing is applied");

    let job = post(&farm, "anime", "apply", json!({ "verify": true })).await;
    farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
    let there = stands(&farm, "anime", Standing::Applied, 1).await;
    assert!(there.devices[0].facts.is_some() && there.devices[0].last_job == Some(job.id), "{there:?}");
    let no_difference: PipelineDiff = farm.api.get("/v1/pipelines/anime/diff").await;
    assert!(no_difference.devices[0].changes.is_empty(), "{no_difference:?}");

    // a changed weight is applied with the change that declares it; not where that is not wanted
    patch(&farm, "anime", &json!({ "set": { LORA: 0.4 } })).await;
    stands(&farm, "anime", Standing::Applied, 2).await;
    patch(
        &farm,
        "anime",
        &json!({ "set": { LORA: 0.2 }, "add": [{ "lora": OTHER_LORA, "weight": -0.5 }], "apply": false }),
    )
    .await;
    let diff: PipelineDiff = farm.api.get("/v1/pipelines/anime/diff").await;
    let on = &diff.devices[0];
    let told: Vec<(&str, &str)> =
        on.changes.iter().map(|change| (change.change.as_str(), change.name.as_deref().unwrap_or_default())).collect();
    assert_eq!((on.applied_generation, told), (Some(2), vec![("changed", LORA), ("added", OTHER_LORA)]));
    assert_eq!(
        (on.changes[0].from.clone(), on.changes[0].to.clone()),
        (Some(json!({ "weight": 0.4 })), Some(json!({ "weight": 0.2 })))
    );

    if runs {
        // what is declared counts when the work is accepted, and stands in the job
        let body = json!({ "pipeline": "anime", "prompt": "a cat", "steps": 2, "seed": 7, "width": 64, "height": 64 });
        let with = done(&farm, "/v1/generate", body).await;
        assert_eq!((&with.job.args["pipeline"], &with.job.args["loras"][0]["weight"]), (&json!("anime"), &json!(0.2)));
        let stack = json!([{ "lora": OTHER_LORA, "weight": -0.5 }, { "lora": LORA, "weight": 0.2 }]);
        let body = json!({ "model": BASE, "loras": stack, "prompt": "a cat", "steps": 2, "seed": 7, "width": 64, "height": 64 });
        let by_hand = done(&farm, "/v1/generate", body).await;
        assert_eq!(with.job.args["model"], by_hand.job.args["model"]);
        let image = "image-0.png";
        assert!(pixels(&artifact(&farm, &with, image).await) == pixels(&artifact(&farm, &by_hand, image).await));
    }

    farm.api.delete("/v1/pipelines/anime").await.problem(409);
    let job = post(&farm, "anime", "restore", json!({ "verify": true })).await;
    farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
    stands(&farm, "anime", Standing::Restored, 0).await;
    farm.api.post("/v1/pipelines/anime/restore", &json!({})).await.problem(409);
    let told: Vec<(String, i64)> =
        events(&farm, "anime").await.into_iter().map(|event| (event.event, event.generation)).collect();
    let told: Vec<(&str, i64)> = told.iter().map(|(event, generation)| (event.as_str(), *generation)).collect();
    let expected = [("restored", 2), ("declared", 3), ("applied", 2), ("declared", 2), ("applied", 1), ("declared", 1)];
    assert_eq!(told, expected);
    farm.assert_ledger_is_clean().await;
}

#[tokio::test]
async fn what_a_runner_or_a_host_loses_is_applied_again() {
    let (farm, mut agent) = farm_with_models().await;
    let mut body = declared(json!([{ "lora": LORA }]));
    body["apply"] = true.into();
    let view: PipelineView = put(&farm, "anime", &body).await.json();
    assert_eq!(view.devices[0].state, Standing::Applying, "{view:?}");
    let first = stands(&farm, "anime", Standing::Applied, 1).await;

    agent.kill_runner().await;
    let again = wait_for("the pipeline to be applied again", LONG, || async {
        let view = pipeline(&farm, "anime").await;
        let on = &view.devices[0];
        let anew = on.state == Standing::Applied && on.applied_at != first.devices[0].applied_at;
        if anew { Ok(view) } else { Err(format!("{view:?}")) }
    })
    .await;
    let told: Vec<String> = events(&farm, "anime").await.into_iter().map(|event| event.event).collect();
    assert_eq!(told, ["applied", "lost", "applied", "declared"]);

    // a host that is away has lost it, and nobody tries meanwhile
    agent.process.kill().await;
    stands(&farm, "anime", Standing::Lost, 1).await;
    let jobs = farm.ledger.number("select count(*) from jobs where kind = 'apply_pipeline'").await;
    let _agent = farm.start_agent(farm.agent("a")).await;
    wait_for("the pipeline to be applied by another agent", LONG, || async {
        let view = pipeline(&farm, "anime").await;
        let on = &view.devices[0];
        let anew = on.state == Standing::Applied && on.applied_at != again.devices[0].applied_at;
        if anew { Ok(()) } else { Err(format!("{view:?}")) }
    })
    .await;
    let now = farm.ledger.number("select count(*) from jobs where kind = 'apply_pipeline'").await;
    assert_eq!(now, jobs + 1, "one death, one job");

    // removed by force, it is restored where it was
    let removed = farm.api.delete("/v1/pipelines/anime?force=true").await;
    let removed: PipelineRemoved = removed.json();
    farm.api.job_ended(removed.restoring[0], JobState::Succeeded, LONG).await;
    farm.assert_ledger_is_clean().await;
}

/// A runner that dies while it computes what a newer generation changes: the attempt has a typed error, nobody is told that the newer
/// one is there before it is, and the next attempt makes it whole, over bases that are what they were.
#[tokio::test]
async fn a_runner_that_dies_while_applying_leaves_nothing_half_applied() {
    let farm = Farm::start().await;
    models(&farm);
    let settings = with_library(&farm);
    let runs = settings.is_some();
    let agent = farm.agent_with_library(settings.unwrap_or_else(|| farm.agent("a"))).await;
    let mut body = declared(json!([{ "lora": LORA, "weight": 0.8 }]));
    body["apply"] = true.into();
    put(&farm, "anime", &body).await;
    stands(&farm, "anime", Standing::Applied, 1).await;

    // everything that it needs is there: the first thing that the runner is asked for is the change
    let runner = agent.runner().await;
    harness::signal(runner, Signal::STOP);
    patch(&farm, "anime", &json!({ "set": { LORA: 0.4 } })).await;
    let view = stands(&farm, "anime", Standing::Applying, 1).await;
    let job = view.devices[0].job.expect("a job");
    let applying = |seen: &JobDetail| {
        seen.job.state == JobState::Running && seen.job.progress.as_ref().is_some_and(|at| at.phase == "applying")
    };
    farm.api.job_is(job, "it applies", LONG, applying).await;
    harness::kill(runner);
    let failed = |seen: &JobDetail| seen.attempts.first().is_some_and(|attempt| attempt.error.is_some());
    let seen = farm.api.job_is(job, "its first attempt has ended", LONG, failed).await;
    let error = seen.attempts[0].error.clone().expect("an error");
    assert!(error.code == ErrorCode::Internal && error.message.contains("died"), "{error:?}");
    let told: Vec<(String, i64)> =
        events(&farm, "anime").await.into_iter().map(|event| (event.event, event.generation)).collect();
    assert!(seen.job.state == JobState::Succeeded || !told.contains(&("applied".to_owned(), 2)), "{told:?}");

    farm.api.job_ended(job, JobState::Succeeded, LONG).await;
    stands(&farm, "anime", Standing::Applied, 2).await;
    if runs {
        let with = |more: Value| {
            let mut body = json!({ "prompt": "a cat", "steps": 2, "seed": 7, "width": 64, "height": 64 });
            body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            body
        };
        let applied = done(&farm, "/v1/generate", with(json!({ "pipeline": "anime" }))).await;
        let fresh =
            with(json!({ "model": BASE, "loras": [{ "lora": LORA, "weight": 0.4 }], "target": "device:b/cpu:0" }));
        let mut other = with_library(&farm).expect("a library");
        other.host = "b".to_owned();
        let _other = farm.agent_with_library(other).await;
        let fresh = done(&farm, "/v1/generate", fresh).await;
        let image = "image-0.png";
        assert!(pixels(&artifact(&farm, &applied, image).await) == pixels(&artifact(&farm, &fresh, image).await));
    }
    let job = post(&farm, "anime", "restore", json!({ "verify": true })).await;
    let restored = farm.api.job_ended(job.id, JobState::Succeeded, LONG).await.job.result.expect("a result");
    let checks = restored["checks"].as_array().expect("checks");
    assert!(!checks.is_empty() && checks.iter().all(|one| one["result"] == "equal"), "{restored}");
    farm.assert_ledger_is_clean().await;
}

#[tokio::test]
async fn pipelines_through_the_command() {
    let (farm, _agent) = farm_with_models().await;
    let folder = farm.path("cli");
    std::fs::create_dir(&folder).unwrap();
    let run = |words: String| {
        let (folder, api) = (folder.clone(), farm.api.url().to_owned());
        async move {
            let mut arguments = vec!["--api", &api];
            arguments.extend(words.split(' '));
            modelyard(&folder, &arguments, LONG).await
        }
    };
    for (words, code, says) in [
        (format!("pipelines set anime --model {BASE} --lora {LORA}:0.8:0.5 --device {DEVICE}"), 0, "applied nowhere"),
        ("pipelines ls".to_owned(), 0, "lora-sd15-tiny:0.8:0.5"),
        ("pipelines apply anime --dry-run".to_owned(), 0, "would compute"),
        ("pipelines apply anime".to_owned(), 0, ""),
        ("pipelines show anime".to_owned(), 0, "applied"),
        (format!("devices show {DEVICE}"), 0, "variants"),
        ("vram ls".to_owned(), 0, "lora-sd15-tiny:0.8"),
        ("memory".to_owned(), 0, "VARIANTS"),
        (format!("pipelines loras anime --set {LORA}=0.25 --add {OTHER_LORA}:-1"), 0, "0.25"),
        ("pipelines diff anime".to_owned(), 0, "no difference"),
        (format!("pipelines loras anime --set {LORA}=0.25:same:mid_block=0.5 --no-apply"), 0, "mid_block=0.5"),
        ("pipelines ls".to_owned(), 0, "lora-sd15-tiny:0.25 (1 blocks)"),
        ("pipelines rm anime".to_owned(), 4, "`force`"),
        ("pipelines restore anime".to_owned(), 0, ""),
        ("pipelines history anime".to_owned(), 0, "restored"),
        ("pipelines show anme".to_owned(), 3, "anime"),
        ("pipelines loras anime".to_owned(), 2, "--set"),
        (format!("pipelines set other --model {BASE} --lora {LORA}:much:1"), 3, ""),
        (format!("pipelines set blocks --model {BASE} --lora {LORA}:0.8:mid_block=0.5"), 0, "mid_block=0.5"),
        (
            format!("loras blend {LORA}:1:mid_block=0.5,down_blocks.0=0 --base {BASE} -o blended.safetensors"),
            0,
            "modules",
        ),
        (format!("loras blend {LORA}:mid_block=0.5 -o other.safetensors"), 2, "name a base"),
        ("pipelines rm blocks".to_owned(), 0, "removed"),
        (format!("generate {BASE} p --pipeline anime"), 2, "--pipeline"),
        ("generate p".to_owned(), 2, "MODEL"),
        ("pipelines rm anime".to_owned(), 0, "removed"),
        ("pipelines history anime".to_owned(), 0, "removed"),
    ] {
        let said = run(words.clone()).await.with(code);
        assert!(said.contains(says), "{words}: {said}");
    }
    let listed = run("--json pipelines ls".to_owned()).await.json();
    assert_eq!(listed, json!({ "items": [] }));
    farm.assert_ledger_is_clean().await;
}

/// A job that is being cancelled for a newer wish is joined by nobody: whatever came between, the last wish is what holds.
#[tokio::test]
async fn what_was_asked_last_holds() {
    let (farm, _agent) = farm_with_models().await;
    put(&farm, "anime", &declared(json!([{ "lora": LORA }]))).await;
    for _ in 0..3 {
        for what in ["apply", "restore", "apply"] {
            post(&farm, "anime", what, json!({})).await;
        }
        stands(&farm, "anime", Standing::Applied, 1).await;
        for what in ["restore", "apply", "restore"] {
            post(&farm, "anime", what, json!({})).await;
        }
        stands(&farm, "anime", Standing::Restored, 0).await;
    }
    farm.assert_ledger_is_clean().await;
}

#[tokio::test]
async fn a_failure_is_told_and_only_tried_again_where_that_can_help() {
    let farm = Farm::start().await;
    models(&farm);
    make_models(&farm, "lora-sdxl", "diffusers");
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    // a LoRA for another family: it is refused when it is applied, and no second job is made for the same refusal
    let mut body = declared(json!([{ "lora": "lora-sdxl-tiny-diffusers" }]));
    body["apply"] = true.into();
    assert_eq!(put(&farm, "wrong", &body).await.status, 201);
    let failed = stands(&farm, "wrong", Standing::Failed, 0).await;
    assert!(failed.devices[0].error.is_some(), "{failed:?}");
    let noted = wait_for("the failure to be noted", SHORT, || async {
        let view = pipeline(&farm, "wrong").await;
        if view.devices[0].failures == 1 { Ok(view) } else { Err(format!("{view:?}")) }
    })
    .await;
    assert_eq!(noted.devices[0].retry_at, None, "what is refused is not tried again by itself: {noted:?}");
    assert_eq!(farm.ledger.number("select count(*) from jobs where kind = 'apply_pipeline'").await, 1);

    // declared right, it is applied
    let mut body = declared(json!([{ "lora": LORA }]));
    body["apply"] = true.into();
    put(&farm, "wrong", &body).await;
    let right = stands(&farm, "wrong", Standing::Applied, 2).await;
    assert_eq!((right.devices[0].failures, right.devices[0].error.is_none()), (0, true));
    farm.assert_ledger_is_clean().await;
}
