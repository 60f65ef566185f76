//! Taking a body of any size into the database, one row at a time, within limits of size and time.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use axum::{body::Body, http::StatusCode};
use futures::StreamExt;
use shared::{
    bytes::ByteSize,
    db::blobs::{self, CHUNK_BYTES, uploads},
    error::{ErrorCode, chain},
    ids::BlobId,
};

use crate::{config::Config, problem::ApiError, state::AppState};

/// Longest time between two pieces of a body.
const PIECE_PATIENCE: Duration = Duration::from_secs(8);
/// Longest time for a whole body.
pub(crate) const BODY_PATIENCE: Duration = Duration::from_secs(900);

/// Rows between two looks at the total of what other requests have stored meanwhile.
const ROWS_PER_LOOK: i32 = 16;

/// How much may be uploaded, and how long it stays.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UploadLimits {
    /// Bytes of one upload.
    pub(crate) each: ByteSize,
    /// Bytes of all.
    pub(crate) total: ByteSize,
    /// How long it stays.
    pub(crate) keep: Duration,
}

impl UploadLimits {
    /// As configured.
    pub(crate) fn of(config: &Config) -> Self {
        Self { each: config.upload_limit, total: config.uploads_total, keep: config.keep_uploads }
    }

    /// Refuses an upload of so many bytes.
    ///
    /// # Errors
    /// A 413 problem.
    pub(crate) fn must_be_allowed(&self, bytes: u64) -> Result<(), ApiError> {
        if bytes <= self.each.0 {
            return Ok(());
        }
        let detail = format!("an upload has at most {} ({} bytes)", self.each, self.each.0);
        Err(ApiError::new(ErrorCode::InvalidArgument, detail).status(StatusCode::PAYLOAD_TOO_LARGE).hint(
            "put the file below a root of a host and name it by root and path, or raise --upload-limit of the API",
        ))
    }

    /// Refuses `more` bytes beside those that are `there`.
    ///
    /// # Errors
    /// A 507 problem.
    pub(crate) fn must_have_room(&self, there: u64, more: u64) -> Result<(), ApiError> {
        let most = self.total;
        if there.saturating_add(more) <= most.0 {
            return Ok(());
        }
        let detail =
            format!("all uploads have {} of at most {most}; {} more do not fit", ByteSize(there), ByteSize(more));
        Err(ApiError::new(ErrorCode::InsufficientCapacity, detail)
            .hint("remove uploads that are no longer needed, or wait until some have expired"))
    }
}

/// Bytes of uploads that still arrive at this process, all requests together. Each process counts its own.
#[derive(Debug, Default)]
pub(crate) struct InFlight(AtomicU64);

impl InFlight {
    fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    fn leave(&self, bytes: u64) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Bytes that arrived whole. Removed again unless they are kept.
#[derive(Debug)]
pub(crate) struct Received {
    state: AppState,
    blob: Option<BlobId>,
    id: BlobId,
    bytes: u64,
    blake3: String,
}

impl Received {
    /// The blob.
    pub(crate) fn blob(&self) -> BlobId {
        self.id
    }

    /// Its bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// BLAKE3 of all bytes, in hex.
    pub(crate) fn blake3(&self) -> &str {
        &self.blake3
    }

    /// Something names the blob now.
    pub(crate) fn kept(mut self) {
        self.blob = None;
    }
}

impl Drop for Received {
    /// Also when the client went away in the middle: then the request's future is dropped.
    fn drop(&mut self) {
        let (state, bytes) = (self.state.clone(), self.bytes);
        let Some(blob) = self.blob.take() else { return state.arriving.leave(bytes) };
        self.state.tasks.spawn("upload-removal", async move {
            let removed = match state.connection().await {
                Ok(mut conn) => blobs::remove(&mut *conn, blob).await,
                Err(_) => Err(shared::db::DbError::timed_out()),
            };
            if let Err(error) = removed {
                tracing::debug!(error = %chain(&error), "bytes of a broken upload stay until they are pruned");
            }
            state.arriving.leave(bytes);
        });
    }
}

/// Takes a body in. No connection is held while the client is waited for.
///
/// # Errors
/// 400 for a body that is empty or breaks off, 408 for one that is too slow, 413 for one that is too large, 507 when all uploads
/// and all that arrives are too much together; database errors.
pub(crate) async fn receive(state: &AppState, media_type: &str, body: Body) -> Result<Received, ApiError> {
    let id = blobs::begin(&mut *state.connection().await?, media_type).await?;
    let mut received = Received { state: state.clone(), blob: Some(id), id, bytes: 0, blake3: String::new() };
    let mut hasher = blake3::Hasher::new();
    let mut pieces = body.into_data_stream();
    let (mut row, mut number, mut there) = (Vec::with_capacity(CHUNK_BYTES), 0i32, stored(state).await?);
    loop {
        let piece = tokio::time::timeout(PIECE_PATIENCE, pieces.next()).await;
        let Some(piece) = piece.map_err(|_| ApiError::of_status(StatusCode::REQUEST_TIMEOUT))? else { break };
        let piece = piece.map_err(|_| ApiError::invalid("the body broke off before its end"))?;
        received.bytes = received.bytes.saturating_add(piece.len() as u64);
        state.arriving.add(piece.len() as u64);
        state.uploads.must_be_allowed(received.bytes)?;
        hasher.update(&piece);
        let mut rest = piece.as_ref();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(CHUNK_BYTES.saturating_sub(row.len())));
            row.extend_from_slice(now);
            rest = later;
            if row.len() == CHUNK_BYTES {
                if number % ROWS_PER_LOOK == ROWS_PER_LOOK - 1 {
                    there = stored(state).await?;
                }
                state.uploads.must_have_room(there, state.arriving.bytes())?;
                write(state, id, &mut number, &mut row).await?;
            }
        }
    }
    if received.bytes == 0 {
        return Err(ApiError::invalid("the body is empty"));
    }
    if !row.is_empty() {
        write(state, id, &mut number, &mut row).await?;
    }
    received.blake3 = hasher.finalize().to_hex().to_string();
    Ok(received)
}

/// Bytes of all uploads that are whole.
async fn stored(state: &AppState) -> Result<u64, ApiError> {
    let total = uploads::total_bytes(&mut *state.connection().await?).await?;
    Ok(u64::try_from(total).unwrap_or(0))
}

async fn write(state: &AppState, id: BlobId, number: &mut i32, row: &mut Vec<u8>) -> Result<(), ApiError> {
    blobs::append(&mut *state.connection().await?, id, *number, row).await?;
    *number = number.saturating_add(1);
    row.clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_and_what_comes_are_bounded_together() {
        let limits = UploadLimits { each: ByteSize(10), total: ByteSize(30), keep: Duration::ZERO };
        assert!(limits.must_have_room(20, 10).is_ok());
        assert!(limits.must_have_room(20, 11).is_err() && limits.must_have_room(u64::MAX, 1).is_err());
        let arriving = InFlight::default();
        arriving.add(8);
        arriving.add(4);
        arriving.leave(8);
        assert_eq!(arriving.bytes(), 4);
    }
}
