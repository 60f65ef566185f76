//! Deaths, hangs and stops: noticed, told to whoever waits, mended.

use std::{
    io::{ErrorKind, Read},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::Command,
};

use gpu_worker::runner::{Runner, RunnerError, RunnerState, unwatched};
use rustix::process::Signal;
use shared::shutdown::Tasks;
use tokio_util::sync::CancellationToken;

use crate::support::{Bench, MIB, PATIENCE, config, device_load, pid_of, signal};

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_runner_costs_its_caller_an_error_and_is_replaced_empty() {
    let bench = Bench::new(256 * MIB).await;
    let never = CancellationToken::new();
    let lease = bench.component("kept", MIB).await;
    bench.load(&lease, &never).await.unwrap();
    let pid = bench.runner.status().borrow().pid.unwrap();
    // stopped, it answers nothing; killed, whoever waits must be told
    signal(pid, Signal::STOP);
    let large = bench.component("large", 100 * MIB).await;
    let waiting = bench.load(&large, &never);
    let killing = async {
        tokio::task::yield_now().await;
        signal(pid, Signal::KILL);
    };
    let (result, ()) = tokio::join!(waiting, killing);
    match result.unwrap_err() {
        RunnerError::Crashed { how, .. } => assert_eq!(how, "signal 9"),
        // the process was gone before the command was sent
        RunnerError::Unavailable { .. } => {}
        other => panic!("{other}"),
    }
    let status = bench.wait(|status| status.state == RunnerState::Ready && status.pid != Some(pid)).await;
    assert!(status.resident.is_empty());
    assert_eq!(status.restarts_total, 1);
    assert_eq!(status.last_exit.as_deref(), Some("signal 9"));
    bench.load(&lease, &never).await.unwrap();
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_cannot_be_opened_is_down_with_its_reason() {
    let tasks = Tasks::new();
    let runner = Runner::supervise(config("tpu:0", 0), unwatched(), &tasks);
    let mut status = runner.status();
    let down = status.wait_for(|status| matches!(status.state, RunnerState::Down { .. }) && status.last_exit.is_some());
    let status = tokio::time::timeout(PATIENCE, down).await.unwrap().unwrap().clone();
    assert_eq!(status.state, RunnerState::Down { reason: "its runner ended: exit code 1".into() });
    assert_eq!(status.why_starting(), "its runner ended: exit code 1", "what took it down stays the reason");
    assert!(tasks.stop_and_wait(PATIENCE).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_copy_in_a_hung_process_ends_with_the_process() {
    let bench = Bench::new(64 * MIB).await;
    let pid = bench.runner.status().borrow().pid.unwrap();
    signal(pid, Signal::STOP);
    let lease = bench.component("hung", MIB).await;
    let cancel = CancellationToken::new();
    let waiting = bench.load(&lease, &cancel);
    let cancelling = async {
        tokio::task::yield_now().await;
        cancel.cancel();
    };
    let (result, ()) = tokio::join!(waiting, cancelling);
    assert!(matches!(result, Err(RunnerError::Cancelled { .. })), "{result:?}");
    let status = bench.wait(|status| status.state == RunnerState::Ready && status.pid != Some(pid)).await;
    assert!(status.last_exit.unwrap().contains("did not stop within 2 s"));
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_process_is_replaced() {
    let bench = Bench::new(64 * MIB).await;
    let pid = bench.runner.status().borrow().pid.unwrap();
    signal(pid, Signal::STOP);
    let status = bench.wait(|status| status.state == RunnerState::Ready && status.pid != Some(pid)).await;
    assert_eq!(status.last_exit.as_deref(), Some("it said nothing for too long; signal 9"));
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_takes_no_commands_is_replaced() {
    let bench = Bench::new(64 * MIB).await;
    let lease = bench.component("long", MIB).await;
    let pid = bench.runner.status().borrow().pid.unwrap();
    signal(pid, Signal::STOP);
    // longer than what the socket holds by itself
    let mut load = device_load(&lease);
    load.tensors = vec![load.tensors[0].clone(); 50_000];
    let result = bench.runner.load(load, |_| {}, &CancellationToken::new()).await;
    let Err(RunnerError::Crashed { how, .. }) = result else { panic!("{result:?}") };
    assert_eq!(how, "it takes no commands; signal 9");
    bench.wait(|status| status.state == RunnerState::Ready && status.pid != Some(pid)).await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_runner_is_down_and_takes_nothing_any_more() {
    let bench = Bench::new(64 * MIB).await;
    let lease = bench.component("late", MIB).await;
    let pid = bench.runner.status().borrow().pid.unwrap();
    bench.runner.stop(PATIENCE).await;
    let refused = bench.load(&lease, &CancellationToken::new()).await;
    assert!(matches!(refused, Err(RunnerError::Unavailable { .. })), "{refused:?}");
    assert_eq!(bench.runner.status().borrow().pid, None);
    assert!(rustix::process::test_kill_process(pid_of(pid)).is_err(), "the process is gone");
    bench.end().await;
}

/// The socket stays open on our side: only the death of its parent can end this runner.
#[test]
fn the_death_of_the_agent_ends_its_runner() {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut parent = Command::new("/bin/sh")
        .args([
            "-c",
            "exec 3<&0; \"$0\" runner --device cpu:0 --memory 1048576 --log off <&3 3<&- & exec 3<&- 0</dev/null; wait",
        ])
        .arg(env!("CARGO_BIN_EXE_gpu-worker"))
        .stdin(OwnedFd::from(theirs))
        .spawn()
        .unwrap();
    // its first words: it is set up
    ours.read_exact(&mut [0; 64]).unwrap();
    parent.kill().unwrap();
    parent.wait().unwrap();
    let (sender, ended) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || sender.send(std::io::copy(&mut ours, &mut std::io::sink())));
    let end = ended.recv_timeout(PATIENCE).expect("the runner outlived its parent");
    assert!(end.as_ref().err().is_none_or(|error| error.kind() == ErrorKind::ConnectionReset), "{end:?}");
}
