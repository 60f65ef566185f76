//! Starting a runner process and saying how it ended.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    io,
    os::{fd::OwnedFd, unix::net::UnixStream, unix::process::ExitStatusExt},
    process::{ExitStatus, Stdio},
};

use engine::Learned;
use tokio::process::{Child, Command};

use super::{
    RunnerConfig,
    channel::{self, Commands, Events},
    protocol::EXIT_STICKY,
};

/// What a runner may see of the agent's environment; database credentials are not among it.
const KEPT: [&str; 6] = ["PATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NO_COLOR", "TZ"];

/// Longest argument: the system takes 128 KiB. What was learned of some hundred graphs fits.
const LEARNED_MAX: usize = 96 << 10;

/// Starts the process with what earlier ones have learned; its socket is its standard input.
///
/// # Errors
/// When the system refuses a socket or the process.
pub(super) fn spawn(
    config: &RunnerConfig,
    learned: &BTreeMap<String, Learned>,
) -> io::Result<(Child, Commands, Events)> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new(&config.program);
    command
        .arg("runner")
        .args(["--device", &config.device])
        .args(["--memory", &config.memory_bytes.to_string()])
        .args(["--log", &config.log_filter])
        .args(config.onnxruntime.iter().flat_map(|path| [OsStr::new("--onnxruntime"), path.as_os_str()]))
        .args(config.python.iter().flat_map(|path| [OsStr::new("--python"), path.as_os_str()]))
        .args(config.threads.iter().flat_map(|threads| ["--threads".to_owned(), threads.to_string()]))
        .args(learned_argument(learned)?.iter().flat_map(|text| ["--learned", text.as_str()]))
        .env_clear()
        .envs(KEPT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .kill_on_drop(true);
    let child = command.spawn()?;
    let (commands, events) = channel::agent_ends(ours)?;
    Ok((child, commands, events))
}

/// None when nothing was learned, or more than an argument holds: then it is learned again.
fn learned_argument(learned: &BTreeMap<String, Learned>) -> io::Result<Option<String>> {
    let text = serde_json::to_string(learned)?;
    Ok((!learned.is_empty() && text.len() <= LEARNED_MAX).then_some(text))
}

/// `signal 9`, `exit code 86: sticky device error`, …
pub(super) fn how_it_ended(status: io::Result<ExitStatus>) -> String {
    let status = match status {
        Ok(status) => status,
        Err(error) => return format!("it could not be waited for: {error}"),
    };
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("signal {signal}"),
        (None, Some(code)) if code == i32::from(EXIT_STICKY) => format!("exit code {code}: sticky device error"),
        (None, Some(code)) => format!("exit code {code}"),
        (None, None) => "unknown end".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_named() {
        assert_eq!(how_it_ended(Ok(ExitStatus::from_raw(9))), "signal 9");
        assert_eq!(how_it_ended(Ok(ExitStatus::from_raw(86 << 8))), "exit code 86: sticky device error");
        assert_eq!(how_it_ended(Ok(ExitStatus::from_raw(1 << 8))), "exit code 1");
    }
}
