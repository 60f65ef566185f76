//! Configuration of the agent: one struct, parsed before anything binds or connects.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use residency::policy::Policy;
use shared::{
    bytes::ByteSize,
    config::{LeaseTiming, Logging, Stores, parse_seconds},
};

/// The agent of one host: claims jobs, keeps weights in RAM, runs one runner process per device.
#[derive(Debug, Clone, Args)]
pub struct AgentConfig {
    /// TOML file with the same keys as the long options.
    #[arg(long)]
    pub config: Option<PathBuf>,

    #[command(flatten)]
    pub stores: Stores,

    #[command(flatten)]
    pub logging: Logging,

    #[command(flatten)]
    pub lease: LeaseTiming,

    /// Name of this host in the farm; the system's host name when absent.
    #[arg(long, env = "MODELYARD_HOST")]
    pub host: Option<String>,

    /// A folder of models, `NAME=PATH`; may be given several times. Roots with the same name on two hosts hold the same library.
    #[arg(long = "root", value_parser = parse_root)]
    pub roots: Vec<Root>,

    /// Bytes of RAM for resident components; two fifths of the available memory when absent.
    #[arg(long)]
    pub ram_budget: Option<ByteSize>,

    /// How components are chosen that leave RAM when room is needed: `cost` (least expected reload seconds per byte) or `lru`.
    #[arg(long, default_value = "cost")]
    pub ram_policy: Policy,

    /// With `cost`: a component that was used again and came back less than this ago goes after all others.
    #[arg(long, default_value = "30", value_parser = parse_seconds)]
    pub ram_min_age: Duration,

    /// How long components stay in RAM after their last use when a request does not say; until they are evicted when absent.
    #[arg(long, value_parser = parse_seconds)]
    pub ram_keep_alive: Option<Duration>,

    /// As `--ram-policy`, for components that leave a device. `--ram-min-age` holds there, too.
    #[arg(long, default_value = "cost")]
    pub vram_policy: Policy,

    /// Most bytes of variants, which are copies of components with LoRAs in them, on each device; those in use stay all the
    /// same. `0`: no bound but the device's memory; a quarter of that when absent.
    #[arg(long)]
    pub variant_budget: Option<ByteSize>,

    /// Memory of the machine, or of the control group, that is left to others: components are evicted from RAM, then from
    /// `cpu:0`, to keep it free. A
    /// 32nd of the memory when absent, at least 64 MiB, at most 2 GiB.
    #[arg(long)]
    pub memory_headroom: Option<ByteSize>,

    /// Folder below which `proc` and `sys` are looked for to see free memory and control groups.
    #[arg(long, default_value = "/")]
    pub system_root: PathBuf,

    /// A device to run: `cpu:0`, `cuda:N`, or `auto` for `cpu:0` and every CUDA device; may be given several times.
    #[arg(long = "device", default_value = "auto")]
    pub devices: Vec<String>,

    /// The devices' management library (NVML); the system's, and only with a CUDA device, when absent.
    #[arg(long)]
    pub nvml_library: Option<PathBuf>,

    /// Bytes of the bounded arena that is the memory of `cpu:0`; two fifths of the available memory when absent.
    #[arg(long)]
    pub cpu_memory: Option<ByteSize>,

    /// A label that jobs may ask for; may be given several times.
    #[arg(long = "label")]
    pub labels: Vec<String>,

    /// Host jobs (scan, cache) at a time.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub slots: u16,

    /// How changes below the roots are seen: by the kernel's events, by walking the roots, or not at all (scans are then
    /// periodic or asked for). `auto` walks where the kernel cannot see, as on network file systems.
    #[arg(long, value_enum, default_value_t = WatchMode::Auto)]
    pub watch: WatchMode,

    /// How long nothing may change before a watch asks for a scan; it does not wait longer than 30 seconds.
    #[arg(long, default_value = "2", value_parser = parse_seconds)]
    pub watch_quiet: Duration,

    /// Time between walks of a root that is watched by walking.
    #[arg(long, default_value = "30", value_parser = parse_seconds)]
    pub watch_poll: Duration,

    /// Threads of a scan that read headers.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub scan_threads: u16,

    /// Most bytes per second that loads of this host read from disk, all together; no limit when absent.
    #[arg(long)]
    pub read_limit: Option<ByteSize>,

    /// A load to which no byte comes from its disk for this long fails, to be tried again; `0`: it waits for ever.
    #[arg(long, default_value = "60", value_parser = parse_seconds)]
    pub io_timeout: Duration,

    /// Most bytes per second that hashing reads: a size, `none` for no limit, `0` for no hashing after scans.
    #[arg(long, default_value = "200MiB")]
    pub hash_limit: HashLimit,

