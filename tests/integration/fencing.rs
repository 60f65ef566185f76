//! Workers that are late or cut off: G5, G6.

use chrono::{DateTime, Utc};
use harness::{Farm, LONG, Proxy, SHORT, wait_for};
use shared::job::JobState;

use crate::support::{big_model, bytes_move, device_is, load};

/// A worker that was paused beyond its lease comes back to a job that somebody else has done: it changes nothing, and
/// counts that.
#[tokio::test]
async fn g5_fenced_zombie() {
    let farm = Farm::start().await;
    big_model(&farm, 48);
    let mut agents = Vec::new();
    for host in ["a", "b"] {
        agents.push((host, farm.agent_with_library(farm.agent(host).read_limit("16MB")).await));
    }
    let job = load(&farm, "big").await;
    let seen = bytes_move(&farm, &job).await;
    let victim = seen.job.host.clone().expect("a running job has a host");
    let (_, zombie) = agents.iter().find(|(host, _)| *host == victim).expect("one of ours");
    zombie.process.pause().await;
    let done = farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
    assert_ne!(done.job.host.as_ref(), Some(&victim));
    let before = farm.ledger.events(job.id).await.len();

    zombie.process.resume();
    wait_for("the zombie to drop its result", LONG, || async {
        let dropped = zombie.metric("modelyard_stale_results_rejected_total", "").await;
        if dropped >= 1.0 { Ok(()) } else { Err(format!("{dropped} dropped")) }
    })
    .await;
    let after = farm.api.job(job.id).await;
    assert_eq!(serde_json::to_value(&after.job).ok(), serde_json::to_value(&done.job).ok());
    assert_eq!(farm.ledger.events(job.id).await.len(), before);
    assert_eq!(farm.ledger.outcomes(job.id).await, ["lost", "succeeded"]);
    farm.assert_ledger_is_clean().await;
    // it is an ordinary worker again
    device_is(&farm, &format!("{victim}/cpu:0"), "ready", |view| view.state == "ready" && !view.staleness.stale).await;
}

/// When each line of a log was written, and what it says.
fn log_lines(log: &str) -> Vec<(DateTime<Utc>, &str)> {
    log.lines().filter_map(|line| Some((line.split_whitespace().next()?.parse().ok()?, line))).collect()
}

/// A worker that cannot reach Postgres stops its job before its lease is over for everybody else.
#[tokio::test]
async fn g6_self_stop() {
    let farm = Farm::builder().with(|settings| settings.lease_ttl = std::time::Duration::from_secs(4)).start().await;
    big_model(&farm, 96);
    let proxy = Proxy::to(farm.database_url());
    let settings = farm.agent("a").read_limit("8MB").database_url(proxy.url());
    let cut_off = farm.agent_with_library(settings).await;
    let job = load(&farm, "big").await;
    bytes_move(&farm, &job).await;
    let _other = farm.agent_with_library(farm.agent("b")).await;

    proxy.cut();
    wait_for("the job to be stopped", LONG, || async {
        let stops = cut_off.metric("modelyard_self_fences_total", "").await;
        if stops >= 1.0 { Ok(()) } else { Err(format!("{stops} stops")) }
    })
    .await;
    assert_eq!(cut_off.metric("modelyard_admitting", "").await, 0.0);
    let done = farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
    assert_eq!(done.job.host.as_deref(), Some("b"));

    let attempts = farm.ledger.attempts(job.id).await;
    assert_eq!(farm.ledger.outcomes(job.id).await, ["lost", "succeeded"]);
    let log = cut_off.process.log();
    let stopped =
        log_lines(&log).into_iter().find(|(_, line)| line.contains("stopped all jobs")).expect("it says so").0;
    // both clocks are this machine's
    let stopped = stopped.timestamp_micros() as f64 / 1e6;
    assert!(stopped < attempts[1].began, "stopped at {stopped}, run elsewhere from {}", attempts[1].began);
    assert!(stopped < attempts[0].ended.expect("it was taken back"), "{attempts:#?}");

    proxy.heal();
    device_is(&farm, "a/cpu:0", "ready again", |view| view.state == "ready" && !view.staleness.stale).await;
    assert_eq!(farm.ledger.outcomes(job.id).await, ["lost", "succeeded"]);
    farm.assert_ledger_is_clean().await;
    wait_for("claims to be admitted again", SHORT, || async {
        let admitting = cut_off.metric("modelyard_admitting", "").await;
        if admitting == 1.0 { Ok(()) } else { Err(format!("{admitting}")) }
    })
    .await;
}

/// A short break is no reason to stop: the job goes on and is committed once.
#[tokio::test]
async fn a_break_shorter_than_the_lease_changes_nothing() {
    let farm = Farm::builder().with(|settings| settings.lease_ttl = std::time::Duration::from_secs(15)).start().await;
    big_model(&farm, 32);
    let proxy = Proxy::to(farm.database_url());
    let settings = farm.agent("a").read_limit("16MB").database_url(proxy.url());
    let agent = farm.agent_with_library(settings).await;
    let job = load(&farm, "big").await;
    bytes_move(&farm, &job).await;
    proxy.cut();
    // the job's bytes are all there while nobody can be told
    wait_for("the load to end", SHORT, || async {
        let bytes = agent.metric("modelyard_copied_bytes_total", "").await;
        if bytes > 0.0 { Ok(()) } else { Err("nothing copied".into()) }
    })
    .await;
    proxy.heal();
    farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
    assert_eq!(farm.ledger.outcomes(job.id).await, ["succeeded"]);
    assert_eq!(agent.metric("modelyard_self_fences_total", "").await, 0.0);
}
