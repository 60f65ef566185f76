//! The one task that keeps a runner process running: it starts one, lives with it ([`super::life`]), starts another.

use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    RunnerConfig, RunnerError, RunnerState, RunnerStatus, Views, its_end,
    life::{Ended, Life},
    looked::{Clearance, Objection, Past},
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
    (mut held, mut views): (watch::Receiver<Option<String>>, Views),
    stop: CancellationToken,
) {
    let mut backoff = BACKOFF_FIRST;
    loop {
        if wait_while_held(&mut requests, &config, &status, &mut held, &stop).await.is_break() {
            return update(&status, |status| down(status, "it was stopped"));
        }
        let began = Instant::now();
        let learned = status.borrow().learned.clone();
        let mut pid = None;
        let ended = match process::spawn(&config, &learned) {
            Ok((child, commands, events)) => {
                pid = child.id();
                let mut life = Life::new(&config, &status, child, commands);
                life.live(events, &mut requests, &stop).await
            }
            Err(error) => Ended::Died(format!("it cannot be started: {error}")),
        };
        let Ended::Died(how) = ended else { return update(&status, |status| down(status, "it was stopped")) };
        let died = Instant::now();
        tracing::error!(device = config.device, how, "the runner died; starting another");
        update(&status, |status| {
            down(status, &its_end(&how));
            status.restarts_total += 1;
            status.last_exit = Some(how.clone());
        });
        backoff = if began.elapsed() > LIVED_WELL { BACKOFF_FIRST } else { backoff };
        if rest(backoff, &mut requests, &config, &stop).await.is_break() {
            return update(&status, |status| down(status, "it was stopped"));
        }
        backoff = (backoff * 2).min(BACKOFF_LONGEST);
        let past = Past { at: died, pid };
        if wait_until_looked_at((past, &how), &mut requests, &config, &status, &mut views, &stop).await.is_break() {
            return update(&status, |status| down(status, "it was stopped"));
        }
    }
}

/// Waits until the device was looked at since the process ended, and nothing speaks against another one.
async fn wait_until_looked_at(
    (past, how): (Past, &str),
    requests: &mut mpsc::Receiver<Request>,
    config: &RunnerConfig,
    status: &watch::Sender<RunnerStatus>,
    views: &mut Views,
    stop: &CancellationToken,
) -> ControlFlow<()> {
    let uuid = status.borrow().facts.as_ref().and_then(|facts| facts.uuid.clone());
    let mut clearance = Clearance::after(past, uuid);
    loop {
        let objection = clearance.objection(views.borrow_and_update().as_ref(), Instant::now());
        let Some(Objection { reason, until }) = objection else {
            if clearance.is_overdue() {
                tracing::warn!(
                    device = config.device,
                    "the device was not looked at in time, or still lists the ended runner"
                );
            }
            return ControlFlow::Continue(());
        };
        let reason = format!("{}; {reason}", its_end(how));
        if status.borrow().state != (RunnerState::Down { reason: reason.clone() }) {
            tracing::warn!(device = config.device, reason, "no other runner is started yet");
            update(status, |status| down(status, &reason));
        }
        if refuse_until(news(views, until), &reason, requests, config, stop).await.is_break() {
            return ControlFlow::Break(());
        }
    }
}

/// Something new was seen of devices, or a moment has come.
async fn news(views: &mut Views, until: Option<Instant>) {
    let moment = async {
        match until {
            Some(until) => tokio::time::sleep_until(until.into()).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = moment => {}
        // where whoever watches is gone the agent is, too: then `requests` ends
        Ok(()) = views.changed() => {}
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use engine::{
        DeviceFacts,
        nvml::{DeviceFault, Identity, NvmlDevice, NvmlFigures, NvmlView, Standing},
        onnx::OnnxCapability,
    };
    use shared::shutdown::Tasks;

    use super::{
        super::{EngineFacts, Runner, channel, protocol::Event},
        *,
    };

    const UUID: &str = "GPU-a";

    fn view(fault: Option<DeviceFault>, standing: Standing) -> Option<NvmlView> {
        let identity = Identity { uuid: UUID.into(), ..Identity::default() };
        let device = NvmlDevice { identity, fault, ..NvmlDevice::default() };
        let figures = NvmlFigures { began: Some(Instant::now()), driver: None, devices: vec![device] };
        let (events, errors) = (Vec::new(), Default::default());
        Some(NvmlView { standing, figures: Some(figures), events, events_reason: None, errors })
    }

    /// A program that notes that it was started, says what its device is and ends with the reserved code.
    fn program(dir: &Path) -> RunnerConfig {
        let facts = DeviceFacts {
            name: "cuda:0".into(),
            kind: "cuda".into(),
            uuid: Some(UUID.into()),
            product: "Scripted".into(),
            capacity_bytes: 1,
            align_bytes: 1,
        };
        let onnxruntime = OnnxCapability { available: false, path: None, version: None, build: None, reason: None };
        let engine = EngineFacts { onnxruntime, provider: "cuda".into(), threads: 1 };
        let (header, text) = channel::frame(&Event::Hello { facts, engine }, false).unwrap();
        std::fs::write(dir.join("hello"), [&header[..], &text].concat()).unwrap();
        let (started, hello) = (dir.join("started"), dir.join("hello"));
        let script = format!("#!/bin/sh\necho >> {}\ncat {} >&0\nexit 86\n", started.display(), hello.display());
        RunnerConfig::of_script(dir.join("runner"), &script)
    }

    #[tokio::test]
    async fn f33_no_process_follows_one_that_ended_before_the_device_was_looked_at_and_answers() {
        let dir = tempfile::tempdir().unwrap();
        let starts = || std::fs::read(dir.path().join("started")).unwrap().len();
        let hung = Standing::Unresponsive { call: "memory", seconds: 4 };
        let (looks, views) = watch::channel(view(None, hung));
        let runner = Runner::supervise(program(dir.path()), views, &Tasks::new());
        let mut status = runner.status();
        let mut down_for = async |word: &str| {
            let is = |state: &RunnerState| matches!(state, RunnerState::Down { reason } if reason.contains(word));
            status.wait_for(|status| is(&status.state)).await.unwrap().clone()
        };
        let seen = down_for("NVML is unresponsive").await;
        assert_eq!(seen.last_exit.as_deref(), Some("exit code 86: sticky device error"));
        looks.send_replace(view(Some(DeviceFault::Lost), Standing::Answering));
        assert_eq!((down_for("fell off the bus").await.restarts_total, starts()), (seen.restarts_total, 1));
        looks.send_replace(view(None, Standing::Answering));
        let mut status = runner.status();
        status.wait_for(|status| status.restarts_total > seen.restarts_total && starts() == 2).await.unwrap();
    }
}
