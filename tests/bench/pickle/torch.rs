//! The peer: a Python process that has imported torch before the clock starts; it also makes the checkpoints.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::Context;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::Container;

const SCRIPT: &str = include_str!("torch_load.py");

/// A waiting Python process.
#[derive(Debug)]
pub(crate) struct Torch {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// Version of torch.
    pub version: String,
}

#[derive(Debug, Deserialize)]
struct Hello {
    torch: String,
}

/// A checkpoint as it was made.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Made {
    /// Tensors in it.
    pub tensors: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// One load, in seconds on the clock and of processors.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Loaded {
    /// Until `torch.load` returned.
    pub returned: f64,
    /// The same, of processors.
    pub returned_cpu: f64,
    /// Until every page had been read.
    pub touched: f64,
    /// The same, of processors.
    pub touched_cpu: f64,
}

impl Torch {
    /// Starts it.
    ///
    /// # Errors
    /// When it does not start or import.
    pub(crate) fn start(interpreter: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new(interpreter);
        command.args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot run {}", interpreter.display()))?;
        let input = child.stdin.take().context("no pipe to Python")?;
        let mut output = BufReader::new(child.stdout.take().context("no pipe from Python")?);
        let Hello { torch } = answer(&mut output)?;
        Ok(Self { child, input, output, version: torch })
    }

    /// Makes a checkpoint of about `bytes` bytes.
    ///
    /// # Errors
    /// When Python fails.
    pub(crate) fn make(&mut self, path: &Path, container: Container, bytes: u64) -> anyhow::Result<Made> {
        self.ask(&json!({ "path": path, "size": bytes, "legacy": container == Container::Legacy }))
    }

    /// Loads one.
    ///
    /// # Errors
    /// When Python fails.
    pub(crate) fn load(&mut self, path: &Path, mmap: bool) -> anyhow::Result<Loaded> {
        self.ask(&json!({ "path": path, "mmap": mmap }))
    }

    fn ask<T: DeserializeOwned>(&mut self, order: &Value) -> anyhow::Result<T> {
        writeln!(self.input, "{order}")?;
        answer(&mut self.output)
    }
}

fn answer<T: DeserializeOwned>(output: &mut impl BufRead) -> anyhow::Result<T> {
    let mut line = String::new();
    output.read_line(&mut line)?;
    serde_json::from_str(&line).context("Python ended or said something else than JSON")
}

impl Drop for Torch {
    fn drop(&mut self) {
        // it may have ended by itself
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
