//! Jobs: submitting any kind, listing, following, cancelling, retrying.

use axum::{
    Json,
    extract::{OriginalUri, State},
    http::{HeaderMap, Uri},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use shared::{
    db::{
        DbError, Session,
        jobs::{self, CancelOutcome, JobFilter, JobRow},
    },
    ids::JobId,
    job::{JobKind, JobState},
    wire::{JobDetail, JobRequest, JobView, Page},
};

use super::{id_of, list_of, page_size, paged};
use crate::{
    cursor::Position,
    extract::{Command, NoBody, NoParameters, Path, Query},
    plan::{Order, Wanted, get_job, get_model},
    prefer::{PREFERENCE_APPLIED, Wait},
    problem::ApiError,
    routes::job_request,
    state::AppState,
    submit::{respond, submit},
    views, wait,
};

/// Most children shown with their parent.
const CHILDREN: i64 = 1000;

/// Which jobs.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct JobsQuery {
    /// States, separated by commas; `active` stands for `pending,placed,running`.
    state: Option<String>,
    /// Kinds, separated by commas.
    kind: Option<String>,
    /// About this model, by id or name.
    model: Option<String>,
    /// On this host.
    host: Option<String>,
    /// On this device.
    device: Option<String>,
    /// Children of this job.
    parent: Option<String>,
    /// Rows on a page, 1 to 1000; 100 when absent.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

impl JobsQuery {
    async fn filter(&self, conn: &mut Session) -> Result<JobFilter, ApiError> {
        let states = self.state.as_deref().map(|text| text.replace("active", "pending,placed,running"));
        let model = match &self.model {
            Some(model) => Some(get_model(conn, model).await?.id),
            None => None,
        };
        Ok(JobFilter {
            states: list_of("state", states.as_deref(), &JobState::ALL.map(JobState::as_str))?,
            kinds: list_of("kind", self.kind.as_deref(), &JobKind::ALL.map(JobKind::as_str))?,
            model,
            host: self.host.clone(),
            device: self.device.clone(),
            parent: self.parent.as_deref().map(id_of).transpose()?,
            before: None,
        })
    }
}

/// Submits a job
///
/// Any kind; the model of its arguments may be given by id or name.
#[utoipa::path(post, path = "/v1/jobs", operation_id = "submitJob", tag = "jobs", request_body = JobRequest,
    responses((status = 202, description = "Accepted", body = JobView)))]
pub(crate) async fn submit_job(
    State(state): State<AppState>,
    _: NoParameters,
    Command { body, asked }: Command<JobRequest>,
) -> Result<Response, ApiError> {
    submit(&state, asked, job_request::order(body)?).await
}

/// Lists jobs
///
/// Newest first, ended ones included.
#[utoipa::path(get, path = "/v1/jobs", operation_id = "listJobs", tag = "jobs", params(JobsQuery),
    responses((status = 200, description = "One page", body = Page<JobView>)))]
pub(crate) async fn list_jobs(
    State(state): State<AppState>,
    OriginalUri(uri): OriginalUri,
    Query(query): Query<JobsQuery>,
) -> Result<Response, ApiError> {
    let limit = page_size(query.limit)?;
    let mut conn = state.connection().await?;
    let mut filter = query.filter(&mut conn).await?;
    let binding = format!("jobs {filter:?}");
    if let Some(cursor) = &query.cursor {
        let position = state.cursors.read(&binding, cursor)?;
        filter.before = Some(position.id.parse().map_err(ApiError::defect)?);
    }
    let mut rows = jobs::list(&mut *conn, &filter, i64::try_from(limit + 1).unwrap_or(i64::MAX)).await?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = match rows.last().filter(|_| more) {
        Some(last) => {
            let position = Position { value: String::new(), id: last.id.to_string() };
            Some(state.cursors.issue(&binding, position)?)
        }
        None => None,
    };
    let items = with_progress(&mut conn, rows).await?;
    Ok(paged(&uri, items, next))
}

/// Adds the progress of those that run.
async fn with_progress(conn: &mut Session, rows: Vec<JobRow>) -> Result<Vec<JobView>, ApiError> {
    let running: Vec<JobId> =
        rows.iter().filter(|row| row.state == JobState::Running.as_str()).map(|row| row.id).collect();
    let mut progress = jobs::progress_of_each(conn, &running).await?;
    rows.into_iter()
        .map(|row| {
            let now = progress.remove(&row.id);
            views::job(row, now)
        })
        .collect()
}

async fn one(conn: &mut Session, row: JobRow) -> Result<JobView, ApiError> {
    let progress = match row.state.as_str() {
        "running" => jobs::progress_of(conn, row.id).await?,
        _ => None,
    };
    views::job(row, progress)
}

/// Shows a job
///
/// With its attempts, its children, why it was placed where it is or why it waits. `Prefer: wait=N` answers when it has
/// ended, or after N seconds.
#[utoipa::path(get, path = "/v1/jobs/{job}", operation_id = "getJob", tag = "jobs",
    params(("job" = String, Path, description = "Id"),
        ("prefer" = Option<String>, Header, description = "`wait=N`: answer when the job has ended, at most N seconds later")),
    responses((status = 200, description = "The job", body = JobDetail)))]
