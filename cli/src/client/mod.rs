//! The REST client: one way to ask, one way to read problems, pages walked to their end.

mod bytes;
pub mod sse;

use std::{net::IpAddr, path::Path, time::Duration};

use chrono::{DateTime, Utc};
use reqwest::{Method, StatusCode, header};
use serde::{Serialize, de::DeserializeOwned};
use shared::{
    error::ErrorCode,
    wire::{Page, Problem},
};

use crate::error::CliError;

const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);
/// The header that says who makes a change, and what this command says.
const ACTOR: &str = "modelyard-actor";
const ACTOR_NAME: &str = "modelyard command";
/// Largest page that the API gives.
const PAGE: usize = 1000;

/// A farm's API.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("base", &self.base).finish_non_exhaustive()
    }
}

/// What the API says of itself.
#[derive(Debug)]
pub struct Health {
    /// It can serve.
    pub ready: bool,
    /// In its words.
    pub text: String,
    /// Its clock, to the second.
    pub date: Option<DateTime<Utc>>,
}

/// Parameters of a query string; absent ones are left out.
pub type Query<'a> = [(&'a str, Option<String>)];

impl Client {
    /// Prepares to talk to the API at `base`, with the bearer token of a file if one is given.
    ///
    /// # Errors
    /// A URL that is not `http://…`, or a token file that cannot be read.
    pub fn new(base: &str, token_file: Option<&Path>) -> Result<Self, CliError> {
        let base = base.trim_end_matches('/').to_owned();
        let Some(rest) = base.strip_prefix("http://") else {
            return Err(CliError::Usage(format!(
                "`{base}` is not a usable API address: write http://HOST:PORT (TLS ends at a proxy beside the API)"
            )));
        };
        let mut builder = reqwest::Client::builder().connect_timeout(CONNECT_PATIENCE);
        if is_loopback(rest) {
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|error| unreachable(&base, &error))?;
        Ok(Self { http, base, token: token_file.map(read_token).transpose()? })
    }

    /// The base URL.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// `GET`.
    ///
    /// # Errors
    /// A problem of the API, or no answer.
    pub async fn get<T: DeserializeOwned>(&self, path: &str, query: &Query<'_>) -> Result<T, CliError> {
        self.send(Method::GET, &format!("{path}{}", query_text(query)), None::<&()>).await
    }

