//! The `modelyard` command as people use it: against a farm, and `up`, which makes one.

use std::{path::Path, time::Duration};

use harness::{Clock, Farm, LONG, Process, SHORT, binary, wait_for};
use serde_json::{Value, json};

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

/// RAM from the command line: what is added, explained, kept, removed and remembered, in words and as JSON.
#[tokio::test]
async fn the_cache_through_the_command() {
    let farm = Farm::start().await;
    small_model(&farm);
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let id = farm.model("small").await.components[0].id.to_string();
    let at = At::new(&farm);
    at.says("cache add small --keep-alive 2h", 0, "cache small").await;
    at.says("cache ls", 0, "small").await;
    for part in ["policy", "cost", "0 hits, 1 misses, 0 joins", "pressure", "none"] {
        at.says("cache stats", 0, part).await;
    }
    for what in [&id, "small"] {
        let explained = at.says(&format!("cache explain {what}"), 0, "or first when room is needed").await;
        assert!(explained.contains(&format!("small/vae ({id})")), "{explained}");
    }
    at.says("cache protect small --host a", 0, "protect small").await;
    at.says("cache explain small", 0, "not while it is protected").await;
    at.says(&format!("cache rm {id}"), 4, "is protected").await;
    at.says(&format!("cache unprotect {id}"), 0, "").await;
    at.says("cache protect small --host b", 3, "no host `b`").await;
    let hosts = at.json("cache stats").await;
    assert_eq!(hosts["hosts"][0]["components"][0]["component"], id.as_str(), "{hosts}");

    // off one host, which then has nothing to give
    at.says(&format!("cache rm {id} --host b"), 3, "no host `b`").await;
    let removed = at.json(&format!("cache rm {id} --host a")).await;
    assert_eq!((&removed["state"], &removed["result"]["evicted"]), (&json!("succeeded"), &json!([id])), "{removed}");
    at.says("cache rm small --host a", 4, "is not in RAM there").await;
    at.says("cache explain small", 0, "neither in RAM nor on a device").await;
    at.says("cache add small --component unet", 2, "unet").await;
    let added = at.json("cache add small --host a --priority 3").await;
    assert_eq!((&added["state"], &added["target"]), (&json!("succeeded"), &json!("host:a")), "{added}");
    at.says("cache rm small", 0, "came back").await;

    at.evictions("cache evictions", 2).await;
    let listed = at.says("cache evictions --host a", 0, "requested").await;
    assert!(listed.contains("small/vae"), "{listed}");
    let page = at.json(&format!("cache evictions --component {id} --limit 1")).await;
    assert_eq!((page["items"].as_array().map(Vec::len), &page["items"][0]["host"]), (Some(1), &json!("a")), "{page}");
    at.says("cache evictions --device a/cpu:0", 0, "nothing was evicted").await;
    at.says("cache explain small", 0, "went last").await;
}

/// Device memory, and `top`, which asks for everything at once.
#[tokio::test]
async fn devices_and_top_through_the_command() {
    let farm = Farm::start().await;
    small_model(&farm);
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let id = farm.model("small").await.components[0].id.to_string();
    let at = At::new(&farm);
    at.says("vram evictions", 0, "nothing was evicted").await;
    at.says("vram load small --device a/cpu:0", 0, "load small").await;
    at.says("vram ls --device a/cpu:0", 0, &id).await;
    at.says("vram ls --device a/cpu:7", 3, "a/cpu:7").await;
    let explained = at.says("vram explain small", 0, "first when room is needed").await;
    assert!(explained.contains("a/cpu:0"), "{explained}");

    for words in ["top --once", "top"] {
        let look = at.says(words, 0, "a/cpu:0").await;
        assert!(look.contains("small") && look.contains(farm.api.url()), "{look}");
    }
    let look = at.json("top").await;
    assert_eq!((&look["hosts"][0]["name"], &look["devices"][0]["id"]), (&json!("a"), &json!("a/cpu:0")), "{look}");
    assert_eq!((&look["running"], &look["waiting"]), (&json!([]), &json!([])), "{look}");
    assert_eq!(look["status"]["models"][0]["name"], "small", "{look}");
    at.says("top --interval 10ms", 2, "at least 250 ms").await;

    at.says(&format!("vram rm {id} --device a/cpu:7"), 3, "a/cpu:7").await;
    at.says(&format!("vram rm {id} --device a/cpu:0"), 0, "came back").await;
    at.says(&format!("vram rm {id}"), 4, "not resident on any device").await;
    at.says("vram rm small", 2, "small").await;
    at.says("vram load small", 0, "load small").await;
    let removed = at.json(&format!("vram rm {id}")).await;
    assert_eq!((&removed["kind"], &removed["state"]), (&json!("unload"), &json!("succeeded")), "{removed}");
    at.says("vram load small", 0, "load small").await;
    at.says("vram unload small", 0, "came back").await;
    at.evictions("vram evictions", 3).await;
    at.says("vram evictions --device a/cpu:0", 0, "requested").await;
    at.says("vram evictions --host b", 0, "nothing was evicted").await;
}

/// Where a farm's command line is used.
struct At {
    folder: std::path::PathBuf,
    api: String,
}

impl At {
    fn new(farm: &Farm) -> Self {
        let folder = farm.path("cli");
        std::fs::create_dir(&folder).expect("a folder");
        Self { folder, api: farm.api.url().to_owned() }
    }

    async fn run(&self, words: &str) -> Ran {
        let arguments: Vec<&str> = ["--api", &self.api].into_iter().chain(words.split(' ')).collect();
        modelyard(&self.folder, &arguments, SHORT).await
    }

    /// What it says, when it ends so and this is part of it.
    async fn says(&self, words: &str, code: i32, part: &str) -> String {
        let (ended, said) = self.run(words).await.ended();
        assert_eq!(ended, Some(code), "{words}: {said}");
        assert!(said.contains(part), "{words}: {said}");
        said
    }

    async fn json(&self, words: &str) -> Value {
        self.run(&format!("--json {words}")).await.json()
    }

    /// Decisions are recorded a moment after they were carried out.
    async fn evictions(&self, words: &str, count: usize) {
        wait_for(&format!("{count} decisions of `{words}`"), SHORT, || async {
            let page = self.json(words).await;
            let there = page["items"].as_array().map(Vec::len);
            if there == Some(count) { Ok(()) } else { Err(page.to_string()) }
        })
        .await;
    }
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
