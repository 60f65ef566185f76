//! The API's configuration and the rules that a start must pass before anything binds.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Parser;
use shared::{
    bytes::ByteSize,
    config::{Logging, Stores, parse_seconds},
};

/// Serves the REST API of a modelyard farm.
#[derive(Debug, Parser)]
#[command(name = "modelyard-api", version)]
pub struct Config {
    /// TOML file with any of these options by their long names.
    #[arg(long, env = "MODELYARD_CONFIG")]
    pub config: Option<PathBuf>,

    /// Address of the API.
    #[arg(long, env = "MODELYARD_LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,

    /// File with the bearer token that every request but the health checks must carry.
    #[arg(long, env = "MODELYARD_AUTH_TOKEN_FILE")]
    pub auth_token_file: Option<PathBuf>,

    /// Serve a non-loopback address without a token.
    #[arg(long, env = "MODELYARD_INSECURE_NO_AUTH")]
    pub insecure_no_auth: bool,

    /// Address of `/livez`, `/readyz` and `/metrics`.
    #[arg(long, env = "MODELYARD_OPS_LISTEN", default_value = "127.0.0.1:0")]
    pub ops_listen: SocketAddr,

    /// File to write the addresses to once the API serves.
    #[arg(long, env = "MODELYARD_READY_FILE")]
    pub ready_file: Option<PathBuf>,

    /// How long to wait for Postgres at start.
    #[arg(long, env = "MODELYARD_STORE_WAIT", default_value = "5", value_parser = parse_seconds)]
    pub store_wait: Duration,

    /// How long a stop waits for open requests.
    #[arg(long, env = "MODELYARD_DRAIN_GRACE", default_value = "10", value_parser = parse_seconds)]
    pub drain_grace: Duration,

    /// Most connections served at once; more wait in the listen queue.
    #[arg(long, env = "MODELYARD_MAX_CONNECTIONS", default_value_t = 1024)]
    pub max_connections: usize,

    /// Most bytes of one upload.
    #[arg(long, env = "MODELYARD_UPLOAD_LIMIT", default_value = "256MiB")]
    pub upload_limit: ByteSize,

    /// Most bytes of all uploads together.
    #[arg(long, env = "MODELYARD_UPLOADS_TOTAL", default_value = "8GiB")]
    pub uploads_total: ByteSize,

    /// How long an upload stays, in seconds; one that an active job works on stays longer.
    #[arg(long, env = "MODELYARD_KEEP_UPLOADS", default_value = "86400", value_parser = parse_seconds)]
    pub keep_uploads: Duration,

    /// Postgres and Redis.
    #[command(flatten)]
    pub stores: Stores,

    /// Logging.
    #[command(flatten)]
    pub logging: Logging,
}

/// A configuration that the API refuses to serve with.
#[derive(Debug, thiserror::Error)]
pub enum BadConfig {
    /// Reachable from elsewhere and open to everyone.
    #[error(
        "`{listen}` is not a loopback address: give --auth-token-file, or --insecure-no-auth to serve everyone who can reach it"
    )]
    OpenToAll {
        /// The address asked for.
        listen: SocketAddr,
    },
    /// The token file cannot be read.
    #[error("cannot read the token file `{path}`")]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The token file holds no usable token.
    #[error("the token in `{path}` must be {MIN_TOKEN} or more visible ASCII characters")]
    WeakToken {
        /// The file.
        path: PathBuf,
    },
    /// No connections at all.
    #[error("--max-connections must be at least 1")]
    NoConnections,
    /// A store's URL is not one.
    #[error("a store URL is not usable")]
    StoreUrl(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Shortest token accepted.
const MIN_TOKEN: usize = 16;

impl Config {
    /// The bearer token, if one is configured, after checking that the listen address may be served with it.
    ///
    /// # Errors
    /// [`BadConfig`].
    pub(crate) fn token(&self) -> Result<Option<String>, BadConfig> {
        if self.max_connections == 0 {
            return Err(BadConfig::NoConnections);
        }
        let token = self.auth_token_file.as_deref().map(read_token).transpose()?;
        if token.is_none() && !self.listen.ip().is_loopback() && !self.insecure_no_auth {
            return Err(BadConfig::OpenToAll { listen: self.listen });
        }
        Ok(token)
    }
}

fn read_token(path: &Path) -> Result<String, BadConfig> {
    let text =
        std::fs::read_to_string(path).map_err(|source| BadConfig::TokenFile { path: path.to_path_buf(), source })?;
    let token = text.trim();
    let usable = token.len() >= MIN_TOKEN && token.bytes().all(|byte| byte.is_ascii_graphic());
    if usable { Ok(token.to_owned()) } else { Err(BadConfig::WeakToken { path: path.to_path_buf() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(extra: &[&str]) -> Config {
        let base = ["modelyard-api", "--database-url", "postgres://x/y"];
        Config::try_parse_from(base.iter().chain(extra)).unwrap()
    }

    #[test]
    fn an_open_address_needs_a_token_or_the_flag_that_says_so() {
        assert!(config(&[]).token().unwrap().is_none());
        let open = config(&["--listen", "0.0.0.0:1"]);
        assert!(matches!(open.token(), Err(BadConfig::OpenToAll { .. })));
        assert!(config(&["--listen", "0.0.0.0:1", "--insecure-no-auth"]).token().is_ok());
    }

    #[test]
    fn tokens_are_trimmed_and_must_not_be_short() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let with_file = || config(&["--listen", "[::]:1", "--auth-token-file", path.to_str().unwrap()]).token();
        assert!(matches!(with_file(), Err(BadConfig::TokenFile { .. })));
        std::fs::write(&path, "short\n").unwrap();
        assert!(matches!(with_file(), Err(BadConfig::WeakToken { .. })));
        std::fs::write(&path, "0123456789abcdef\n").unwrap();
        assert_eq!(with_file().unwrap().as_deref(), Some("0123456789abcdef"));
    }
}
