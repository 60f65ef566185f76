//! Artifacts: listing what a job left, and sending it.

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::{Stream, stream};
use shared::{
    db::blobs::{
        self, Blob, CHUNK_BYTES,
        artifacts::{self, ArtifactRow},
    },
    error::ErrorCode,
    ids::JobId,
    job::engine::check_artifact_name,
    wire::{ArtifactView, Page},
};

use super::id_of;
use crate::{
    extract::{NoParameters, Path},
    plan::get_job,
    problem::ApiError,
    range::{self, Wanted},
    state::AppState,
    tag, views,
};

/// Lists a job's artifacts
///
/// What it left, in its order; while it runs, its previews. They go by age and when all together become too many, not while
/// an active job works on them.
#[utoipa::path(get, path = "/v1/jobs/{job}/artifacts", operation_id = "listArtifacts", tag = "jobs",
    params(("job" = String, Path, description = "Id")),
    responses((status = 200, description = "The artifacts", body = Page<ArtifactView>)))]
pub(crate) async fn list_artifacts(
    State(state): State<AppState>,
    Path(job): Path<String>,
    _: NoParameters,
) -> Result<Json<Page<ArtifactView>>, ApiError> {
    let id: JobId = id_of(&job)?;
    let mut conn = state.connection().await?;
    get_job(&mut conn, id).await?;
    let items = artifacts::of_job(&mut *conn, id).await?.into_iter().map(views::artifact).collect();
    Ok(Json(Page { items, next_cursor: None }))
}

/// Sends an artifact
///
/// The bytes, with their hash as the entity tag. One range is understood.
#[utoipa::path(get, path = "/v1/jobs/{job}/artifacts/{name}", operation_id = "getArtifact", tag = "jobs",
    params(("job" = String, Path, description = "Id"), ("name" = String, Path, description = "Name"),
        ("range" = Option<String>, Header, description = "`bytes=<first>-<last>`")),
    responses((status = 200, description = "The bytes", body = String, content_type = "application/octet-stream"),
        (status = 206, description = "A part of them", body = String, content_type = "application/octet-stream"),
        (status = 304, description = "The client has it"),
        (status = 416, description = "There is no such part")))]
pub(crate) async fn get_artifact(
    State(state): State<AppState>,
    Path((job, name)): Path<(String, String)>,
    _: NoParameters,
    asked: HeaderMap,
) -> Result<Response, ApiError> {
    let id: JobId = id_of(&job)?;
    let row = find(&state, id, &name).await?;
    let tag = format!("\"{}\"", row.blob.blake3);
    let mut headers = described(&row, &tag);
    if tag::is_known(&asked, &tag) {
        return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
    }
    let size = row.blob.size();
    let (status, first, length) = match range::wanted(&asked, &tag, size) {
        Wanted::All => (StatusCode::OK, 0, size),
        Wanted::Part(first, last) => {
            set(&mut headers, header::CONTENT_RANGE, &format!("bytes {first}-{last}/{size}"));
            (StatusCode::PARTIAL_CONTENT, first, last - first + 1)
        }
        Wanted::Unsatisfiable => {
            set(&mut headers, header::CONTENT_RANGE, &format!("bytes */{size}"));
            let problem = ApiError::new(ErrorCode::InvalidArgument, format!("`{name}` has {size} bytes"));
            return Ok((headers, problem.status(StatusCode::RANGE_NOT_SATISFIABLE)).into_response());
        }
    };
    set(&mut headers, header::CONTENT_LENGTH, &length.to_string());
    Ok((status, headers, Body::from_stream(part(state, row.blob, first, length))).into_response())
}

async fn find(state: &AppState, id: JobId, name: &str) -> Result<ArtifactRow, ApiError> {
    let mut conn = state.connection().await?;
    get_job(&mut conn, id).await?;
    // a name that no artifact can have is not asked for: Postgres takes no NUL
    let found = match check_artifact_name(name) {
        Ok(()) => artifacts::find(&mut *conn, id, name).await?,
        Err(_) => None,
    };
    if let Some(row) = found {
        return Ok(row);
    }
    let names: Vec<String> =
        artifacts::of_job(&mut *conn, id).await?.into_iter().map(|row| format!("`{}`", row.name)).collect();
    let hint = if names.is_empty() {
        "it has none; artifacts are removed after a while".to_owned()
    } else {
        format!("it has {}", names.join(", "))
    };
    Err(ApiError::not_found(format!("job {id} has no artifact of this name")).hint(hint))
}

fn described(row: &ArtifactRow, tag: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    // pictures may be shown where they are; what else a file says of itself is for no browser to act on
    let shown = matches!(row.blob.media_type.as_str(), "image/png" | "image/webp");
    let disposition = if shown { "inline" } else { "attachment" };
    set(&mut headers, header::CONTENT_TYPE, &row.blob.media_type);
    set(&mut headers, header::ETAG, tag);
    set(&mut headers, header::CONTENT_DISPOSITION, &format!("{disposition}; filename=\"{}\"", row.name));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    headers
}

fn set(headers: &mut HeaderMap, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// `length` bytes from `first` on, read row by row as the client takes them. Ends with an error, and so does the
/// connection, when the blob goes away meanwhile.
fn part(state: AppState, blob: Blob, first: u64, length: u64) -> impl Stream<Item = Result<Bytes, std::io::Error>> {
    stream::try_unfold((first, length), move |(at, left)| {
        let (state, id) = (state.clone(), blob.blob_id);
        async move {
            if left == 0 {
                return Ok(None);
            }
            let row = at / CHUNK_BYTES as u64;
            let skip = usize::try_from(at % CHUNK_BYTES as u64).unwrap_or(0);
            let number = i32::try_from(row).map_err(std::io::Error::other)?;
            let mut conn = state.connection().await.map_err(|_| std::io::Error::other("no connection to Postgres"))?;
            let bytes = blobs::chunk(&mut *conn, id, number).await.map_err(std::io::Error::other)?;
            let mut bytes = Bytes::from(bytes.ok_or_else(|| std::io::Error::other("the artifact was removed"))?);
            if skip >= bytes.len() {
                return Err(std::io::Error::other("a row of the artifact is too short"));
            }
            bytes = bytes.split_off(skip);
            bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            let sent = bytes.len() as u64;
            state.metrics.sent(sent);
            Ok(Some((bytes, (at + sent, left - sent))))
        }
    })
}
