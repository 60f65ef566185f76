//! Private instances of Postgres and Redis in a folder of ours: found on the machine, made once, started, adopted when they
//! already run, stopped. Unix sockets in 0700 folders only; nothing listens on a network.
//!
//! Everything here blocks the calling thread (a first start takes a second or two); async callers use `spawn_blocking`.
#![forbid(unsafe_code)]

mod binaries;
mod error;
mod files;
mod identity;
mod postgres;
pub mod process;
mod redis;
mod spawn;

use std::path::Path;

pub use binaries::{Found, MIN_POSTGRES_MAJOR, find_postgres, find_redis};
pub use error::StoresError;
pub use identity::RunAs;
pub use postgres::{Postgres, StopMode};
pub use redis::Redis;

/// How instances are made and how long they live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// True: committed means on disk. False: no `fsync` at all, for tests whose data nobody needs after a crash.
    pub durable: bool,
    /// True: the servers outlive the process that started them. False: they end with the handle, and with this process
    /// even when it is killed.
    pub detached: bool,
    /// Redis's `maxmemory` and `maxmemory-policy`.
    pub redis_memory: (&'static str, &'static str),
    /// Commands of Redis beyond those that the product needs, as its rules name them: for tests that do harm with them.
    pub redis_commands: &'static str,
}

/// What is published goes, oldest first, before a private Redis takes more.
const REDIS_MEMORY: (&str, &str) = ("256mb", "volatile-lru");

impl Options {
    /// What `modelyard up` wants.
    pub const UP: Self = Self { durable: true, detached: true, redis_memory: REDIS_MEMORY, redis_commands: "" };
    /// What tests want.
    pub const TEST: Self = Self { durable: false, detached: false, redis_memory: REDIS_MEMORY, redis_commands: "" };
}

/// Both stores of one farm.
#[derive(Debug)]
pub struct Stores {
    /// The truth.
    pub postgres: Postgres,
    /// The live view.
    pub redis: Redis,
}

impl Stores {
    /// Makes what is missing below `dir`, starts what does not run, adopts what does. `dir` is made 0711 so that the
    /// user that Postgres runs as can enter it.
    ///
    /// # Errors
    /// What is missing or did not start, with the last lines of its log.
    pub fn ensure(dir: &Path, options: Options) -> Result<Self, StoresError> {
        Ok(Self { postgres: Postgres::ensure(dir, options)?, redis: Redis::ensure(dir, options)? })
    }

    /// Stops both.
    ///
    /// # Errors
    /// When one could not be stopped.
    pub fn stop(&mut self) -> Result<(), StoresError> {
        let redis = self.redis.stop();
        self.postgres.stop(StopMode::Fast).and(redis)
    }
}
