//! The small library that `up` makes when it is given none.

use std::path::PathBuf;

use shared::error::ErrorCode;

use super::state::State;
use crate::{dev, error::CliError, output::Output};

/// Makes the library in the state folder, once.
pub(super) fn ensure(state: &State, output: Output) -> Result<PathBuf, CliError> {
    let dir = state.dir().join("models");
    let made = dev::make_tiny_library(&dir)
        .map_err(|error| CliError::failed(ErrorCode::Internal, format!("cannot make a model library: {error:#}")))?;
    output.note(format!("{} small models with random weights in {}", made.len(), dir.display()));
    Ok(dir)
}
