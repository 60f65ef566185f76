//! What `up` says at its end, and `up --status`.

use std::path::Path;

use private_stores::{Postgres, Redis};
use serde::Serialize;
use shared::ready::Ready;

use super::{
    daemon::Record,
    farm::Farm,
    main_job::Work,
    options::{UpArgs, program},
    state::State,
};
use crate::{error::CliError, output::Output};

/// The address that every command uses by itself.
const DEFAULT_URL: &str = "http://127.0.0.1:8080";

/// The end of `up`: the address and what to try next.
pub(super) fn up(
    farm: &Farm,
    state: &State,
    work: Option<Work>,
    args: &UpArgs,
    output: Output,
) -> Result<(), CliError> {
    if output.json {
        return output.value(&serde_json::json!({
            "url": farm.url,
            "state": state.dir(),
            "token_file": farm.token_file,
            "daemons": farm.daemons,
            "main_job": work,
            "stays_up": !args.once,
        }));
    }
    if args.once {
        return Ok(());
    }
    output.heading(&format!("the farm runs on {}", farm.url))?;
    let mut api = if farm.url == DEFAULT_URL { String::new() } else { format!(" --api {}", farm.url) };
    if let Some(file) = &farm.token_file {
        api.push_str(&format!(" --token-file {}", file.display()));
    }
    let model = work.map_or_else(|| "MODEL".to_owned(), |work| work.model);
    let program = program();
    output.line("try next:")?;
    output.line(format!("  {program}{api} load {model}"))?;
    output.line(format!("  {program}{api} status"))?;
    output.line(format!("  {program} down --state {}", state.dir().display()))
}

/// One process of a farm.
#[derive(Debug, Serialize)]
struct Line {
    name: &'static str,
    state: &'static str,
    pid: Option<u32>,
    url: Option<String>,
    ops: Option<String>,
}

/// `up --status`: exit code 0 when everything that was started runs, else 1.
pub(super) fn status(place: &Path, output: Output) -> Result<u8, CliError> {
    let Some(state) = State::open_existing(place)? else {
        output.note(format!("no farm in {}", place.display()));
        if output.json {
            output.value(&serde_json::json!({ "items": [] }))?;
        }
        return Ok(1);
    };
    let lines = lines(&state)?;
    output.list(&lines, &["PROCESS", "STATE", "PID", "ADDRESS", "OPERATIONS"], "", |line| {
        vec![
            line.name.to_owned(),
            line.state.to_owned(),
            line.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            line.url.clone().unwrap_or_else(|| "-".to_owned()),
            line.ops.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    })?;
    Ok(u8::from(lines.iter().any(|line| line.state != "running")))
}

/// True while any process of the farm runs.
pub(super) fn anything_runs(state: &State) -> Result<bool, CliError> {
    Ok(lines(state)?.iter().any(|line| line.pid.is_some()))
}

fn lines(state: &State) -> Result<Vec<Line>, CliError> {
    let mut lines = stores(state)?;
    for name in ["api", "scheduler", "agent"] {
        lines.push(daemon(state, name)?);
    }
    Ok(lines)
}

fn stores(state: &State) -> Result<Vec<Line>, CliError> {
    let postgres = Postgres::find(state.dir()).map_err(|error| CliError::of(&error))?;
    let redis = Redis::find(state.dir()).map_err(|error| CliError::of(&error))?;
    let postgres = postgres.map(|own| ("postgres", own.pid()));
    let redis = redis.map(|own| ("redis", own.pid()));
    let line = |(name, pid): (&'static str, Option<u32>)| Line {
        name,
        state: if pid.is_some() { "running" } else { "stopped" },
        pid,
        url: None,
        ops: None,
    };
    Ok(postgres.into_iter().chain(redis).map(line).collect())
}

fn daemon(state: &State, name: &'static str) -> Result<Line, CliError> {
    let record = Record::find(state, name)?;
    let alive = record.as_ref().is_some_and(Record::alive);
    let ready = Ready::read(&state.run_file(&format!("{name}.ready.json"))).ok().flatten().filter(|_| alive);
    let word = match (&record, alive) {
        (Some(_), true) => "running",
        // `down` removes the record; one that is left is of a process that ended by itself
        (Some(_), false) => "died",
        (None, _) => "stopped",
    };
    Ok(Line {
        name,
        state: word,
        pid: record.filter(|_| alive).map(|record| record.process.pid),
        url: ready.as_ref().and_then(|ready| ready.listen.clone()),
        ops: ready.map(|ready| ready.ops),
    })
}
