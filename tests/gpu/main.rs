//! Checks a GPU with the product's own device code: the contract, a load through a runner process, copies beside the
//! driver's own. Prints rows of a Markdown table; `tests/gpu/run` puts the table around them.
#![expect(clippy::print_stdout, reason = "printing its results is what this program does")]

mod copy;
mod load;
mod merges;
mod models;
mod share;
mod steps;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use clap::Parser;

/// Checks one CUDA device.
#[derive(Debug, Parser)]
struct Arguments {
    /// `cuda:N`; the first one when absent.
    #[arg(long)]
    device: Option<String>,

    /// The `gpu-worker` program.
    #[arg(long)]
    worker: PathBuf,

    /// MiB to copy and to load.
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u64).range(16..=65_536))]
    mib: u64,

    /// The ONNX Runtime library with the CUDA provider; else as the agent finds it.
    #[arg(long)]
    onnxruntime: Option<PathBuf>,

    /// Folder of a Python environment with `onnxruntime-gpu`.
    #[arg(long)]
    python: Option<PathBuf>,

    /// As the second process of an attach: the handle to open.
    #[arg(long, hide = true, requires = "like")]
    open: Option<String>,

    /// Where the weights begin in it.
    #[arg(long, hide = true, default_value_t = 0)]
    offset: u64,

    /// The file that holds the same bytes.
    #[arg(long, hide = true)]
    like: Option<PathBuf>,

    /// Only says whether there is a device: exit code 0, or 3 and the reason.
    #[arg(long)]
    probe: bool,
}

/// No device.
const NOTHING_HERE: u8 = 3;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let report = engine::probe();
    let Some(first) = report.devices.first() else {
        println!("{}", report.reason.unwrap_or_default());
        return ExitCode::from(NOTHING_HERE);
    };
    if arguments.probe {
        println!("{} of {}", first.name, report.devices.len());
        return ExitCode::SUCCESS;
    }
    let device = arguments.device.clone().unwrap_or_else(|| first.name.clone());
    if let Some((handle, like)) = arguments.open.as_ref().zip(arguments.like.as_ref()) {
        return match share::look(&device, handle, arguments.offset, like) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                println!("{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    // each check opens the device for itself, and a failure of one does not hide the others
    let (worker, mib) = (&arguments.worker, arguments.mib);
    let search = engine::onnx::Search { named: arguments.onnxruntime.clone(), python: arguments.python.clone() };
    let checks: [(&str, &dyn Fn() -> Result<String>); 8] = [
        ("device", &|| facts(&device)),
        ("device contract", &|| contract(&device)),
        ("load: disk → RAM → device, runner process", &|| load::through_a_runner(&device, worker, mib)),
        ("attach: a second process, by handle", &|| load::attached(&device, worker, mib.min(256))),
        ("copies to the device", &|| copy::beside_the_driver(&device, mib)),
        ("models: VAE, CLIP and UNet on the CUDA provider", &|| models::beside_the_cpu(&device, &search)),
        ("variants: LoRAs merged on the device, at full size", &|| merges::at_full_size(&device)),
        ("models: a UNet step at full size", &|| steps::at_full_size(&device, &search)),
    ];
    let mut code = ExitCode::SUCCESS;
    for (name, check) in checks {
        match check() {
            Ok(said) => match said.strip_prefix("skipped: ") {
                Some(reason) => println!("| {name} | skipped | {reason} |"),
                None => println!("| {name} | ok | {said} |"),
            },
            Err(error) => {
                println!("| {name} | **failed** | {error:#} |");
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

fn facts(device: &str) -> Result<String> {
    let open = engine::open(device, 0)?;
    let facts = open.facts();
    let uuid = facts.uuid.as_deref().unwrap_or("no UUID");
    Ok(format!("{}, {uuid}, {} MiB free", facts.product, facts.capacity_bytes >> 20))
}

fn contract(device: &str) -> Result<String> {
    let mut open = engine::open(device, 512 << 20)?;
    match engine::contract::check(open.as_mut()) {
        Ok(()) => Ok("512 MiB, all rules".to_owned()),
        Err(rule) => bail!(rule),
    }
}

/// The number after `cuda:`.
fn ordinal(device: &str) -> Result<usize> {
    let number = device.strip_prefix("cuda:").and_then(|number| number.parse().ok());
    number.with_context(|| format!("`{device}` is no CUDA device"))
}
