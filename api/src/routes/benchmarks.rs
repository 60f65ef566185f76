//! Benchmarks: asking for one, their history, two side by side, and one as a picture.

use axum::{
    Json,
    extract::{OriginalUri, State},
    http::header,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Deserialize;
use shared::{
    db::{
        Session,
        benchmarks::{self, BenchmarkFilter, BenchmarkRow},
    },
    ids::{BenchmarkId, ModelId},
    job::{BenchmarkArgs, JobKind},
    measure::{Side, compare_reports},
    wire::{BenchmarkReport, BenchmarkRequest, BenchmarkSummary, Comparison, JobView, Page},
};

use super::{id_of, job_request, page_size, paged};
use crate::{
    cursor::Position,
    extract::{Command, NoParameters, Path, Query},
    plan::{Order, get_benchmark, get_model},
    plot,
    problem::ApiError,
    state::AppState,
    submit::submit,
};

/// A median of two benchmarks counts as changed beyond so many percent, where the request does not say.
const BOUND_PERCENT: u32 = 5;

/// Measures a model
///
/// A job of a device: how long loads take, the first run and those after it, until the medians of several windows agree, for
/// each batch and size. Its result has the id of the benchmark and, where a baseline was given, the verdict.
#[utoipa::path(post, path = "/v1/models/{model}/benchmark", operation_id = "benchmarkModel", tag = "benchmarks",
    params(("model" = String, Path, description = "Id or name")), request_body = BenchmarkRequest,
    responses((status = 202, description = "Accepted", body = JobView)))]
pub(crate) async fn benchmark_model(
    State(state): State<AppState>,
    Path(model): Path<String>,
    _: NoParameters,
    Command { body, asked }: Command<BenchmarkRequest>,
) -> Result<Response, ApiError> {
    let (target, priority) = (body.target.clone(), body.priority);
    let wanted = job_request::benchmark(args(model, body), "", target)?;
    submit(&state, asked, Order { priority, ..Order::new(wanted) }).await
}

/// Measures a pipeline
///
/// As of a model, with the models that the pipeline declares now.
#[utoipa::path(post, path = "/v1/pipelines/{name}/benchmark", operation_id = "benchmarkPipeline", tag = "benchmarks",
    params(("name" = String, Path, description = "Id or name")), request_body = BenchmarkRequest,
    responses((status = 202, description = "Accepted", body = JobView)))]
pub(crate) async fn benchmark_pipeline(
    State(state): State<AppState>,
    Path(name): Path<String>,
    _: NoParameters,
    Command { body, asked }: Command<BenchmarkRequest>,
) -> Result<Response, ApiError> {
    let (target, priority) = (body.target.clone(), body.priority);
    let mut args = serde_json::to_value(args(String::new(), body)).map_err(ApiError::defect)?;
    if let Some(fields) = args.as_object_mut() {
        fields.remove("model");
        fields.insert("pipeline".to_owned(), name.into());
    }
    let wanted = job_request::assembled(JobKind::Benchmark, args, "", target)?;
    submit(&state, asked, Order { priority, ..Order::new(wanted) }).await
}

/// The arguments that a request means.
fn args(model: String, request: BenchmarkRequest) -> BenchmarkArgs<String> {
    let default = BenchmarkArgs::of(model);
    BenchmarkArgs {
        components: request.components,
        pipeline_steps: request.pipeline_steps,
        batches: request.batches.unwrap_or(default.batches),
        sizes: request.sizes.unwrap_or(default.sizes),
        cold: request.cold,
        loads: request.loads.unwrap_or(default.loads),
        limits: request.limits.unwrap_or(default.limits),
        baseline: request.baseline,
        bound_percent: request.bound_percent.unwrap_or(default.bound_percent),
        vae: request.vae,
        vae_settings: request.vae_settings,
        text_encoders: request.text_encoders,
        loras: request.loras,
        pipeline: None,
        model: default.model,
    }
}

/// Which benchmarks.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct BenchmarksQuery {
    /// Of this model, by id or name.
    model: Option<String>,
    /// On this device, `host/name`.
    device: Option<String>,
    /// Those that measured this kind of component.
    component: Option<String>,
    /// Those of whole generations (`true`), or of components.
    pipeline: Option<bool>,
    /// Rows on a page, 1 to 1000; 100 when absent.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Lists benchmarks
///
/// The newest first, without their figures; the last two hundred of each model are kept.
#[utoipa::path(get, path = "/v1/benchmarks", operation_id = "listBenchmarks", tag = "benchmarks", params(BenchmarksQuery),
    responses((status = 200, description = "One page", body = Page<BenchmarkSummary>)))]
