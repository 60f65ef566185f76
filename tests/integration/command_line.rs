//! The `modelyard` command as people use it: against a farm, and `up`, which makes one.

use std::{path::Path, time::Duration};

use harness::{Clock, Farm, LONG, Process, SHORT, binary};
use serde_json::Value;

use crate::support::small_model;

/// What a run of `modelyard` ended with.
pub(crate) struct Ran {
    code: Option<i32>,
    output: String,
    notes: String,
}

impl Ran {
    /// Output and notes, when this is the exit code.
    #[track_caller]
    pub(crate) fn with(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{}{}", self.output, self.notes);
        self.output + &self.notes
    }

    /// The exit code, with output and notes.
    pub(crate) fn ended(self) -> (Option<i32>, String) {
        (self.code, self.output + &self.notes)
    }

    /// The output as JSON, when it ended well.
    #[track_caller]
    pub(crate) fn json(self) -> Value {
        assert_eq!(self.code, Some(0), "{}{}", self.output, self.notes);
        serde_json::from_str(&self.output).unwrap_or_else(|error| panic!("{error}: {}", self.output))
    }
}

/// Runs `modelyard` to its end, without a terminal.
pub(crate) async fn modelyard(folder: &Path, arguments: &[&str], patience: Duration) -> Ran {
    let own = tempfile::tempdir_in(folder).expect("a folder");
    let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let environment = [("HOME", folder.display().to_string()), ("NO_COLOR", "1".to_owned())];
    let log = own.path().join("log");
    let mut process = Process::start("modelyard", &binary("modelyard"), &arguments, &environment, &Clock::True, &log);
    let status = process.ended(patience).await;
    Ran { code: status.code(), output: process.output(), notes: process.log() }
}

#[tokio::test]
async fn the_main_job_through_the_command() {
    let farm = Farm::start().await;
    small_model(&farm);
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let folder = farm.path("cli");
    std::fs::create_dir(&folder).expect("a folder");
    let run = |words: &'static str| {
        let (folder, api) = (folder.clone(), farm.api.url().to_owned());
        async move {
            let mut arguments = vec!["--api", &api];
            arguments.extend(words.split(' '));
            modelyard(&folder, &arguments, SHORT).await
        }
    };
    for (words, says) in [
        ("models ls", "small"),
        ("models show small", "vae"),
        ("scan", ""),
        ("load small", "small"),
        ("status", "small"),
        ("devices", "a/cpu:0"),
        ("hosts", "a"),
        ("cache ls", "small"),
        ("jobs ls", "load"),
        ("memory", "a/cpu:0"),
        ("optimize --device a/cpu:0 --free 1MiB --dry-run", "planned demote small/vae"),
        ("unload small", ""),
        ("load small --all", "a/cpu:0: succeeded"),
        ("unload small --force", "came back"),
        ("cache clear", ""),
    ] {
        let said = run(words).await.with(0);
        assert!(said.contains(says), "{words}: {said}");
    }
    for (words, code, says) in [
        ("load smal", 3, "small"),
        ("load small --device a/cpu:7", 3, "a/cpu:0"),
        ("unload small", 4, "not resident"),
        ("jobs show 01JD9Z8M3V6Q2X4K7T5R1W0YBC", 3, ""),
        ("load", 2, ""),
    ] {
        let said = run(words).await.with(code);
        assert!(said.contains(says), "{words}: {said}");
    }
    modelyard(&folder, &["--api", "http://127.0.0.1:9", "models", "ls"], SHORT).await.with(7);
    assert!(run("--json models ls").await.json().to_string().contains("small"));
}

/// One command makes a farm, runs the main job and ends it, without a terminal, and leaves nothing running.
#[tokio::test]
async fn up_once_makes_a_farm_runs_the_main_job_and_ends_it() {
    let folder = tempfile::Builder::new().prefix("modelyard-up-").tempdir().expect("a temporary folder");
    let state = folder.path().join("state");
    let state = state.to_str().expect("text");
    let common = ["--state", state, "--listen", "127.0.0.1:0", "--ram-budget", "256MiB", "--cpu-memory", "256MiB"];
    let up = |more: &[&'static str]| [&["--json", "up"], &common[..], more].concat();

    let report = modelyard(folder.path(), &up(&["--once"]), LONG).await.json();
    assert_eq!(report["main_job"]["load"]["state"], "succeeded", "{report}");
    assert_eq!(report["main_job"]["unload"]["state"], "succeeded", "{report}");
    assert!(report["main_job"]["models"].as_array().is_some_and(|models| models.len() >= 3), "{report}");
    assert_eq!(report["stays_up"], false);
    nothing_runs(state);

    // kept, asked for, used again, ended
    modelyard(folder.path(), &up(&[]), LONG).await.with(0);
    let said = modelyard(folder.path(), &["up", "--state", state, "--status"], SHORT).await.with(0);
    for name in ["postgres", "redis", "api", "scheduler", "agent"] {
        assert!(said.contains(name), "{name}: {said}");
    }
    let before = pids_of(state);
    modelyard(folder.path(), &up(&["--no-job"]), LONG).await.with(0);
    assert_eq!(pids_of(state), before, "a second `up` reuses what runs");
    modelyard(folder.path(), &["down", "--state", state], LONG).await.with(0);
    nothing_runs(state);

    modelyard(folder.path(), &["up", "--state", state, "--status"], SHORT).await.with(1);
    modelyard(folder.path(), &["up", "--state", state, "--purge"], LONG).await.with(0);
    assert!(!Path::new(state).exists());
    // a folder that is not ours is not deleted
    let foreign = folder.path().join("foreign");
    std::fs::create_dir(&foreign).expect("a folder");
    std::fs::write(foreign.join("letter"), "dear").expect("a write");
    let refused = modelyard(folder.path(), &["up", "--state", foreign.to_str().expect("text"), "--purge"], SHORT).await;
    assert_ne!(refused.code, Some(0), "{}", refused.output);
    assert!(foreign.join("letter").exists());
}

/// Processes whose command line names the state folder.
fn pids_of(state: &str) -> Vec<u32> {
    let pids = std::fs::read_dir("/proc").expect("/proc is there").filter_map(Result::ok);
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let ours = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(state)
    };
    let mut pids: Vec<u32> = pids.filter(ours).collect();
    pids.sort_unstable();
    pids
}

#[track_caller]
fn nothing_runs(state: &str) {
    assert_eq!(pids_of(state), Vec::<u32>::new(), "processes of {state} live on");
}

/// `deploy/run` says what it cannot do before it does anything.
#[tokio::test]
async fn deploy_run_checks_its_arguments() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a root");
    let script = root.join("deploy/run");
    let run = |argument: &'static str| {
        let script = script.clone();
        async move {
            let folder = tempfile::TempDir::new().expect("a folder");
            let log = folder.path().join("log");
            let mut process = Process::start("deploy/run", &script, &[argument.to_owned()], &[], &Clock::True, &log);
            let status = process.ended(SHORT).await;
            (status.code(), process.output() + &process.log())
        }
    };
    let (code, said) = run("--help").await;
    assert_eq!(code, Some(0), "{said}");
    for option in
        ["--models", "--listen", "--state", "--once", "--keep", "--down", "--status", "--purge", "--no-apt", "--json"]
    {
        assert!(said.contains(option), "{option}: {said}");
    }
    let (code, said) = run("--levitate").await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("--levitate"), "{said}");
}
