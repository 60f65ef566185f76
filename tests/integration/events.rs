//! Event streams: replay by Last-Event-ID without a gap and without a repetition.

use harness::{Farm, LONG, SHORT, Sse, SseEvent};
use shared::job::JobState;

use crate::support::{big_model, bytes_move, load, loaded, small_model};

fn ids(events: &[SseEvent]) -> Vec<i64> {
    events.iter().filter_map(|event| event.id).collect()
}

#[tokio::test]
async fn a_stream_is_resumed_without_gap_or_repetition() {
    let farm = Farm::start().await;
    big_model(&farm, 24);
    let _agent = farm.agent_with_library(farm.agent("a").read_limit("8MB")).await;
    let job = load(&farm, "big").await;
    let path = format!("/v1/jobs/{}/events", job.id);
    let mut first = Sse::open(&farm.api, &path, None).await;
    let mut seen = Vec::new();
    while ids(&seen).len() < 2 {
        seen.push(first.next(SHORT).await.expect("the job has not ended"));
    }
    drop(first);
    bytes_move(&farm, &job).await;
    let last = *ids(&seen).last().expect("two ids");
    let mut second = Sse::open(&farm.api, &path, Some(last)).await;
    let rest = second.rest(LONG).await;
    // the stream has ended by itself, after the job's last event
    assert_eq!(rest.iter().rev().find(|event| event.id.is_some()).map(|event| event.event.as_str()), Some("succeeded"));
    assert!(rest.iter().any(|event| event.event == "progress" && event.id.is_none()), "{rest:?}");
    seen.extend(rest);
    let ledger: Vec<i64> = farm.ledger.events(job.id).await.iter().map(|event| event.seq).collect();
    assert_eq!(ids(&seen), ledger);

    // of an ended job everything is replayed at once, from wherever one asks
    let all = Sse::open(&farm.api, &path, Some(0)).await.rest(SHORT).await;
    assert_eq!(ids(&all), ledger);
}

#[tokio::test]
async fn the_farms_stream_carries_every_job_in_order() {
    let farm = Farm::start().await;
    small_model(&farm);
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let begin = farm.ledger.number("select coalesce(max(seq), 0) from job_events").await;
    let mut live = Sse::open(&farm.api, "/v1/events", Some(begin)).await;
    let mut seen = Vec::new();
    let first = loaded(&farm, "small").await;
    let second = loaded(&farm, "small").await;
    let last = farm.ledger.events(second.job.id).await.last().map(|event| event.seq).expect("events");
    while ids(&seen).last() != Some(&last) {
        seen.push(live.next(SHORT).await.expect("the farm's stream does not end"));
    }
    let mut expected: Vec<i64> = Vec::new();
    for job in [first.job.id, second.job.id] {
        expected.extend(farm.ledger.events(job).await.iter().map(|event| event.seq));
    }
    assert_eq!(ids(&seen), expected);
}

/// An API that starts while somebody writes events takes listeners at once, and has told all that came after that when the writer is done.
#[tokio::test]
async fn a_stream_begins_where_nothing_is_settled_yet() {
    let farm = Farm::start().await;
    small_model(&farm);
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let mut writer = farm.ledger.pool().begin().await.expect("a transaction");
    let event = "insert into residency_events (type, host, data) values ('residency.gone', 'elsewhere', '{}')";
    sqlx::query(event).execute(&mut *writer).await.expect("an event");
    loaded(&farm, "small").await;
    let (_daemon, other) = farm.another_api().await;
    let mut stream = Sse::open(&other, "/v1/events", None).await;
    let after = loaded(&farm, "small").await;
    let early = stream.arrived().await;
    assert!(early.is_none(), "an earlier event can still come: {early:?}");
    writer.commit().await.expect("a commit");
    let expected: Vec<i64> = farm.ledger.events(after.job.id).await.iter().map(|event| event.seq).collect();
    let mut seen = Vec::new();
    while ids(&seen).last() != expected.last() {
        seen.push(stream.next(SHORT).await.expect("the farm's stream does not end"));
    }
    assert_eq!(ids(&seen), expected);
}

/// A second API serves the same stream: a client may go on elsewhere.
#[tokio::test]
async fn a_client_goes_on_at_another_api() {
    let mut farm = Farm::start().await;
    big_model(&farm, 24);
    let _agent = farm.agent_with_library(farm.agent("a").read_limit("8MB")).await;
    let (_daemon, other) = farm.another_api().await;
    let job = load(&farm, "big").await;
    let path = format!("/v1/jobs/{}/events", job.id);
    let mut first = Sse::open(&farm.api, &path, None).await;
    let seen = first.next(SHORT).await.expect("an event");
    farm.api_daemon.process.kill().await;
    let mut all = vec![seen];
    let last = ids(&all).last().copied();
    all.extend(Sse::open(&other, &path, last).await.rest(LONG).await);
    farm.api = other;
    farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
    let ledger: Vec<i64> = farm.ledger.events(job.id).await.iter().map(|event| event.seq).collect();
    assert_eq!(ids(&all), ledger);
}
