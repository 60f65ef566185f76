//! Stops a farm in the order that loses nothing: agent, scheduler, API, then the stores.

use std::{path::Path, time::Duration};

use private_stores::{Postgres, Redis};

use super::{
    daemon::{self, Record},
    state::State,
};
use crate::{error::CliError, output::Output};

/// The agent finishes or hands back its jobs within its own grace of 60 s; after this it is stuck.
pub(super) const GRACE: Duration = Duration::from_secs(75);

/// Stops all that runs; the names of what was running. The caller holds the lock.
pub(super) fn everything(state: &State, output: Output) -> Result<Vec<String>, CliError> {
    let mut stopped = Vec::new();
    for name in ["agent", "scheduler", "api"] {
        if let Some(record) = Record::find(state, name)?.filter(Record::alive) {
            let politely = daemon::stop(record.process, GRACE)?;
            let how = if politely { "stopped" } else { "did not end in time and was killed" };
            output.note(format!("{name} {how}"));
            stopped.push(name.to_owned());
        }
        state.forget(&format!("{name}.json"))?;
        state.forget(&format!("{name}.ready.json"))?;
    }
    stopped.extend(stores(state, output)?);
    Ok(stopped)
}

fn stores(state: &State, output: Output) -> Result<Vec<String>, CliError> {
    let mut stopped = Vec::new();
    if let Some(mut redis) = Redis::find(state.dir()).map_err(|error| CliError::of(&error))? {
        let ran = redis.pid().is_some();
        redis.retire().map_err(|error| CliError::of(&error))?;
        stopped.extend(ran.then(|| "redis".to_owned()));
    }
    if let Some(mut postgres) = Postgres::find(state.dir()).map_err(|error| CliError::of(&error))? {
        let ran = postgres.pid().is_some();
        postgres.retire().map_err(|error| CliError::of(&error))?;
        stopped.extend(ran.then(|| "postgres".to_owned()));
    }
    for name in &stopped {
        output.note(format!("{name} stopped"));
    }
    Ok(stopped)
}

/// Stops everything and deletes the folder; a folder that is not ours is refused.
pub(super) fn purge(place: &Path, output: Output) -> Result<u8, CliError> {
    let Some(state) = State::open_existing(place)? else {
        output.note(format!("nothing to delete in {}", place.display()));
        return Ok(0);
    };
    let lock = state.lock()?;
    everything(&state, output)?;
    state.delete()?;
    drop(lock);
    if output.json {
        output.value(&serde_json::json!({ "state": place, "deleted": true }))?;
    } else {
        output.note(format!("deleted {}", place.display()));
    }
    Ok(0)
}
