//! Runs that are slow, wrong, cancelled or panic, over a scripted worker, and what the runner makes of each. Tests only.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use serde_json::{Value, json};
use shared::{
    error::{ErrorBody, ErrorCode},
    ids::ComponentId,
};
use tokio::sync::mpsc;

use super::{
    EngineFacts,
    engine_thread::{Order, Outcome, RunFailure, Tell, Worker},
    fault::tests::{BYTES, Bench, scripted},
    payload::{self, Blob, Payload},
    protocol::{Call, Command, Done, Failure, RunPart},
};

/// Does what the work says.
struct Scripted {
    reached: mpsc::Sender<Call>,
    go: Receiver<()>,
}

impl Worker for Scripted {
    fn facts(&self) -> EngineFacts {
        scripted()
    }

    fn run(&mut self, order: &Order, _: &Tell) -> Result<Outcome, RunFailure> {
        self.reached.blocking_send(order.call).unwrap();
        match order.work.as_str() {
            Some("copy") => {
                self.go.recv().unwrap();
                let sum: u64 = order
                    .parts
                    .iter()
                    .flat_map(|part| part.layers[0].view.as_slice().unwrap())
                    .map(|b| u64::from(*b))
                    .sum();
                let blobs = order.payload.iter().map(|(facts, bytes)| Blob {
                    name: facts.name.clone(),
                    media_type: facts.media_type.clone(),
                    bytes: bytes.to_vec(),
                });
                Ok(Outcome { facts: json!({ "sum": sum }), blobs: blobs.collect() })
            }
            Some("until stopped") => loop {
                if order.cancel.is_cancelled() {
                    return Err(RunFailure::Cancelled);
                }
                std::thread::yield_now();
            },
            Some("set aside") => {
                order.aside.set(order.aside.available() - BYTES / 2).unwrap();
                self.reached.blocking_send(order.call).unwrap();
                self.go.recv().unwrap();
                Ok(Outcome::default())
            }
            Some("too large") => Err(RunFailure::NoRoom {
                needed_bytes: order.room.capacity_bytes,
                available_bytes: order.aside.available(),
            }),
            Some("wrong") => Err(RunFailure::Work(ErrorBody::new(ErrorCode::Corrupt, "it is wrong"))),
            _ => panic!("on purpose"),
        }
    }
}

struct Script {
    bench: Bench,
    reached: mpsc::Receiver<Call>,
    go: SyncSender<()>,
    component: ComponentId,
}

impl Script {
    /// A runner with one component on it.
    async fn new() -> Self {
        let ((reach, reached), (go, wait)) = (mpsc::channel(8), sync_channel(8));
        let mut bench = Bench::new(None, Box::new(|| Box::new(Scripted { reached: reach, go: wait }))).await;
        let component = ComponentId::generate();
        bench.load_as(1, component).await;
        assert!(matches!(bench.answer().await, Some(Ok(Done::Loaded { .. }))));
        Self { bench, reached, go, component }
    }

    async fn run(&mut self, call: Call, work: Value) {
        let parts = vec![RunPart { slot: "vae".into(), component: self.component, overlay: None }];
        let input = Blob { name: "latents".into(), media_type: "text/plain".into(), bytes: b"payload".to_vec() };
        let (blobs, memory) = payload::pack(&[input]).unwrap();
        self.bench.commands.send(&Command::Run { call, work, parts, blobs }, memory.as_ref()).await.unwrap();
    }

    async fn send(&mut self, command: Command) {
        self.bench.commands.send(&command, None).await.unwrap();
    }