    /// `GET` of something that is text itself.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn get_text(&self, path: &str) -> Result<String, CliError> {
        let response = self.answered(self.request(Method::GET, path)).await?;
        response.text().await.map_err(|error| self.unreachable(&error))
    }

    /// All rows of a list, at most `limit`.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &Query<'_>,
        limit: Option<usize>,
    ) -> Result<Vec<T>, CliError> {
        let mut rows = Vec::new();
        let mut cursor = None;
        loop {
            let wanted = limit.map_or(PAGE, |limit| (limit - rows.len()).min(PAGE));
            let mut query = query.to_vec();
            query.push(("limit", Some(wanted.to_string())));
            query.push(("cursor", cursor));
            let page: Page<T> = self.get(path, &query).await?;
            rows.extend(page.items);
            cursor = page.next_cursor;
            if cursor.is_none() || limit.is_some_and(|limit| rows.len() >= limit) {
                return Ok(rows);
            }
        }
    }

    /// `POST` with a JSON body.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, CliError> {
        self.send(Method::POST, path, Some(body)).await
    }

    /// `GET` of something that will be changed: the answer with its ETag.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn get_tagged<T: DeserializeOwned>(&self, path: &str) -> Result<(T, String), CliError> {
        let response = self.answered(self.request(Method::GET, path)).await?;
        let tag = response.headers().get(header::ETAG).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let no_tag = || CliError::NotOurs { url: format!("{}{path}", self.base), what: "no ETag".to_owned() };
        let tag = tag.ok_or_else(no_tag)?;
        Ok((self.decoded(response, path).await?, tag))
    }

    /// `PATCH` with a JSON body.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn patch<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, CliError> {
        let request = self.request(Method::PATCH, path).header(ACTOR, ACTOR_NAME).json(body);
        self.decoded(self.answered(request).await?, path).await
    }

    /// `PUT` with a JSON body, only if nothing changed since the ETag, where one is given.
    ///
    /// # Errors
    /// As [`Client::get`]; a problem with code `precondition` when something did.
    pub async fn put<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
        tag: Option<&str>,
    ) -> Result<T, CliError> {
        let mut request = self.request(Method::PUT, path).header(ACTOR, ACTOR_NAME).json(body);
        if let Some(tag) = tag {
            request = request.header(header::IF_MATCH, tag);
        }
        self.decoded(self.answered(request).await?, path).await
    }

    /// `DELETE`.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn delete<T: DeserializeOwned>(&self, path: &str, query: &Query<'_>) -> Result<T, CliError> {
        self.send(Method::DELETE, &format!("{path}{}", query_text(query)), None::<&()>).await
    }

    /// Opens an event stream, after `last` if given.
    ///
    /// # Errors
    /// As [`Client::get`]; later losses of the stream are the reader's to handle.
    pub async fn events(&self, path: &str, query: &Query<'_>, last: Option<i64>) -> Result<sse::Events, CliError> {
        let mut request = self.request(Method::GET, &format!("{path}{}", query_text(query)));
        request = request.header(header::ACCEPT, "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last.to_string());
        }
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        if response.status() != StatusCode::OK {
            return Err(self.refusal(response).await);
        }
        Ok(sse::Events::new(response))
    }

    /// Asks whether the API is ready, without a token.
    ///
    /// # Errors
    /// No answer.
    pub async fn health(&self) -> Result<Health, CliError> {
        let request = self.http.get(format!("{}/readyz", self.base)).timeout(CONNECT_PATIENCE);
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let date = response.headers().get(header::DATE).and_then(|value| value.to_str().ok());
        let date = date.and_then(|text| DateTime::parse_from_rfc2822(text).ok()).map(|date| date.to_utc());
        let ready = response.status() == StatusCode::OK;
        let text = response.text().await.map_err(|error| self.unreachable(&error))?;
        Ok(Health { ready, text, date })
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn send<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<T, CliError> {
        let mut request = self.request(method, path);
        if let Some(body) = body {
            request = request.json(body);
        }
        self.decoded(self.answered(request).await?, path).await
    }

    async fn answered(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, CliError> {
        let response = request.timeout(ANSWER_PATIENCE).send().await.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() { Ok(response) } else { Err(self.refusal(response).await) }
    }

    async fn decoded<T: DeserializeOwned>(&self, response: reqwest::Response, path: &str) -> Result<T, CliError> {
        let bytes = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        serde_json::from_slice(&bytes)
            .map_err(|error| CliError::NotOurs { url: format!("{}{path}", self.base), what: error.to_string() })
    }

    async fn refusal(&self, response: reqwest::Response) -> CliError {
        let (status, url) = (response.status(), response.url().to_string());
        let bytes = match response.bytes().await {
            Ok(bytes) => bytes,
            Err(error) => return self.unreachable(&error),
        };
        match serde_json::from_slice::<Problem>(&bytes) {
            Ok(problem) => CliError::Api(Box::new(problem)),
            Err(_) => CliError::NotOurs { url, what: format!("status {status}") },
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> CliError {
        unreachable(&self.base, error)
    }
}

fn unreachable(base: &str, error: &reqwest::Error) -> CliError {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    let why = if error.is_timeout() { "no answer in time".to_owned() } else { innermost.to_string() };
    CliError::Unreachable { url: base.to_owned(), why }
}

fn read_token(path: &Path) -> Result<String, CliError> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        CliError::failed(ErrorCode::InvalidArgument, format!("cannot read the token file {}: {error}", path.display()))
    })?;
    Ok(text.trim().to_owned())
}

/// A proxy of the environment cannot reach this machine's own loopback.
fn is_loopback(authority: &str) -> bool {
    let host = authority.split('/').next().unwrap_or_default();
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn query_text(query: &Query<'_>) -> String {
    let pairs: Vec<String> = query
        .iter()
        .filter_map(|(name, value)| value.as_ref().map(|value| format!("{name}={}", segment(value))))
        .collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}

/// Percent-encodes a text for one segment of a path or one value of a query.
pub fn segment(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_and_queries_are_encoded() {
        assert_eq!(segment("a/cuda:0"), "a%2Fcuda%3A0");
        let query = [("q", Some("ä b".to_owned())), ("none", None)];
        assert_eq!(query_text(&query), "?q=%C3%A4%20b");
        assert_eq!(query_text(&[("none", None)]), "");
    }

    #[test]
    fn loopback_is_known_with_and_without_port() {
        for authority in ["127.0.0.1:8080", "localhost", "[::1]:80/x"] {
            assert!(is_loopback(authority), "{authority}");
        }
        assert!(!is_loopback("10.0.0.1:8080"));
    }

    #[test]
    fn tls_is_refused_with_the_reason() {
        let error = Client::new("https://farm", None).unwrap_err();
        assert!(error.to_string().contains("http://HOST:PORT"), "{error}");
    }
}
