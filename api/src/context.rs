//! What surrounds every request: its id, the token check, a deadline, the access log, the metrics, and the rule that
//! each error is a problem, whoever made it.

use std::{
    any::Any,
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    extract::{MatchedPath, Request, State},
    http::{HeaderValue, Method, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use shared::error::ErrorCode;
use tracing::Instrument;

use crate::{
    prefer::Wait,
    problem::{ApiError, PROBLEM_JSON, render},
    receive::BODY_PATIENCE,
    request_id::{RequestId, X_REQUEST_ID},
    routes::jobs::wait_parameter,
    state::AppState,
};

/// Time for a request beyond what it asks to wait; streams count up to their head only.
const DEADLINE: Duration = Duration::from_secs(10);

/// Paths that answer without a token.
const OPEN: [&str; 2] = ["/livez", "/readyz"];

/// The path as the client wrote it, before device forms were made one.
#[derive(Debug, Clone)]
pub(crate) struct AskedPath(pub(crate) String);

/// The layer around all routes.
pub(crate) async fn surround(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let _in_flight = state.metrics.begin();
    let id = RequestId::of(request.headers());
    let method = request.method().clone();
    let path = match request.extensions().get::<AskedPath>() {
        Some(AskedPath(path)) => path.clone(),
        None => request.uri().path().to_owned(),
    };
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    request.extensions_mut().insert(id.clone());
    let span = tracing::info_span!("request", request_id = %id.0, %method, %path);

    let answer = match state.auth.admit(request.headers()) {
        Err(refused) if !OPEN.contains(&route.as_str()) => refused.into_response(),
        _ => within_deadline(request, next).instrument(span.clone()).await,
    };
    let response = finished(answer, &id, &path);
    let (status, took) = (response.status().as_u16(), started.elapsed());
    state.metrics.answered(&method, &route, status, took);
    span.in_scope(|| {
        if OPEN.contains(&route.as_str()) {
            tracing::debug!(status, duration_ms = took.as_millis(), "answered");
        } else {
            tracing::info!(status, duration_ms = took.as_millis(), "answered");
        }
    });
    response
}

async fn within_deadline(request: Request, next: Next) -> Response {
    let asked = Wait::of(request.headers()).or_else(|| wait_parameter(request.uri()));
    // an upload's answer comes after its body, which may be large
    let sending = request.method() == Method::POST && request.uri().path() == "/v1/uploads";
    let body = if sending { BODY_PATIENCE } else { Duration::ZERO };
    let allowed = DEADLINE + body + asked.map_or(Duration::ZERO, Wait::duration);
    match tokio::time::timeout(allowed, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::new(ErrorCode::Unavailable, "no answer could be had from Postgres in time")
            .hint("try again; the API recovers by itself")
            .into_response(),
    }
}

/// Adds the id, and makes a problem of every error that is not one yet.
fn finished(mut response: Response, id: &RequestId, path: &str) -> Response {
    let status = response.status();
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        response = rewritten(response, &error, id, path);
    } else if is_error(status)
        && response.headers().get(header::CONTENT_TYPE) != Some(&PROBLEM_JSON)
        && !is_health(path)
    {
        response = rewritten(response, &ApiError::of_status(status), id, path);
    }
    if let Some(value) = id.header() {
        response.headers_mut().insert(X_REQUEST_ID, value);
    }
    response
}

fn is_error(status: StatusCode) -> bool {
    status.is_client_error() || status.is_server_error()
}

/// Health checks answer in their own plain form.
fn is_health(path: &str) -> bool {
    OPEN.contains(&path)
}

fn rewritten(response: Response, error: &ApiError, id: &RequestId, path: &str) -> Response {
    let mut problem = error.body();
    problem.request_id = Some(id.0.clone());
    problem.instance = Some(path.to_owned());
    let mut rendered = render(&problem);
    for (name, value) in response.headers() {
        // headers like `allow` and `retry-after` say something; those of the old body do not
        if name != header::CONTENT_TYPE && name != header::CONTENT_LENGTH {
            rendered.headers_mut().append(name.clone(), value.clone());
        }
    }
    rendered
}

/// The answer to a panic in a handler.
pub(crate) fn panicked(_: Box<dyn Any + Send + 'static>) -> Response {
    // the panic hook has written the message and place to the log
    ApiError::new(ErrorCode::Internal, "the request could not be served because of a defect; the log has the details")
        .into_response()
}

/// Makes `/v1/devices/<host>/<name>/…` the same as `/v1/devices/<host>%2F<name>/…`: one route serves both forms.
/// Device names hold a colon (`cuda:1`), which no other second segment does.
pub(crate) fn one_device_form(mut request: Request<Body>) -> Request<Body> {
    let asked = AskedPath(request.uri().path().to_owned());
    if let Some(uri) = joined_device(request.uri()) {
        *request.uri_mut() = uri;
    }
    request.extensions_mut().insert(asked);
    request
}

fn joined_device(uri: &Uri) -> Option<Uri> {
    let rest = uri.path().strip_prefix("/v1/devices/")?;
    let (host, rest) = rest.split_once('/')?;
    let (name, tail) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let is_name = name.contains(':') || name.to_ascii_lowercase().contains("%3a");
    if host.to_ascii_lowercase().contains("%2f") || !is_name {
        return None;
    }
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    format!("/v1/devices/{host}%2F{name}{tail}{query}").parse().ok()
}

/// Tells caches and proxies that answers are of the moment.
pub(crate) const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_device_forms_become_one() {
        let joined = |text: &str| joined_device(&text.parse().unwrap()).map(|uri| uri.to_string());
        assert_eq!(joined("/v1/devices/a/cpu:0").as_deref(), Some("/v1/devices/a%2Fcpu:0"));
        assert_eq!(
            joined("/v1/devices/a/cuda%3A1/vram/load?x=1").as_deref(),
            Some("/v1/devices/a%2Fcuda%3A1/vram/load?x=1")
        );
        for kept in
            ["/v1/devices", "/v1/devices/a%2Fcpu:0/vram/load", "/v1/devices/a/models/status", "/v1/models/a/b:c"]
        {
            assert_eq!(joined(kept), None, "{kept}");
        }
    }
}
