//! What people say of models: kept apart from files, changed safely, remembered; and corrections of what was detected.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use harness::{Answer, Clock, Farm, Process, SHORT, binary};
use reqwest::Method;
use serde_json::{Value, json};
use shared::wire::{JobView, MetadataChange, MetadataView, ModelDetail, ModelSummary, Page};

use crate::support::small_model;

const PATH: &str = "/v1/models/small/metadata";

async fn send(farm: &Farm, method: Method, path: &str, body: &Value, headers: &[(&str, &str)]) -> Answer {
    let mut request = farm.api.request(method, path).json(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    farm.api.send(request).await
}

async fn found(farm: &Farm, request: Value) -> Vec<String> {
    let page: Page<ModelSummary> = farm.api.post("/v1/models/search", &request).await.json();
    page.items.into_iter().map(|model| model.name).collect()
}

#[tokio::test]
async fn what_people_say_is_kept_apart_changed_in_part_and_remembered() {
    let farm = Farm::start().await;
    small_model(&farm);
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let bytes = fs::read(farm.library().join("small.safetensors")).expect("the file");
    let first: MetadataView = farm.api.get(PATH).await;
    assert_eq!((first.version, first.user.tags.len()), (0, 0));
    assert_eq!(first.extracted["extracted"]["sidecars"], json!([]));

    let said = json!({ "title": "My Zebrafish", "tags": ["Fish", "Striped"], "rating": 4, "extra": { "a": { "b": 1, "c": 2 } } });
    let answer = send(&farm, Method::PUT, PATH, &said, &[("modelyard-actor", "ada")]).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let etag = answer.header("etag").expect("an ETag").to_owned();
    assert_eq!(answer.json::<MetadataView>().extracted, first.extracted);
    assert_eq!(farm.api.ask(PATH).await.header("etag"), Some(etag.as_str()));
    let same = farm.api.send(farm.api.request(Method::GET, PATH).header("if-none-match", &etag)).await;
    assert_eq!(same.status, 304);

    // it is found at once, by its words, by tags in any case, and shown in lists
    assert_eq!(found(&farm, json!({ "text": "zebrafish" })).await, ["small"]);
    assert_eq!(found(&farm, json!({ "tags": ["fish", "STRIPED"] })).await, ["small"]);
    assert!(found(&farm, json!({ "tags": ["fish", "red"] })).await.is_empty());
    let models: Vec<ModelSummary> = farm.api.list("/v1/models?tags=striped").await;
    assert_eq!((models[0].title.as_deref(), models[0].tags.join(" ")), (Some("My Zebrafish"), "fish striped".into()));

    // a merge patch changes what it names; one who has seen something else is refused
    let patch = json!({ "rating": null, "notes": "n", "extra": { "a": { "b": null }, "d": [1] } });
    let merge =
        [("if-match", etag.as_str()), ("content-type", "application/merge-patch+json"), ("modelyard-actor", "bob")];
    let request = farm.api.request(Method::PATCH, PATH).body(patch.to_string());
    let request = merge.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let patched: MetadataView = farm.api.send(request).await.json();
    assert_eq!((patched.version, patched.user.rating, patched.user.notes.as_deref()), (2, None, Some("n")));
    assert_eq!(Value::Object(patched.user.extra.clone()), json!({ "a": { "c": 2 }, "d": [1] }));
    assert_eq!(patched.user.title.as_deref(), Some("My Zebrafish"));
    let problem = send(&farm, Method::PUT, PATH, &json!({}), &[("if-match", &etag)]).await.problem(412);
    assert!(problem.hint.is_some(), "{problem:?}");
    send(&farm, Method::PATCH, PATH, &json!({ "rating": 1 }), &[("if-match", &format!("W/{etag}"))]).await.problem(412);

    // nothing changed, nothing remembered
    let again = send(&farm, Method::PATCH, PATH, &json!({ "notes": "n" }), &[("if-match", "*")]).await;
    assert_eq!(again.json::<MetadataView>().version, 2);
    let cleared: MetadataView = send(&farm, Method::PUT, PATH, &json!({}), &[]).await.json();
    assert_eq!((cleared.version, cleared.user.title), (3, None));
    assert!(found(&farm, json!({ "tags": ["fish"] })).await.is_empty());
    let history: Vec<MetadataChange> = farm.api.list(&format!("{PATH}/history")).await;
    let who: Vec<_> = history.iter().map(|change| (change.version, change.who.as_str())).collect();
    assert_eq!(who, [(3, "unnamed"), (2, "bob"), (1, "ada")]);
    assert_eq!((history[0].before.clone(), history[1].before.rating), (history[1].after.clone(), Some(4)));
    let page: Page<MetadataChange> = farm.api.get(&format!("{PATH}/history?limit=2")).await;
    let next = page.next_cursor.expect("a second page");
    let page: Page<MetadataChange> = farm.api.get(&format!("{PATH}/history?limit=2&cursor={next}")).await;
    assert_eq!((page.items.len(), page.items[0].version, page.next_cursor), (1, 1, None));
    assert_eq!(fs::read(farm.library().join("small.safetensors")).expect("the file"), bytes);
}

#[tokio::test]
async fn what_cannot_be_said_is_named_field_by_field() {
    let farm = Farm::start().await;
    small_model(&farm);
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let said = json!({ "title": "t".repeat(201), "rating": 6, "tags": ["x", "X"], "extra": { "a": "\u{0}" } });
    let problem = send(&farm, Method::PUT, PATH, &said, &[]).await.problem(400);
    let pointers: Vec<_> = problem.errors.iter().map(|fault| fault.pointer.as_str()).collect();
    assert_eq!(pointers, ["/title", "/rating", "/tags/1", "/extra"]);
    for (body, pointer) in [
        (json!({ "rating": "high" }), "/rating"),
        (json!({ "colour": 1 }), "/colour"),
        (json!({ "tags": [1] }), "/tags/0"),
        (json!({ "extra": [] }), "/extra"),
    ] {
        for method in [Method::PUT, Method::PATCH] {
            let problem = send(&farm, method, PATH, &body, &[]).await.problem(400);
            assert_eq!(problem.errors[0].pointer, pointer, "{body}");
        }
    }
    send(&farm, Method::PUT, PATH, &json!([]), &[]).await.problem(400);
    farm.api.send(farm.api.request(Method::PUT, PATH)).await.problem(400);
    let typed = |kind: &str| farm.api.request(Method::PUT, PATH).header("content-type", kind).body("{}");
    farm.api.send(typed("text/plain")).await.problem(415);
    farm.api.send(typed("application/merge-patch+json")).await.problem(415);
    send(&farm, Method::PUT, "/v1/models/smalll/metadata", &json!({}), &[]).await.problem(404);
    assert_eq!(farm.api.get::<MetadataView>(PATH).await.version, 0);
}

#[tokio::test]
async fn corrections_stand_before_what_was_detected() {
    let farm = Farm::start().await;
    small_model(&farm);
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let detected = farm.model("small").await;
    let path = "/v1/models/small";
    let etag = farm.api.ask(path).await.header("etag").expect("an ETag").to_owned();
    let config = json!({ "block_out_channels": [16], "norm": null });
    let body = json!({ "base": "sdxl", "prediction": "v_prediction", "config": { "vae": config } });
    let answer = send(&farm, Method::PATCH, path, &body, &[("if-match", &etag)]).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let now: ModelDetail = answer.json();
    assert_eq!((now.summary.base.as_str(), now.prediction.as_deref()), ("sdxl", Some("v_prediction")));
    assert_eq!(now.detected.base, detected.summary.base);
    assert_eq!(Value::Object(now.overrides.config["vae"].clone()), config, "null in a config stays");
    send(&farm, Method::PATCH, path, &json!({ "base": "sd15" }), &[("if-match", &etag)]).await.problem(412);

    // lists go by what holds, and a scan leaves it alone
    assert_eq!(found(&farm, json!({ "base": ["sdxl"], "prediction": ["v_prediction"] })).await, ["small"]);
    let scan: JobView = farm.api.submit("/v1/jobs", json!({ "kind": "scan", "target": "host:a" })).await;
    farm.api.job_ended(scan.id, shared::job::JobState::Succeeded, SHORT).await;
    assert_eq!(farm.model("small").await.summary.base, "sdxl");
    for (body, pointer) in [
        (json!({ "type": "V A E" }), "/type"),
        (json!({ "prediction": "guess" }), "/prediction"),
        (json!({ "config": { "vae": 1 } }), "/config/vae"),
        (json!({ "name": "x" }), "/name"),
    ] {
        let problem = send(&farm, Method::PATCH, path, &body, &[]).await.problem(400);
        assert_eq!(problem.errors[0].pointer, pointer, "{body}");
    }
    let body = json!({ "base": null, "prediction": null, "config": null });
    let back: ModelDetail = send(&farm, Method::PATCH, path, &body, &[]).await.json();
    assert_eq!((back.summary.base, back.overrides), (detected.summary.base, shared::wire::Overrides::default()));
    assert!(found(&farm, json!({ "base": ["sdxl"] })).await.is_empty());
}

#[tokio::test]
async fn a_model_is_read_again_by_a_scan_of_its_root() {
    let farm = Farm::start().await;
    small_model(&farm);
    let agent = farm.agent_with_library(farm.agent("a")).await;
    let plain = farm.api.submit("/v1/jobs", json!({ "kind": "scan", "target": "host:a" })).await;
    let plain = farm.api.job_ended(plain.id, shared::job::JobState::Succeeded, SHORT).await;
    assert_eq!(plain.job.result.unwrap()["read"], 0, "an unchanged file is not read by a scan");
    let job = farm.api.submit("/v1/models/small/reidentify", json!({})).await;
    assert_eq!((job.kind.as_str(), job.target.as_str()), ("scan", "host:a"));
    assert_eq!((&job.args["root"], job.model), (&json!("main"), Some(farm.model("small").await.summary.id)));
    let ended = farm.api.job_ended(job.id, shared::job::JobState::Succeeded, SHORT).await;
    assert_eq!(ended.job.result.unwrap()["read"], 1, "this one is");
    farm.api.post("/v1/models/smalll/reidentify", &json!({})).await.problem(404);
    let both = json!({ "kind": "scan", "args": { "model": "small", "root": "main" } });
    farm.api.post("/v1/jobs", &both).await.problem(400);
    drop(agent);
    harness::wait_for("the host to be lost", SHORT, || async {
        let host: shared::wire::HostView = farm.api.get("/v1/hosts/a").await;
        if host.state == "lost" { Ok(()) } else { Err(host.state) }
    })
    .await;
    farm.api.post("/v1/models/small/reidentify", &json!({})).await.problem(409);
}

/// Runs `modelyard` against the farm; exit code, output and notes.
async fn modelyard(farm: &Farm, folder: &Path, words: &[&str]) -> (Option<i32>, String) {
    let own = tempfile::tempdir_in(folder).expect("a folder");
    let arguments = ["--api", farm.api.url()].iter().chain(words).map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let environment = [("HOME", folder.display().to_string()), ("NO_COLOR", "1".to_owned())];
    let log = own.path().join("log");
    let mut process = Process::start("modelyard", &binary("modelyard"), &arguments, &environment, &Clock::True, &log);
    let code = process.ended(SHORT).await.code();
    (code, process.output() + &process.log())
}

#[tokio::test]
async fn the_command_searches_describes_and_corrects() {
    let farm = Farm::start().await;
    small_model(&farm);
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let folder = farm.path("cli");
    fs::create_dir(&folder).expect("a folder");
    let config = folder.join("config.json");
    fs::write(&config, "{\"latent_channels\": 4}").expect("a config");
    let config = format!("vae={}", config.display());
    // an editor that gives the model a licence
    let editor = folder.join("editor");
    fs::write(&editor, "#!/bin/sh\nsed -i 's/\"license\": null/\"license\": \"mit\"/' \"$1\"\n").expect("an editor");
    fs::set_permissions(&editor, fs::Permissions::from_mode(0o755)).expect("an editor");
    let editor = editor.display().to_string();
    let runs: [(&[&str], i32, &str); 15] = [
        (
            &["models", "meta", "set", "small", "--title", "A Quagga", "--tags", "horse,old", "--rating", "5"],
            0,
            "A Quagga",
        ),
        (&["models", "meta", "get", "small"], 0, "5 of 5"),
        (&["models", "search", "quaga"], 0, "small"),
        (&["models", "search", "nothing", "like", "this"], 0, "no model has these words"),
        (&["models", "ls", "--tag", "horse", "--type", "vae,lora", "--min-size", "1MiB", "sma"], 0, "small"),
        (&["models", "meta", "edit", "small", "--editor", &editor], 0, "mit"),
        (&["models", "meta", "set", "small", "--clear", "rating", "--extra", "url=\"u\""], 0, "\"url\":\"u\""),
        (&["models", "meta", "get", "small", "--history"], 0, "modelyard command"),
        (&["models", "meta", "set", "small"], 2, "name a field"),
        (&["models", "meta", "set", "small", "--rating", "9"], 2, "/rating"),
        (&["models", "override", "small", "--base", "sdxl", "--config", &config], 0, "sdxl"),
        (&["models", "show", "small"], 0, "sdxl (detected: "),
        (&["models", "override", "small", "--clear", "base,config.vae"], 0, "small"),
        (&["models", "reidentify", "small"], 0, "succeeded"),
        (&["models", "search", "quagga", "--sort", "colour"], 2, "rank"),
    ];
    for (words, code, says) in runs {
        let (ended, text) = modelyard(&farm, &folder, words).await;
        assert!(ended == Some(code) && text.contains(says), "{words:?}: {ended:?}: {text}");
    }
    let view: MetadataView = farm.api.get(PATH).await;
    assert_eq!((view.user.license.as_deref(), view.user.rating), (Some("mit"), None));
    assert!(farm.model("small").await.overrides.config.is_empty());
    let (code, text) = modelyard(&farm, &folder, &["--json", "models", "search", "quagga", "--limit", "1"]).await;
    let listed: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert!(code == Some(0) && listed["items"][0]["rank"].as_f64() > Some(0.0), "{text}");
}

#[tokio::test]
async fn the_operators_config_is_what_a_validation_compares_with() {
    let farm = Farm::start().await;
    small_model(&farm);
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let errors = async || {
        let job = farm.api.submit("/v1/models/small/validate", json!({ "level": "architecture" })).await;
        let ended = farm.api.job_ended(job.id, shared::job::JobState::Succeeded, SHORT).await;
        ended.job.result.unwrap()["errors"].as_u64().unwrap()
    };
    assert_eq!(errors().await, 0, "no table is known for its sizes");
    let config = json!({
        "_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2,
        "down_block_types": vec!["DownEncoderBlock2D"; 4], "up_block_types": vec!["UpDecoderBlock2D"; 4],
    });
    let answer = send(&farm, Method::PATCH, "/v1/models/small", &json!({ "config": { "vae": config } }), &[]).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(errors().await > 100, "the tensors of that architecture are not there");
}
