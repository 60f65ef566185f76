//! The command line: every command, option and exit code.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, builder::FalseyValueParser};
use shared::{config::parse_seconds, job::Target};

use crate::{commands, dev, doctor, migrate, top, up};

const AFTER_HELP: &str = "\
Exit codes:
  0  done                         6  waited too long
  1  failure                      7  the API or a store cannot be reached
  2  usage                        8  invalid, corrupt or unsupported model
  3  not found                    9  no capacity
  4  conflict                    10  the job was cancelled
  5  token refused              130  interrupted (Ctrl-C)

Data goes to stdout, progress and notes to stderr. With --json, errors too are JSON on stdout.";

/// Manages diffusion models on a farm of GPU hosts.
#[derive(Debug, Parser)]
#[command(name = "modelyard", version, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,

    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Address of the farm's API.
    #[arg(
        long,
        global = true,
        env = "MODELYARD_API",
        hide_env_values = true,
        default_value = "http://127.0.0.1:8080",
        value_name = "URL"
    )]
    pub api: String,

    /// File with the API's bearer token.
    #[arg(long, global = true, env = "MODELYARD_TOKEN_FILE", hide_env_values = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// Print data and errors as JSON.
    #[arg(long, global = true)]
    pub json: bool,

    /// No progress and no notes.
    #[arg(short, long, global = true)]
    pub quiet: bool,

    /// No colours.
    #[arg(long, global = true, env = "NO_COLOR", value_parser = FalseyValueParser::new(), hide_env = true)]
    pub no_color: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Bring up a whole farm on this machine and run one model through it.
    Up(up::UpArgs),
    /// Stop the farm that `up` started on this machine.
    Down(up::StateArgs),
    /// Say what is missing on this machine and how to mend it.
    Doctor(doctor::DoctorArgs),
    /// Bring the database's schema to this build's.
    Migrate(migrate::MigrateArgs),
    /// Models of the catalogue.
    #[command(subcommand, visible_alias = "model")]
    Models(commands::models::ModelsCommand),
    /// Components over all models.
    #[command(subcommand, visible_alias = "component")]
    Components(commands::components::ComponentsCommand),
    /// Make a model of another layout or type, with another VAE or LoRAs baked in.
    Convert(commands::convert::ConvertArgs),
    /// Load a model: disk to RAM to a device.
    Load(commands::load::LoadArgs),
    /// Free the device memory of a model.
    Unload(commands::load::UnloadArgs),
    /// Make images of a prompt.
    Generate(commands::generate::GenerateArgs),
    /// Latents to images and back.
    #[command(subcommand)]
    Vae(commands::vae::VaeCommand),
    /// LoRAs and the bases they are for.
    #[command(subcommand, visible_alias = "lora")]
    Loras(commands::loras::LorasCommand),
    /// Assemblies of models, declared once and applied to devices: a base, a VAE, text encoders, a stack of LoRAs.
    #[command(subcommand, visible_alias = "pipeline")]
    Pipelines(commands::pipelines::PipelinesCommand),
    /// Prompts to embeddings.
    Encode(commands::encode::EncodeArgs),
    /// Texts to tokens and back.
    Tokenize(commands::encode::TokenizeArgs),
    /// One step of a UNet.
    #[command(subcommand)]
    Unet(commands::unet::UnetCommand),
    /// Components in RAM.
    #[command(subcommand)]
    Cache(commands::cache::CacheCommand),
    /// Components on devices.
    #[command(subcommand)]
    Vram(commands::vram::VramCommand),
    /// Devices and what they hold.
    #[command(args_conflicts_with_subcommands = true, visible_alias = "device")]
    Devices(commands::devices::DevicesArgs),
    /// Measure a model on a device: loads, first runs, steady state, memory.
    Benchmark(commands::benchmark::BenchmarkArgs),
    /// What was measured so far.
    #[command(subcommand)]
    Benchmarks(commands::benchmark::BenchmarksCommand),
    /// Whose memory it is, on each host: RAM, devices, processes, with the system's own figures.
    Memory(commands::memory::MemoryArgs),
    /// Give memory of a host or device back until a goal is reached, or show how.
    Optimize(commands::memory::OptimizeArgs),
    /// Hosts of the farm.
    #[command(args_conflicts_with_subcommands = true, visible_alias = "host")]
    Hosts(commands::hosts::HostsArgs),
    /// Jobs: what runs, waits and ended.
    #[command(subcommand, visible_alias = "job")]
    Jobs(commands::jobs::JobsCommand),
    /// Print what happens on the farm: to jobs, and what becomes resident or leaves.
    Events(commands::events::EventsArgs),
    /// What is resident where, or where one model is.
    Status(commands::status::StatusArgs),
    /// Watch hosts, devices, running jobs and what is resident, live.
    Top(top::TopArgs),
    /// Look for models on disk and bring the catalogue up to date.
    Scan(commands::scan::ScanArgs),
    /// Print a completion script for a shell.
    Completions(commands::completions::CompletionsArgs),
    /// Tools for people who work on this software.
    #[command(subcommand)]
    Dev(dev::DevCommand),
}

/// Reads a number that is one: JSON has no word for others, and what is left out means something else.
///
/// # Errors
/// What is no number, not a number, or infinite.
pub fn finite(text: &str) -> Result<f64, String> {
    let number: f64 = text.trim().parse().map_err(|error| format!("{error}"))?;
    number.is_finite().then_some(number).ok_or_else(|| format!("`{text}` is no finite number"))
}

/// Whether and how long a command waits for its job.
#[derive(Debug, Clone, Copy, Args)]
pub struct WaitArgs {
    /// Print the job and do not wait for its end.
    #[arg(long)]
    pub no_wait: bool,

    /// Longest wait, e.g. `90s` or `10m`; the job goes on after it.
    #[arg(long, value_parser = parse_seconds, value_name = "TIME", conflicts_with = "no_wait")]
    pub timeout: Option<Duration>,
}

/// Where a job may run.
#[derive(Debug, Clone, Args)]
pub struct PlaceArgs {
    /// `any`, `all`, `host:NAME` or `device:HOST/DEVICE`.
    #[arg(long, group = "place")]
    pub target: Option<Target>,

    /// This device, e.g. `gpu-07/cuda:1`.
    #[arg(long, group = "place", value_name = "HOST/DEVICE")]
    pub device: Option<String>,

    /// This host.
    #[arg(long, group = "place", value_name = "NAME")]
    pub host: Option<String>,

    /// Every suitable place.
    #[arg(long, group = "place")]
    pub all: bool,
}

impl PlaceArgs {
    /// The target, if any was named.
    pub fn target(&self) -> Option<Target> {
        let device = self.device.clone().map(Target::Device);
        let host = self.host.clone().map(Target::Host);
        self.target.clone().or(device).or(host).or(self.all.then_some(Target::All))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn one_place_at_most() {
        let parse = |words: &[&str]| Cli::try_parse_from([&["modelyard", "load", "m"], words].concat());
        assert!(parse(&["--host", "a", "--device", "a/cpu:0"]).is_err());
        let Command::Load(load) = parse(&["--device", "a/cpu:0"]).unwrap().command else { panic!("not load") };
        assert_eq!(load.place.target(), Some(Target::Device("a/cpu:0".into())));
    }
}
