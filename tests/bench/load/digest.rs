//! The digest beside the usual programs: each turns the file, already in the page cache, into a hash.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

/// Seconds that a program takes for the file; none when it is not installed.
///
/// # Errors
/// When the program is there but fails.
pub(crate) fn program(command: &[&str], path: &Path) -> anyhow::Result<Option<f64>> {
    let Some((program, arguments)) = command.split_first() else { return Ok(None) };
    let began = Instant::now();
    let status = Command::new(program).args(arguments).arg(path).stdin(Stdio::null()).stdout(Stdio::null()).status();
    match status {
        Ok(status) => {
            anyhow::ensure!(status.success(), "{program} ended with {status}");
            Ok(Some(began.elapsed().as_secs_f64()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}
