//! The live view behind a circuit breaker: while Redis is away a request loses almost nothing to it.

use std::time::Duration;

use prometheus::IntGauge;
use shared::{
    error::chain,
    status::{HostSnapshot, LiveStatus},
};
use tokio::{sync::Mutex, time::Instant};

/// After a failure Redis is not asked again for this long, so that it costs little while it is away.
const BREAK: Duration = Duration::from_secs(1);

/// The live view with a circuit breaker.
#[derive(Debug)]
pub(crate) struct Live {
    status: LiveStatus,
    broken: Mutex<Option<(Instant, String)>>,
    up: IntGauge,
}

impl Live {
    /// A closed breaker; `up` follows what Redis answers.
    pub(crate) fn new(status: LiveStatus, up: IntGauge) -> Self {
        Self { status, broken: Mutex::new(None), up }
    }

    /// Snapshots of these hosts, or why there are none.
    pub(crate) async fn snapshots(&self, hosts: &[String]) -> Result<Vec<HostSnapshot>, String> {
        if let Some((until, why)) = self.broken.lock().await.as_ref()
            && Instant::now() < *until
        {
            return Err(why.clone());
        }
        let answer = self.status.snapshots(hosts).await.map_err(|error| chain(&error));
        self.up.set(i64::from(answer.is_ok()));
        let broken = answer.as_ref().err().map(|why| (Instant::now() + BREAK, why.clone()));
        *self.broken.lock().await = broken;
        answer
    }
}
