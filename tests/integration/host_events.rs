//! Hosts and devices that leave service and come back, as the farm's stream tells it: each once, with the reason.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use harness::{Farm, LONG, Process, SHORT, Sse, SseEvent, binary, wait_for};
use rustix::process::Signal;
use serde_json::{Value, json};
use shared::{
    db::farm::{DeviceRow, Drain, Registration, Unleased, newly_lost, register, set_device, set_draining, tell_lost},
    ids::Incarnation,
    wire::{DeviceView, HostView},
};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use crate::{
    devices::{good, host, runner_of},
    support::{device_is, loaded, registration, small_model},
};

/// What is told of hosts and devices.
struct Told {
    stream: Sse,
    seen: Vec<SseEvent>,
}

impl Told {
    /// From the beginning of the farm.
    async fn of(farm: &Farm, topics: &str) -> Self {
        Self { stream: Sse::open(&farm.api, &format!("/v1/events?topics={topics}"), Some(0)).await, seen: Vec::new() }
    }

    async fn next(&mut self) -> SseEvent {
        let event = self.stream.next(LONG).await.expect("the farm's stream does not end");
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
        assert_eq!(ids, stored(farm).await, "{:#?}", self.seen);
    }
}

async fn stored(farm: &Farm) -> Vec<i64> {
    let events = sqlx::query_scalar("select seq from host_events order by seq");
    events.fetch_all(farm.ledger.pool()).await.expect("the ledger can be read")
}

/// `a/cpu:0 ready -> lost: its runner ended: signal 9`.
fn line(event: &SseEvent) -> String {
    let (told, host) = (&event.data["data"], event.data["host"].as_str().expect("a host"));
    let device = event.data["device"].as_str();
    let to = told["to"].as_str().expect("a state");
    let sort = if device.is_some() { "device" } else { "host" };
    assert_eq!((&*event.event, &event.data["type"]), (&*format!("{sort}.{to}"), &json!(event.event)));
    let from = told["from"].as_str().map(|from| format!("{from} -> ")).unwrap_or_default();
    let reason = told["reason"].as_str().map(|reason| format!(": {reason}")).unwrap_or_default();
    format!("{} {from}{to}{reason}", device.unwrap_or(host))
}

