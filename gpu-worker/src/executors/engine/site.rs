//! Where an attempt works.

use std::sync::Arc;

use crate::{
    context::{Agent, Device},
    running::Attempt,
};

/// An attempt on a device of this host.
#[derive(Debug, Clone, Copy)]
pub(in crate::executors) struct Site<'a> {
    pub(in crate::executors) agent: &'a Arc<Agent>,
    pub(in crate::executors) attempt: &'a Attempt,
    pub(in crate::executors) device: &'a Device,
}
