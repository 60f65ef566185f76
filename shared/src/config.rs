//! Configuration groups that two binaries share, and the loader: flags > environment `MODELYARD_…` > TOML file > defaults.
//! Parsed before anything binds or connects; unknown keys are errors.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, Parser, parser::ValueSource};

use crate::telemetry::LogFormat;

/// A configuration that cannot be used; the message names the key.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("`{path}` is not valid TOML")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: toml::de::Error,
    },
    /// A key that no option has.
    #[error("unknown key `{key}` in `{path}`{}", nearest.as_ref().map(|near| format!("; did you mean `{near}`?")).unwrap_or_default())]
    UnknownKey {
        /// The key.
        key: String,
        /// The file.
        path: PathBuf,
        /// The closest known key.
        nearest: Option<String>,
    },
    /// A value that is neither a scalar nor a list of scalars.
    #[error("key `{key}` in `{path}` must be a string, number, boolean or a list of those")]
    BadValue {
        /// The key.
        key: String,
        /// The file.
        path: PathBuf,
    },
    /// What clap says of the arguments.
    #[error(transparent)]
    Usage(#[from] clap::Error),
}

/// Prints why the configuration cannot be used (or the help that was asked for); the exit code of the process.
#[expect(clippy::print_stderr, reason = "the last word of a program that does not start")]
pub fn report(program: &str, error: &ConfigError) -> std::process::ExitCode {
    match error {
        ConfigError::Usage(usage) => {
            // a closed stdout cannot be told anything
            let _ = usage.print();
            std::process::ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(2))
        }
        other => {
            eprintln!("{program}: {}", crate::error::chain(other));
            std::process::ExitCode::from(2)
        }
    }
}

/// Parses a binary's configuration struct from the process's arguments, environment and the TOML file of `--config`.
/// Keys of the file are the long option names; a value of the file counts only where neither flag nor environment set it.
///
/// # Errors
/// Any unusable value, named.
pub fn load<C: Parser>() -> Result<C, ConfigError> {
    load_from(std::env::args_os().collect())
}

/// [`load`] over given arguments.
///
/// # Errors
/// As [`load`].
pub fn load_from<C: Parser>(arguments: Vec<OsString>) -> Result<C, ConfigError> {
    let command = C::command();
    let matches = command.clone().try_get_matches_from(&arguments)?;
    let file: Option<PathBuf> = matches.try_get_one::<PathBuf>("config").ok().flatten().cloned();
    let Some(path) = file else { return Ok(C::from_arg_matches(&matches)?) };

    let mut merged = arguments;
    for (key, value) in read_table(&path)? {
        let argument = command.get_arguments().find(|argument| argument.get_long() == Some(key.as_str()));
        let Some(argument) = argument else { return Err(unknown_key(&command, key, path)) };
        let set = matches!(
            matches.value_source(argument.get_id().as_str()),
            Some(ValueSource::CommandLine | ValueSource::EnvVariable)
        );
        if !set {
            append_arguments(&mut merged, &path, &key, value)?;
        }
    }
    Ok(C::from_arg_matches(&command.try_get_matches_from(merged)?)?)
}

fn read_table(path: &PathBuf) -> Result<toml::Table, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
    text.parse::<toml::Table>().map_err(|source| ConfigError::Parse { path: path.clone(), source })
}

fn append_arguments(
    merged: &mut Vec<OsString>,
    path: &std::path::Path,
    key: &str,
    value: toml::Value,
) -> Result<(), ConfigError> {
    let values = match value {
        toml::Value::Array(values) => values,
        single => vec![single],
    };
    for value in values {
        let text = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Float(number) => number.to_string(),
            toml::Value::Boolean(true) => {
                merged.push(format!("--{key}").into());
                continue;
            }
            toml::Value::Boolean(false) => continue,
            _ => return Err(ConfigError::BadValue { key: key.to_owned(), path: path.to_path_buf() }),
        };
        merged.push(format!("--{key}={text}").into());
    }
    Ok(())
}

fn unknown_key(command: &clap::Command, key: String, path: PathBuf) -> ConfigError {
    let known = command.get_arguments().filter_map(|argument| argument.get_long().map(str::to_owned));
    let nearest = nearest(&key, known);
    ConfigError::UnknownKey { key, path, nearest }
}

/// The candidate closest to `wanted` by edit distance, if it is close enough to be a typing slip.
pub fn nearest(wanted: &str, candidates: impl IntoIterator<Item = String>) -> Option<String> {
    candidates
        .into_iter()
        .map(|candidate| (edit_distance(wanted, &candidate), candidate))
        .filter(|(distance, candidate)| *distance <= wanted.len().max(candidate.len()) / 2)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance over bytes.
pub fn edit_distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.bytes().enumerate() {
        let mut diagonal = i;
        let mut previous = i + 1;
        for (j, b) in right.bytes().enumerate() {
            let above = row.get(j + 1).copied().unwrap_or(usize::MAX);
            let cost = (diagonal + usize::from(a != b)).min(above + 1).min(previous + 1);
            diagonal = above;
            if let Some(cell) = row.get_mut(j) {
                *cell = previous;
            }
            previous = cost;
        }
        if let Some(last) = row.last_mut() {
            *last = previous;
        }
    }
    row.last().copied().unwrap_or(left.len())
}

