//! Event streams.

use axum::{extract::State, http::HeaderMap, response::Response};
use serde::Deserialize;
use shared::{db::jobs, ids::JobId};

use super::id_of;
use crate::{
    extract::{Path, Query},
    plan::get_job,
    problem::ApiError,
    sse::{self, Feed},
    state::AppState,
};

/// Where a stream starts.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct EventsQuery {
    /// Only events after this id; `Last-Event-ID` does the same and wins.
    after: Option<i64>,
}

/// Streams the events of a job
///
/// Server-sent events of the job and its children from the first one (or after `Last-Event-ID`); ends after the job's
/// terminal event. `progress` events carry no id and are not replayed.
#[utoipa::path(get, path = "/v1/jobs/{job}/events", operation_id = "streamJobEvents", tag = "jobs",
    params(("job" = String, Path, description = "Id"), EventsQuery),
    responses((status = 200, description = "Events", body = String, content_type = "text/event-stream")))]
pub(crate) async fn job_events(
    State(state): State<AppState>,
    Path(job): Path<String>,
    Query(query): Query<EventsQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let id: JobId = id_of(&job)?;
    let after = sse::resume_point(&headers, query.after)?.unwrap_or(0);
    get_job(&mut *state.connection().await?, id).await?;
    Ok(sse::respond(Feed::new(state, Some(id), after)))
}

/// Streams the events of all jobs
///
/// Server-sent events from now on, or after `Last-Event-ID`. They come about two seconds late, so that none is missed.
#[utoipa::path(get, path = "/v1/events", operation_id = "streamEvents", tag = "jobs", params(EventsQuery),
    responses((status = 200, description = "Events", body = String, content_type = "text/event-stream")))]
pub(crate) async fn all_events(
    State(state): State<AppState>,
    Query(query): Query<EventsQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let after = match sse::resume_point(&headers, query.after)? {
        Some(after) => after,
        None => jobs::latest_event(&mut *state.connection().await?).await?,
    };
    Ok(sse::respond(Feed::new(state, None, after)))
}
