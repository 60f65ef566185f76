//! Checking a model beyond its headers: what is wrong with it, finding by finding, and the verdict.
//!
//! [`structure`] looks at headers, shards, the parts of a folder and how they fit together; [`weights`] reads every
//! tensor. A damaged or refused file is an answer here, not an error: errors are what keeps the
//! checks from being made at all.

mod architecture;
mod judge;
mod links;
mod outside;
mod shards;
mod stats;
mod structure;
mod weights;

use serde::{Deserialize, Serialize};

pub use architecture::architecture;
pub use stats::Moments;
pub use structure::structure;
pub use weights::{Checked, TensorStatistics, weight_bytes, weights};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// The model works, but perhaps not as it should.
    Warning,
    /// The model is broken.
    Error,
}

/// What all findings together say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing worse than information.
    Ok,
    /// Warnings.
    Degraded,
    /// Errors.
    Invalid,
    /// A file that could run code or reach outside the model.
    Unsafe,
}

impl Verdict {
    /// The stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Invalid => "invalid",
            Self::Unsafe => "unsafe",
        }
    }
}

/// One observation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// Stable name of the check.
    pub code: String,
    /// The component (`unet`, `vae`, …), if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    /// The tensor, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensor: Option<String>,
    /// What should be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// What is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
    /// One sentence.
    pub message: String,
    /// The figures of it, where it has some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<serde_json::Value>,
}

impl Finding {
    /// A finding about the whole model.
    #[must_use]
    pub fn new(severity: Severity, code: &str, message: impl Into<String>) -> Self {
        let message = crate::text::storable(&message.into());
        let code = code.to_owned();
        Self { severity, code, component: None, tensor: None, expected: None, found: None, message, facts: None }
    }

    /// About this component.
    #[must_use]
    pub fn of(mut self, component: &str) -> Self {
        self.component = Some(crate::text::storable(component));
        self
    }

    /// About this tensor.
    #[must_use]
    pub fn tensor(mut self, name: &str) -> Self {
        self.tensor = Some(crate::text::storable(name));
        self
    }

    /// What should be and what is there.
    #[must_use]
    pub fn but(mut self, expected: impl ToString, found: impl ToString) -> Self {
        self.expected = Some(crate::text::storable(&expected.to_string()));
        self.found = Some(crate::text::storable(&found.to_string()));
        self
    }
}

/// Code of the finding that makes a model unsafe.
pub(crate) const UNSAFE_FILE: &str = "unsafe_file";

/// The verdict of these findings.
#[must_use]
pub fn verdict(findings: &[Finding]) -> Verdict {
    if findings.iter().any(|finding| finding.code == UNSAFE_FILE) {
        return Verdict::Unsafe;
    }
    match findings.iter().map(|finding| finding.severity).max() {
        Some(Severity::Error) => Verdict::Invalid,
        Some(Severity::Warning) => Verdict::Degraded,
        Some(Severity::Info) | None => Verdict::Ok,
    }
}

#[cfg(test)]
mod tests;