pub(crate) async fn get_one_job(
    State(state): State<AppState>,
    Path(job): Path<String>,
    _: NoParameters,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let id = id_of(&job)?;
    let mut answer = HeaderMap::new();
    if let Some(wait) = Wait::of(&headers) {
        answer.insert(PREFERENCE_APPLIED, wait.applied());
        wait::for_end(&state, id, wait.duration()).await?;
    }
    let mut conn = state.snapshot().await?;
    let row = get_job(&mut conn, id).await?;
    let placement = row.placement.clone();
    let attempts = jobs::attempts(&mut *conn, id).await?.into_iter().map(views::attempt).collect();
    let of_parent = JobFilter { parent: Some(id), ..JobFilter::default() };
    let mut children = jobs::list(&mut *conn, &of_parent, CHILDREN).await?;
    children.reverse();
    let children = with_progress(&mut conn, children).await?;
    let job = one(&mut conn, row).await?;
    Ok((answer, Json(JobDetail { job, placement, attempts, children })).into_response())
}

/// How long to wait.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct WaitQuery {
    /// Seconds, at most 60; 30 when absent.
    timeout: Option<u64>,
}

/// Seconds of [`wait_job`] when the client does not say.
const DEFAULT_WAIT: u64 = 30;

/// The time that a request of [`wait_job`] asks for, known before it is routed.
pub(crate) fn wait_parameter(uri: &Uri) -> Option<Wait> {
    if !uri.path().ends_with("/wait") {
        return None;
    }
    let given = uri.query().unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("timeout=")?.parse().ok());
    Some(Wait::clamped(given.unwrap_or(DEFAULT_WAIT)))
}

/// Waits for a job
///
/// Answers when it has ended or the time is over; the state says which.
#[utoipa::path(get, path = "/v1/jobs/{job}/wait", operation_id = "waitJob", tag = "jobs",
    params(("job" = String, Path, description = "Id"), WaitQuery),
    responses((status = 200, description = "The job", body = JobView)))]
pub(crate) async fn wait_job(
    State(state): State<AppState>,
    Path(job): Path<String>,
    Query(query): Query<WaitQuery>,
) -> Result<Json<JobView>, ApiError> {
    let id: JobId = id_of(&job)?;
    let patience = Wait::clamped(query.timeout.unwrap_or(DEFAULT_WAIT)).duration();
    wait::for_end(&state, id, patience).await?;
    let mut conn = state.connection().await?;
    let row = get_job(&mut conn, id).await?;
    Ok(Json(one(&mut conn, row).await?))
}

/// Cancels a job
///
/// Idempotent: 202 while it still runs, 200 once it has ended, however it ended.
#[utoipa::path(post, path = "/v1/jobs/{job}/cancel", operation_id = "cancelJob", tag = "jobs",
    params(("job" = String, Path, description = "Id")),
    responses((status = 200, description = "Ended", body = JobView),
        (status = 202, description = "Asked to stop", body = JobView)))]
pub(crate) async fn cancel_job(
    State(state): State<AppState>,
    Path(job): Path<String>,
    _: NoParameters,
    Command { asked, .. }: Command<NoBody>,
) -> Result<Response, ApiError> {
    let id: JobId = id_of(&job)?;
    let mut tx = state.begin().await?;
    let outcome = jobs::cancel(&mut tx, id).await?;
    let row = get_job(&mut tx, id).await?;
    tx.commit().await.map_err(DbError::from)?;
    let mut headers = HeaderMap::new();
    let mut view = views::job(row, None)?;
    if let (Some(CancelOutcome::Requested), Some(wait)) = (outcome, asked.wait) {
        headers.insert(PREFERENCE_APPLIED, wait.applied());
        if let Some(row) = wait::for_end(&state, id, wait.duration()).await? {
            view = views::job(row, None)?;
        }
    }
    Ok(respond(headers, view))
}

/// Retries a job
///
/// A new job that does what an ended, unsuccessful one was asked to do, planned against the farm as it is now.
#[utoipa::path(post, path = "/v1/jobs/{job}/retry", operation_id = "retryJob", tag = "jobs",
    params(("job" = String, Path, description = "Id")),
    responses((status = 202, description = "Accepted", body = JobView)))]
pub(crate) async fn retry_job(
    State(state): State<AppState>,
    Path(job): Path<String>,
    _: NoParameters,
    Command { asked, .. }: Command<NoBody>,
) -> Result<Response, ApiError> {
    submit(&state, asked, Order::new(Wanted::Again(id_of(&job)?))).await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_wait_is_known_before_routing() {
        let of = |text: &str| wait_parameter(&text.parse().unwrap()).map(Wait::duration);
        assert_eq!(of("/v1/jobs/x/wait?timeout=5"), Some(Duration::from_secs(5)));
        assert_eq!(of("/v1/jobs/x/wait"), Some(Duration::from_secs(DEFAULT_WAIT)));
        assert_eq!(of("/v1/jobs/x"), None);
    }
}
