//! What a command can end with, what it prints, and its exit code.

use shared::{
    error::{Classify, ErrorCode, chain},
    ids::JobId,
    job::JobState,
    wire::{JobView, Problem},
};

/// Exit code of a refused token.
const EXIT_AUTH: u8 = 5;
/// Exit code after Ctrl-C.
const EXIT_INTERRUPTED: u8 = 130;

/// Why a command did not end well.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The API refused; its own words.
    #[error("{}", .0.detail)]
    Api(Box<Problem>),
    /// No answer.
    #[error("cannot reach the API at {url}: {why}")]
    Unreachable {
        /// Base URL.
        url: String,
        /// The innermost cause; the layers above it only repeat the address.
        why: String,
    },
    /// An answer that is not the API's.
    #[error("what answers at {url} is not this API: {what}")]
    NotOurs {
        /// The request.
        url: String,
        /// What came.
        what: String,
    },
    /// Arguments that parse but make no sense together.
    #[error("{0}")]
    Usage(String),
    /// The job was waited for and did not succeed.
    #[error("{}", job_sentence(.0))]
    JobEnded(Box<JobView>),
    /// The wait was longer than allowed; the job goes on.
    #[error("job {job} is still {state} after {seconds} s")]
    WaitedTooLong {
        /// The job.
        job: JobId,
        /// Its state.
        state: JobState,
        /// The limit.
        seconds: u64,
    },
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted {
        /// The job that was waited for; it goes on.
        job: Option<JobId>,
    },
    /// Anything else, classified.
    #[error("{message}")]
    Failed {
        /// Class.
        code: ErrorCode,
        /// One sentence, or several lines with a log's end.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
    /// Standard output is gone or full.
    #[error("cannot write the output")]
    Output(#[from] std::io::Error),
    /// Something that should be JSON is not.
    #[error("cannot encode the output")]
    Encode(#[from] serde_json::Error),
}

fn job_sentence(job: &JobView) -> String {
    let why = job.error.as_ref().map(|error| format!(": {}", error.message)).unwrap_or_default();
    format!("{} job {} {}{why}", job.kind, job.id, job.state)
}

impl CliError {
    /// A failure of this class without a cause.
    pub fn failed(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::Failed { code, message: message.into(), hint: None }
    }

    /// Wraps an error of another package.
    pub fn of<E: Classify + 'static>(error: &E) -> Self {
        Self::Failed { code: error.code(), message: chain(error), hint: error.hint() }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(self, text: impl Into<String>) -> Self {
        match self {
            Self::Failed { code, message, .. } => Self::Failed { code, message, hint: Some(text.into()) },
            other => other,
        }
    }

    /// The closed code of this error.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Api(problem) => problem.code,
            Self::Unreachable { .. } => ErrorCode::Unavailable,
            Self::Usage(_) => ErrorCode::InvalidArgument,
            Self::JobEnded(job) => match job.state {
                JobState::Cancelled => ErrorCode::Cancelled,
                _ => job.error.as_ref().map_or(ErrorCode::Internal, |error| error.code),
            },
            Self::WaitedTooLong { .. } => ErrorCode::Timeout,
            Self::Interrupted { .. } => ErrorCode::Cancelled,
            Self::Failed { code, .. } => *code,
            Self::NotOurs { .. } | Self::Output(_) | Self::Encode(_) => ErrorCode::Internal,
        }
    }

    /// The process's exit code; the table is in `modelyard --help`.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Api(problem) if matches!(problem.status, 401 | 403) => EXIT_AUTH,
            Self::Interrupted { .. } => EXIT_INTERRUPTED,
            Self::JobEnded(job) if job.state == JobState::Quarantined => 1,
            other => other.code().exit_code(),
        }
    }

    /// What to do about it, if that is known.
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::Api(problem) => problem.hint.clone(),
            Self::Unreachable { .. } => Some(
                "start a farm here with `modelyard up`, or name a running one with --api URL (MODELYARD_API)"
                    .to_owned(),
            ),
            Self::JobEnded(job) => {
                let own = job.error.as_ref().and_then(|error| error.hint.clone());
                own.or_else(|| Some(format!("`modelyard jobs show {}` lists its attempts", job.id)))
            }
            Self::WaitedTooLong { job, .. } => Some(goes_on(*job)),
            Self::Interrupted { job } => job.map(goes_on),
            Self::Failed { hint, .. } => hint.clone(),
            _ => None,
        }
    }

    /// The error as the problem that `--json` prints.
    pub fn problem(&self) -> Problem {
        if let Self::Api(problem) = self {
            return (**problem).clone();
        }
        let code = self.code();
        Problem {
            problem_type: format!("urn:modelyard:problem:{}", code.as_str()),
            title: code.as_str().replace('_', " "),
            status: code.http_status(),
            detail: chain(self),
            instance: None,
            code,
            hint: self.advice(),
            request_id: None,
            errors: Vec::new(),
        }
    }
}

fn goes_on(job: JobId) -> String {
    format!(
        "the job goes on; look with `modelyard jobs show {job}`, wait with `modelyard jobs wait {job}`, \
         stop it with `modelyard jobs cancel {job}`"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_tokens_and_interrupts_have_codes_of_their_own() {
        let mut problem = CliError::failed(ErrorCode::InvalidArgument, "x").problem();
        problem.status = 401;
        assert_eq!(CliError::Api(Box::new(problem)).exit_code(), 5);
        assert_eq!(CliError::Interrupted { job: None }.exit_code(), 130);
        assert_eq!(CliError::failed(ErrorCode::NotFound, "x").exit_code(), 3);
    }

    #[test]
    fn an_interrupted_wait_says_how_to_cancel() {
        let job = JobId::generate();
        let advice = CliError::Interrupted { job: Some(job) }.advice().unwrap();
        assert!(advice.contains(&format!("modelyard jobs cancel {job}")), "{advice}");
    }
}
