//! The peer: graphile-worker as installed, driven by `graphile.mjs` in a node process for each pass. It deletes jobs that
//! succeeded, so it has no history to carry.

use std::{path::PathBuf, process::Stdio};

use anyhow::Context;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::process::Command;

/// An installed graphile-worker and its database.
#[derive(Debug)]
pub(crate) struct Graphile {
    dir: PathBuf,
    url: String,
}

#[derive(Deserialize)]
struct Drained {
    seconds: f64,
}

#[derive(Deserialize)]
struct Waited {
    waited_ms: Vec<f64>,
}

#[derive(Deserialize)]
struct Manifest {
    version: String,
}

impl Graphile {
    /// Applies its migrations. `dir` holds `graphile.mjs` and `node_modules`.
    ///
    /// # Errors
    /// When node does not run it.
    pub(crate) async fn create(dir: PathBuf, url: String) -> anyhow::Result<Self> {
        let graphile = Self { dir, url };
        graphile.node::<serde_json::Value>(&["migrate".to_owned()]).await?;
        Ok(graphile)
    }

    /// Its version.
    ///
    /// # Errors
    /// When its manifest cannot be read.
    pub(crate) fn version(&self) -> anyhow::Result<String> {
        let manifest = std::fs::read(self.dir.join("node_modules/graphile-worker/package.json"))?;
        Ok(serde_json::from_slice::<Manifest>(&manifest)?.version)
    }

    /// Seconds from the commit of `jobs` jobs until none is left.
    ///
    /// # Errors
    /// When the pass fails.
    pub(crate) async fn drain(&self, jobs: usize, concurrency: usize) -> anyhow::Result<f64> {
        let drained: Drained = self.node(&["drain".to_owned(), jobs.to_string(), concurrency.to_string()]).await?;
        Ok(drained.seconds)
    }

    /// Milliseconds from the enqueue call to the start of the handler, one job at a time.
    ///
    /// # Errors
    /// When the pass fails.
    pub(crate) async fn latency(&self, samples: usize) -> anyhow::Result<Vec<f64>> {
        let waited: Waited = self.node(&["latency".to_owned(), samples.to_string()]).await?;
        Ok(waited.waited_ms)
    }

    async fn node<T: DeserializeOwned>(&self, arguments: &[String]) -> anyhow::Result<T> {
        let mut command = Command::new("node");
        command.arg(self.dir.join("graphile.mjs")).args(arguments).env("DATABASE_URL", &self.url);
        command.stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true);
        let output = command.output().await.context("cannot run node")?;
        anyhow::ensure!(output.status.success(), "graphile.mjs {} ended with {}", arguments.join(" "), output.status);
        serde_json::from_slice(&output.stdout).context("graphile.mjs answered something else than JSON")
    }
}
