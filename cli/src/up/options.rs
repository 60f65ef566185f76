//! Options of `up` and `down`, and what a later `up` remembers of an earlier one.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use clap::Args;
use serde::{Deserialize, Serialize};
use shared::{bytes::ByteSize, error::ErrorCode};

use super::{Homes, library, state::State};
use crate::{error::CliError, output::Output};

/// Default address of the API.
const LISTEN: &str = "127.0.0.1:8080";

/// Which farm of this machine.
#[derive(Debug, Clone, Args)]
pub struct StateArgs {
    /// Folder with everything of this farm; /var/lib/modelyard for root, else $XDG_STATE_HOME/modelyard or
    /// ~/.local/state/modelyard.
    #[arg(long, env = "MODELYARD_STATE", hide_env_values = true, value_name = "DIR")]
    state: Option<PathBuf>,

    #[command(flatten)]
    homes: Homes,
}

impl StateArgs {
    /// The folder, absolute.
    pub(crate) fn folder(&self) -> Result<PathBuf, CliError> {
        let folder = match &self.state {
            Some(folder) => folder.clone(),
            None if rustix::process::geteuid().is_root() => PathBuf::from("/var/lib/modelyard"),
            None => self.user_folder()?,
        };
        std::path::absolute(&folder).map_err(|error| {
            CliError::failed(ErrorCode::InvalidArgument, format!("`{}` is not a folder: {error}", folder.display()))
        })
    }

    fn user_folder(&self) -> Result<PathBuf, CliError> {
        let base = self.homes.xdg_state_home.clone().filter(|base| base.is_absolute());
        let base = base.or_else(|| std::env::home_dir().map(|home| home.join(".local/state")));
        base.map(|base| base.join("modelyard"))
            .ok_or_else(|| CliError::Usage("there is no home folder: name a state folder with --state DIR".to_owned()))
    }
}

/// Options of `up`.
#[derive(Debug, Clone, Args)]
pub struct UpArgs {
    #[command(flatten)]
    pub(super) state: StateArgs,

    /// Folder of models; may be given several times. Default: that of the last `up` here, at first a small library that
    /// is made in the state folder.
    #[arg(long, value_name = "DIR")]
    pub(super) models: Vec<PathBuf>,

    /// Address of the API. Default: that of the last `up` here, at first 127.0.0.1:8080.
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) listen: Option<SocketAddr>,

    /// Keep the farm running in the background after the main job (the default).
    #[arg(long, conflicts_with = "once")]
    keep: bool,

    /// Stop the farm after the main job, also when it failed.
    #[arg(long)]
    pub(super) once: bool,

    /// Only bring the farm up and scan; run no main job.
    #[arg(long, conflicts_with = "once")]
    pub(super) no_job: bool,

    /// Model that the main job loads, by name; the smallest checkpoint when absent.
    #[arg(long, value_name = "NAME")]
    pub(super) model: Option<String>,

    /// Stop the farm of this state folder instead.
    #[arg(long, group = "mode")]
    down: bool,

    /// Say what runs instead.
    #[arg(long, group = "mode")]
    status: bool,

    /// Stop the farm and delete its state folder instead.
    #[arg(long, group = "mode")]
    purge: bool,

    /// Postgres to use instead of a private one.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub(super) database_url: Option<String>,

    /// Redis to use instead of a private one.
    #[arg(long, env = "REDIS_URL", hide_env_values = true, value_name = "URL")]
    pub(super) redis_url: Option<String>,

    /// File with the bearer token that the API asks for.
    #[arg(long, value_name = "FILE")]
    pub(super) auth_token_file: Option<PathBuf>,

    /// Let everyone who reaches a non-loopback address use the API.
    #[arg(long)]
    pub(super) insecure_no_auth: bool,

    /// Name of this host in the farm; the system's host name when absent.
    #[arg(long, value_name = "NAME")]
    pub(super) host: Option<String>,

    /// Device to run: `cpu:0`, `cuda:N` or `auto`; may be given several times.
    #[arg(long = "device", value_name = "DEVICE")]
    pub(super) devices: Vec<String>,

    /// RAM for resident components, e.g. `24GiB`; two fifths of the available memory when absent.
    #[arg(long, value_name = "SIZE")]
    pub(super) ram_budget: Option<ByteSize>,

    /// Memory of the device `cpu:0`; two fifths of the available memory when absent.
    #[arg(long, value_name = "SIZE")]
    pub(super) cpu_memory: Option<ByteSize>,

    /// The ONNX Runtime library.
    #[arg(long, env = "ORT_DYLIB_PATH", hide_env_values = true, value_name = "FILE")]
    pub(super) onnxruntime: Option<PathBuf>,
}

