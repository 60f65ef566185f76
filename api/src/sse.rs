//! Event streams: replayed and continued from Postgres by sequence number, woken by hints, with a poll fallback.
//! `progress` events are made here from the progress row and carry no id, because they are not replayed.

use std::{
    collections::VecDeque,
    convert::Infallible,
    time::{Duration, Instant},
};

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::Stream;
use shared::{
    db::{
        events::{self, FarmEventRow, Topics},
        jobs::{self, EventRow, ProgressRow},
        listen::{self, Hint},
    },
    ids::JobId,
    job::JobState,
    wire::HostEvent,
};
use tokio::sync::{
    broadcast::{Receiver, error::RecvError},
    watch,
};

use crate::{context::NO_STORE, horizon::Seen, problem::ApiError, state::AppState, views};

/// Time between heartbeat comments.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Time between progress events, and the poll of a job's stream.
const PROGRESS: Duration = Duration::from_millis(500);
/// Time before Postgres is asked again after it failed.
const AGAIN: Duration = Duration::from_secs(1);
/// Events read at once.
const BATCH: i64 = 256;

/// What an SSE client sends when it comes back.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Proxies must pass events on at once.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Where a returning client stopped: the header, else the `after` parameter.
///
/// # Errors
/// A 400 problem for an id that is not a number.
pub(crate) fn resume_point(headers: &HeaderMap, after: Option<i64>) -> Result<Option<i64>, ApiError> {
    let Some(value) = headers.get(LAST_EVENT_ID) else { return Ok(after) };
    let number = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    number.map(Some).ok_or_else(|| ApiError::field("last-event-id", "an event id of this API is a number"))
}

/// The stream as a response.
pub(crate) fn respond(feed: Feed) -> Response {
    let alive = KeepAlive::new().interval(HEARTBEAT).text("heartbeat");
    let headers = [(X_ACCEL_BUFFERING, HeaderValue::from_static("no")), (header::CACHE_CONTROL, NO_STORE)];
    (headers, Sse::new(feed.stream()).keep_alive(alive)).into_response()
}

/// What a stream tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum About {
    /// One job and its children.
    Job(JobId),
    /// The farm.
    Farm(Topics),
}

/// The events of one job and its children, or of the farm.
#[derive(Debug)]
pub(crate) struct Feed {
    state: AppState,
    about: About,
    after: i64,
    hints: Receiver<Hint>,
    /// How far the farm's events are settled.
    settled: watch::Receiver<Seen>,
    /// It is still to be told where the stream starts.
    starts: bool,
    queue: VecDeque<Event>,
    /// The job's terminal event has been queued, or its row says that it ended and nothing more came.
    ended: bool,
    seen_ended: bool,
    progress: Option<ProgressRow>,
    progress_at: Option<Instant>,
}

impl Feed {
    /// Events after `after`; a stream of one job ends with the job.
    pub(crate) fn new(state: AppState, about: About, after: i64) -> Self {
        // subscribed before the first look, so that nothing falls between
        let (hints, settled) = (state.hints.subscribe(), state.settled.subscribe());
        let queue = VecDeque::new();
        Self {
            state,
            about,
            after,
            hints,
            settled,
            starts: false,
            queue,
            ended: false,
            seen_ended: false,
            progress: None,
            progress_at: None,
        }
    }

    /// Tells first where it starts, so that a client that has not seen an event yet can come back to it as well. Not before all that has a lower
    /// number is there: who looks at the farm after it misses nothing.
    pub(crate) fn with_its_start(mut self) -> Self {
        self.starts = true;
        self
    }

