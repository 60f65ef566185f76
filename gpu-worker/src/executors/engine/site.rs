//! Where an attempt works.

use std::sync::Arc;

use crate::{
    context::{Agent, Device},
    error::WorkError,
    runner::RunnerError,
    running::Attempt,
};

/// An attempt on a device of this host.
#[derive(Debug, Clone, Copy)]
pub(in crate::executors) struct Site<'a> {
    pub(in crate::executors) agent: &'a Arc<Agent>,
    pub(in crate::executors) attempt: &'a Attempt,
    pub(in crate::executors) device: &'a Device,
}

impl Site<'_> {
    /// The device's runner is the one that came after so many deaths.
    ///
    /// # Errors
    /// Unavailable where it died since: what was there is gone, and another attempt brings it back.
    pub(in crate::executors) fn must_live_since(&self, deaths: u64) -> Result<(), WorkError> {
        if self.device.deaths() == deaths {
            return Ok(());
        }
        let reason = "its process was replaced meanwhile, and what was on the device is not there any more".to_owned();
        Err(RunnerError::Unavailable { device: self.device.id.clone(), reason }.into())
    }
}
