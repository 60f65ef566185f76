//! Finding models: filters, text with rank and with mistakes, hashes, orders, and pages that stay stable.

use std::fs;

use harness::{Farm, LONG, ModelFile, SHORT, mebibytes, wait_for};
use serde_json::{Value, json};
use shared::{
    db::{
        jobs::JobLease,
        models::{self, Batch, FoundModel, ReadAs, Written},
    },
    ids::{Incarnation, JobId},
    job::JobState,
    wire::{ModelDetail, ModelPage, ModelSummary, Page},
};
use sqlx::{Postgres, Transaction};

use crate::support::loaded;

async fn search(farm: &Farm, request: Value) -> Vec<ModelSummary> {
    let answer = farm.api.post("/v1/models/search", &request).await;
    assert_eq!(answer.status, 200, "{request}: {answer:?}");
    answer.json::<Page<ModelSummary>>().items
}

async fn names(farm: &Farm, request: Value) -> Vec<String> {
    search(farm, request).await.into_iter().map(|model| model.name).collect()
}

async fn listed(farm: &Farm, query: &str) -> Vec<String> {
    let models: Vec<ModelSummary> = farm.api.list(&format!("/v1/models?{query}")).await;
    models.into_iter().map(|model| model.name).collect()
}

async fn scan(farm: &Farm) {
    let job = farm.api.submit("/v1/jobs", json!({ "kind": "scan", "target": "host:a" })).await;
    farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
}

/// Three VAEs and a checkpoint, with what side-cars say of them.
async fn library() -> (Farm, harness::Daemon) {
    let farm = Farm::start().await;
    let folder = farm.library();
    ModelFile::vae(mebibytes(1)).seed(1).write(&folder, "DreamShaper_8.safetensors");
    ModelFile::vae(mebibytes(2)).seed(2).write(&folder, "kitchen-sink.safetensors");
    ModelFile::vae(mebibytes(3)).seed(3).write(&folder, "plain.safetensors");
    ModelFile::checkpoint(mebibytes(2), mebibytes(1), mebibytes(1)).write(&folder, "whole.safetensors");
    let note = json!({ "activation text": "zorgbeast", "description": "<p>looks like a dreamshaper picture</p>" });
    fs::write(folder.join("plain.json"), note.to_string()).expect("a side-car");
    let agent = farm.agent_with_library(farm.agent("a").hash_limit("none")).await;
    (farm, agent)
}

#[tokio::test]
async fn words_find_models_the_best_first_and_mistakes_are_forgiven() {
    let (farm, _agent) = library().await;
    // the name weighs more than a description
    assert_eq!(names(&farm, json!({ "text": "dreamshaper" })).await, ["DreamShaper_8", "plain"]);
    for text in ["dream", "shaper 8", "DREAMSHAPER_8", "dreamshapre", "draemshaper 8"] {
        assert_eq!(
            names(&farm, json!({ "text": text })).await.first().map(String::as_str),
            Some("DreamShaper_8"),
            "{text}"
        );
    }
    let found = search(&farm, json!({ "text": "dreamshaper" })).await;
    assert!(found[0].rank > found[1].rank && found[1].rank > Some(0.0), "{found:?}");
    // trigger words; words of a model in any order; nothing in a text is an operator
    assert_eq!(names(&farm, json!({ "text": "zorgbeast" })).await, ["plain"]);
    assert_eq!(names(&farm, json!({ "text": "sink ' & | ! kitchen:*" })).await, ["kitchen-sink"]);
    assert!(names(&farm, json!({ "text": "kitchen zorgbeast" })).await.is_empty());
    assert!(names(&farm, json!({ "text": "qqqqqqqqqqqq" })).await.is_empty());
    assert_eq!(listed(&farm, "text=kitchen").await, ["kitchen-sink"]);
    assert_eq!(listed(&farm, "text=dreamshaper&sort=-size").await, ["plain", "DreamShaper_8"]);
    // a name that is changed on disk is found by its path
    fs::rename(farm.library().join("plain.safetensors"), farm.library().join("ultramarine.safetensors"))
        .expect("a move");
    scan(&farm).await;
    assert_eq!(names(&farm, json!({ "text": "ultramarine" })).await, ["plain"]);
}

