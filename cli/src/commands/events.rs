//! `modelyard events`: what happens on the farm, as it happens.

use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use shared::{
    bytes::ByteSize,
    ids::{ComponentId, JobId},
    wire::{HostEvent, StateChange},
};
use tokio::time::Instant;

use super::jobs;
use crate::{
    client::{Client, sse},
    error::CliError,
    follow,
    output::Output,
};

/// All that there is to tell.
const ALL: &str = "jobs,residency,devices,hosts";
/// Time between attempts to have the stream back.
const PAUSE: Duration = Duration::from_millis(500);

/// Options of `events`.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// What to tell of: `jobs`, `residency` (what becomes resident or leaves), `devices` and `hosts` (which leave service and come back, and
    /// why); all when absent.
    #[arg(long, value_name = "TOPIC", value_delimiter = ',')]
    topic: Vec<String>,

    /// Start after this event; without it, from now on.
    #[arg(long, value_name = "SEQ")]
    after: Option<i64>,
}

/// What an event of residency says.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Facts {
    component: Option<ComponentId>,
    kind: String,
    bytes: u64,
    models: Vec<String>,
    reason: Option<String>,
    wanted: Option<ComponentId>,
    merged_into: Option<ComponentId>,
    job: Option<JobId>,
}

pub(crate) async fn run(args: EventsArgs, client: &Client, output: Output) -> Result<(), CliError> {
    let topics = if args.topic.is_empty() { ALL.to_owned() } else { args.topic.join(",") };
    let mut last = args.after;
    loop {
        let mut events = open(client, &topics, last, output).await?;
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                // without a handler Ctrl-C ends the process, which is what it should do here
                Ok(()) = tokio::signal::ctrl_c() => return Err(CliError::Interrupted { job: None }),
            };
            last = events.last_id().or(last);
            let Some(event) = event else { break };
            if output.json { output.line(&event.data)? } else { told(&event, output)? }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The stream from where it was lost; an API that went away is waited for, as long as a restart takes.
async fn open(client: &Client, topics: &str, last: Option<i64>, output: Output) -> Result<sse::Events, CliError> {
    let query = [("topics", Some(topics.to_owned()))];
    let (deadline, mut noted) = (Instant::now() + follow::OUTAGE, false);
    loop {
        match client.events("/v1/events", &query, last).await {
            Err(error) if last.is_some() && follow::is_outage(&error) && Instant::now() < deadline => {
                if !std::mem::replace(&mut noted, true) {
                    output.note("the API is away, waiting for it");
                }
                tokio::time::sleep(PAUSE).await;
            }
            opened => return opened,
        }
    }
}

fn told(event: &sse::Event, output: Output) -> Result<(), CliError> {
    match serde_json::from_str::<HostEvent>(&event.data) {
        Ok(event) if event.kind.starts_with("residency.") => output.line(line(&event)),
        Ok(event) => output.line(state_line(&event)),
        Err(_) => jobs::told(&event.kind, &event.data, output),
    }
}

/// `12:00:00.000 a/cuda:0 quarantined, was ready: Xid 79 (the device fell off the bus)`; a host goes by its name.
fn state_line(event: &HostEvent) -> String {
    let change = StateChange::deserialize(&event.data).unwrap_or_default();
    let place = event.device.as_ref().unwrap_or(&event.host);
    // one that was there and is there again says so by its reason
    let from = change.from.filter(|from| *from != change.to).map(|from| format!(", was {from}")).unwrap_or_default();
    let reason = change.reason.map(|reason| format!(": {reason}")).unwrap_or_default();
    format!("{} {place} {}{from}{reason}", event.at.format("%H:%M:%S%.3f"), change.to)
}

/// `12:00:00.000 a/cpu:0 gone unet 6.0 MiB of one, two (01J…): room for 01J…`.
fn line(event: &HostEvent) -> String {
    // what another release says beside these is passed over
    let facts = Facts::deserialize(&event.data).unwrap_or_default();
    let place = event.device.clone().unwrap_or_else(|| format!("{} RAM", event.host));
    let what = event.kind.strip_prefix("residency.").unwrap_or(&event.kind);
    let of = if facts.models.is_empty() { String::new() } else { format!(" of {}", facts.models.join(", ")) };
    let id = facts.component.map(|id| format!(" ({id})")).unwrap_or_default();
    let reason = facts.reason.map(|reason| format!(": {reason}")).unwrap_or_default();
    let other = facts.wanted.map(|wanted| format!(" for {wanted}")).unwrap_or_default();
    let merged = facts.merged_into.map(|into| format!(" into {into}")).unwrap_or_default();
    let job = facts.job.map(|job| format!(", job {job}")).unwrap_or_default();
    let (at, bytes) = (event.at.format("%H:%M:%S%.3f"), ByteSize(facts.bytes));
    format!("{at} {place} {what} {} {bytes}{of}{id}{reason}{other}{merged}{job}", facts.kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_of_residency_is_one_line() {
        let [component, wanted] = std::array::from_fn(|_| ComponentId::generate());
        let event = serde_json::json!({
            "seq": 7, "host": "a", "device": "a/cpu:0", "at": "2026-01-02T03:04:05.678Z", "type": "residency.gone",
            "data": { "tier": "vram", "component": component, "kind": "vae", "bytes": 8 << 20, "models": ["one", "two"],
                      "reason": "room", "wanted": wanted },
        });
        let mut event: HostEvent = serde_json::from_value(event).unwrap();
        let bytes = ByteSize(8 << 20);
        let expected = format!("03:04:05.678 a/cpu:0 gone vae {bytes} of one, two ({component}): room for {wanted}");
        assert_eq!(line(&event), expected);
        event.device = None;
        assert!(line(&event).starts_with("03:04:05.678 a RAM gone vae "), "{}", line(&event));
    }

    #[test]
    fn an_event_of_a_device_or_a_host_says_what_it_was_and_why() {
        let event = |device: Option<&str>, data: serde_json::Value| -> HostEvent {
            let event = serde_json::json!({
                "seq": 7, "host": "a", "device": device, "at": "2026-01-02T03:04:05.678Z", "type": "device.lost", "data": data,
            });
            serde_json::from_value(event).unwrap()
        };
        let lost = event(
            Some("a/cpu:0"),
            serde_json::json!({ "from": "ready", "to": "lost", "reason": "its runner ended: signal 9" }),
        );
        assert_eq!(state_line(&lost), "03:04:05.678 a/cpu:0 lost, was ready: its runner ended: signal 9");
        let back = event(Some("a/cpu:0"), serde_json::json!({ "from": "lost", "to": "ready" }));
        assert_eq!(state_line(&back), "03:04:05.678 a/cpu:0 ready, was lost");
        let started =
            event(None, serde_json::json!({ "from": "ready", "to": "ready", "reason": "its agent was started" }));
        assert_eq!(state_line(&started), "03:04:05.678 a ready: its agent was started");
    }
}
