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
const NEWEST: &str = "select greatest((select max(seq) from job_events), (select max(seq) from residency_events),
                                     (select max(seq) from host_events), 0)";

/// All that is told.
const BOTH: &str = "/v1/events?topics=jobs,residency";

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
    Sse::open(&farm.api, "/v1/events?topics=residency", Some(seq)).await
}

/// Where a stream without history says that it begins.
async fn begin_of_now(farm: &Farm) -> i64 {
    let fresh = farm.api.request(Method::GET, BOTH);
    let begun = fresh.send().await.expect("an answer").chunk().await.expect("a stream").expect("its beginning");
    let begun = String::from_utf8_lossy(&begun);
    let id = begun.strip_prefix("id: ").and_then(|rest| rest.strip_suffix("\n\n"));
    id.and_then(|id| id.parse().ok()).unwrap_or_else(|| panic!("{begun:?}"))
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
    told.stream = Sse::open(&farm.api, "/v1/events?topics=residency", Some(last)).await;
    let unload = done(&farm, "/v1/models/small/unload", json!({ "from_ram": true })).await;
    let mut gone = told.lines(2).await;
    gone.sort();
    assert_eq!(gone, ["a/cpu:0 gone vae requested", "ram gone vae requested"]);
    assert!(told.seen[2..].iter().all(|event| event.data["data"]["job"] == json!(unload)), "{:?}", told.seen);
    told.is_all(&farm).await;

    // beside the jobs, in one order; a topic that there is not is refused
    let mut both = Sse::open(&farm.api, BOTH, Some(0)).await;
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
    // who names no topics is told of jobs
    let mut jobs = Sse::open(&farm.api, "/v1/events", Some(0)).await;
    while let Some(event) = jobs.next(SHORT).await.filter(|event| event.event != "succeeded") {
        assert!(event.data["job"].is_string(), "{event:?}");
    }
    // who begins now learns where that is before anything happens
    let before = farm.ledger.number(NEWEST).await;
    while ids.last().is_none_or(|last| *last < before) {
        ids.extend(both.next(SHORT).await.expect("the farm's stream does not end").id);
    }
    let begun = begin_of_now(&farm).await;
    let after = farm.ledger.number(NEWEST).await;
    assert!((before..=after).contains(&begun), "{before} {begun} {after}");
    let problem = farm.api.ask("/v1/events?topics=weather").await.problem(400);
    assert!(problem.detail.contains("`weather` is not one of jobs, residency, devices, hosts"), "{problem:?}");
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
    // its own copy is told before its digest is compared: the job's end waits for the row, and the agent's report does not
    let mut held = farm.ledger.pool().begin().await.expect("a transaction");
    sqlx::query("select 1 from components where id = $1 for no key update")
        .bind(second.as_str().expect("an id"))
        .execute(&mut *held)
        .await
        .expect("the row");
    let job = farm.api.submit("/v1/cache", json!({ "model": "second" })).await;
    let own = told.next().await;
    assert_eq!((line(&own).as_str(), &own.data["data"]["component"]), ("ram resident vae", &second));
    held.rollback().await.expect("the row is let go");
    farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
    let merged = told.next().await;
    assert_eq!(line(&merged), "ram gone vae merged");
    assert_eq!((&merged.data["data"]["component"], &merged.data["data"]["merged_into"]), (&second, &first));
    wait_for("one copy", SHORT, || async {
        let rows = farm.ledger.number("select count(*) from residency").await;
        if rows == 1 { Ok(()) } else { Err(format!("{rows} rows")) }
    })
    .await;
    // the copy that is given back after that is not told once more
    told.is_all(&farm).await;
}

/// A transaction may take its number before another one and commit after it.
#[tokio::test]
async fn what_commits_late_is_told_in_order_however_late() {
    let farm = Farm::start().await;
    let pool = farm.ledger.pool();
    let late_ones = [
        "insert into residency_events (type, host, data) values ('residency.gone', 'a', '{}') returning seq",
        "insert into host_events (type, host, data) values ('host.lost', 'a', '{}') returning seq",
    ];
    for (age, late_one) in ["0 seconds", "2.5 seconds"].into_iter().zip(late_ones) {
        let path = "/v1/events?topics=jobs,residency,devices,hosts";
        let mut told = Sse::open(&farm.api, path, Some(farm.ledger.number(NEWEST).await)).await;
        let mut late = pool.begin().await.expect("a transaction");
        let first: i64 = sqlx::query_scalar(late_one).fetch_one(&mut *late).await.expect("an event");
        let second: i64 = sqlx::query_scalar(
            "insert into job_events (job_id, type) values ('01J00000000000000000000000', 'enqueued') returning seq",
        )
        .fetch_one(pool)
        .await
        .expect("an event");
        assert!(first < second);
        wait_for("the second to be old", SHORT, || async {
            let old = "select at <= now() - $2::text::interval from job_events where seq = $1";
            let old: bool =
                sqlx::query_scalar(old).bind(second).bind(age).fetch_one(pool).await.expect("the event is there");
            if old { Ok(()) } else { Err("it is young".to_owned()) }
        })
        .await;
        assert!(begin_of_now(&farm).await < first, "what is not committed comes from now on");
        late.commit().await.expect("it commits");
        let ids = [told.next(SHORT).await, told.next(SHORT).await].map(|event| event.and_then(|event| event.id));
        assert_eq!(ids, [Some(first), Some(second)], "{age}");
    }
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
