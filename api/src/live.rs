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

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// Connections that were made since the last look. Each is dropped, so that the next question needs a new one.
    fn connections(listener: &UnixListener) -> usize {
        std::iter::from_fn(|| listener.accept().ok()).count()
    }

    /// F11: one request waits for a Redis that answers nobody; those of the next second do not, and then one asks again.
    #[tokio::test(start_paused = true)]
    async fn f11_a_redis_that_is_away_is_asked_once_a_second() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("redis.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let status = LiveStatus::connect(Some(&format!("redis+unix://{}", socket.display()))).unwrap();
        let up = IntGauge::new("up", "1 while it answers.").unwrap();
        let live = Live::new(status, up.clone());
        let ask = async || {
            let begin = Instant::now();
            let why = live.snapshots(&["a".to_owned()]).await.unwrap_err();
            (begin.elapsed(), why)
        };
        for _ in 0..2 {
            up.set(1);
            let (took, why) = ask().await;
            assert!(took >= Duration::from_millis(200) && took < Duration::from_millis(300), "{took:?}");
            assert!(connections(&listener) > 0 && up.get() == 0);
            for _ in 0..20 {
                assert_eq!(ask().await, (Duration::ZERO, why.clone()));
            }
            assert_eq!(connections(&listener), 0);
            tokio::time::advance(BREAK).await;
        }
    }
}
