//! Live status in Redis: the one place for its keys. A view that may vanish (G9): writers never fail because of it,
//! readers say `stale` when it is old or gone.

mod memory;
pub mod snapshot;
mod vitals;

use std::time::Duration;

use redis::{AsyncCommands, aio::ConnectionManager};

pub use memory::{HostMemory, ProcessMemory, SystemMemory, TierMemory};
pub use snapshot::{
    AgeCount, CacheStats, DeviceSnapshot, Entry, EvictedCounts, EvictionStanding, HostSnapshot, LiveProgress,
    MemoryPressure, RootWatch, RunningJob, VariantEntry,
};
pub use vitals::{DeviceIncident, DevicePart, DeviceVitals, NvmlStatus, Unaccounted};

/// Seconds after which a snapshot that was not renewed is gone.
pub const TTL: Duration = Duration::from_secs(15);

/// Most time that Redis may cost one operation.
const PATIENCE: Duration = Duration::from_millis(200);

fn host_key(host: &str) -> String {
    format!("modelyard:host:{host}")
}

/// The live view. Without a URL it is always unavailable.
#[derive(Clone)]
pub struct LiveStatus {
    manager: Option<ConnectionManager>,
}

impl std::fmt::Debug for LiveStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LiveStatus").field("configured", &self.manager.is_some()).finish()
    }
}

/// Redis did not answer.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// No URL is configured.
    #[error("no Redis is configured")]
    NotConfigured,
    /// No answer in time.
    #[error("Redis did not answer within {} ms", PATIENCE.as_millis())]
    Timeout,
    /// The URL is not one, the connection failed or the command was refused.
    #[error("Redis failed")]
    Redis(#[from] redis::RedisError),
    /// A snapshot that this build cannot write.
    #[error("cannot encode a snapshot")]
    Encode(#[from] serde_json::Error),
}

impl LiveStatus {
    /// Prepares the connection; it is made on first use and again after each loss.
    ///
    /// # Errors
    /// When the URL is not one.
    pub fn connect(url: Option<&str>) -> Result<Self, StatusError> {
        let Some(url) = url else { return Ok(Self { manager: None }) };
        let config = redis::aio::ConnectionManagerConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE))
            .set_number_of_retries(1)
            .set_max_delay(Duration::from_millis(500));
        let manager = ConnectionManager::new_lazy_with_config(redis::Client::open(url)?, config)?;
        Ok(Self { manager: Some(manager) })
    }

    /// Publishes a host's snapshot with a time to live. Where Redis answers and refuses it (it is full, say) the one before is taken
    /// back: it would be shown as live until its time is over, while without one the database's rows stand in and answers say so.
    ///
    /// # Errors
    /// For the log and a counter; publishing goes on at the next period.
    pub async fn publish(&self, snapshot: &HostSnapshot) -> Result<(), StatusError> {
        let mut manager = self.manager()?;
        let text = serde_json::to_string(snapshot)?;
        let key = host_key(&snapshot.host);
        let published = bounded(async move { manager.set_ex::<_, _, ()>(key, text, TTL.as_secs()).await }).await;
        if let Err(StatusError::Redis(refused)) = &published
            && !refused.is_io_error()
        {
            // one that cannot be taken back goes with its time
            let _ = self.withdraw(&snapshot.host).await;
        }
        published
    }

    /// Removes a host's snapshot: at a clean stop, and where a newer one cannot be written.
    ///
    /// # Errors
    /// As [`LiveStatus::publish`].
    pub async fn withdraw(&self, host: &str) -> Result<(), StatusError> {
        let mut manager = self.manager()?;
        let key = host_key(host);
        bounded(async move { manager.del::<_, ()>(key).await }).await
    }

    /// The snapshots of these hosts that are there and readable.
    ///
    /// # Errors
    /// When Redis cannot be asked.
    pub async fn snapshots(&self, hosts: &[String]) -> Result<Vec<HostSnapshot>, StatusError> {
        let mut manager = self.manager()?;
        if hosts.is_empty() {
            return bounded(async move { redis::cmd("PING").query_async::<()>(&mut manager).await })
                .await
                .map(|()| Vec::new());
        }
        let keys: Vec<String> = hosts.iter().map(|host| host_key(host)).collect();
        let texts: Vec<Option<String>> = bounded(async move { manager.mget(keys).await }).await?;
        // a value that does not parse was not written by us; it is as good as absent
        Ok(texts.into_iter().flatten().filter_map(|text| serde_json::from_str(&text).ok()).collect())
    }

    fn manager(&self) -> Result<ConnectionManager, StatusError> {
        self.manager.clone().ok_or(StatusError::NotConfigured)
    }
}

async fn bounded<T>(work: impl Future<Output = redis::RedisResult<T>>) -> Result<T, StatusError> {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(StatusError::Timeout),
    }
}
