//! The peers: readers of the Python world in a process that has imported everything before the clock starts.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::Context;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

const SCRIPT: &str = include_str!("peers.py");

/// A waiting Python process.
#[derive(Debug)]
pub(crate) struct Python {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// What it imported.
    pub versions: Versions,
}

/// Versions of the peer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Versions {
    /// torch.
    pub torch: String,
    /// Version of each way that can be asked for.
    pub ways: BTreeMap<String, String>,
}

/// One load.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Loaded {
    /// Seconds until the reader returned.
    pub returned: f64,
    /// Seconds until every page had been read.
    pub touched: f64,
}

impl Python {
    /// Starts it; `interpreter` has torch and safetensors.
    ///
    /// # Errors
    /// When it does not start or import.
    pub(crate) fn start(interpreter: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new(interpreter);
        command.args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot run {}", interpreter.display()))?;
        let input = child.stdin.take().context("no pipe to Python")?;
        let mut output = BufReader::new(child.stdout.take().context("no pipe from Python")?);
        let versions = answer(&mut output)?;
        Ok(Self { child, input, output, versions })
    }

    /// Loads the file in one of the ways of [`Versions::ways`].
    ///
    /// # Errors
    /// When Python fails.
    pub(crate) fn load(&mut self, way: &str, path: &Path) -> anyhow::Result<Loaded> {
        writeln!(self.input, "{way} {}", path.display())?;
        answer(&mut self.output)
    }
}

fn answer<T: DeserializeOwned>(output: &mut impl BufRead) -> anyhow::Result<T> {
    let mut line = String::new();
    output.read_line(&mut line)?;
    serde_json::from_str(&line).context("Python ended or said something else than JSON")
}

impl Drop for Python {
    fn drop(&mut self) {
        // it may have ended by itself
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