/// What a scan leaves that ends between listing models and making their texts.
#[tokio::test]
async fn models_without_texts_are_listed_and_the_scheduler_makes_what_a_scan_left() {
    let (farm, mut agent) = library().await;
    agent.process.kill().await;
    let as_scans_write =
        "update model_search set text_due = true, words = '', document = '' where name = 'kitchen-sink'";
    let kept = committed_and_kept(&farm, as_scans_write).await;
    assert!(listed(&farm, "type=vae").await.contains(&"kitchen-sink".to_owned()));
    let api = &farm.api;
    let page = |request: Value| async move { api.post("/v1/models/search", &request).await.json::<ModelPage>() };
    let by_words = page(json!({ "text": "kitchen" })).await;
    assert_eq!((by_words.items.len(), by_words.indexing), (0, Some(1)), "a search says that texts are due");
    assert_eq!(page(json!({ "type": ["vae"] })).await.indexing, None, "a list has no need of them");
    kept.rollback().await.expect("an end");
    wait_for("a text that was due", SHORT, || async {
        let found = names(&farm, json!({ "text": "kitchen" })).await;
        if found == ["kitchen-sink"] { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    assert_eq!(farm.ledger.number("select count(*) from model_search where text_due").await, 0);
    assert_eq!(page(json!({ "text": "kitchen" })).await.indexing, None);
}

/// Commits a change of `model_search` and keeps everybody from the next one until the transaction ends.
async fn committed_and_kept(farm: &Farm, change: &'static str) -> Transaction<'static, Postgres> {
    let pool = farm.ledger.pool();
    let mut changed = pool.begin().await.expect("a transaction");
    sqlx::query(change).execute(&mut *changed).await.expect("a change");
    let keep = async {
        let mut kept = pool.begin().await.expect("a transaction");
        sqlx::query("lock table model_search in share mode").execute(&mut *kept).await.expect("a lock");
        kept
    };
    let commit = async {
        let asked = "select count(*) from pg_locks where relation = 'model_search'::regclass and mode = 'ShareLock' and not granted";
        wait_for("the lock to be asked for", SHORT, || async {
            let asked = farm.ledger.number(asked).await;
            if asked == 1 { Ok(()) } else { Err(format!("{asked} wait")) }
        })
        .await;
        changed.commit().await.expect("a commit");
    };
    tokio::join!(keep, commit).0
}

/// A scan records models while it reads others; one whose job is somebody else's by then records nothing.
#[tokio::test]
async fn g5_models_found_by_a_zombie_are_not_listed() {
    let (farm, _agent) = library().await;
    let found: FoundModel = FoundModel {
        rel_path: "late.safetensors".into(),
        name: "late".into(),
        model_type: "vae".into(),
        base: "sd15".into(),
        format: "safetensors".into(),
        variant: None,
        prediction: None,
        size_bytes: 1,
        is_unreadable: false,
        reason: None,
        evidence: json!([]),
        metadata: json!({}),
        files: Vec::new(),
        read_as: ReadAs::default(),
        canonical_form: 1,
        components: Vec::new(),
        stamp: None,
    };
    let mut batch = Batch::default();
    batch.push(Written::of(&found).expect("JSON"));
    let pool = farm.ledger.pool();
    let (id, fence): (JobId, i64) =
        sqlx::query_as("select id, fence from jobs where kind = 'scan' order by id limit 1")
            .fetch_one(pool)
            .await
            .expect("the scan that made the library");
    let over = JobLease { id, fence, incarnation: Incarnation::generate() };
    assert_eq!(models::record_models(pool, Some(over), ("a", "main"), &batch).await.expect("an answer"), None);
    assert!(!listed(&farm, "").await.contains(&"late".to_owned()));
    let alone = models::record_models(pool, None, ("a", "main"), &batch).await.expect("an answer");
    assert_eq!(alone.map(|counts| counts.added), Some(1));
    assert!(listed(&farm, "").await.contains(&"late".to_owned()));
    wait_for("its text", SHORT, || async {
        let found = names(&farm, json!({ "text": "late" })).await;
        if found == ["late"] { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

#[tokio::test]
async fn filters_hold_together() {
    let (farm, _agent) = library().await;
    assert_eq!(names(&farm, json!({ "type": ["checkpoint"] })).await, ["whole"]);
    assert_eq!(
        names(&farm, json!({ "type": ["vae"], "size_min": mebibytes(2), "size_max": mebibytes(3) })).await,
        ["kitchen-sink"]
    );
    assert_eq!(names(&farm, json!({ "component": ["text_encoder", "lora"] })).await, ["whole"]);
    assert_eq!(names(&farm, json!({ "name": "N_S" })).await, [] as [&str; 0]);
    assert_eq!(names(&farm, json!({ "name": "N-S" })).await, ["kitchen-sink"]);
    assert_eq!(names(&farm, json!({ "name": "r_8" })).await, ["DreamShaper_8"]);
    assert_eq!(
        names(&farm, json!({ "dtype": ["fp32"], "type": ["checkpoint", "lora"], "format": ["safetensors"] })).await,
        ["whole"]
    );
    assert!(names(&farm, json!({ "host": "b" })).await.is_empty());
    assert_eq!(names(&farm, json!({ "host": "a", "sort": "-size", "limit": 1 })).await, ["whole"]);
    assert_eq!(listed(&farm, "component=text_encoder&state=available,missing").await, ["whole"]);
    assert_eq!(names(&farm, json!({ "text": "dreamshaper", "size_min": mebibytes(2) })).await, ["plain"]);

    let hashes = wait_for("hashes", LONG, || async {
        let detail: ModelDetail = farm.api.get("/v1/models/kitchen-sink").await;
        detail.hashes.ok_or_else(|| "none".to_owned())
    })
    .await;
    let sha256 = hashes.sha256.expect("one file");
    let autov2 = hashes.autov2.expect("one file").to_uppercase();
    for hash in [&sha256, &autov2, &sha256[..8].to_owned(), &hashes.blake3, &hashes.payload_sha256.expect("a payload")]
    {
        assert_eq!(names(&farm, json!({ "hash": hash })).await, ["kitchen-sink"], "{hash}");
        assert_eq!(listed(&farm, &format!("hash={hash}")).await, ["kitchen-sink"], "{hash}");
    }
    loaded(&farm, "kitchen-sink").await;
    wait_for("the filter to see it", SHORT, || async {
        let seen = names(&farm, json!({ "tier": "vram" })).await;
        if seen == ["kitchen-sink"] { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_searched_for_is_pointed_at() {
    let farm = Farm::start().await;
    for (request, pointer) in [
        (json!({ "text": "--" }), "/text"),
        (json!({ "text": "a\u{0}b" }), "/text"),
        (json!({ "hash": "abc" }), "/hash"),
        (json!({ "sort": "rank" }), "/sort"),
        (json!({ "sort": "colour" }), "/sort"),
        (json!({ "state": ["gone"] }), "/state"),
        (json!({ "colour": 1 }), "/colour"),
        (json!({ "size_min": -1 }), "/size_min"),
        (json!({ "limit": 0 }), "limit"),
        (json!({ "cursor": "invented" }), "cursor"),
    ] {
        let problem = farm.api.post("/v1/models/search", &request).await.problem(400);
        assert_eq!(problem.errors[0].pointer, pointer, "{request}");
    }
    farm.api.ask("/v1/models?q=%00").await.problem(400);
    farm.api.ask("/v1/models?text=%00a").await.problem(400);
    assert!(
        search(&farm, json!({ "text": "anything" })).await.is_empty(),
        "an empty catalogue has nothing near either"
    );
}

/// Pages of a ranked search hold what was there once, whatever comes in between.
#[tokio::test]
async fn pages_of_a_search_hold_every_model_once_while_models_are_added() {
    let farm = Farm::start().await;
    for number in 0..9 {
        ModelFile::vae(4096).seed(number).write(&farm.library(), &format!("common {number}.safetensors"));
    }
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    for sort in ["rank", "-rank", "name", "-created", "updated", "-size"] {
        let before = names(&farm, json!({ "text": "comon", "sort": sort })).await;
        let (mut seen, mut cursor, mut added) = (Vec::new(), None::<String>, 0);
        loop {
            let request = json!({ "text": "comon", "sort": sort, "limit": 2, "cursor": cursor });
            let page: Page<ModelSummary> = farm.api.post("/v1/models/search", &request).await.json();
            seen.extend(page.items.into_iter().map(|model| model.name));
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
            if added == 0 {
                // a model with the misspelt word itself must not change what the word meant when the walk began
                let name = format!("comon {sort}.safetensors");
                ModelFile::vae(4096).seed(100).write(&farm.library(), &name);
                scan(&farm).await;
                added += 1;
                let other = json!({ "text": "common", "sort": sort, "limit": 2, "cursor": cursor });
                farm.api.post("/v1/models/search", &other).await.problem(400);
            }
        }
        let mut stable = seen.clone();
        stable.retain(|name| before.contains(name));
        assert_eq!(stable, before, "{sort}: {seen:?}");
        fs::remove_file(farm.library().join(format!("comon {sort}.safetensors"))).expect("the file");
        sqlx::query("delete from models where name like 'comon%'")
            .execute(farm.ledger.pool())
            .await
            .expect("a deletion");
    }
}
