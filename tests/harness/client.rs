//! The REST client of the stories: typed where a story reads an answer, raw where it looks at the answer itself.

use std::time::Duration;

use reqwest::{Method, header::HeaderMap};
use serde::de::DeserializeOwned;
use serde_json::Value;
use shared::{
    ids::JobId,
    job::JobState,
    wire::{JobDetail, JobView, Page, Problem},
};

use crate::wait_for;

/// One API.
#[derive(Debug, Clone)]
pub struct Api {
    http: reqwest::Client,
    base: String,
}

/// An answer as it came.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub text: String,
}

impl Answer {
    /// The body as JSON of this type.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error} in answer {self:?}"))
    }

    /// The body as a problem, with this status.
    ///
    /// # Panics
    /// When it is anything else.
    #[track_caller]
    pub fn problem(&self, status: u16) -> Problem {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem: Problem = self.json();
        assert_eq!(problem.status, status, "{self:?}");
        problem
    }

    /// A header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The job of a 202.
    ///
    /// # Panics
    /// When it is anything else.
    #[track_caller]
    pub fn accepted(&self) -> JobView {
        assert_eq!(self.status, 202, "{self:?}");
        self.json()
    }
}

impl Api {
    /// The API at this URL.
    ///
    /// # Panics
    /// When no client can be made.
    pub fn new(base: &str) -> Self {
        // proxies of the environment are none of the tests' business
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().expect("a client");
        Self { http, base: base.trim_end_matches('/').to_owned() }
    }

    /// Its URL.
    pub fn url(&self) -> &str {
        &self.base
    }

    /// A request to build on.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }

    /// Sends; an error when nobody answers.
    ///
    /// # Errors
    /// What the client says.
    pub async fn try_send(&self, request: reqwest::RequestBuilder) -> Result<Answer, reqwest::Error> {
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Answer { status, headers, text: response.text().await? })
    }

    /// Sends.
    ///
    /// # Panics
    /// When nobody answers.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        self.try_send(request).await.unwrap_or_else(|error| panic!("no answer: {error:?}"))
    }

    /// GET, whatever the answer.
    pub async fn ask(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    /// GET of what must be there.
    ///
    /// # Panics
    /// When the answer is not a success of this type.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        let answer = self.ask(path).await;
        assert_eq!(answer.status, 200, "GET {path}: {answer:?}");
        answer.json()
    }

    /// The first page of a list.
    pub async fn list<T: DeserializeOwned>(&self, path: &str) -> Vec<T> {
        self.get::<Page<T>>(path).await.items
    }

    /// POST, whatever the answer.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    /// POST of something that is accepted as a job.
    ///
    /// # Panics
    /// When it is not.
    pub async fn submit(&self, path: &str, body: Value) -> JobView {
        let answer = self.post(path, &body).await;
        assert_eq!(answer.status, 202, "POST {path} {body}: {answer:?}");
        answer.json()
    }

    /// DELETE, whatever the answer.
    pub async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path)).await
    }

    /// A job.
    pub async fn job(&self, id: JobId) -> JobDetail {
        self.get(&job_path(id)).await
    }

    /// Waits until a job has ended, in this state.
    ///
    /// # Panics
    /// When it does not end in time or ends otherwise.
    pub async fn job_ended(&self, id: JobId, state: JobState, patience: Duration) -> JobDetail {
        let job = self.job_is(id, "ends", patience, |job| job.job.state.is_terminal()).await;
        assert_eq!(job.job.state, state, "{}", text_of(&job));
        job
    }

    /// Waits until a look at a job says yes. An API that says 503 meanwhile is asked again, as it tells clients to do.
    ///
    /// # Panics
    /// When it does not in time.
    pub async fn job_is(
        &self,
        id: JobId,
        what: &str,
        patience: Duration,
        look: impl Fn(&JobDetail) -> bool,
    ) -> JobDetail {
        wait_for(&format!("job {id}: {what}"), patience, || async {
            let answer = self.ask(&job_path(id)).await;
            if answer.status == 503 {
                return Err(answer.text);
            }
            assert_eq!(answer.status, 200, "{answer:?}");
            let job: JobDetail = answer.json();
            if look(&job) { Ok(job) } else { Err(text_of(&job)) }
        })
        .await
    }

    /// Asks for a job's cancel.
    ///
    /// # Panics
    /// When the API refuses.
    pub async fn cancel(&self, id: JobId) -> Answer {
        let answer = self.post(&format!("{}/cancel", job_path(id)), &serde_json::json!({})).await;
        assert!(matches!(answer.status, 200 | 202), "{answer:?}");
        answer
    }
}

/// Path of a job.
pub fn job_path(id: JobId) -> String {
    format!("/v1/jobs/{id}")
}

fn text_of(job: &JobDetail) -> String {
    serde_json::to_string(job).unwrap_or_else(|error| error.to_string())
}
