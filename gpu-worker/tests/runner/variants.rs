//! Variants in a real runner process: made beside other work, told as they are, and gone with a process that dies.

use std::{
    collections::BTreeMap,
    io::Write,
    sync::atomic::{AtomicU64, Ordering},
};

use gpu_worker::runner::{ApplyOrder, LoraSource, RunnerError, RunnerState, TensorChange, Term};
use residency::Lease;
use rustix::process::Signal;
use shared::{error::Classify, error::ErrorCode, ids::ComponentId};
use tokio_util::sync::CancellationToken;

use crate::support::{Bench, MIB, id, signal};

const SIDE: u64 = 2048;
/// Takes a processor long enough that a signal comes first.
const RANK: u64 = 512;

/// 16-bit floats of a few hundredths.
fn floats(count: u64) -> impl FnOnce(&mut std::fs::File) {
    move |file| {
        let bytes: Vec<u8> = (0..count).flat_map(|at| (0x2800 | (at % 1024) as u16).to_le_bytes()).collect();
        file.write_all(&bytes).unwrap();
    }
}

async fn base(bench: &Bench) -> Lease {
    let lease = bench.component_of("base", &[("x.weight", "F16", &[SIDE, SIDE])], floats(SIDE * SIDE)).await;
    bench.load(&lease, &CancellationToken::new()).await.unwrap();
    lease
}

async fn lora(bench: &Bench, rank: u64) -> Lease {
    let tensors: [(&str, &str, &[u64]); 2] =
        [("x.lora_down.weight", "F16", &[rank, SIDE]), ("x.lora_up.weight", "F16", &[SIDE, rank])];
    let lease = bench.component_of("lora", &tensors, floats(2 * rank * SIDE)).await;
    bench.load(&lease, &CancellationToken::new()).await.unwrap();
    lease
}