    fn stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        futures::stream::unfold(self, |mut feed| async move { feed.next().await.map(|event| (Ok(event), feed)) })
    }

    async fn next(&mut self) -> Option<Event> {
        let stop = self.state.tasks.token().clone();
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Some(event);
            }
            if self.ended || stop.is_cancelled() {
                return None;
            }
            if self.fill().await.is_err() {
                // logged where it happened; the stream stays open and goes on when Postgres is back
                tokio::select! { () = stop.cancelled() => return None, () = tokio::time::sleep(AGAIN) => {} }
            } else if self.queue.is_empty() && !self.ended {
                tokio::select! { () = stop.cancelled() => return None, () = self.woken() => {} }
            }
        }
    }

    async fn fill(&mut self) -> Result<(), ApiError> {
        match self.about {
            About::Job(job) => self.fill_of_job(job).await,
            About::Farm(topics) => self.fill_of_farm(topics).await,
        }
    }

    async fn fill_of_farm(&mut self, topics: Topics) -> Result<(), ApiError> {
        let Some(settled) = self.settled.borrow_and_update().settled else { return Ok(()) };
        if std::mem::take(&mut self.starts) {
            // without data it is no event to a client, which takes the id all the same
            self.queue.push_back(Event::default().id(self.after.to_string()));
        }
        if settled <= self.after {
            return Ok(());
        }
        let mut conn = self.state.connection().await?;
        for row in events::after(&mut *conn, topics, (self.after, settled), BATCH).await? {
            self.after = row.seq;
            self.queue.extend(event_of_farm(row));
        }
        Ok(())
    }

    async fn fill_of_job(&mut self, job: JobId) -> Result<(), ApiError> {
        let mut conn = self.state.connection().await?;
        let rows = jobs::events_after(&mut *conn, job, self.after, BATCH).await?;
        let none_new = rows.is_empty();
        for row in rows {
            self.after = row.seq;
            self.ended |= row.job_id == job && is_terminal(&row.kind);
            self.queue.extend(event(row));
        }
        if !none_new || self.ended {
            return Ok(());
        }
        if self.seen_ended {
            self.ended = true;
            return Ok(());
        }
        let row = jobs::find(&mut *conn, job).await?;
        self.seen_ended = row.as_ref().is_none_or(|row| row.finished_at.is_some());
        if row.is_some_and(|row| row.state == JobState::Running.as_str()) && self.progress_is_due() {
            let now = jobs::progress_of(&mut *conn, job).await?;
            self.offer_progress(job, now);
        }
        Ok(())
    }

    fn progress_is_due(&self) -> bool {
        self.progress_at.is_none_or(|at| at.elapsed() >= PROGRESS)
    }

    fn offer_progress(&mut self, job: JobId, now: Option<ProgressRow>) {
        if now.is_none() || now == self.progress {
            return;
        }
        self.progress_at = Some(Instant::now());
        self.progress.clone_from(&now);
        let data = now.map(|row| serde_json::json!({ "job": job, "progress": views::progress(row) }));
        self.queue.extend(data.and_then(|data| Event::default().event("progress").json_data(data).ok()));
    }

    /// More is settled; or a hint about the job (for a parent: about any), or the poll.
    async fn woken(&mut self) {
        let job = match self.about {
            About::Job(job) => job.to_string(),
            About::Farm(_) => {
                // it never fails: what it comes from is in the state
                let _ = self.settled.changed().await;
                return;
            }
        };
        let poll = if self.seen_ended { Duration::ZERO } else { PROGRESS };
        let hinted = async {
            loop {
                match self.hints.recv().await {
                    Ok(hint) if hint.channel.is_empty() => return,
                    Ok(hint) if hint.channel == listen::JOB && hint.payload == job => return,
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => return,
                    Err(RecvError::Closed) => std::future::pending::<()>().await,
                }
            }
        };
        // running out of time is the poll
        let _ = tokio::time::timeout(poll, hinted).await;
    }
}

fn event(row: EventRow) -> Option<Event> {
    named(row.seq, &row.kind).json_data(views::event(row)).ok()
}

/// Of a job as in the job's own stream, or of a host.
fn event_of_farm(row: FarmEventRow) -> Option<Event> {
    let FarmEventRow { seq, at, kind, data, job_id, host, device } = row;
    if let Some(job_id) = job_id {
        return event(EventRow { seq, job_id, at, kind, data });
    }
    let event = named(seq, &kind);
    event.json_data(HostEvent { seq, host: host?, device, at, kind, data }).ok()
}

fn named(seq: i64, kind: &str) -> Event {
    // a line break inside a type would end the field
    let kind: String = kind.chars().filter(|letter| !letter.is_control()).collect();
    Event::default().id(seq.to_string()).event(kind)
}

fn is_terminal(kind: &str) -> bool {
    kind.parse::<JobState>().is_ok_and(JobState::is_terminal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_returning_client_says_where_it_stopped() {
        let mut headers = HeaderMap::new();
        assert_eq!(resume_point(&headers, Some(3)).unwrap(), Some(3));
        headers.insert(LAST_EVENT_ID, HeaderValue::from_static("41"));
        assert_eq!(resume_point(&headers, Some(3)).unwrap(), Some(41));
        headers.insert(LAST_EVENT_ID, HeaderValue::from_static("x"));
        assert!(resume_point(&headers, None).is_err());
    }

    #[test]
    fn only_ends_are_terminal() {
        assert!(["succeeded", "failed", "cancelled", "quarantined"].into_iter().all(is_terminal));
        assert!(!["retry", "lost", "placed", "running", "enqueued"].into_iter().any(is_terminal));
    }
}
