//! `apply_pipeline` and `restore_pipeline`: what a pipeline declares is made ready on a device, and its bases are run as they
//! are again.

mod apply;
mod change;
mod check;
mod dry_run;
mod keeps;
mod restore;
mod room;

pub(super) use apply::run as apply;
pub use change::{PipelineChange, Recorded};
pub(super) use restore::run as restore;