fn order(base: &Lease, lora: &Lease) -> ApplyOrder {
    let terms = vec![Term { lora: 0, stem: "x".into(), strength: 0.5 }];
    ApplyOrder {
        variant: ComponentId::generate(),
        key: "key".into(),
        base: id(base),
        loras: vec![LoraSource { component: id(lora), settings: BTreeMap::new() }],
        changes: vec![TensorChange { tensor: "x.weight".into(), terms }],
        reuse: None,
        replaces: Vec::new(),
        in_place: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variant_is_shown_with_its_base_and_both_go_when_they_are_told_to() {
    let bench = Bench::new(64 * MIB).await;
    let (base, lora, never) = (base(&bench).await, lora(&bench, 2).await, CancellationToken::new());
    let order = order(&base, &lora);
    let applied = bench.runner.apply(order.clone(), |_| {}, &never).await.unwrap();
    assert_eq!((applied.bytes, applied.computed, applied.already), (SIDE * SIDE * 2, 1, false));
    let shown = bench.runner.status().borrow().clone();
    let variant = shown.resident.iter().find(|resident| resident.component == order.variant).unwrap();
    let facts = variant.variant.as_ref().unwrap();
    assert_eq!((variant.digest.as_str(), facts.base, facts.whole), ("key", id(&base), false));
    assert_eq!(facts.base_digest, base.digest().to_string());
    assert_eq!(shown.memory.used_bytes, shown.resident.iter().map(|resident| resident.bytes).sum::<u64>());
    assert!(bench.runner.apply(order.clone(), |_| {}, &never).await.unwrap().already);

    let made = bench.runner.digest(order.variant).await.unwrap();
    assert_ne!(made, base.digest().to_string());
    assert_eq!(bench.runner.digest(id(&base)).await.unwrap(), base.digest().to_string(), "the base is what it was");
    bench.runner.unload(id(&lora)).await.unwrap();
    bench.runner.unload(id(&base)).await.unwrap();
    assert_eq!(bench.runner.digest(order.variant).await.unwrap(), made, "it is a copy of its own");
    bench.runner.unload(order.variant).await.unwrap();
    bench.end().await;
}

/// Bytes of the variant have been made and others have not: the first word about them comes after sixteen MiB of a tensor that is
/// quickly made, and the next tensor takes the processors so much longer that the signal comes first.
#[tokio::test(flavor = "multi_thread")]
async fn a_runner_that_dies_in_a_merge_costs_its_caller_an_error_and_what_was_there_is_made_again_to_the_bit() {
    let (bench, never) = (Bench::new(128 * MIB).await, CancellationToken::new());
    let shapes: [(&str, &str, &[u64]); 2] =
        [("quick.weight", "F16", &[4 * SIDE, SIDE]), ("slow.weight", "F16", &[SIDE, SIDE])];
    let base = bench.component_of("base", &shapes, floats(5 * SIDE * SIDE)).await;
    let factors: [(&str, &str, &[u64]); 4] = [
        ("quick.lora_down.weight", "F16", &[1, SIDE]),
        ("quick.lora_up.weight", "F16", &[4 * SIDE, 1]),
        ("slow.lora_down.weight", "F16", &[SIDE, SIDE]),
        ("slow.lora_up.weight", "F16", &[SIDE, SIDE]),
    ];
    let lora = bench.component_of("lora", &factors, floats(5 * SIDE + 2 * SIDE * SIDE)).await;
    let changes = |modules: &[&str]| -> Vec<TensorChange> {
        let term = |stem: &str| Term { lora: 0, stem: stem.into(), strength: 1e-4 };
        let change = |stem: &&str| TensorChange { tensor: format!("{stem}.weight"), terms: vec![term(stem)] };
        modules.iter().map(change).collect()
    };
    let quick = || ApplyOrder { changes: changes(&["quick"]), ..order(&base, &lora) };
    let loaded = async || {
        bench.load(&base, &never).await.unwrap();
        bench.load(&lora, &never).await.unwrap();
    };
    loaded().await;
    let first = quick();
    bench.runner.apply(first.clone(), |_| {}, &never).await.unwrap();
    let made = bench.runner.digest(first.variant).await.unwrap();
    bench.runner.unload(first.variant).await.unwrap();

    let pid = bench.runner.status().borrow().pid.unwrap();
    let dying = ApplyOrder { changes: changes(&["quick", "slow"]), key: "other".into(), ..order(&base, &lora) };
    let (heard, told) = (AtomicU64::new(0), dying.variant);
    let progress = |bytes: u64| {
        if bytes > 0 && heard.swap(bytes, Ordering::Relaxed) == 0 {
            signal(pid, Signal::KILL);
        }
    };
    let applied = bench.runner.apply(dying, progress, &never).await;
    assert!(matches!(&applied, Err(RunnerError::Crashed { how, .. }) if how == "signal 9"), "{applied:?}");
    let heard = heard.into_inner();
    assert!((1..5 * SIDE * SIDE * 2).contains(&heard), "{heard} bytes were made when it died");

    let status = bench.wait(|status| status.state == RunnerState::Ready && status.pid != Some(pid)).await;
    assert!(status.resident.is_empty() && status.memory.used_bytes == 0, "{told} is not there: {status:?}");
    loaded().await;
    assert_eq!(bench.runner.digest(id(&base)).await.unwrap(), base.digest().to_string());
    let again = quick();
    bench.runner.apply(again.clone(), |_| {}, &never).await.unwrap();
    assert_eq!(bench.runner.digest(again.variant).await.unwrap(), made);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_merge_and_an_order_too_long_for_a_message_are_told_as_that() {
    let bench = Bench::new(64 * MIB).await;
    let (base, lora, cancel) = (base(&bench).await, lora(&bench, RANK).await, CancellationToken::new());
    let before = bench.runner.status().borrow().memory;
    let cancelling = async {
        bench.wait(|status| status.memory.used_bytes > before.used_bytes).await;
        cancel.cancel();
    };
    let (applied, ()) = tokio::join!(bench.runner.apply(order(&base, &lora), |_| {}, &cancel), cancelling);
    assert!(matches!(applied, Err(RunnerError::Cancelled { .. })), "{applied:?}");
    assert_eq!(bench.runner.status().borrow().memory, before);

    let mut long = order(&base, &lora);
    long.changes = vec![TensorChange { tensor: "x".repeat(1 << 10), terms: Vec::new() }; 1 << 14];
    let refused = bench.runner.apply(long, |_| {}, &CancellationToken::new()).await.unwrap_err();
    assert!(matches!(refused, RunnerError::Unsendable { .. }), "{refused}");
    assert_eq!(refused.code(), ErrorCode::InvalidArgument);
    bench.load(&base, &CancellationToken::new()).await.unwrap();
    bench.end().await;
}
