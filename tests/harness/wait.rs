//! Waiting for conditions.

use std::{
    future::Future,
    time::{Duration, Instant},
};

/// For what a healthy farm does at once; generous, because machines that test are busy.
pub const SHORT: Duration = Duration::from_secs(20);
/// For what takes lease terms, restarts or many bytes.
pub const LONG: Duration = Duration::from_secs(90);

/// Time between looks.
const POLL: Duration = Duration::from_millis(25);

/// Looks until `look` is `Ok`; its value.
///
/// # Panics
/// When `patience` is over, with what was awaited and what was seen last.
#[track_caller]
pub fn wait_for<T, F>(what: &str, patience: Duration, mut look: impl FnMut() -> F) -> impl Future<Output = T>
where
    F: Future<Output = Result<T, String>>,
{
    let place = std::panic::Location::caller();
    async move {
        let until = Instant::now() + patience;
        loop {
            let seen = match look().await {
                Ok(value) => return value,
                Err(seen) => seen,
            };
            assert!(
                Instant::now() < until,
                "{place}: gave up waiting for {what} after {patience:?}; last seen: {seen}"
            );
            tokio::time::sleep(POLL).await;
        }
    }
}
