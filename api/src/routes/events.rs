//! Event streams.

use axum::{extract::State, http::HeaderMap, response::Response};
use serde::Deserialize;
use shared::{db::events::Topics, ids::JobId};

use super::{id_of, list_of};
use crate::{
    extract::{Path, Query},
    plan::get_job,
    problem::ApiError,
    sse::{self, About, Feed},
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

/// Where the farm's stream starts, and what it tells.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct FarmEventsQuery {
    /// Only events after this id; `Last-Event-ID` does the same and wins.
    after: Option<i64>,
    /// What to tell of, separated by commas: `jobs`, `residency`, `devices`, `hosts`; jobs when absent.
    topics: Option<String>,
}

impl FarmEventsQuery {
    fn topics(&self) -> Result<Topics, ApiError> {
        // who knows of no topics expects a job in each event
        let Some(topics) = list_of("topics", self.topics.as_deref(), &["jobs", "residency", "devices", "hosts"])?
        else {
            return Ok(Topics { jobs: true, residency: false, devices: false, hosts: false });
        };
        let has = |topic: &str| topics.iter().any(|one| one == topic);
        Ok(Topics { jobs: has("jobs"), residency: has("residency"), devices: has("devices"), hosts: has("hosts") })
    }
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
    Ok(sse::respond(Feed::new(state, About::Job(id), after)))
}

/// Streams the events of the farm
///
/// Server-sent events from now on (the id of where that is comes first, once no transaction is open that had written events when this API
/// first looked; a stream that begins while one is starts at that first look instead, so that what happened between that and now comes as well),
/// or after `Last-Event-ID`, of jobs (as in a job's own stream) and of what else `topics` names, whose data has `seq`, `host`, `device`, `at`,
/// `type` and `data`. An event comes once no earlier one can come any more, so that none is missed; they are kept as long as those of jobs.
///
/// Of `residency`: `residency.resident` when a component is whole in RAM or on a device, `residency.gone` when it is not there any more. `device`
/// is absent for RAM; `data` has `tier`, `component`, its `kind`, `bytes`, up to eight names of `models` that have it, the `job` that brought it or
/// asked for it to go, and of what left the `reason`: one of the evictions' own, `lost` (with its runner, its agent or its agent's lease) or `merged`
/// (the same bytes go by the id `merged_into` from then on).
///
/// Of `devices`: `device.ready` (also `from` ready, where its runner ended and another one was there before anybody looked), `device.lost` (its runner
/// or its host is away, or its agent does not report it any more) and `device.quarantined` (it is broken, or nobody can say how it is); of
/// `hosts`, without a `device`: `host.ready`, with each start of its agent and when it is undrained or has its lease again, `host.draining` and
/// `host.lost`. `data` has the states `from` (absent the first time) and `to`, and the `reason`; a quarantined device is told again with another
/// reason.
#[utoipa::path(get, path = "/v1/events", operation_id = "streamEvents", tag = "jobs", params(FarmEventsQuery),
    responses((status = 200, description = "Events", body = String, content_type = "text/event-stream")))]
pub(crate) async fn all_events(
    State(state): State<AppState>,
    Query(query): Query<FarmEventsQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let topics = query.topics()?;
    let about = About::Farm(topics);
    if let Some(after) = sse::resume_point(&headers, query.after)? {
        return Ok(sse::respond(Feed::new(state, about, after)));
    }
    let now = state.settled.now().await?;
    Ok(sse::respond(Feed::new(state, about, now).with_its_start()))
}
