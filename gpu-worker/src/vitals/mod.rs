//! How the devices of this host are: watches the vendor's management library, replaces runners that programs' errors
//! poisoned, keeps broken devices without one, and says all of it.
//!
//! ```text
//! engine::nvml::Monitor ──view──▶ acts (pure) ──▶ runners: hold, release, recycle
//!                            ├───▶ supervisors of runners: no other process before the device was looked at
//!                            └───▶ status, metrics
//! ```
//! Nothing here waits for the library: a view is what its threads left behind.

mod acts;
mod metrics;
mod view;

use std::{io, sync::Arc, time::Duration};

use acts::{Act, Keeper, Watched};
use engine::nvml::{Monitor, MonitorOptions, NvmlView};
pub use metrics::VitalsMetrics;
use tokio::sync::{Notify, watch};
pub use view::{device_vitals, nvml_status};

use crate::{
    context::Agent,
    runner::{RunnerState, Views},
};

/// Time between looks when no news comes: a call that hangs brings none.
const LOOK: Duration = Duration::from_millis(500);

/// The watched library, or nothing where no device needs one.
#[derive(Debug)]
pub struct Vitals {
    monitor: Option<Monitor>,
    news: Arc<Notify>,
    /// What was known at the last look, for runners whose process has ended.
    views: watch::Sender<Option<NvmlView>>,
}

impl Vitals {
    /// Watches a library; none when there is nothing to watch.
    ///
    /// # Errors
    /// When the system refuses threads.
    pub fn start(options: Option<MonitorOptions>) -> io::Result<Self> {
        let news = Arc::new(Notify::new());
        let bell = news.clone();
        let start = |options| Monitor::start(options, move || bell.notify_one());
        let monitor = options.map(start).transpose()?;
        let views = watch::Sender::new(monitor.as_ref().map(Monitor::view));
        Ok(Self { monitor, news, views })
    }

    /// What is known, look by look.
    pub fn views(&self) -> Views {
        self.views.subscribe()
    }

    /// What is known now; none when nothing is watched.
    pub fn view(&self) -> Option<NvmlView> {
        self.monitor.as_ref().map(Monitor::view)
    }
}

/// Acts on news until the process stops.
pub async fn watch(agent: Arc<Agent>) {
    let mut keeper = Keeper::default();
    let mut told = None;
    while let Some(view) = agent.vitals.view() {
        for act in keeper.step(&view, &devices(&agent)) {
            carry_out(&agent, act).await;
        }
        agent.metrics.vitals.observe(&view);
        agent.vitals.views.send_replace(Some(view.clone()));
        // figures are published with the next picture anyhow; what changes decisions is published at once
        let news = (view.standing.as_str(), view.events.len(), conditions(&agent, &view));
        if told.as_ref() != Some(&news) {
            say(&view);
            told = Some(news);
            agent.changed.notify_one();
        }
        tokio::select! {
            () = agent.vitals.news.notified() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

fn devices(agent: &Agent) -> Vec<Watched> {
    let device = |device: &crate::context::Device| {
        let status = device.runner.status();
        let status = status.borrow();
        let uuid = status.facts.as_ref()?.uuid.clone()?;
        let ready_since = status.ready_since.filter(|_| status.state == RunnerState::Ready);
        Some(Watched { id: device.id.clone(), uuid, ready_since })
    };
    agent.devices.values().filter_map(device).collect()
}

fn conditions(agent: &Agent, view: &NvmlView) -> Vec<&'static str> {
    devices(agent).iter().map(|device| engine::nvml::condition(view, &device.uuid).as_str()).collect()
}

fn say(view: &NvmlView) {
    match view.standing.reason() {
        Some(why) => tracing::warn!(standing = view.standing.as_str(), why, "the devices' management library"),
        None => tracing::info!(incidents = view.events.len(), "the devices' management library answers"),
    }
}

async fn carry_out(agent: &Agent, act: Act) {
    let Some(device) = agent.devices.get(act.device()) else { return };
    match act {
        Act::Hold { reason, .. } => {
            tracing::error!(device = device.id, reason, "the device is broken; it gets no process and no work");
            device.runner.hold(Some(reason)).await;
        }
        Act::Release { .. } => {
            tracing::warn!(device = device.id, "the device answers again; it gets a process");
            device.runner.hold(None).await;
        }
        Act::Recycle { reason, .. } => {
            tracing::warn!(device = device.id, reason, "the runner is replaced");
            device.runner.recycle(reason).await;
        }
    }
}