async fn drain(farm: &Farm, what: &str) -> HostView {
    let answer = farm.api.post(&format!("/v1/hosts/a/{what}"), &json!({})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// A runner's end, an incident of the hardware and the agent's own end take devices out; a fresh start brings all of them back.
#[tokio::test]
async fn what_takes_a_device_out_is_told_with_its_reason_and_its_return_too() {
    let farm = Farm::start().await;
    small_model(&farm);
    let mut gpus = host(&farm, "a");
    let mut agent = farm.agent_with_library(gpus.settings.clone()).await;
    let mut told = Told::of(&farm, "devices").await;
    // whichever of them were still starting when the agent registered are ready later
    let all = ["a/cpu:0", "a/cuda:0", "a/cuda:1"];
    let is_ready = |told: &Told, device: &str| {
        let of_it = told.seen.iter().rfind(|event| event.data["device"] == json!(device));
        of_it.is_some_and(|event| event.event == "device.ready")
    };
    while !all.iter().all(|device| is_ready(&told, device)) {
        told.next().await;
    }
    good(&farm, "a/cuda:0").await;
    good(&farm, "a/cuda:1").await;

    harness::kill(runner_of(&agent, "cuda:0").expect("a runner"));
    let lost = line(&told.next().await);
    assert!(lost.starts_with("a/cuda:0 ready -> lost: its runner ended: signal 9"), "{lost}");
    assert_eq!(line(&told.next().await), "a/cuda:0 lost -> ready");
    let view: DeviceView = farm.api.get("/v1/devices/a%2Fcuda:0").await;
    assert_eq!(view.reason, None);

    gpus.nvml.say("event 1 1 8 79");
    let broken = line(&told.next().await);
    assert!(broken.starts_with("a/cuda:1 ready -> quarantined: Xid 79 (the device fell off the bus)"), "{broken}");
    let view = device_is(&farm, "a/cuda:1", "broken", |view| view.state == "quarantined").await;
    assert_eq!(broken, format!("a/cuda:1 ready -> quarantined: {}", view.reason.expect("a reason")));

    agent.process.signal(Signal::TERM);
    let gone = told.lines(3).await;
    let states = ["ready", "ready", "quarantined"];
    for ((line, device), state) in gone.iter().zip(all).zip(states) {
        assert_eq!(line, &format!("{device} {state} -> lost: its agent has stopped"));
    }
    agent.process.ended(LONG).await;
    gpus.nvml.unsay("event");
    let _agent = farm.agent_with_library(gpus.settings.clone()).await;
    let seen = told.seen.len();
    while !all.iter().all(|device| is_ready(&told, device)) {
        told.next().await;
    }
    assert_eq!(told.seen.len(), seen + all.len(), "{:#?}", told.seen);
}

/// What is news of a device, statement by statement: a state; a death that nobody saw; of a quarantined one another reason.
#[tokio::test]
async fn what_is_recorded_of_a_device_is_told_where_it_is_news() {
    let farm = Farm::start().await;
    let pool = farm.ledger.pool();
    let device = DeviceRow {
        id: "z/cpu:0".to_owned(),
        host: "z".to_owned(),
        name: "cpu:0".to_owned(),
        kind: "cpu".to_owned(),
        uuid: None,
        product: "a device".to_owned(),
        memory_total_bytes: 1,
        memory_used_bytes: 0,
        slots: 1,
        labels: Vec::new(),
        state: "ready".to_owned(),
        reason: None,
        runner_generation: 0,
    };
    let registration = Registration { devices: vec![device], ..registration("z", Vec::new()) };
    let mut tx = pool.begin().await.expect("a transaction");
    register(&mut tx, &registration, Duration::from_secs(600)).await.expect("a host");
    tx.commit().await.expect("a commit");
    let mut told = Told::of(&farm, "devices").await;
    assert_eq!(line(&told.next().await), "z/cpu:0 ready");
    let (ended, x, n) = ("its runner ended: signal 9", "Xid 79", "NVML is unresponsive");
    for (state, reason, used, deaths, expected) in [
        ("ready", None, 1, 0, None),
        ("ready", None, 1, 1, Some("ready -> ready: its runner ended and another one was started")),
        ("lost", Some(ended), 0, 2, Some("ready -> lost: its runner ended: signal 9")),
        ("lost", Some("its runner ended: exit code 1"), 0, 3, None),
        ("ready", None, 0, 3, Some("lost -> ready")),
        ("quarantined", Some(n), 0, 3, Some("ready -> quarantined: NVML is unresponsive")),
        ("quarantined", Some(n), 2, 3, None),
        ("quarantined", Some(x), 2, 4, Some("quarantined -> quarantined: Xid 79")),
        ("ready", None, 2, 4, Some("quarantined -> ready")),
    ] {
        let before = stored(&farm).await.len();
        set_device(pool, "z/cpu:0", state, reason, (1, used), deaths).await.expect("a record");
        let news = stored(&farm).await.len() - before;
        assert_eq!(news, usize::from(expected.is_some()), "{state} {reason:?} {used} {deaths}");
        if let Some(expected) = expected {
            assert_eq!(line(&told.next().await), format!("z/cpu:0 {expected}"));
        }
        let view: (String, Option<String>, i64, i64) =
            sqlx::query_as("select state, reason, memory_used_bytes, runner_generation from devices")
                .fetch_one(pool)
                .await
                .expect("the device");
        assert_eq!(view, (state.to_owned(), reason.map(str::to_owned), used, deaths), "the row says it, told or not");
    }
    sqlx::query("delete from host_leases").execute(pool).await.expect("no lease");
    assert_eq!(line(&told.next().await), "z/cpu:0 ready -> lost: its agent has no lease");
}

/// An agent that goes late does not drain the host of its successor.
#[tokio::test]
async fn a_predecessor_drains_nothing() {
    let farm = Farm::start().await;
    let pool = farm.ledger.pool();
    let [first, second] = [Incarnation::generate(), Incarnation::generate()];
    for incarnation in [first, second] {
        let mut tx = pool.begin().await.expect("a transaction");
        let registration = Registration { incarnation, ..registration("z", Vec::new()) };
        register(&mut tx, &registration, Duration::from_secs(600)).await.expect("a host");
        tx.commit().await.expect("a commit");
    }
    let mut told = Told::of(&farm, "hosts").await;
    let starts = ["z ready: its agent was started", "z ready -> ready: its agent was started"];
    assert_eq!(told.lines(2).await, starts);
    for leaving in [first, second] {
        let mut tx = pool.begin().await.expect("a transaction");
        set_draining(&mut tx, "z", Drain::Leaving(leaving)).await.expect("a drain");
        tx.commit().await.expect("a commit");
        let draining = farm.ledger.number("select count(*) from hosts where draining").await;
        assert_eq!(draining, i64::from(leaving == second));
    }
    assert_eq!(line(&told.next().await), "z ready -> draining: its agent is stopping");
    told.is_all(&farm).await;
}

/// Streams wait for whoever has written events: a drain that has to wait for its host has written none yet.
#[tokio::test]
async fn a_drain_that_waits_for_its_host_keeps_no_stream_waiting() {
    let farm = Farm::start().await;
    let pool = farm.ledger.pool();
    let mut tx = pool.begin().await.expect("a transaction");
    register(&mut tx, &registration("a", Vec::new()), Duration::from_secs(600)).await.expect("a host");
    tx.commit().await.expect("a commit");
    let mut told = Told::of(&farm, "hosts").await;
    assert_eq!(line(&told.next().await), "a ready: its agent was started");
    let mut holder = pool.begin().await.expect("a transaction");
    sqlx::query("select 1 from hosts for update").execute(&mut *holder).await.expect("the host's row");
    let look = async {
        wait_for("the drain to wait", SHORT, || async {
            let waiting =
                "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
            let waiting = farm.ledger.number(waiting).await;
            if waiting == 1 { Ok(()) } else { Err(format!("{waiting} wait")) }
        })
        .await;
        let writing =
            "select count(*) from pg_locks where relation = 'host_events'::regclass and mode = 'RowExclusiveLock'
             and database = (select oid from pg_database where datname = current_database())";
        assert_eq!(farm.ledger.number(writing).await, 0);
        holder.commit().await.expect("an end");
    };
    let (view, ()) = tokio::join!(drain(&farm, "drain"), look);
    assert_eq!(view.state, "draining");
    assert_eq!(line(&told.next().await), "a ready -> draining: drained by the operator");
}

/// The leader notices; a stream that was lost goes on after what it has seen; a successor brings host and device back.
#[tokio::test]
async fn a_killed_agents_host_and_devices_are_lost_once_and_a_successor_brings_them_back() {
    let farm = Farm::start().await;
    small_model(&farm);
    let mut agent = farm.agent_with_library(farm.agent("a")).await;
    let mut told = Told::of(&farm, "devices,hosts").await;
    assert_eq!(told.lines(2).await, ["a ready: its agent was started", "a/cpu:0 ready"]);
    agent.process.kill().await;
    let lost = told.next().await;
    assert_eq!(line(&lost), "a ready -> lost: the lease of its agent has expired");
    // lost after the first, found again
    let last = lost.id.map(|id| id.to_string()).expect("an id");
    told.stream = Sse::open(&farm.api, &format!("/v1/events?topics=devices,hosts&after={last}"), None).await;
    assert_eq!(line(&told.next().await), "a/cpu:0 ready -> lost: the lease of its agent has expired");
    told.stream = Sse::open(&farm.api, "/v1/events?topics=hosts,devices", told.seen[3].id).await;
    let view: HostView = farm.api.get("/v1/hosts/a").await;
    assert_eq!(view.state, "lost");
    let row: (String, String) =
        sqlx::query_as("select state, reason from devices").fetch_one(farm.ledger.pool()).await.expect("the device");
    assert_eq!(row, ("lost".to_owned(), "the lease of its agent has expired".to_owned()));
    // whoever drains it meanwhile changes nothing that is told
    drain(&farm, "drain").await;

    agent = farm.agent_with_library(farm.agent("a")).await;
    assert_eq!(told.lines(2).await, ["a lost -> ready: its agent was started", "a/cpu:0 lost -> ready"]);
    loaded(&farm, "small").await;
    // a start within the lease of the one before, which still runs, is news of the host, and none of its devices
    let _successor = farm.start_agent(farm.agent("a").library(farm.library())).await;
    assert_eq!(line(&told.next().await), "a ready -> ready: its agent was started");
    agent.process.ended(LONG).await;
    loaded(&farm, "small").await;
    told.is_all(&farm).await;

    // each topic by itself
    let mut hosts = Told::of(&farm, "hosts").await;
    let of_hosts = hosts.lines(4).await;
    assert!(of_hosts.iter().all(|line| line.starts_with("a ")), "{of_hosts:?}");
    let mut devices = Told::of(&farm, "devices").await;
    let of_devices = devices.lines(3).await;
    assert!(of_devices.iter().all(|line| line.starts_with("a/cpu:0 ")), "{of_devices:?}");
}

/// An agent that was away for longer than its lease and comes back is the same one: it has its lease again.
#[tokio::test]
async fn an_agent_that_was_away_too_long_is_told_to_be_back() {
    let farm = Farm::start().await;
    small_model(&farm);
    let agent = farm.agent_with_library(farm.agent("a")).await;
    let mut told = Told::of(&farm, "devices,hosts").await;
    told.lines(2).await;
    agent.process.pause().await;
    let expired = "the lease of its agent has expired";
    let lost = [format!("a ready -> lost: {expired}"), format!("a/cpu:0 ready -> lost: {expired}")];
    assert_eq!(told.lines(2).await, lost);
    agent.process.resume();
    assert_eq!(told.lines(2).await, ["a lost -> ready: its agent has its lease again", "a/cpu:0 lost -> ready"]);
    loaded(&farm, "small").await;
    told.is_all(&farm).await;
}

/// Where the database's clock steps, or a machine sleeps with its clock, the agent does not notice: it is told, and comes back by itself.
#[tokio::test]
async fn an_agent_whose_lease_ended_by_the_databases_clock_alone_is_told_to_be_back() {
    let farm = Farm::start().await;
    small_model(&farm);
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let mut told = Told::of(&farm, "devices,hosts").await;
    told.lines(2).await;
    // again and again, as the agent goes on to renew it
    wait_for("the leader to find it", LONG, || async {
        let end = "update host_leases set lease_until = now() - interval '1 second'
             where not exists (select 1 from host_events where type = 'host.lost')";
        let ended = sqlx::query(end).execute(farm.ledger.pool()).await.expect("an end").rows_affected();
        if ended == 0 { Ok(()) } else { Err("it was not told".to_owned()) }
    })
    .await;
    let expired = "the lease of its agent has expired";
    let lost = [format!("a ready -> lost: {expired}"), format!("a/cpu:0 ready -> lost: {expired}")];
    assert_eq!(told.lines(2).await, lost);
    assert_eq!(told.lines(2).await, ["a lost -> ready: its agent has its lease again", "a/cpu:0 lost -> ready"]);
    loaded(&farm, "small").await;
    told.is_all(&farm).await;
}

#[tokio::test]
async fn a_drain_and_its_end_are_told_and_printed() {
    let farm = Farm::start().await;
    small_model(&farm);
    let mut agent = farm.agent_with_library(farm.agent("a")).await;
    let arguments = ["--api", farm.api.url(), "events", "--topic", "devices,hosts", "--after", "0"].map(str::to_owned);
    let environment = [("HOME", farm.path("home").display().to_string()), ("NO_COLOR", "1".to_owned())];
    let (log, clock) = (farm.path("events.log"), harness::Clock::True);
    let mut process = Process::start("modelyard", &binary("modelyard"), &arguments, &environment, &clock, &log);
    let mut told = Told::of(&farm, "hosts").await;
    assert_eq!(line(&told.next().await), "a ready: its agent was started");
    // each twice: the second changes nothing
    for what in ["drain", "drain", "undrain", "undrain"] {
        drain(&farm, what).await;
    }
    let drained = ["a ready -> draining: drained by the operator", "a draining -> ready: undrained by the operator"];
    assert_eq!(told.lines(2).await, drained);
    agent.process.signal(Signal::TERM);
    agent.process.ended(LONG).await;
    let stopped = ["a ready -> draining: its agent is stopping", "a draining -> lost: its agent has stopped"];
    assert_eq!(told.lines(2).await, stopped);
    let expected = [
        "a ready: its agent was started",
        "a/cpu:0 ready",
        "a draining, was ready: drained by the operator",
        "a ready, was draining: undrained by the operator",
        "a draining, was ready: its agent is stopping",
        "a lost, was draining: its agent has stopped",
        "a/cpu:0 lost, was ready: its agent has stopped",
    ];
    wait_for("all lines", SHORT, || async {
        let output = process.output();
        // each begins with its time
        let lines: Vec<&str> = output.lines().filter_map(|line| line.split_once(' ')).map(|(_, line)| line).collect();
        if lines == expected { Ok(()) } else { Err(format!("{output}{}", process.log())) }
    })
    .await;
    process.kill().await;
}

#[tokio::test]
async fn old_events_of_hosts_go_with_those_of_jobs() {
    let farm = Farm::start().await;
    for age in ["8 days", "1 second"] {
        sqlx::query("insert into host_events (at, type, host, data) values (now() - $1::text::interval, 'host.lost', 'z', '{}')")
            .bind(age)
            .execute(farm.ledger.pool())
            .await
            .expect("an event");
    }
    wait_for("the old one to go", LONG, || async {
        let left = farm.ledger.number("select count(*) from host_events").await;
        if left == 1 { Ok(()) } else { Err(format!("{left}")) }
    })
    .await;
}

/// Rows of before: what is away is not told anew, and what is there is known by its state.
#[tokio::test]
async fn a_farm_of_before_goes_on_from_the_states_that_it_has() {
    let farm = Farm::start().await;
    let url = farm.server.empty_database().await;
    let mut conn = PgConnection::connect(&url).await.expect("a connection");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations");
    let files = fs::read_dir(folder).expect("the migrations").map(|file| file.expect("a file").path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "sql")).collect();
    files.sort();
    let is_older = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().as_ref() < "0029_");
    let text = |path: &Path| AssertSqlSafe(fs::read_to_string(path).expect("a migration"));
    for path in files.iter().filter(|path| is_older(path)) {
        conn.execute(text(path)).await.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    conn.execute(
        "insert into hosts (name, incarnation, agent_version, slots, ram_budget_bytes, draining)
         values ('there', 'one', '1', 1, 0, false), ('drained', 'two', '1', 1, 0, true), ('away', 'three', '1', 1, 0, false);
         insert into host_leases (incarnation, host, lease_until)
         values ('one', 'there', now() + interval '1 hour'), ('two', 'drained', now() + interval '1 hour'),
                ('three', 'away', now() - interval '1 hour');
         insert into devices (id, host, name, kind, product, memory_total_bytes, slots, state)
         values ('there/cpu:0', 'there', 'cpu:0', 'cpu', 'a device', 1, 1, 'ready'),
                ('away/cpu:0', 'away', 'cpu:0', 'cpu', 'a device', 1, 1, 'ready')",
    )
    .await
    .expect("hosts");
    // what a daemon of before has prepared and goes on to use
    let whole_rows = "select h.* from hosts h";
    conn.fetch_all(sqlx::query(whole_rows)).await.expect("hosts");
    for path in files.iter().filter(|path| !is_older(path)) {
        conn.execute(text(path)).await.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    conn.fetch_all(sqlx::query(whole_rows)).await.expect("daemons of before go on");
    let told = "select host || ' ' || told from host_states order by host";
    let states: Vec<String> = sqlx::query_scalar(told).fetch_all(&mut conn).await.expect("states");
    assert_eq!(states, ["away lost", "drained draining", "there ready"]);
    // what is known of the host is not known of its device
    let lost = newly_lost(&mut conn).await.expect("hosts");
    assert_eq!(lost, BTreeSet::from(["away".to_owned()]));
    tell_lost(&mut conn, &lost, Unleased::Found).await.expect("a record");
    let lost = newly_lost(&mut conn).await.expect("hosts");
    assert!(lost.is_empty(), "{lost:?}");
    set_draining(&mut conn, "drained", Drain::TakenBack).await.expect("a drain");
    let events = "select coalesce(device, host), data from host_events order by seq";
    let events: Vec<(String, Value)> = sqlx::query_as(events).fetch_all(&mut conn).await.expect("events");
    let lost = json!({ "from": "ready", "to": "lost", "reason": "the lease of its agent has expired" });
    let back = json!({ "from": "draining", "to": "ready", "reason": "undrained by the operator" });
    assert_eq!(events, [("away/cpu:0".to_owned(), lost), ("drained".to_owned(), back)]);
    conn.close().await.expect("an end");
}
