//! The `modelyard-scheduler` binary: configuration, logging, signals and exit codes around [`modelyard_scheduler::run`].
//! Exit codes: 0 clean stop, 2 bad configuration, 7 a store is unreachable at start, 1 anything else.

use std::process::ExitCode;

use modelyard_scheduler::config::Config;
use shared::{config, error::chain, shutdown, telemetry};

fn main() -> ExitCode {
    let config: Config = match config::load() {
        Ok(config) => config,
        Err(error) => return config::report("modelyard-scheduler", &error),
    };
    if let Err(error) = telemetry::init(&config.logging.filter, config.logging.log_format) {
        return fail(error.as_ref(), 2);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, 1),
    };
    let stop = async {
        if let Err(error) = shutdown::signalled().await {
            tracing::error!(%error, "cannot wait for signals; stopping");
        }
    };
    match runtime.block_on(modelyard_scheduler::run(config, stop)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, error.exit_code()),
    }
}

#[expect(clippy::print_stderr, reason = "the last words of a process whose log may not be set up")]
fn fail(error: &(dyn std::error::Error + 'static), code: u8) -> ExitCode {
    eprintln!("modelyard-scheduler: {}", chain(error));
    ExitCode::from(code)
}
