//! Variants over a runner whose device fails, and beside other commands. Tests only.

use engine::ElementType;
use shared::ids::ComponentId;
use std::collections::BTreeMap;

use super::{
    ApplyOrder, LoraSource, TensorChange, Term,
    fault::{
        Fault,
        tests::{Bench, NoWorker},
    },
    protocol::{Call, Command, Done, Failure},
    variants_tests::{Whole, packed},
};

/// A runner with a base and a LoRA whose product takes seconds: the device has to do other things meanwhile.
struct Slow {
    bench: Bench,
    base: ComponentId,
    lora: ComponentId,
}

const ROWS: usize = 2048;
const COLUMNS: usize = 2048;
const RANK: usize = 512;

impl Slow {
    async fn new(fault: Option<Fault>) -> Self {
        let bench = Bench::new(fault, Box::new(|| Box::new(NoWorker))).await;
        let mut slow = Self { bench, base: ComponentId::generate(), lora: ComponentId::generate() };
        let tensor = |name: &str, shape: &[usize]| Whole::new(name, ElementType::F16, shape, 7);
        slow.load(1, slow.base, &[tensor("x.weight", &[ROWS, COLUMNS])]).await;
        let (down, up) = (tensor("x.lora_down.weight", &[RANK, COLUMNS]), tensor("x.lora_up.weight", &[ROWS, RANK]));
        slow.load(2, slow.lora, &[down, up]).await;
        slow
    }

    async fn load(&mut self, call: Call, component: ComponentId, tensors: &[Whole]) {
        let incoming = packed(component, "digest", tensors);
        let (digest, tensors, bytes) = (incoming.digest, incoming.tensors, incoming.bytes);
        let command = Command::Load { call, component, digest, tensors, offset: 0, bytes };
        self.bench.commands.send(&command, Some(&incoming.source)).await.unwrap();
        let answer = self.bench.answer().await;
        assert!(matches!(answer, Some(Ok(Done::Loaded { .. }))), "{answer:?}");
    }

    fn order(&self) -> ApplyOrder {
        let term = Term { lora: 0, stem: "x".into(), strength: 1e-3 };
        ApplyOrder {
            variant: ComponentId::generate(),
            key: "key".into(),
            base: self.base,
            loras: vec![LoraSource { component: self.lora, settings: BTreeMap::new() }],
            changes: vec![TensorChange { tensor: "x.weight".into(), terms: vec![term] }],
            reuse: None,
            replaces: Vec::new(),
            in_place: false,
        }
    }

    async fn send(&mut self, command: Command) {
        self.bench.commands.send(&command, None).await.unwrap();
    }

    async fn apply(&mut self, call: Call, order: ApplyOrder) {
        self.send(Command::Apply { call, order: Box::new(order) }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_commands_are_obeyed_during_a_merge_and_a_cancel_gives_its_memory_back() {
    let mut slow = Slow::new(None).await;
    let order = slow.order();
    slow.apply(3, order).await;
    // the answers come while the merge goes on: it is told to stop only then
    let other = ComponentId::generate();
    slow.load(4, other, &[Whole::new("y", ElementType::F32, &[4], 1)]).await;
    for component in [slow.base, slow.lora] {
        slow.send(Command::Unload { call: 5, component }).await;
        let answer = slow.bench.answer().await;
        assert!(matches!(answer, Some(Err(Failure::InUse { .. }))), "a merge reads it: {answer:?}");
    }
    slow.send(Command::Cancel { call: 3 }).await;
    let answer = slow.bench.answer().await;
    assert!(matches!(answer, Some(Err(Failure::Cancelled))), "{answer:?}");
    for component in [slow.base, slow.lora, other] {
        slow.send(Command::Unload { call: 6, component }).await;
        assert!(matches!(slow.bench.answer().await, Some(Ok(Done::Unloaded { .. }))));
    }
    slow.bench.assert_holds(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn f28_a_device_that_is_full_while_applying_says_so_and_keeps_what_it_had() {
    let mut slow = Slow::new(Some(Fault::NoMemory(3))).await;
    let order = slow.order();
    slow.apply(3, order.clone()).await;
    let answer = slow.bench.answer().await;
    assert!(matches!(answer, Some(Err(Failure::OutOfMemory { available_bytes: 0, .. }))), "{answer:?}");
    // one that was cancelled before it came is not begun
    slow.send(Command::Cancel { call: 4 }).await;
    slow.apply(4, order).await;
    let answer = slow.bench.answer().await;
    assert!(matches!(answer, Some(Err(Failure::Cancelled))), "{answer:?}");
    slow.send(Command::Digest { call: 5, component: slow.base }).await;
    assert!(matches!(slow.bench.answer().await, Some(Ok(Done::Digest { .. }))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_the_merge_and_then_the_process() {
    let mut slow = Slow::new(None).await;
    let order = slow.order();
    slow.apply(3, order).await;
    slow.send(Command::Stop).await;
    let runner = slow.bench.runner;
    tokio::task::spawn_blocking(move || runner.join().unwrap()).await.unwrap().unwrap();
}
