//! The one task that keeps a runner process running: it starts one, lives with it ([`super::life`]), starts another.

use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    RunnerConfig, RunnerError, RunnerState, RunnerStatus,
    life::{Ended, Life},
    process,
    request::Request,
};

/// First pause before another start; doubles up to the longest.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_LONGEST: Duration = Duration::from_secs(5);
/// A process that lived so long starts the pauses anew.
const LIVED_WELL: Duration = Duration::from_secs(30);

/// Supervises until `stop` is cancelled or somebody asks for it.
pub(super) async fn run(
    config: RunnerConfig,
    mut requests: mpsc::Receiver<Request>,
    status: watch::Sender<RunnerStatus>,
    mut held: watch::Receiver<Option<String>>,
    stop: CancellationToken,
) {
    let mut backoff = BACKOFF_FIRST;
    loop {
        if wait_while_held(&mut requests, &config, &status, &mut held, &stop).await.is_break() {
            return update(&status, |status| down(status, "it was stopped"));
        }
        let began = Instant::now();
        let learned = status.borrow().learned.clone();
        let ended = match process::spawn(&config, &learned) {
            Ok((child, commands, events)) => {
                let mut life = Life::new(&config, &status, child, commands);
                life.live(events, &mut requests, &stop).await
            }
            Err(error) => Ended::Died(format!("it cannot be started: {error}")),
        };
        let Ended::Died(how) = ended else { return update(&status, |status| down(status, "it was stopped")) };
        tracing::error!(device = config.device, how, "the runner died; starting another");
        update(&status, |status| {
            down(status, &how);
            status.restarts_total += 1;
            status.last_exit = Some(how);
        });
        backoff = if began.elapsed() > LIVED_WELL { BACKOFF_FIRST } else { backoff };
        if rest(backoff, &mut requests, &config, &stop).await.is_break() {
            return update(&status, |status| down(status, "it was stopped"));
        }
        backoff = (backoff * 2).min(BACKOFF_LONGEST);
    }
}

/// Waits between two processes.
async fn rest(
    pause: Duration,
    requests: &mut mpsc::Receiver<Request>,
    config: &RunnerConfig,
    stop: &CancellationToken,
) -> ControlFlow<()> {
    refuse_until(tokio::time::sleep(pause), "it died and is being started again", requests, config, stop).await
}

/// Waits while the device may have no process.
async fn wait_while_held(
    requests: &mut mpsc::Receiver<Request>,
    config: &RunnerConfig,
    status: &watch::Sender<RunnerStatus>,
    held: &mut watch::Receiver<Option<String>>,
    stop: &CancellationToken,
) -> ControlFlow<()> {
    loop {
        let reason = held.borrow_and_update().clone();
        let Some(reason) = reason else { return ControlFlow::Continue(()) };
        update(status, |status| down(status, &reason));
        let changed = async {
            if held.changed().await.is_err() {
                // whoever could release it is gone: then `requests` ends, too
                std::future::pending::<()>().await;
            }
        };
        if refuse_until(changed, &reason, requests, config, stop).await.is_break() {
            return ControlFlow::Break(());
        }
    }
}

/// Waits for `over`; whoever asks meanwhile is told that there is no process, and why.
async fn refuse_until(
    over: impl Future<Output = ()>,
    reason: &str,
    requests: &mut mpsc::Receiver<Request>,
    config: &RunnerConfig,
    stop: &CancellationToken,
) -> ControlFlow<()> {
    let mut over = std::pin::pin!(over);
    loop {
        let request = tokio::select! {
            () = stop.cancelled() => return ControlFlow::Break(()),
            () = &mut over => return ControlFlow::Continue(()),
            request = requests.recv() => request,
        };
        match request {
            Some(Request::Command { reply, .. }) => {
                let (device, reason) = (config.device.clone(), reason.to_owned());
                // a caller that went away needs no answer
                let _ = reply.send(Err(RunnerError::Unavailable { device, reason }));
            }
            Some(Request::Stop { done, .. }) => {
                let _ = done.send(());
                return ControlFlow::Break(());
            }
            Some(Request::Landed { .. } | Request::Cancel(_) | Request::Kill(_)) => {}
            None => return ControlFlow::Break(()),
        }
    }
}

pub(super) fn update(status: &watch::Sender<RunnerStatus>, change: impl FnOnce(&mut RunnerStatus)) {
    status.send_modify(|status| {
        change(status);
        status.generation += 1;
    });
}

/// There is no process: nothing is resident, no byte is taken.
pub(super) fn down(status: &mut RunnerStatus, reason: &str) {
    status.state = RunnerState::Down { reason: reason.to_owned() };
    status.pid = None;
    status.resident.clear();
    status.memory.used_bytes = 0;
    status.memory.system_bytes = 0;
    status.ready_since = None;
    status.rss_bytes = 0;
}
