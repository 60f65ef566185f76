//! Pipelines as plain data: what is declared, and how a pipeline stands on a device. Effects are in `db::pipelines`.

mod standing;

use serde::{Deserialize, Serialize};

pub use standing::{Applied, Facts, JobFacts, Standing, Step, pause, standing, step};

use crate::job::{KeepAlive, engine::Assembly};

/// What a pipeline declares, as stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Declared {
    /// The models and how they are put together.
    pub assembly: Assembly,
    /// How long its parts stay in RAM and on the device after their last use; as configured on the host when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<KeepAlive>,
    /// Its parts are not evicted until somebody unprotects them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub protect: bool,
}
