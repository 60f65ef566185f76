//! The `modelyard` command: talks to a farm's API, and brings up a whole farm on one machine.

pub mod args;
pub mod client;
mod commands;
pub mod dev;
mod doctor;
pub mod error;
mod follow;
mod migrate;
pub mod output;
mod progress;
mod top;
mod up;

use args::{Cli, Command};
use client::Client;
use error::CliError;
use output::Output;

/// Runs one command and gives its exit code. Errors are printed here, once.
pub async fn run(cli: Cli) -> u8 {
    let global = &cli.global;
    let output = Output::new(global.json, global.quiet, global.no_color);
    match dispatch(cli, output).await {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => 0,
        Err(error) => {
            output.error(&error);
            error.exit_code()
        }
    }
}

async fn dispatch(cli: Cli, output: Output) -> Result<u8, CliError> {
    let global = cli.global;
    let client = || Client::new(&global.api, global.token_file.as_deref());
    match cli.command {
        Command::Up(args) => return up::run(args, &global, output).await,
        Command::Down(args) => return up::down(&args, output),
        Command::Doctor(args) => return doctor::run(&args, &global, output).await,
        Command::Migrate(args) => migrate::run(args, output).await?,
        Command::Components(command) => commands::components::run(command, &client()?, output).await?,
        Command::Models(command) => return commands::models::run(command, &client()?, output).await,
        Command::Benchmark(args) => return commands::benchmark::run(args, &client()?, output).await,
        Command::Benchmarks(command) => return commands::benchmark::history(command, &client()?, output).await,
        Command::Loras(command) => return commands::loras::run(command, &client()?, output).await,
        Command::Pipelines(command) => commands::pipelines::run(command, &client()?, output).await?,
        Command::Convert(args) => commands::convert::run(args, &client()?, output).await?,
        Command::Load(args) => commands::load::load(args, &client()?, output).await?,
        Command::Unload(args) => commands::load::unload(args, &client()?, output).await?,
        Command::Generate(args) => commands::generate::run(args, &client()?, output).await?,
        Command::Vae(command) => commands::vae::run(command, &client()?, output).await?,
        Command::Encode(args) => commands::encode::encode(args, &client()?, output).await?,
        Command::Tokenize(args) => commands::encode::tokenize(args, &client()?, output).await?,
        Command::Unet(command) => commands::unet::run(command, &client()?, output).await?,
        Command::Cache(command) => commands::cache::run(command, &client()?, output).await?,
        Command::Vram(command) => commands::vram::run(command, &client()?, output).await?,
        Command::Devices(args) => commands::devices::run(args, &client()?, output).await?,
        Command::Hosts(args) => commands::hosts::run(args, &client()?, output).await?,
        Command::Memory(args) => commands::memory::memory(args, &client()?, output).await?,
        Command::Optimize(args) => commands::memory::optimize(args, &client()?, output).await?,
        Command::Jobs(command) => commands::jobs::run(command, &client()?, output).await?,
        Command::Events(args) => commands::events::run(args, &client()?, output).await?,
        Command::Status(args) => commands::status::run(args, &client()?, output).await?,
        Command::Top(args) => top::run(args, &client()?, output).await?,
        Command::Scan(args) => commands::scan::run(args, &client()?, output).await?,
        Command::Completions(args) => commands::completions::run(&args)?,
        Command::Dev(command) => commands::dev_tools(command, output)?,
    }
    Ok(0)
}

/// `modelyard models ls | head` is not a failure.
fn is_broken_pipe(error: &CliError) -> bool {
    matches!(error, CliError::Output(error) if error.kind() == std::io::ErrorKind::BrokenPipe)
}