    /// Waits until the worker is at this call.
    async fn reach(&mut self, call: Call) {
        assert_eq!(self.reached.recv().await, Some(call));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_reads_its_parts_and_inputs_while_other_commands_are_obeyed() {
    let mut script = Script::new().await;
    let component = script.component;
    script.run(2, json!("copy")).await;
    script.reach(2).await;
    let other = ComponentId::generate();
    script.bench.load_as(3, other).await;
    assert!(matches!(script.bench.answer().await, Some(Ok(Done::Loaded { .. }))), "loads go on beside a run");
    script.send(Command::Unload { call: 4, component }).await;
    let refused = script.bench.answer().await;
    assert!(matches!(refused, Some(Err(Failure::InUse { leases: 1, .. }))), "{refused:?}");
    script.bench.assert_holds(2);
    script.go.send(()).unwrap();
    let Some(Ok(Done::Ran(ran))) = script.bench.answer().await else { panic!("no answer") };
    assert_eq!(ran.facts["sum"], json!(7 * BYTES));
    let outputs = Payload::open(ran.blobs, ran.memory.as_ref()).unwrap();
    assert_eq!(outputs.get("latents"), Some(&b"payload"[..]));
    script.send(Command::Unload { call: 5, component }).await;
    assert!(matches!(script.bench.answer().await, Some(Ok(Done::Unloaded { .. }))), "the run let go of it");
    script.bench.assert_holds(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_run_has_set_aside_is_left_alone_until_its_end() {
    let mut script = Script::new().await;
    script.run(2, json!("set aside")).await;
    script.reach(2).await;
    script.reach(2).await;
    let other = ComponentId::generate();
    script.bench.load_as(3, other).await;
    let refused = script.bench.answer().await;
    let Some(Err(Failure::OutOfMemory { available_bytes, .. })) = refused else { panic!("{refused:?}") };
    assert_eq!(available_bytes, BYTES / 2);
    script.bench.assert_holds(1);
    script.go.send(()).unwrap();
    assert!(matches!(script.bench.answer().await, Some(Ok(Done::Ran(_)))));
    script.bench.load_as(4, other).await;
    assert!(matches!(script.bench.answer().await, Some(Ok(Done::Loaded { .. }))), "it is free again");
}

#[tokio::test(flavor = "multi_thread")]
async fn f34_a_cancel_reaches_inside_a_run_and_one_that_waits_never_begins() {
    let mut script = Script::new().await;
    script.run(2, json!("until stopped")).await;
    script.reach(2).await;
    script.run(3, json!("copy")).await;
    script.send(Command::Cancel { call: 3 }).await;
    script.send(Command::Cancel { call: 2 }).await;
    for _ in 0..2 {
        let answer = script.bench.answer().await;
        assert!(matches!(answer, Some(Err(Failure::Cancelled))), "{answer:?}");
    }
    assert!(script.reached.try_recv().is_err(), "the second one never began");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_run_finds_wrong_is_told_as_it_is_and_a_panic_costs_that_run_only() {
    let mut script = Script::new().await;
    script.run(2, json!("too large")).await;
    match script.bench.answer().await {
        Some(Err(Failure::OutOfMemory { needed_bytes, available_bytes, capacity_bytes, would_free_bytes })) => {
            assert_eq!((needed_bytes, would_free_bytes), (capacity_bytes, 0), "its own part cannot be freed");
            assert_eq!(available_bytes, capacity_bytes - BYTES);
        }
        other => panic!("{other:?}"),
    }
    script.run(3, json!("wrong")).await;
    let answer = script.bench.answer().await;
    let Some(Err(Failure::Work { error })) = answer else { panic!("{answer:?}") };
    assert_eq!((error.code, error.message.as_str()), (ErrorCode::Corrupt, "it is wrong"));
    script.run(4, json!("panic")).await;
    let answer = script.bench.answer().await;
    let Some(Err(Failure::Work { error })) = answer else { panic!("{answer:?}") };
    assert_eq!((error.code, error.message.as_str()), (ErrorCode::Internal, "the run panicked: on purpose"));
    script.go.send(()).unwrap();
    script.run(5, json!("copy")).await;
    assert!(matches!(script.bench.answer().await, Some(Ok(Done::Ran(_)))));
    script.component = ComponentId::generate();
    script.run(6, json!("copy")).await;
    assert!(matches!(script.bench.answer().await, Some(Err(Failure::NotResident { .. }))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_the_run_and_then_the_process() {
    let mut script = Script::new().await;
    script.run(2, json!("until stopped")).await;
    script.reach(2).await;
    script.send(Command::Stop).await;
    let runner = script.bench.runner;
    tokio::task::spawn_blocking(move || runner.join().unwrap()).await.unwrap().unwrap();
}
