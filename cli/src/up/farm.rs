//! The three daemons of a farm on one machine.

use std::{
    ffi::OsString,
    io,
    net::TcpListener,
    path::{Path, PathBuf},
};

use serde::Serialize;
use shared::{error::ErrorCode, ready::Ready};

use super::{
    daemon::{Came, Record, Wanted},
    options::{Settings, UpArgs},
    state::{State, cannot},
};
use crate::{doctor::bundled_onnxruntime, error::CliError, output::Output};

/// Longest path of a unix socket, without its end.
const SOCKET_PATH_BYTES: usize = 107;

/// Addresses of the stores; they hold passwords.
pub(super) struct StoreUrls {
    pub(super) database: String,
    pub(super) redis: Option<String>,
}

/// A farm that serves.
#[derive(Debug, Serialize)]
pub(super) struct Farm {
    /// Address of the API.
    pub(super) url: String,
    /// Where the API's token is.
    pub(super) token_file: Option<PathBuf>,
    /// Where programs of this machine attach to weights.
    pub(super) attach_socket: Option<PathBuf>,
    pub(super) daemons: Vec<Running>,
}

/// A daemon that serves.
#[derive(Debug, Serialize)]
pub(super) struct Running {
    pub(super) name: &'static str,
    pub(super) pid: u32,
    pub(super) came: Came,
    /// Address of its health checks and metrics.
    pub(super) ops: String,
    pub(super) log: PathBuf,
}

impl Farm {
    /// Makes API, scheduler and agent run as wanted, one after the other.
    pub(super) async fn ensure(
        args: &UpArgs,
        settings: &Settings,
        state: &State,
        urls: &StoreUrls,
        output: Output,
    ) -> Result<Self, CliError> {
        let attach = Some(state.run_file("attach.sock")).filter(|path| path.as_os_str().len() <= SOCKET_PATH_BYTES);
        let (folder, token_file) = (programs_folder()?, token_file(args, settings)?);
        let maker = Maker { args, settings, urls, folder, token_file: token_file.clone(), attach: attach.clone() };
        let mut farm = Self { url: String::new(), token_file, attach_socket: attach, daemons: Vec::new() };
        for wanted in [maker.api(), maker.scheduler(), maker.agent()] {
            let (ready, came) = wanted.ensure(state).await?;
            farm.add(&wanted, ready, came, state, output);
        }
        output.note(match &farm.attach_socket {
            Some(socket) => format!("programs attach over {}", socket.display()),
            None => "no attach socket: the path of the state folder is too long for one".to_owned(),
        });
        Ok(farm)
    }

    fn add(&mut self, wanted: &Wanted, ready: Ready, came: Came, state: &State, output: Output) {
        let how = match came {
            Came::Reused => "runs already",
            Came::Started => "started",
            Came::Replaced => "started anew",
        };
        output.note(format!("{} {how}, pid {}", wanted.name, ready.pid));
        if let Some(url) = ready.listen {
            self.url = url;
        }
        let log = state.log(wanted.name);
        self.daemons.push(Running { name: wanted.name, pid: ready.pid, came, ops: ready.ops, log });
    }
}

struct Maker<'a> {
    args: &'a UpArgs,
    settings: &'a Settings,
    urls: &'a StoreUrls,
    folder: PathBuf,
    token_file: Option<PathBuf>,
    attach: Option<PathBuf>,
}

impl Maker<'_> {
    fn api(&self) -> Wanted {
        let mut arguments = words(["--listen", &self.settings.listen.to_string()]);
        if let Some(file) = &self.token_file {
            arguments.extend(["--auth-token-file".into(), file.clone().into_os_string()]);
        }
        if self.args.insecure_no_auth {
            arguments.push("--insecure-no-auth".into());
        }
        self.wanted("api", "modelyard-api", arguments)
    }

    fn scheduler(&self) -> Wanted {
        self.wanted("scheduler", "modelyard-scheduler", Vec::new())
    }

    fn agent(&self) -> Wanted {
        let mut arguments = words(["agent"]);
        for (name, folder) in &self.settings.roots {
            let mut root = OsString::from(format!("--root={name}="));
            root.push(folder);
            arguments.push(root);
        }
        for device in &self.args.devices {
            arguments.extend(words(["--device", device]));
        }
        let sizes = [("--ram-budget", self.args.ram_budget), ("--cpu-memory", self.args.cpu_memory)];
        for (name, size) in sizes.into_iter().filter_map(|(name, size)| size.map(|size| (name, size))) {
            arguments.extend(words([name, &size.0.to_string()]));
        }
        if let Some(host) = &self.args.host {
            arguments.extend(words(["--host", host]));
        }
        if let Some(socket) = &self.attach {
            arguments.extend(["--attach-socket".into(), socket.clone().into_os_string()]);
        }
        if let Some(library) = self.args.onnxruntime.clone().or_else(bundled_onnxruntime) {
            arguments.extend(["--onnxruntime".into(), library.into_os_string()]);
        }
        self.wanted("agent", "gpu-worker", arguments)
    }

    fn wanted(&self, name: &'static str, program: &str, arguments: Vec<OsString>) -> Wanted {
        let environment = vec![
            ("DATABASE_URL", Some(self.urls.database.clone())),
            ("REDIS_URL", self.urls.redis.clone()),
            // these would reach every daemon and make them fight for one address or file
            ("MODELYARD_OPS_LISTEN", None),
            ("MODELYARD_READY_FILE", None),
            ("MODELYARD_CONFIG", None),
        ];
        Wanted { name, program: self.folder.join(program), arguments, environment, tied: self.args.once }
    }
}

/// What can be refused before anything starts: an address that is taken or open to everyone, a missing token.
pub(super) fn check(args: &UpArgs, settings: &Settings, state: &State) -> Result<(), CliError> {
    token_file(args, settings)?;
    let listen = settings.listen;
    let ours = Record::find(state, "api")?.is_some_and(|record| record.alive());
    if ours || listen.port() == 0 {
        return Ok(());
    }
    match TcpListener::bind(listen) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Err(CliError::failed(ErrorCode::Conflict, format!("{listen} is in use by another program"))
                .hint("choose another address with --listen HOST:PORT (port 0: any free one)"))
        }
        Err(error) => Err(CliError::failed(ErrorCode::InvalidArgument, format!("cannot listen on {listen}: {error}"))),
    }
}

fn words<'a>(words: impl IntoIterator<Item = &'a str>) -> Vec<OsString> {
    words.into_iter().map(OsString::from).collect()
}

/// The daemons are beside this program.
fn programs_folder() -> Result<PathBuf, CliError> {
    let program = std::env::current_exe().map_err(|error| cannot("find", Path::new("this program"), &error))?;
    Ok(program.parent().map(Path::to_path_buf).unwrap_or_default())
}

fn token_file(args: &UpArgs, settings: &Settings) -> Result<Option<PathBuf>, CliError> {
    if let Some(file) = &args.auth_token_file {
        return file.canonicalize().map(Some).map_err(|error| cannot("read", file, &error));
    }
    if settings.listen.ip().is_loopback() || args.insecure_no_auth {
        return Ok(None);
    }
    Err(CliError::Usage(format!(
        "{} can be reached from elsewhere: give --auth-token-file FILE, or --insecure-no-auth to serve everyone",
        settings.listen
    )))
}