/// The stores: Postgres is the truth, Redis a view that may vanish.
#[derive(Clone, Args)]
pub struct Stores {
    /// Postgres connection URL.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,

    /// Redis URL for live status; without it status comes from Postgres and is marked stale.
    #[arg(long, env = "REDIS_URL", hide_env_values = true)]
    pub redis_url: Option<String>,

    /// Most connections to Postgres in this process's pool.
    #[arg(long, env = "MODELYARD_DATABASE_CONNECTIONS", default_value_t = 10)]
    pub database_connections: u32,
}

/// A connection URL as it may be shown: without its password.
pub fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let authority_end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(authority_end);
    match authority.rsplit_once('@') {
        Some((user, place)) => {
            let user = user.split(':').next().unwrap_or_default();
            format!("{scheme}://{user}@{place}{tail}")
        }
        None => url.to_owned(),
    }
}

impl std::fmt::Debug for Stores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // URLs may hold passwords
        f.debug_struct("Stores").field("database_connections", &self.database_connections).finish_non_exhaustive()
    }
}

/// Logging.
#[derive(Debug, Clone, Args)]
pub struct Logging {
    /// Log filter, e.g. `info` or `info,shared::db=debug`.
    #[arg(long = "log", env = "RUST_LOG", default_value = "info")]
    pub filter: String,

    /// Log line format.
    #[arg(long, env = "MODELYARD_LOG_FORMAT", value_enum, default_value = "auto")]
    pub log_format: LogFormat,
}

/// The lease timing that every process of one farm must share.
#[derive(Debug, Clone, Copy, Args)]
pub struct LeaseTiming {
    /// Seconds after its last heartbeat at which a worker counts as lost. Heartbeats come at a third of it.
    #[arg(long = "lease-ttl", env = "MODELYARD_LEASE_TTL", default_value = "15", value_parser = parse_seconds)]
    pub ttl: Duration,
}

impl LeaseTiming {
    /// Time between heartbeats.
    pub fn heartbeat(&self) -> Duration {
        self.ttl / 3
    }

    /// Local monotonic time after a good renewal at which a worker must have stopped its jobs (G6):
    /// before anybody else may start them.
    pub fn self_fence_after(&self) -> Duration {
        self.ttl - self.ttl / 5
    }
}

/// Parses `15`, `0.5`, `15s` or `500ms` as a duration.
///
/// # Errors
/// A sentence that says what was expected.
pub fn parse_seconds(text: &str) -> Result<Duration, String> {
    let (number, scale) = match (text.strip_suffix("ms"), text.strip_suffix('s'), text.strip_suffix('m')) {
        (Some(number), _, _) => (number, 0.001),
        (None, Some(number), _) => (number, 1.0),
        (None, None, Some(number)) => (number, 60.0),
        (None, None, None) => (text, 1.0),
    };
    let seconds = number.trim().parse::<f64>().ok().map(|number| number * scale);
    seconds
        .filter(|seconds| seconds.is_finite() && *seconds >= 0.0 && *seconds < 1e9)
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("`{text}` is not a duration: write seconds, e.g. `15`, `0.5`, `500ms`, `2m`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Parser)]
    struct Example {
        #[arg(long)]
        config: Option<PathBuf>,
        #[arg(long, default_value = "127.0.0.1:8080")]
        listen: String,
        #[arg(long)]
        root: Vec<String>,
    }

    fn parse(file: &str, arguments: &[&str]) -> Result<Example, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        std::fs::write(&path, file).unwrap();
        let mut all: Vec<OsString> = vec!["example".into(), "--config".into(), path.into()];
        all.extend(arguments.iter().map(OsString::from));
        load_from(all)
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let config = parse("listen = \"0.0.0.0:1\"\nroot = [\"a\", \"b\"]", &[]).unwrap();
        assert_eq!((config.listen.as_str(), config.root.len()), ("0.0.0.0:1", 2));
        assert_eq!(parse("listen = \"0.0.0.0:1\"", &["--listen", "[::1]:2"]).unwrap().listen, "[::1]:2");
        assert_eq!(parse("", &[]).unwrap().listen, "127.0.0.1:8080");
    }

    #[test]
    fn unknown_keys_are_errors_with_the_nearest_name() {
        let error = parse("lisen = \"x\"", &[]).unwrap_err().to_string();
        assert!(error.contains("unknown key `lisen`") && error.contains("did you mean `listen`?"), "{error}");
    }

    #[test]
    fn durations_parse() {
        assert_eq!(parse_seconds("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_seconds("2m"), Ok(Duration::from_secs(120)));
        assert!(parse_seconds("soon").is_err());
    }

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(without_password("postgres://u:p@w@h:5/d?x=1"), "postgres://u@h:5/d?x=1");
        assert_eq!(without_password("postgres://h/d"), "postgres://h/d");
        assert_eq!(without_password("nonsense"), "nonsense");
    }

    #[test]
    fn edit_distance_is_levenshtein() {
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("", "abc"), 3);
    }
}