    /// Most bytes of all files that one job leaves.
    #[arg(long, default_value = "1GiB")]
    pub artifact_limit: ByteSize,

    /// How long a stop waits for running jobs before it hands them back.
    #[arg(long, default_value = "60", value_parser = parse_seconds)]
    pub drain_grace: Duration,

    /// How long a start waits for Postgres.
    #[arg(long, default_value = "5", value_parser = parse_seconds)]
    pub store_wait: Duration,

    /// The ONNX Runtime library that runs the models. Without it the folders `onnxruntime` and `../lib` beside this program,
    /// the Python environment of `--python` and the system's loader are asked, in this order.
    #[arg(long, env = "ORT_DYLIB_PATH")]
    pub onnxruntime: Option<PathBuf>,

    /// Folder of a Python environment whose package `onnxruntime` or `onnxruntime-gpu` may run the models.
    #[arg(long)]
    pub python: Option<PathBuf>,

    /// Threads of a run on `cpu:0`; as many as there are processors when absent.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,

    /// A unix socket over which programs of this host get resident weights without a copy; none when absent.
    #[arg(long)]
    pub attach_socket: Option<PathBuf>,

    /// A user id whose programs may attach, beside root and the agent's own; may be given several times.
    #[arg(long = "attach-user")]
    pub attach_users: Vec<u32>,

    /// Address of `/livez`, `/readyz` and `/metrics`.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub ops_listen: SocketAddr,

    /// Written once the agent serves: process id and addresses as JSON.
    #[arg(long)]
    pub ready_file: Option<PathBuf>,
}

/// How changes below the roots are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WatchMode {
    /// By events; by walking where these do not tell everything.
    Auto,
    /// By events, also on network file systems; by walking only while the kernel refuses.
    Inotify,
    /// By walking.
    Poll,
    /// Not.
    Off,
}

/// How much of the disk hashing may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashLimit {
    /// Scans are not followed by hashing; a `hash` job that somebody asks for has no limit.
    Off,
    /// Hashing as fast as it goes.
    Unlimited,
    /// At most so many bytes per second.
    PerSecond(ByteSize),
}

impl HashLimit {
    /// Bytes per second, where limited.
    pub fn rate(self) -> Option<ByteSize> {
        match self {
            Self::PerSecond(size) => Some(size),
            Self::Off | Self::Unlimited => None,
        }
    }
}

impl std::str::FromStr for HashLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::Unlimited),
            "0" => Ok(Self::Off),
            size => size.parse().map(Self::PerSecond).map_err(|error| format!("{error}, or `none`, or `0`")),
        }
    }
}

/// A named folder of models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// Name, equal on hosts that hold the same library.
    pub name: String,
    /// Folder on this host.
    pub path: PathBuf,
}

fn parse_root(text: &str) -> Result<Root, String> {
    let expected = || format!("`{text}` is not a root: write NAME=PATH with an absolute path, e.g. `main=/srv/models`");
    let (name, path) = text.split_once('=').ok_or_else(expected)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let path = PathBuf::from(path);
    if name.is_empty() || !name.chars().all(plain) || !path.is_absolute() {
        return Err(expected());
    }
    Ok(Root { name: name.to_owned(), path })
}

impl AgentConfig {
    /// The host's name in the farm.
    ///
    /// # Errors
    /// A sentence when no usable name is known: it becomes part of device ids and Redis keys.
    pub fn host_name(&self) -> Result<String, String> {
        let system = || rustix::system::uname().nodename().to_string_lossy().into_owned();
        let name = self.host.clone().unwrap_or_else(system);
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > 200 || !name.chars().all(plain) {
            return Err(format!("`{name}` is not a host name: use letters, digits, `-`, `_` and `.`, or set --host"));
        }
        Ok(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashing_is_limited_unlimited_or_off() {
        assert_eq!("none".parse(), Ok(HashLimit::Unlimited));
        assert_eq!("0".parse(), Ok(HashLimit::Off));
        assert_eq!("200MiB".parse::<HashLimit>().unwrap().rate(), Some(ByteSize(200 << 20)));
        assert!("much".parse::<HashLimit>().unwrap_err().contains("`none`"));
    }

    #[test]
    fn a_root_needs_a_plain_name_and_an_absolute_path() {
        assert_eq!(parse_root("main=/srv/m").unwrap(), Root { name: "main".into(), path: "/srv/m".into() });
        for text in ["/srv/m", "=/srv", "a b=/srv", "main=relative"] {
            assert!(parse_root(text).unwrap_err().contains("NAME=PATH"), "{text}");
        }
    }
}