pub(crate) async fn list_benchmarks(
    State(state): State<AppState>,
    OriginalUri(uri): OriginalUri,
    Query(query): Query<BenchmarksQuery>,
) -> Result<Response, ApiError> {
    let limit = page_size(query.limit)?;
    for (name, value) in [("device", &query.device), ("component", &query.component)] {
        if value.as_ref().is_some_and(|value| value.contains('\0')) {
            return Err(ApiError::field(name, "holds a NUL character"));
        }
    }
    let mut conn = state.connection().await?;
    let model: Option<ModelId> = match &query.model {
        Some(model) => Some(get_model(&mut conn, model).await?.id),
        None => None,
    };
    let filter = BenchmarkFilter {
        model,
        device: query.device.as_deref(),
        component: query.component.as_deref(),
        pipeline: query.pipeline,
    };
    let binding = format!("benchmarks {filter:?}");
    let after = match &query.cursor {
        Some(cursor) => Some(position(state.cursors.read(&binding, cursor)?)?),
        None => None,
    };
    let more = i64::try_from(limit.saturating_add(1)).unwrap_or(i64::MAX);
    let mut rows = benchmarks::list(&mut *conn, filter, after, more).await?;
    let next = rows.len() > limit;
    rows.truncate(limit);
    let next = match rows.last().filter(|_| next) {
        Some(last) => {
            let value = last.created_at.to_rfc3339_opts(SecondsFormat::Micros, true);
            Some(state.cursors.issue(&binding, Position { value, id: last.id.to_string() })?)
        }
        None => None,
    };
    Ok(paged(&uri, rows.iter().map(summary).collect(), next))
}

fn position(at: Position) -> Result<(DateTime<Utc>, BenchmarkId), ApiError> {
    Ok((at.value.parse().map_err(ApiError::defect)?, at.id.parse().map_err(ApiError::defect)?))
}

/// Shows a benchmark
///
/// With all its figures, the machine and the programs that they are of, and the comparison with its baseline.
#[utoipa::path(get, path = "/v1/benchmarks/{benchmark}", operation_id = "getBenchmark", tag = "benchmarks",
    params(("benchmark" = String, Path, description = "Id")),
    responses((status = 200, description = "The benchmark", body = BenchmarkReport)))]
pub(crate) async fn get_one_benchmark(
    State(state): State<AppState>,
    Path(benchmark): Path<String>,
    _: NoParameters,
) -> Result<Json<BenchmarkReport>, ApiError> {
    let mut conn = state.connection().await?;
    get_report(&mut conn, &benchmark).await.map(Json)
}

/// Draws a benchmark
///
/// Medians with their spread, and every run of each case with its outliers, as an SVG picture for light and dark backgrounds.
#[utoipa::path(get, path = "/v1/benchmarks/{benchmark}/plot.svg", operation_id = "plotBenchmark", tag = "benchmarks",
    params(("benchmark" = String, Path, description = "Id")),
    responses((status = 200, description = "The picture", body = String, content_type = "image/svg+xml")))]
pub(crate) async fn plot_benchmark(
    State(state): State<AppState>,
    Path(benchmark): Path<String>,
    _: NoParameters,
) -> Result<Response, ApiError> {
    let mut conn = state.connection().await?;
    let report = get_report(&mut conn, &benchmark).await?;
    Ok(([(header::CONTENT_TYPE, "image/svg+xml")], plot::draw(&report)).into_response())
}

/// Which two benchmarks.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct CompareQuery {
    /// Id of the earlier one.
    a: String,
    /// Id of the later one.
    b: String,
    /// A median counts as changed beyond so many percent, 1 to 1000; 5 when absent.
    bound_percent: Option<u32>,
}

/// Compares two benchmarks
///
/// A case is `regressed` when its median is slower by more than the bound and lies outside of both spreads, `improved` the
/// same way; `differences` names what of machine, programs, and of what took part is not the same.
#[utoipa::path(get, path = "/v1/benchmarks/compare", operation_id = "compareBenchmarks", tag = "benchmarks", params(CompareQuery),
    responses((status = 200, description = "Both side by side", body = Comparison)))]
pub(crate) async fn compare_benchmarks(
    State(state): State<AppState>,
    Query(query): Query<CompareQuery>,
) -> Result<Json<Comparison>, ApiError> {
    let bound = query.bound_percent.unwrap_or(BOUND_PERCENT);
    if !(1..=1000).contains(&bound) {
        return Err(ApiError::field("bound_percent", format!("`{bound}` is not 1 to 1000")));
    }
    let mut conn = state.connection().await?;
    let (a, b) = (get_report(&mut conn, &query.a).await?, get_report(&mut conn, &query.b).await?);
    Ok(Json(compare_reports((a.summary.id, side(&a)), (Some(b.summary.id), side(&b)), bound)))
}

/// A benchmark by id.
async fn get_report(conn: &mut Session, id: &str) -> Result<BenchmarkReport, ApiError> {
    report(get_benchmark(conn, id_of(id)?).await?)
}

fn side(report: &BenchmarkReport) -> Side<'_> {
    Side { result: &report.result, fingerprint: &report.fingerprint, args: &report.args }
}

fn summary(row: &BenchmarkRow) -> BenchmarkSummary {
    BenchmarkSummary {
        id: row.id,
        model: row.model_id,
        model_name: row.model_name.clone(),
        job: row.job_id,
        device: row.device.clone(),
        components: row.components.clone(),
        pipeline: row.pipeline,
        baseline: row.baseline_id,
        verdict: row.verdict.clone(),
        stable: row.stable,
        created_at: row.created_at,
    }
}

fn report(row: BenchmarkRow) -> Result<BenchmarkReport, ApiError> {
    Ok(BenchmarkReport {
        summary: summary(&row),
        args: row.args,
        fingerprint: serde_json::from_value(row.fingerprint).map_err(ApiError::defect)?,
        result: serde_json::from_value(row.result).map_err(ApiError::defect)?,
        comparison: row.comparison.map(serde_json::from_value).transpose().map_err(ApiError::defect)?,
    })
}
