//! `modelyard up` and `down`: a whole farm on one machine, in one folder.

mod daemon;
mod farm;
mod library;
mod main_job;
mod options;
mod report;
mod state;
mod stop;

use std::{path::PathBuf, time::Duration};

use clap::Args;
use private_stores::{Options, Postgres, Redis, StoresError};
use shared::error::ErrorCode;

pub(crate) use options::{StateArgs, UpArgs};

use crate::{args::Global, client::Client, error::CliError, migrate, output::Output};
use farm::{Farm, StoreUrls};
use options::Mode;
use state::State;

/// How long a server that just became ready may take to take connections.
const STORE_PATIENCE: Duration = Duration::from_secs(15);

/// The stores that this farm uses: ours, or none where the environment names external ones.
struct PrivateStores {
    postgres: Option<Postgres>,
    redis: Option<Redis>,
}

impl PrivateStores {
    /// Ours where we run one, else the named one.
    fn urls(&self, args: &UpArgs) -> StoreUrls {
        let database = self.postgres.as_ref().map(|own| own.url().to_owned()).or_else(|| args.database_url.clone());
        let redis = self.redis.as_ref().map(|own| own.url().to_owned()).or_else(|| args.redis_url.clone());
        StoreUrls { database: database.unwrap_or_default(), redis }
    }
}

/// Runs `up` in whichever mode was asked for.
///
/// # Errors
/// What is missing or did not start, with what to do.
pub(crate) async fn run(args: UpArgs, global: &Global, output: Output) -> Result<u8, CliError> {
    let place = args.state.folder()?;
    match args.mode() {
        Mode::Down => down(&args.state, output),
        Mode::Status => report::status(&place, output),
        Mode::Purge => stop::purge(&place, output),
        Mode::Up => bring_up(args, place, global, output).await,
    }
}

/// Stops everything that `up` started in this state folder.
///
/// # Errors
/// When something does not end.
pub(crate) fn down(args: &StateArgs, output: Output) -> Result<u8, CliError> {
    let place = args.folder()?;
    let Some(state) = State::open_existing(&place)? else {
        output.note(format!("no farm in {}", place.display()));
        return Ok(0);
    };
    let _lock = state.lock()?;
    let stopped = stop::everything(&state, output)?;
    if output.json {
        output.value(&serde_json::json!({ "state": place, "stopped": stopped }))?;
    } else if stopped.is_empty() {
        output.note("nothing was running");
    }
    Ok(0)
}

async fn bring_up(args: UpArgs, place: PathBuf, global: &Global, output: Output) -> Result<u8, CliError> {
    args.check()?;
    let state = State::open_or_make(&place)?;
    let _lock = state.lock()?;
    // tied stores end with their handles, so these live until the daemons have been stopped
    let mut stores = PrivateStores { postgres: None, redis: None };
    let outcome = up_and_work(&args, &state, &mut stores, global, output).await;
    if args.once {
        let stopped = stop::everything(&state, output);
        // the first failure is the one to report
        return outcome.and_then(|code| stopped.map(|_| code));
    }
    if outcome.is_err() && report::anything_runs(&state)? {
        let (program, dir) = (options::program(), state.dir().display());
        output.note(format!("what runs keeps running; `{program} down --state {dir}` stops it"));
    }
    outcome
}

async fn up_and_work(
    args: &UpArgs,
    state: &State,
    stores: &mut PrivateStores,
    global: &Global,
    output: Output,
) -> Result<u8, CliError> {
    output.note(format!("state folder {}", state.dir().display()));
    let settings = options::Settings::resolve(args, state, output)?;
    // what cannot work is said before anything starts
    farm::check(args, &settings, state)?;
    *stores = ensure_stores(args, state, output).await?;
    let urls = stores.urls(args);
    migrate::migrate(&urls.database, STORE_PATIENCE).await?;
    let farm = Farm::ensure(args, &settings, state, &urls, output).await?;
    settings.remember(state)?;
    let client = Client::new(&farm.url, farm.token_file.as_deref().or(global.token_file.as_deref()))?;
    let work = if args.no_job {
        // whoever asks for a model next finds it
        main_job::scan(&client, args, output).await?;
        None
    } else {
        Some(main_job::run(&client, args, output).await?)
    };
    report::up(&farm, state, work, args, output)?;
    Ok(0)
}

/// Starts private stores where the environment names none.
async fn ensure_stores(args: &UpArgs, state: &State, output: Output) -> Result<PrivateStores, CliError> {
    let options = Options { detached: !args.once, ..Options::UP };
    let dir = state.dir().to_path_buf();
    output.note("starting the stores (the first time makes the database, which takes some seconds)");
    let (own_postgres, own_redis) = (args.database_url.is_none(), args.redis_url.is_none());
    let stores = tokio::task::spawn_blocking(move || -> Result<PrivateStores, StoresError> {
        let postgres = if own_postgres { Some(Postgres::ensure(&dir, options)?) } else { None };
        let redis = if own_redis { Some(Redis::ensure(&dir, options)?) } else { None };
        Ok(PrivateStores { postgres, redis })
    });
    let stores = stores
        .await
        .map_err(|error| CliError::failed(ErrorCode::Internal, format!("starting the stores: {error}")))?
        .map_err(|error| CliError::of(&error))?;
    say_stores(&stores, output);
    Ok(stores)
}

fn say_stores(stores: &PrivateStores, output: Output) {
    match &stores.postgres {
        Some(own) => output.note(format!("postgres {} private, pid {}", own.version(), own.pid().unwrap_or_default())),
        None => output.note("postgres of DATABASE_URL"),
    }
    match &stores.redis {
        Some(own) => output.note(format!("redis private, pid {}", own.pid().unwrap_or_default())),
        None => output.note("redis of REDIS_URL"),
    }
}

/// Shared by the options of `up` and `down`.
#[derive(Debug, Clone, Args)]
struct Homes {
    /// Where the desktop standard keeps state.
    #[arg(long, env = "XDG_STATE_HOME", hide = true, hide_env = true)]
    xdg_state_home: Option<PathBuf>,
}
