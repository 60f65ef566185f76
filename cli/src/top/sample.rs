//! One look at the farm: what the API says about hosts, devices, caches, residency and active jobs.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use shared::{
    ids::{JobId, ModelId},
    wire::{CacheView, DeviceView, FarmStatus, HostView, JobView},
};

use crate::{client::Client, error::CliError};

/// Active jobs that are asked for in each state: more than a screen shows.
const JOBS: usize = 100;

/// What one look saw.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Sample {
    /// When, by this machine's clock.
    pub(super) at: DateTime<Utc>,
    /// Hosts.
    pub(super) hosts: Vec<HostView>,
    /// Devices.
    pub(super) devices: Vec<DeviceView>,
    /// RAM tiers.
    pub(super) cache: CacheView,
    /// What is resident where.
    pub(super) status: FarmStatus,
    /// Jobs that run.
    pub(super) running: Vec<JobView>,
    /// Jobs that wait: placed ones first.
    pub(super) waiting: Vec<JobView>,
    /// There may be more that run than were asked for.
    pub(super) running_cut: bool,
    /// There may be more that wait.
    pub(super) waiting_cut: bool,
    /// Bytes (files) a second of running jobs since the look before.
    pub(super) rates: HashMap<JobId, f64>,
}

impl Sample {
    /// Asks for everything at once; rates come from the look `before`.
    ///
    /// # Errors
    /// As the client; one list that is missing is the whole look missing.
    pub(super) async fn take(client: &Client, before: Option<&Self>) -> Result<Self, CliError> {
        let jobs = |state: &'static str| async move {
            client.list::<JobView>("/v1/jobs", &[("state", Some(state.to_owned()))], Some(JOBS)).await
        };
        let (hosts, devices, cache, status, running, placed, pending) = tokio::try_join!(
            client.get("/v1/hosts", &[]),
            client.get("/v1/devices", &[]),
            client.get("/v1/cache", &[]),
            client.get("/v1/status", &[]),
            jobs("running"),
            jobs("placed"),
            jobs("pending"),
        )?;
        let (running_cut, waiting_cut) = (running.len() >= JOBS, placed.len() >= JOBS || pending.len() >= JOBS);
        let (waiting, rates) = ([placed, pending].concat(), HashMap::new());
        let at = Utc::now();
        let mut sample = Self { at, hosts, devices, cache, status, running, waiting, running_cut, waiting_cut, rates };
        sample.rates = before.map(|before| sample.rates_since(before)).unwrap_or_default();
        Ok(sample)
    }

    fn rates_since(&self, before: &Self) -> HashMap<JobId, f64> {
        let seconds = (self.at - before.at).as_seconds_f64();
        let rate = |job: &JobView| {
            let now = job.progress.as_ref()?;
            let then = before.running.iter().find(|then| then.id == job.id)?.progress.as_ref()?;
            // what counts something else has another total
            let same = now.bytes_total == then.bytes_total && now.bytes_done >= then.bytes_done && seconds > 0.0;
            same.then(|| (job.id, (now.bytes_done - then.bytes_done) as f64 / seconds))
        };
        self.running.iter().filter_map(rate).collect()
    }

    /// A model's name: the catalogue's where something of it is resident, else as the job was asked for it.
    pub(super) fn model_name(&self, job: &JobView) -> String {
        let named =
            |id: ModelId| self.status.models.iter().find(|model| model.model == id).map(|model| model.name.clone());
        let asked = || job.args.get("model").and_then(serde_json::Value::as_str).map(str::to_owned);
        job.model.and_then(named).or_else(asked).unwrap_or_else(|| "-".to_owned())
    }

    /// Why the live parts are not to be trusted, if they are not.
    pub(super) fn stale(&self) -> Option<&str> {
        let staleness = &self.status.staleness;
        staleness.stale.then(|| staleness.reason.as_deref().unwrap_or("the live view is missing"))
    }
}
