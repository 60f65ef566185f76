//! What becomes resident and what leaves, as the farm's stream tells it: each once, in one order with the jobs, with the reason.

use harness::{Farm, LONG, ModelFile, Process, SHORT, Sse, SseEvent, binary, mebibytes, wait_for};
use reqwest::Method;
use serde_json::{Value, json};
use shared::{
    ids::JobId,
    job::JobState,
    wire::{DeviceView, JobView, ModelDetail},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use crate::support::{load_with, loaded, small_model};

/// The last id of an event.
const NEWEST: &str = "select greatest((select max(seq) from job_events), (select max(seq) from residency_events))";

/// The events of residency that come next: so many, and no more than what the database has.
struct Told {
    stream: Sse,
    seen: Vec<SseEvent>,
}

impl Told {
    /// From now on.
    async fn of(farm: &Farm) -> Self {
        let begin = farm.ledger.number("select last_value from job_events_seq_seq").await;
        Self { stream: after(farm, begin).await, seen: Vec::new() }
    }

    async fn next(&mut self) -> SseEvent {
        let event = self.stream.next(SHORT).await.expect("the farm's stream does not end");
        self.seen.push(event.clone());
        event
    }

    /// The next ones in short, in order.
    async fn lines(&mut self, count: usize) -> Vec<String> {
        let mut lines = Vec::new();
        for _ in 0..count {
            lines.push(line(&self.next().await));
        }
        lines
    }

    /// Just what the database has was told, once and in order.
    async fn is_all(&self, farm: &Farm) {
        let ids: Vec<i64> = self.seen.iter().filter_map(|event| event.id).collect();
        let stored: Vec<i64> = sqlx::query_scalar("select seq from residency_events order by seq")
            .fetch_all(farm.ledger.pool())
            .await
            .expect("the ledger can be read");
        assert_eq!(ids, stored, "{:#?}", self.seen);
    }
}

async fn after(farm: &Farm, seq: i64) -> Sse {
    Sse::open(&farm.api, "/v1/events?topic=residency", Some(seq)).await
}

/// `ram resident vae`, `a/cpu:0 gone vae room`.
fn line(event: &SseEvent) -> String {
    let told = &event.data["data"];
    let what = event.event.strip_prefix("residency.").expect("an event of residency");
    let place = event.data["device"].as_str().unwrap_or("ram");
    let reason = told["reason"].as_str().map(|reason| format!(" {reason}")).unwrap_or_default();
    format!("{place} {what} {}{reason}", told["kind"].as_str().expect("a kind"))
}

async fn done(farm: &Farm, path: &str, request: Value) -> JobId {
    let job = farm.api.submit(path, request).await;
    farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
    job.id
}

async fn component(farm: &Farm, model: &str) -> Value {
    let detail: ModelDetail = farm.model(model).await;
    json!(detail.components[0].id)
}

fn vaes(farm: &Farm, mib: u64, names: &[&str]) {
    for (seed, name) in (40..).zip(names) {
        ModelFile::vae(mebibytes(mib)).seed(seed).write(&farm.library(), &format!("{name}.safetensors"));
    }
}

#[tokio::test]
async fn a_load_and_an_unload_are_told_with_bytes_and_jobs_and_a_stream_goes_on_where_it_was_lost() {
    let farm = Farm::start().await;
    small_model(&farm);
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let mut told = Told::of(&farm).await;
    let load = loaded(&farm, "small").await.job.id;
    assert_eq!(told.lines(2).await, ["ram resident vae", "a/cpu:0 resident vae"]);
    let view: DeviceView = farm.api.get("/v1/devices/a%2Fcpu:0").await;
    let ram = farm.ledger.number("select bytes from residency where device = ''").await;
    let [in_ram, on_device] = &told.seen[..] else { panic!("{:?}", told.seen) };
    assert_eq!((&in_ram.data["data"]["bytes"], &in_ram.data["data"]["tier"]), (&json!(ram), &json!("ram")));
    assert_eq!(on_device.data["data"]["bytes"], json!(view.resident[0].bytes));
    for event in [in_ram, on_device] {
        assert_eq!((&event.data["host"], &event.data["data"]["job"]), (&json!("a"), &json!(load)));
        assert_eq!(event.data["data"]["component"], component(&farm, "small").await);
        assert_eq!(event.data["data"]["models"], json!(["small"]));
    }
    // a use changes nothing
    loaded(&farm, "small").await;

    // lost after the first, found again after all of it has happened
    told.stream = after(&farm, in_ram.id.expect("an id")).await;
    told.seen.truncate(1);
    assert_eq!(line(&told.next().await), "a/cpu:0 resident vae");
    let last = told.seen[1].id.expect("an id");
    told.stream = Sse::open(&farm.api, "/v1/events?topic=residency", Some(last)).await;
    let unload = done(&farm, "/v1/models/small/unload", json!({ "from_ram": true })).await;
    let mut gone = told.lines(2).await;
    gone.sort();
    assert_eq!(gone, ["a/cpu:0 gone vae requested", "ram gone vae requested"]);
    assert!(told.seen[2..].iter().all(|event| event.data["data"]["job"] == json!(unload)), "{:?}", told.seen);
    told.is_all(&farm).await;

    // beside the jobs, in one order; a topic that there is not is refused
    let mut both = Sse::open(&farm.api, "/v1/events", Some(0)).await;
    let (mut ids, mut names) = (Vec::new(), Vec::new());
    while ids.last() != told.seen[3].id.as_ref() {
        let event = both.next(SHORT).await.expect("the farm's stream does not end");
        ids.extend(event.id);
        names.push(event.event);
    }
    assert!(ids.is_sorted_by(|one, next| one < next), "{ids:?}");
    for name in ["enqueued", "succeeded", "residency.resident", "residency.gone"] {
        assert!(names.iter().any(|one| one == name), "{name}: {names:?}");
    }
    // who begins now learns where that is before anything happens
    let fresh = farm.api.request(Method::GET, "/v1/events");
    let begun = fresh.send().await.expect("an answer").chunk().await.expect("a stream").expect("its beginning");
    assert_eq!(String::from_utf8_lossy(&begun), format!("id: {}\n\n", farm.ledger.number(NEWEST).await));
    let problem = farm.api.ask("/v1/events?topic=weather").await.problem(400);
    assert!(problem.detail.contains("`weather` is not one of jobs, residency"), "{problem:?}");
    farm.assert_ledger_is_clean().await;
}

#[tokio::test]
async fn what_is_evicted_expires_or_is_cleared_says_why() {
    let farm = Farm::start().await;
    vaes(&farm, 8, &["one", "two", "three"]);
    let _agent = farm.agent_with_library(farm.agent("a").ram_budget("20MiB").cpu_memory("20MiB")).await;
    let mut told = Told::of(&farm).await;
    let cache = async |model: &str, more: Value| {
        let mut request = more;
        request["model"] = json!(model);
        done(&farm, "/v1/cache", request).await
    };
    cache("one", json!({ "protect": true })).await;
    cache("two", json!({})).await;
    cache("three", json!({})).await;
    let lines = told.lines(4).await;
    assert_eq!(lines, ["ram resident vae", "ram resident vae", "ram gone vae room", "ram resident vae"]);
    let gone = &told.seen[2].data["data"];
    assert_eq!(gone["component"], component(&farm, "two").await);
    assert_eq!(gone["wanted"], component(&farm, "three").await);
    assert!(gone.get("job").is_none(), "the policy chose it: {gone}");
    let clear = farm.api.delete("/v1/cache").await.accepted();
    farm.api.job_ended(clear.id, JobState::Succeeded, SHORT).await;
    assert_eq!(line(&told.next().await), "ram gone vae cleared");
    assert_eq!(told.seen[4].data["data"]["component"], component(&farm, "three").await);
    cache("two", json!({ "keep_alive": "1s" })).await;
    assert_eq!(told.lines(2).await, ["ram resident vae", "ram gone vae expired"]);

    // a device chooses in the same way
    for model in ["two", "three"] {
        loaded(&farm, model).await;
    }
    let mut lines = Vec::new();
    while lines.last().is_none_or(|last| last != "a/cpu:0 gone vae room") {
        loaded_again(&farm, &mut lines, &mut told).await;
    }
    let gone = told.seen.last().expect("it was told");
    assert_eq!(gone.data["data"]["wanted"], component(&farm, "one").await, "{gone:?}");
    farm.assert_ledger_is_clean().await;
}

/// Reads on; once both copies were told, a third is loaded.
async fn loaded_again(farm: &Farm, lines: &mut Vec<String>, told: &mut Told) {
    lines.push(line(&told.next().await));
    let on_device = lines.iter().filter(|line| *line == "a/cpu:0 resident vae").count();
    if on_device == 2 && lines.last().is_some_and(|last| last.starts_with("a/cpu:0")) {
        loaded(farm, "one").await;
    }
}

#[tokio::test]
async fn what_goes_with_a_runner_or_an_agent_is_lost_once() {
    let farm = Farm::start().await;
    small_model(&farm);
    let mut agent = farm.agent_with_library(farm.agent("a")).await;
    let mut told = Told::of(&farm).await;
    loaded(&farm, "small").await;
    told.lines(2).await;
    agent.kill_runner().await;
    assert_eq!(line(&told.next().await), "a/cpu:0 gone vae lost");

    // the leader takes its rows away when its lease is over
    agent.process.kill().await;
    assert_eq!(line(&told.next().await), "ram gone vae lost");
    // and a successor does so at once
    agent = farm.agent_with_library(farm.agent("a")).await;
    loaded(&farm, "small").await;
    assert_eq!(told.lines(2).await, ["ram resident vae", "a/cpu:0 resident vae"]);
    agent.process.kill().await;
    let _successor = farm.start_agent(farm.agent("a").library(farm.library())).await;
    let mut lost = told.lines(2).await;
    lost.sort();
    assert_eq!(lost, ["a/cpu:0 gone vae lost", "ram gone vae lost"]);
    // what comes next is the next load, and nothing is told twice
    loaded(&farm, "small").await;
    assert_eq!(told.lines(2).await, ["ram resident vae", "a/cpu:0 resident vae"]);
    told.is_all(&farm).await;
}

/// Two files with one content under two ids: the second load meets the first one's digest.
#[tokio::test]
async fn what_turns_out_to_be_another_component_goes_by_that_ones_id() {
    let farm = Farm::start().await;
    for name in ["first", "second"] {
        ModelFile::vae(mebibytes(2)).seed(9).write(&farm.library(), &format!("{name}.safetensors"));
    }
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let mut told = Told::of(&farm).await;
    let (first, second) = (component(&farm, "first").await, component(&farm, "second").await);
    assert_ne!(first, second);
    done(&farm, "/v1/cache", json!({ "model": "first" })).await;
    assert_eq!(line(&told.next().await), "ram resident vae");
    done(&farm, "/v1/cache", json!({ "model": "second" })).await;
    // its own copy is told where the picture came before the digest
    let mut lines = Vec::new();
    wait_for("one copy", SHORT, || async {
        let rows = farm.ledger.number("select count(*) from residency").await;
        if rows == 1 { Ok(()) } else { Err(format!("{rows} rows")) }
    })
    .await;
    let count = farm.ledger.number("select count(*) from residency_events").await;
    while told.seen.len() < usize::try_from(count).expect("a count") {
        lines.push(line(&told.next().await));
    }
    let resident = lines.iter().filter(|line| *line == "ram resident vae").count();
    let merged = told.seen.iter().filter(|event| event.data["data"]["reason"] == json!("merged"));
    let merged: Vec<&SseEvent> = merged.collect();
    assert_eq!(merged.len(), resident, "{lines:?}");
    assert!(merged.iter().all(|event| event.data["data"]["merged_into"] == first), "{merged:?}");
    assert!(!lines.iter().any(|line| line.ends_with("lost") || line.ends_with("duplicate")), "{lines:?}");
    told.is_all(&farm).await;
}

#[tokio::test]
async fn old_events_go_with_those_of_jobs() {
    let farm = Farm::start().await;
    for age in ["8 days", "1 second"] {
        sqlx::query("insert into residency_events (at, type, host, data) values (now() - $1::text::interval, 'residency.gone', 'a', '{}')")
            .bind(age)
            .execute(farm.ledger.pool())
            .await
            .expect("an event");
    }
    wait_for("the old one to go", LONG, || async {
        let left = farm.ledger.number("select count(*) from residency_events").await;
        if left == 1 { Ok(()) } else { Err(format!("{left}")) }
    })
    .await;
}

/// An address that stays, before an API whose address changes when it is started again.
struct Door {
    address: String,
    behind: watch::Sender<String>,
    _open: JoinSet<()>,
}

async fn door(url: &str) -> Door {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let (sender, behind) = watch::channel(url.to_owned());
    let mut open = JoinSet::new();
    open.spawn(async move {
        let mut passing = JoinSet::new();
        while let Ok((client, _)) = listener.accept().await {
            passing.spawn(pass(client, behind.borrow().trim_start_matches("http://").to_owned()));
        }
    });
    Door { address, behind: sender, _open: open }
}

async fn pass(mut client: TcpStream, behind: String) {
    if let Ok(mut api) = TcpStream::connect(behind).await {
        // either side may go away: that is what the story is about
        let _ = tokio::io::copy_bidirectional(&mut client, &mut api).await;
    }
}

#[tokio::test]
async fn the_command_prints_them_and_goes_on_when_the_api_is_back() {
    let mut farm = Farm::start().await;
    small_model(&farm);
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let door = door(farm.api.url()).await;
    let begin = farm.ledger.number("select last_value from job_events_seq_seq").await.to_string();
    let arguments = ["--api", &door.address, "events", "--topic", "residency", "--after", &begin].map(str::to_owned);
    let environment = [("HOME", farm.path("home").display().to_string()), ("NO_COLOR", "1".to_owned())];
    let (log, clock) = (farm.path("events.log"), harness::Clock::True);
    let mut process = Process::start("modelyard", &binary("modelyard"), &arguments, &environment, &clock, &log);
    let job: JobView = load_with(&farm, "small", json!({})).await;
    farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
    let says = async |process: &Process, count: usize, word: &str| {
        wait_for(&format!("{count} lines with `{word}`"), SHORT, || async {
            let output = process.output();
            let lines = output.lines().filter(|line| line.contains(word)).count();
            if lines == count { Ok(()) } else { Err(format!("{output}{}", process.log())) }
        })
        .await;
    };
    says(&process, 2, " of small (").await;
    says(&process, 2, &format!(", job {}", job.id)).await;
    farm.restart_api().await;
    door.behind.send_replace(farm.api.url().to_owned());
    done(&farm, "/v1/models/small/unload", json!({})).await;
    says(&process, 1, "a/cpu:0 gone vae ").await;
    process.kill().await;
}
