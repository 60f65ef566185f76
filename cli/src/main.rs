//! The `modelyard` program.

use std::process::ExitCode;

use clap::Parser;
use modelyard::args::Cli;

#[tokio::main]
async fn main() -> ExitCode {
    // clap prints usage errors itself and exits with 2
    ExitCode::from(Box::pin(modelyard::run(Cli::parse())).await)
}
