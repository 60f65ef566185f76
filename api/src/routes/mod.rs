//! The handlers, one family per file, and what lists have in common.

pub(crate) mod artifacts;
pub(crate) mod benchmarks;
pub(crate) mod cache;
pub(crate) mod components;
pub(crate) mod convert;
pub(crate) mod devices;
pub(crate) mod engine;
pub(crate) mod events;
pub(crate) mod evictions;
pub(crate) mod hosts;
pub(crate) mod job_request;
pub(crate) mod jobs;
pub(crate) mod loras;
pub(crate) mod memory;
pub(crate) mod meta;
pub(crate) mod metadata;
pub(crate) mod models;
pub(crate) mod pipeline_changes;
pub(crate) mod pipelines;
pub(crate) mod search;
pub(crate) mod status;
pub(crate) mod tensors;
pub(crate) mod uploads;
pub(crate) mod validations;
pub(crate) mod vram;

use std::str::FromStr;

use axum::{
    Json,
    http::{HeaderValue, Uri, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use shared::{ids::BadId, wire::Page};

use crate::problem::ApiError;

/// Rows on a page when the client does not say.
const DEFAULT_LIMIT: u32 = 100;
/// Most rows on a page.
const MAX_LIMIT: u32 = 1000;

/// The page size asked for.
///
/// # Errors
/// A 400 problem outside 1..=1000.
pub(crate) fn page_size(limit: Option<u32>) -> Result<usize, ApiError> {
    match limit.unwrap_or(DEFAULT_LIMIT) {
        size @ 1..=MAX_LIMIT => Ok(size as usize),
        size => Err(ApiError::field("limit", format!("`{size}` is not a page size: 1 to {MAX_LIMIT}"))),
    }
}

/// Texts of parameters that are looked for in Postgres, which takes no NUL.
///
/// # Errors
/// A 400 problem naming the parameter.
pub(crate) fn without_nul<'q>(
    parameters: impl IntoIterator<Item = (&'q str, &'q Option<String>)>,
) -> Result<(), ApiError> {
    let holds = |text: &Option<String>| text.as_deref().is_some_and(|text| text.contains('\0'));
    match parameters.into_iter().find(|(_, text)| holds(text)) {
        Some((name, _)) => Err(ApiError::field(name, "holds a NUL character")),
        None => Ok(()),
    }
}

/// A comma-separated list of values, each one of `allowed` where that is given.
///
/// # Errors
/// A 400 problem naming the value and what there is.
pub(crate) fn list_of(name: &str, text: Option<&str>, allowed: &[&str]) -> Result<Option<Vec<String>>, ApiError> {
    let Some(text) = text else { return Ok(None) };
    let values: Vec<String> = text.split(',').map(|value| value.trim().to_owned()).collect();
    for value in &values {
        if !allowed.is_empty() && !allowed.contains(&value.as_str()) {
            return Err(ApiError::field(name, format!("`{value}` is not one of {}", allowed.join(", "))));
        }
    }
    Ok(Some(values))
}

/// An id of a path; text that cannot be an id names nothing, so it is not found.
///
/// # Errors
/// A 404 problem.
pub(crate) fn id_of<T: FromStr<Err = BadId>>(text: &str) -> Result<T, ApiError> {
    text.parse().map_err(|bad: BadId| {
        ApiError::not_found(format!("there is no {} `{}`", bad.kind, bad.text)).hint(bad.to_string())
    })
}

/// A page with a `Link` to the next one.
pub(crate) fn paged<T: Serialize>(uri: &Uri, items: Vec<T>, next_cursor: Option<String>) -> Response {
    let cursor = next_cursor.clone();
    linked(uri, cursor.as_deref(), Page { items, next_cursor })
}

/// A page of any form with a `Link` to the next one.
pub(crate) fn linked<P: Serialize>(uri: &Uri, next_cursor: Option<&str>, page: P) -> Response {
    let link = next_cursor.and_then(|cursor| next_link(uri, cursor));
    let mut response = Json(page).into_response();
    if let Some(link) = link {
        response.headers_mut().insert(header::LINK, link);
    }
    response
}

fn next_link(uri: &Uri, cursor: &str) -> Option<HeaderValue> {
    let kept =
        uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("cursor="));
    let query = kept.map(str::to_owned).chain([format!("cursor={cursor}")]).collect::<Vec<_>>().join("&");
    HeaderValue::from_str(&format!("<{}?{query}>; rel=\"next\"", uri.path())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_sizes_have_bounds() {
        assert_eq!(page_size(None).unwrap(), 100);
        assert_eq!(page_size(Some(1000)).unwrap(), 1000);
        assert!(page_size(Some(0)).is_err() && page_size(Some(1001)).is_err());
    }

    #[test]
    fn the_next_link_keeps_the_filter_and_replaces_the_cursor() {
        let uri: Uri = "/v1/models?type=vae&cursor=old&limit=2".parse().unwrap();
        assert_eq!(next_link(&uri, "new").unwrap(), "</v1/models?type=vae&limit=2&cursor=new>; rel=\"next\"");
    }

    #[test]
    fn lists_are_split_and_checked() {
        assert_eq!(list_of("state", Some("a, b"), &["a", "b"]).unwrap().unwrap(), ["a", "b"]);
        assert!(list_of("state", Some("a,c"), &["a", "b"]).is_err());
        assert_eq!(list_of("state", None, &["a"]).unwrap(), None);
    }
}
