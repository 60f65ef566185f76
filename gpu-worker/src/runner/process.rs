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

/// Longest argument: the system takes 128 KiB. What was learned of several hundred graphs fits.
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
        .args(learned_argument(&config.device, learned)?.iter().flat_map(|text| ["--learned", text.as_str()]))
        .env_clear()
        .envs(KEPT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .kill_on_drop(true);
    let child = command.spawn()?;
    let (commands, events) = channel::agent_ends(ours)?;
    Ok((child, commands, events))
}

/// What the process is told was learned; none when that is nothing. Of more than an argument holds some is left out, and
/// learned again.
fn learned_argument(device: &str, learned: &BTreeMap<String, Learned>) -> io::Result<Option<String>> {
    let told = fitting(learned, LEARNED_MAX)?;
    let left_out = learned.len() - told.len();
    if left_out > 0 {
        tracing::warn!(
            device,
            graphs = learned.len(),
            left_out,
            "the runner starts without all that was learned of the memory of runs"
        );
    }
    Ok(if told.is_empty() { None } else { Some(serde_json::to_string(&told)?) })
}

/// As many as fit into so many bytes of text; those whose runs are the largest first: a wrong estimate of them costs most.
fn fitting(learned: &BTreeMap<String, Learned>, longest: usize) -> io::Result<BTreeMap<String, Learned>> {
    let mut by_size: Vec<_> = learned.iter().collect();
    by_size.sort_by_key(|(_, one)| std::cmp::Reverse(one.largest_bytes));
    let (mut told, mut room) = (BTreeMap::new(), longest.saturating_sub("{}".len()));
    for (graph, one) in by_size {
        let text = serde_json::to_string(graph)?.len() + serde_json::to_string(one)?.len() + ":,".len();
        if text > room {
            break;
        }
        room -= text;
        told.insert(graph.clone(), *one);
    }
    Ok(told)
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
    fn of_too_much_that_was_learned_the_largest_runs_are_told() {
        let learned = |count: u64| -> BTreeMap<String, Learned> {
            let one = |number| Learned { factor: 1.0 / 3.0, largest_bytes: number, floor: 0.5 };
            (0..count).map(|number| (format!("graph \"{number}\""), one(number))).collect()
        };
        let all = learned(1000);
        let whole = serde_json::to_string(&all).unwrap().len();
        assert_eq!(fitting(&all, whole + 1).unwrap(), all);
        let told = fitting(&all, whole / 2).unwrap();
        let text = serde_json::to_string(&told).unwrap().len();
        assert!(text <= whole / 2 && text > whole / 2 - 200, "{text} of {whole}");
        assert!(told.values().all(|one| one.largest_bytes >= 1000 - told.len() as u64));
        assert_eq!(learned_argument("cpu:0", &BTreeMap::new()).unwrap(), None);
        let argument = learned_argument("cpu:0", &learned(3000)).unwrap().unwrap();
        assert!(argument.len() <= LEARNED_MAX && argument.len() > LEARNED_MAX - 200);
    }

    #[test]
    fn ends_are_named() {
        assert_eq!(how_it_ended(Ok(ExitStatus::from_raw(9))), "signal 9");
        assert_eq!(how_it_ended(Ok(ExitStatus::from_raw(86 << 8))), "exit code 86: sticky device error");
        assert_eq!(how_it_ended(Ok(ExitStatus::from_raw(1 << 8))), "exit code 1");
    }
}
