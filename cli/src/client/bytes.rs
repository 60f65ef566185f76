//! Bytes to and from the API: files uploaded and artifacts saved as streams, compared with their hash.

use std::{io::Write, path::Path, time::Duration};

use futures::StreamExt;
use reqwest::{Method, header};
use shared::{
    error::ErrorCode,
    ids::JobId,
    wire::{ArtifactView, UploadView},
};

use super::{Client, segment};
use crate::error::CliError;

/// Longest time for a file to go up or an artifact to come down.
const PATIENCE: Duration = Duration::from_secs(1800);

impl Client {
    /// Uploads a file.
    ///
    /// # Errors
    /// A file that cannot be read, a problem of the API, or no answer.
    pub async fn upload(&self, file: &Path) -> Result<UploadView, CliError> {
        let unreadable = |error: std::io::Error| {
            CliError::failed(ErrorCode::NotFound, format!("cannot read {}: {error}", file.display()))
        };
        let opened = tokio::fs::File::open(file).await.map_err(unreadable)?;
        let about = opened.metadata().await.map_err(unreadable)?;
        if !about.is_file() {
            return Err(CliError::failed(ErrorCode::InvalidArgument, format!("{} is not a file", file.display())));
        }
        let plain =
            |name: &std::ffi::OsStr| name.to_str().filter(|name| !name.chars().any(char::is_control)).map(segment);
        let name = file.file_name().and_then(plain).map(|name| format!("?name={name}")).unwrap_or_default();
        let path = format!("/v1/uploads{name}");
        let request = self
            .request(Method::POST, &path)
            .timeout(PATIENCE)
            .header(header::CONTENT_TYPE, media_type(file))
            .header(header::CONTENT_LENGTH, about.len())
            .body(reqwest::Body::from(opened));
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        if !response.status().is_success() {
            return Err(self.refusal(response).await);
        }
        self.decoded(response, &path).await
    }

    /// Writes an artifact's bytes to `to`.
    ///
    /// # Errors
    /// As [`Client::get`]; an artifact that did not come whole; a place that cannot be written to.
    pub async fn download(&self, job: JobId, artifact: &ArtifactView, to: &mut impl Write) -> Result<(), CliError> {
        let path = format!("/v1/jobs/{job}/artifacts/{}", segment(&artifact.name));
        let request = self.request(Method::GET, &path).timeout(PATIENCE);
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        if !response.status().is_success() {
            return Err(self.refusal(response).await);
        }
        let mut hasher = blake3::Hasher::new();
        let mut pieces = response.bytes_stream();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| self.unreachable(&error))?;
            hasher.update(&piece);
            to.write_all(&piece)?;
        }
        to.flush()?;
        if hasher.finalize().to_hex().as_str() != artifact.blake3 {
            let message = format!("artifact `{}` of job {job} came with other bytes than it has", artifact.name);
            return Err(CliError::failed(ErrorCode::Corrupt, message).hint("get it again"));
        }
        Ok(())
    }
}

fn media_type(file: &Path) -> &'static str {
    match file.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase).as_deref() {
        Some("png") => "image/png",
        Some("webp") => "image/webp",
        Some("jpg" | "jpeg") => "image/jpeg",
        Some("safetensors") => "application/vnd.safetensors",
        _ => "application/octet-stream",
    }
}
