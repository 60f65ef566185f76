//! `modelyard completions`.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::{args::Cli, error::CliError};

/// Options of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// `bash`, `zsh`, `fish`, `elvish` or `powershell`.
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "modelyard", &mut script);
    std::io::Write::write_all(&mut std::io::stdout().lock(), &script)?;
    Ok(())
}
