//! Uploads: taking bytes in, showing and removing what was taken.

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use shared::{
    db::{
        DbError, Session,
        blobs::{self, uploads},
    },
    ids::UploadId,
    wire::UploadView,
};

use super::id_of;
use crate::{
    extract::{NoParameters, Path, Query},
    problem::ApiError,
    receive::{Received, receive},
    state::AppState,
    views,
};

/// Longest name and media type.
const NAME_BYTES: usize = 200;

/// What the client says of the bytes.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct UploadQuery {
    /// What to call it.
    name: Option<String>,
    /// BLAKE3 of the bytes in hex: others are refused.
    blake3: Option<String>,
}

impl UploadQuery {
    fn check(&self) -> Result<(), ApiError> {
        if let Some(name) = &self.name
            && (name.is_empty() || name.len() > NAME_BYTES || name.chars().any(|c| c.is_control() || c == '/'))
        {
            let rule = format!("a name has 1 to {NAME_BYTES} bytes, no `/` and no control characters");
            return Err(ApiError::field("name", rule));
        }
        match &self.blake3 {
            Some(hash) if hash.len() != 64 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                Err(ApiError::field("blake3", "a BLAKE3 hash is 64 hexadecimal digits"))
            }
            _ => Ok(()),
        }
    }
}

/// Takes bytes for jobs to work on
///
/// The body is taken as it is, of any type. Name the upload in a job's arguments as `{"upload": <id>}`. It goes after a while,
/// not before the jobs that work on it have ended.
#[utoipa::path(post, path = "/v1/uploads", operation_id = "createUpload", tag = "engine", params(UploadQuery),
    request_body(content = String, content_type = "application/octet-stream"),
    responses((status = 201, description = "Taken", body = UploadView)))]
pub(crate) async fn create_upload(
    State(state): State<AppState>,
    Query(query): Query<UploadQuery>,
    request: Request,
) -> Result<Response, ApiError> {
    query.check()?;
    let media_type = media_type(request.headers())?;
    must_fit(&state, request.headers()).await?;
    let received = receive(&state, &media_type, request.into_body()).await?;
    if let Some(wanted) = query.blake3.as_deref().filter(|wanted| !wanted.eq_ignore_ascii_case(received.blake3())) {
        let detail = format!("the bytes that came have the BLAKE3 hash {}, not {wanted}", received.blake3());
        return Err(ApiError::field("blake3", detail).hint("send them again"));
    }
    let view = keep(&state, received, query.name.as_deref()).await?;
    let mut headers = HeaderMap::new();
    if let Ok(location) = HeaderValue::from_str(&format!("/v1/uploads/{}", view.id)) {
        headers.insert(header::LOCATION, location);
    }
    state.metrics.uploaded(view.bytes);
    Ok((StatusCode::CREATED, headers, Json(view)).into_response())
}

fn media_type(headers: &HeaderMap) -> Result<String, ApiError> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok("application/octet-stream".to_owned()) };
    let text = value.to_str().ok().filter(|text| text.contains('/') && text.len() <= NAME_BYTES);
    text.map(str::to_owned).ok_or_else(|| ApiError::field("content-type", "this is no media type"))
}

/// Refuses by the length that the client announces, before anything is read.
async fn must_fit(state: &AppState, headers: &HeaderMap) -> Result<(), ApiError> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let announced = announced.unwrap_or(0);
    state.uploads.must_be_allowed(announced)?;
    let there = uploads::total_bytes(&mut *state.connection().await?).await?;
    state.uploads.must_have_room(u64::try_from(there).unwrap_or(0), announced)
}

/// Names what came as an upload. The total counts again: others may have come meanwhile, to other processes too. One upload is
/// named at a time, so that no two see room for one.
async fn keep(state: &AppState, received: Received, name: Option<&str>) -> Result<UploadView, ApiError> {
    let mut tx = state.begin().await?;
    uploads::hold_total(&mut tx).await?;
    blobs::finish(&mut *tx, received.blob(), received.bytes(), received.blake3()).await?;
    let id = uploads::add(&mut *tx, received.blob(), name, state.uploads.keep).await?;
    let all = uploads::total_bytes(&mut *tx).await?;
    state.uploads.must_have_room(u64::try_from(all).unwrap_or(0), 0)?;
    let view = get_upload(&mut tx, id).await?;
    tx.commit().await.map_err(DbError::from)?;
    received.kept();
    Ok(view)
}

async fn get_upload(conn: &mut Session, id: UploadId) -> Result<UploadView, ApiError> {
    let row = uploads::find(&mut *conn, id).await?.ok_or_else(|| no_upload(id))?;
    let users = uploads::users(conn, id).await?;
    Ok(views::upload(row, users))
}

fn no_upload(id: UploadId) -> ApiError {
    ApiError::not_found(format!("there is no upload `{id}`")).hint("it was removed, or it expired; send it again")
}

/// Shows an upload
#[utoipa::path(get, path = "/v1/uploads/{upload}", operation_id = "getUpload", tag = "engine",
    params(("upload" = String, Path, description = "Id")),
    responses((status = 200, description = "The upload", body = UploadView)))]
pub(crate) async fn get_one_upload(
    State(state): State<AppState>,
    Path(upload): Path<String>,
    _: NoParameters,
) -> Result<Json<UploadView>, ApiError> {
    get_upload(&mut *state.connection().await?, id_of(&upload)?).await.map(Json)
}

/// Removes an upload
///
/// 409 while an active job works on it.
#[utoipa::path(delete, path = "/v1/uploads/{upload}", operation_id = "deleteUpload", tag = "engine",
    params(("upload" = String, Path, description = "Id")),
    responses((status = 204, description = "Removed"), (status = 409, description = "A job works on it")))]
pub(crate) async fn delete_upload(
    State(state): State<AppState>,
    Path(upload): Path<String>,
    _: NoParameters,
) -> Result<StatusCode, ApiError> {
    let id: UploadId = id_of(&upload)?;
    let mut tx = state.begin().await?;
    let row = uploads::find(&mut *tx, id).await?.ok_or_else(|| no_upload(id))?;
    let users = uploads::remove(&mut tx, &row).await?;
    if let Some(first) = users.first() {
        let detail = format!("{} active job(s) work on upload `{id}`, first: {first}", users.len());
        return Err(ApiError::conflict(detail).hint("wait for them, or cancel them"));
    }
    tx.commit().await.map_err(DbError::from)?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_no_paths_and_hashes_are_hashes() {
        let check = |name: Option<&str>, blake3: Option<&str>| {
            UploadQuery { name: name.map(str::to_owned), blake3: blake3.map(str::to_owned) }.check().is_ok()
        };
        assert!(check(None, None) && check(Some("a b.png"), Some(&"aB".repeat(32))));
        for name in ["", "a/b", "a\0", "a\n", &"x".repeat(201)] {
            assert!(!check(Some(name), None), "{name:?}");
        }
        for hash in ["", "xyz", &"g".repeat(64)] {
            assert!(!check(None, Some(hash)), "{hash}");
        }
    }
}
