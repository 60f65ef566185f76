//! From a request to an accepted job: plan, then one transaction with the idempotency key, the jobs and the stored answer.

use axum::{
    Json,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use shared::{
    db::{DbError, Session, jobs},
    job::{
        Enqueued,
        enqueue::{enqueue, enqueue_each, enqueue_group},
    },
    wire::JobView,
};

use crate::{
    idempotency::{self, Accepted, Asked},
    pipelines,
    plan::{self, Order, Plan, Spread},
    prefer::PREFERENCE_APPLIED,
    problem::ApiError,
    state::AppState,
    views, wait,
};

const JOINED: HeaderName = HeaderName::from_static("modelyard-joined");
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Accepts the order (or finds what an earlier request with its key was answered) and answers 202, or 200 when the
/// client waits and the job ends in time.
///
/// # Errors
/// Whatever makes the order impossible, as a problem.
pub(crate) async fn submit(state: &AppState, asked: Asked, order: Order) -> Result<Response, ApiError> {
    let accepted = match idempotency::replay(state, &asked).await? {
        Some(earlier) => earlier,
        None => {
            let plan = Box::pin(plan::make(state, order, &asked)).await?;
            Box::pin(accept(state, &asked, plan)).await?
        }
    };
    answer(state, &asked, accepted).await
}

/// G1: everything that belongs to the job commits together, or nothing does.
async fn accept(state: &AppState, asked: &Asked, plan: Plan) -> Result<Accepted, ApiError> {
    let kind = plan.job.spec.kind();
    let mut tx = state.begin().await?;
    if let Some(earlier) = idempotency::claimed(&mut tx, asked).await? {
        return Ok(earlier);
    }
    let Enqueued { id, created } = enqueue_plan(&mut tx, plan).await?;
    let row = jobs::find(&mut *tx, id).await?.ok_or_else(|| DbError::BadRow(format!("job {id} is not there")))?;
    let accepted = Accepted { job: views::job(row, None)?, joined: !created, replayed: false };
    idempotency::keep(&mut tx, asked, &accepted).await?;
    tx.commit().await.map_err(DbError::from)?;
    if created {
        state.metrics.enqueued(kind);
    }
    Ok(accepted)
}

/// The jobs of a plan, and what else is written with them.
///
/// # Errors
/// 404 and 409 when what the plan is about has changed meanwhile; database errors.
pub(crate) async fn enqueue_plan(tx: &mut Session, plan: Plan) -> Result<Enqueued, ApiError> {
    pipelines::prepare(&mut *tx, &plan).await?;
    let (job, spread) = (plan.job.clone(), plan.spread != Spread::One);
    let enqueued = match plan.spread {
        Spread::One => enqueue(&mut *tx, plan.job).await?,
        Spread::Places(places) => enqueue_group(&mut *tx, plan.job, places).await?,
        Spread::Each(each) => enqueue_each(&mut *tx, plan.job, each).await?,
    };
    pipelines::record(tx, &job, spread, enqueued.id).await?;
    Ok(enqueued)
}

async fn answer(state: &AppState, asked: &Asked, accepted: Accepted) -> Result<Response, ApiError> {
    let mut headers = HeaderMap::new();
    if accepted.joined {
        headers.insert(JOINED, HeaderValue::from_static("true"));
    }
    if accepted.replayed {
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
    let mut job = accepted.job;
    if let Some(wait) = asked.wait {
        headers.insert(PREFERENCE_APPLIED, wait.applied());
        // the job is accepted whatever happens while we wait
        match wait::for_end(state, job.id, wait.duration()).await {
            Ok(Some(row)) => job = views::job(row, None)?,
            Ok(None) => {}
            Err(_) => tracing::warn!(job.id = %job.id, "could not follow an accepted job; answering with it as it was"),
        }
    }
    Ok(respond(headers, job))
}

/// 200 for a job that has ended, else 202; both say where the job is.
pub(crate) fn respond(mut headers: HeaderMap, job: JobView) -> Response {
    if let Ok(location) = HeaderValue::from_str(&format!("/v1/jobs/{}", job.id)) {
        headers.insert(header::LOCATION, location);
    }
    let status = if job.state.is_terminal() { StatusCode::OK } else { StatusCode::ACCEPTED };
    if status == StatusCode::ACCEPTED {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    (status, headers, Json(job)).into_response()
}
