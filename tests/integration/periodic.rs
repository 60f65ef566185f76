//! Periodic jobs: fired once per due time, whoever leads.

use std::time::Duration;

use harness::{Farm, LONG, wait_for};
use shared::job::JobState;

use crate::support::small_model;

/// Two schedulers, one schedule: each due time makes one job for all hosts, also across a change of leader.
#[tokio::test]
async fn a_periodic_scan_is_fired_once_per_due_time() {
    let mut farm = Farm::builder().with(|settings| settings.scan_every = Duration::from_secs(1)).start().await;
    small_model(&farm);
    let _a = farm.start_agent(farm.agent("a")).await;
    let _b = farm.start_agent(farm.agent("b")).await;
    let _second = farm.another_scheduler().await;
    let fired = "select count(*) from jobs where kind = 'scan' and lane = 'fanout'";
    at_least(&farm, fired, 3).await;
    farm.scheduler.process.kill().await;
    let before = farm.ledger.number(fired).await;
    at_least(&farm, fired, before + 2).await;

    // a due time lies a whole period after the one before, by the database's clock: two jobs closer than that are one
    // due time fired twice
    let twice = farm
        .ledger
        .number(
            "select count(*) from (select created_at - lag(created_at) over (order by created_at) as gap
                 from jobs where kind = 'scan' and lane = 'fanout') gaps where gap < interval '999 milliseconds'",
        )
        .await;
    assert_eq!(twice, 0);
    let parent: shared::ids::JobId =
        sqlx::query_scalar("select id from jobs where kind = 'scan' and lane = 'fanout' order by id limit 1 offset 1")
            .fetch_one(farm.ledger.pool())
            .await
            .expect("a parent");
    let done = farm.api.job_ended(parent, JobState::Succeeded, LONG).await;
    assert!(!done.children.is_empty());
}

async fn at_least(farm: &Farm, sql: &'static str, wanted: i64) {
    wait_for(&format!("{wanted} fired scans"), LONG, || async {
        let count = farm.ledger.number(sql).await;
        if count >= wanted { Ok(()) } else { Err(format!("{count}")) }
    })
    .await;
}

/// A scan brings the catalogue up to date: what is new appears, what is gone is missing, what came back is available.
#[tokio::test]
async fn a_scan_follows_the_disk() {
    use harness::{ModelFile, SHORT, mebibytes};
    use serde_json::json;
    use shared::wire::{JobView, ModelSummary};
    let farm = Farm::start().await;
    small_model(&farm);
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let id = farm.model("small").await.summary.id;
    let scan = || async {
        let job: JobView = farm.api.submit("/v1/jobs", json!({ "kind": "scan", "target": "host:a" })).await;
        farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
        let models: Vec<ModelSummary> = farm.api.list("/v1/models").await;
        models.into_iter().map(|model| (model.name, model.state, model.id)).collect::<Vec<_>>()
    };
    let path = farm.library().join("small.safetensors");
    let aside = farm.path("aside");
    std::fs::rename(&path, &aside).expect("a move");
    ModelFile::vae(mebibytes(1)).seed(9).write(&farm.library(), "new.safetensors");
    let models = scan().await;
    let state_of = |models: &[(String, String, shared::ids::ModelId)], name: &str| {
        models.iter().find(|model| model.0 == name).map(|model| model.1.clone())
    };
    assert_eq!(state_of(&models, "new").as_deref(), Some("available"));
    assert_eq!(state_of(&models, "small").as_deref(), Some("missing"));
    std::fs::rename(&aside, &path).expect("a move");
    let models = scan().await;
    assert_eq!(state_of(&models, "small").as_deref(), Some("available"));
    assert!(models.iter().any(|model| model.2 == id), "it is the same model: {models:?}");
}