/// What `up` was asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Up,
    Down,
    Status,
    Purge,
}

impl UpArgs {
    pub(super) fn mode(&self) -> Mode {
        match (self.down, self.status, self.purge) {
            (true, ..) => Mode::Down,
            (_, true, _) => Mode::Status,
            (_, _, true) => Mode::Purge,
            _ => Mode::Up,
        }
    }

    /// What can be refused before anything starts.
    pub(super) fn check(&self) -> Result<(), CliError> {
        for folder in &self.models {
            if !folder.is_dir() {
                let message = format!("there is no folder {} to find models in", folder.display());
                return Err(CliError::failed(ErrorCode::NotFound, message).hint("give --models an existing folder"));
            }
        }
        Ok(())
    }
}

/// The settings that a later `up` without flags takes over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Settings {
    /// Address of the API as asked for; port 0 stays 0.
    pub(super) listen: SocketAddr,
    /// Name and folder of each root.
    pub(super) roots: Vec<(String, PathBuf)>,
}

impl Settings {
    /// Flags, else the last `up`'s, else the defaults; makes the small library when there is none to use.
    pub(super) fn resolve(args: &UpArgs, state: &State, output: Output) -> Result<Self, CliError> {
        let last: Option<Self> = state.read("settings.json")?;
        let listen = match (args.listen, &last) {
            (Some(listen), _) => listen,
            (None, Some(last)) => last.listen,
            (None, None) => LISTEN.parse().unwrap_or(SocketAddr::from(([127, 0, 0, 1], 8080))),
        };
        let mut roots = named(&args.models)?;
        if roots.is_empty() {
            roots = last.map(|last| last.roots).unwrap_or_default();
            roots.retain(|(_, folder)| folder.is_dir());
        }
        if roots.is_empty() {
            roots = vec![("models".to_owned(), library::ensure(state, output)?)];
        }
        Ok(Self { listen, roots })
    }

    pub(super) fn remember(&self, state: &State) -> Result<(), CliError> {
        state.write("settings.json", self)
    }
}

/// Root names from the folders' names; equal ones get a number.
fn named(folders: &[PathBuf]) -> Result<Vec<(String, PathBuf)>, CliError> {
    let mut roots: Vec<(String, PathBuf)> = Vec::new();
    for folder in folders {
        let folder = folder.canonicalize().map_err(|error| {
            CliError::failed(ErrorCode::NotFound, format!("cannot use the folder {}: {error}", folder.display()))
        })?;
        let base = root_name(&folder);
        let taken = |name: &str| roots.iter().any(|(other, _)| other == name);
        let name = std::iter::once(base.clone())
            .chain((2..).map(|number| format!("{base}-{number}")))
            .find(|name| !taken(name))
            .unwrap_or(base);
        roots.push((name, folder));
    }
    Ok(roots)
}

fn root_name(folder: &Path) -> String {
    let text = folder.file_name().unwrap_or_default().to_string_lossy();
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let name: String = text.chars().map(plain).collect();
    if name.chars().any(char::is_alphanumeric) { name } else { "models".to_owned() }
}

/// How this program was called, for commands to try next; short where the current folder allows it.
pub(super) fn program() -> String {
    let called = std::env::args_os().next().map_or_else(|| PathBuf::from("modelyard"), PathBuf::from);
    let here = std::env::current_dir().unwrap_or_default();
    called.strip_prefix(&here).unwrap_or(&called).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_names_are_plain_and_distinct() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(&path).unwrap();
            path
        };
        let folders = [make("a/my models"), make("b/my models"), make("sd")];
        let names: Vec<String> = named(&folders).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["my-models", "my-models-2", "sd"]);
        assert_eq!(root_name(Path::new("/")), "models");
    }
}
