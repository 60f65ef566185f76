//! The `modelyard-api` binary: reads its configuration, runs until it is told to stop, turns the outcome into an exit code.

use std::process::ExitCode;

use modelyard_api::{Config, RunError};
use shared::{config::ConfigError, error::chain};

fn main() -> ExitCode {
    let config = match shared::config::load::<Config>() {
        Ok(config) => config,
        Err(ConfigError::Usage(usage)) => usage.exit(),
        Err(error) => return fail(&error, 2),
    };
    if let Err(error) = shared::telemetry::init(&config.logging.filter, config.logging.log_format) {
        return fail(error.as_ref(), 2);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, 1),
    };
    match runtime.block_on(modelyard_api::run(config, shared::shutdown::signalled())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ RunError::Config(_)) => fail(&error, 2),
        Err(error @ RunError::Postgres(_)) => fail(&error, 7),
        Err(error) => fail(&error, 1),
    }
}

#[expect(clippy::print_stderr, reason = "the last words of the process, also when no log is set up")]
fn fail(error: &(dyn std::error::Error + 'static), code: u8) -> ExitCode {
    eprintln!("modelyard-api: {}", chain(error));
    ExitCode::from(code)
}
