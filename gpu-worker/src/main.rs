//! The `gpu-worker` program: `agent` serves a host, `runner` owns one device for it.

use std::{process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};
use gpu_worker::{agent, config::AgentConfig, runner};
use shared::{config, error::chain, shutdown, telemetry};

/// modelyard's worker daemon for one GPU host.
#[derive(Debug, Parser)]
#[command(name = "gpu-worker", version, about)]
struct Program {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve this host: claim jobs, keep weights in RAM, run one runner per device.
    Agent(Box<AgentConfig>),
    /// Own one device (started by the agent, not by people).
    Runner(runner::RunnerArgs),
}

fn main() -> ExitCode {
    let program = match parse() {
        Ok(program) => program,
        Err(code) => return code,
    };
    match program.command {
        Command::Runner(args) => runner::run_child(args),
        Command::Agent(config) => serve(*config),
    }
}

/// The configuration file belongs to the subcommand, so its keys are matched against the subcommand's options.
fn parse() -> Result<Program, ExitCode> {
    let arguments: Vec<_> = std::env::args_os().collect();
    let parsed = match arguments.get(1) {
        Some(word) if word == "agent" => {
            let mut flat = vec![std::ffi::OsString::from("gpu-worker agent")];
            flat.extend(arguments.into_iter().skip(2));
            config::load_from::<FlatAgent>(flat).map(|flat| Program { command: Command::Agent(Box::new(flat.config)) })
        }
        _ => Program::try_parse_from(arguments).map_err(config::ConfigError::Usage),
    };
    parsed.map_err(|error| config::report("gpu-worker", &error))
}

#[derive(Debug, Parser)]
#[command(name = "gpu-worker agent", version)]
struct FlatAgent {
    #[command(flatten)]
    config: AgentConfig,
}

fn serve(config: AgentConfig) -> ExitCode {
    if let Err(error) = telemetry::init(&config.logging.filter, config.logging.log_format) {
        return say(&format!("--log: {error}"), 2);
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return say(&format!("cannot start the runtime: {error}"), 1),
    };
    let stop = async {
        if let Err(error) = shutdown::signalled().await {
            tracing::error!(%error, "cannot wait for signals; stopping");
        }
    };
    let ended = runtime.block_on(agent::run(config, stop));
    // a thread that is stuck in a read from a dead disk never ends, and must not keep the process
    runtime.shutdown_timeout(Duration::from_secs(1));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => say(&chain(&error), error.exit_code()),
    }
}

#[expect(clippy::print_stderr, reason = "the last word of a program that ends")]
fn say(text: &str, code: u8) -> ExitCode {
    eprintln!("gpu-worker: {text}");
    ExitCode::from(code)
}
