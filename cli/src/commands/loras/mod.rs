//! `modelyard loras`: which there are, what one would do to a base, several made one.

mod blend;
mod check;
mod list;

use clap::Subcommand;

use crate::{client::Client, error::CliError, output::Output};

/// What to do with LoRAs.
#[derive(Debug, Subcommand)]
pub enum LorasCommand {
    /// List LoRAs with their flavours, ranks and modules.
    #[command(visible_alias = "list")]
    Ls(list::ListArgs),
    /// One LoRA with what its file says of it.
    Show {
        /// Id or name.
        lora: String,
    },
    /// Say which tensors of a base a LoRA would change, what it cannot find there, and whether it is for that base at all.
    Check(check::CheckArgs),
    /// Write a stack of LoRAs down as one LoRA, and say how far it is off the exact sum.
    Blend(blend::BlendArgs),
}

/// Does it and gives the exit code.
pub(crate) async fn run(command: LorasCommand, client: &Client, output: Output) -> Result<u8, CliError> {
    match command {
        LorasCommand::Ls(args) => list::run(args, client, output).await.map(|()| 0),
        LorasCommand::Show { lora } => list::show(&lora, client, output).await.map(|()| 0),
        LorasCommand::Check(args) => check::run(args, client, output).await,
        LorasCommand::Blend(args) => blend::run(args, client, output).await.map(|()| 0),
    }
}
