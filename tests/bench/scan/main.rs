//! The first listing of a library of ten thousand files and the scan of the same library unchanged, beside a Python loop that
//! opens each file for its keys and metadata.

#[path = "../cpu.rs"]
mod cpu;
#[path = "../facts.rs"]
mod facts;
mod ours;
#[path = "../server.rs"]
mod server;
mod tree;

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;
use clap::Parser;
use serde::{Deserialize, Serialize};

use ours::Scan;
use tree::Likeness;

const SCRIPT: &str = include_str!("safe_open.py");

/// Options.
#[derive(Debug, Parser)]
struct Options {
    /// Folder for the tree and the private server; removed by the caller.
    #[arg(long)]
    dir: PathBuf,

    /// An interpreter that has safetensors and torch; without it the peer is left out.
    #[arg(long)]
    python: Option<PathBuf>,

    /// Single files; diffusers folders come on top.
    #[arg(long, default_value_t = 10_000)]
    files: usize,

    /// Passes of each; the median counts.
    #[arg(long, default_value_t = 3)]
    passes: usize,

    /// One library alone.
    #[arg(long)]
    only: Option<Which>,

    /// Threads that read headers; the agent's default.
    #[arg(long, default_value_t = 4)]
    threads: usize,

    /// Keeps the trees of files, and measures those that are there.
    #[arg(long)]
    keep: bool,

    /// The result as JSON.
    #[arg(long)]
    json: bool,
}

/// Libraries that are measured.
#[derive(Debug, Clone, Copy, PartialEq, clap::ValueEnum)]
enum Which {
    Usual,
    Unlike,
}

/// What the peer says.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Peer {
    seconds: f64,
    /// Seconds of processors.
    cpu: f64,
    files: usize,
    tensors: usize,
    safetensors: String,
    torch: String,
}

#[derive(Debug, Serialize)]
struct Report {
    facts: facts::Facts,
    /// Version of the database server.
    postgres: String,
    /// A library as people have it.
    usual: Option<Library>,
    /// One in which no two headers are alike.
    unlike: Option<Library>,
}

/// One tree, looked at by both.
#[derive(Debug, Serialize)]
struct Library {
    peer: Option<Peer>,
    first: Scan,
    again: Scan,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let facts = facts::facts(&options.dir)?;
    let server = server::Server::start(&options.dir.join("server")).await?;
    let wanted = |which| options.only.is_none_or(|only| only == which);
    let (mut usual, mut unlike) = (None, None);
    if wanted(Which::Usual) {
        usual = Some(measure(&options, &server, "usual", Likeness::Usual).await?);
    }
    if wanted(Which::Unlike) {
        unlike = Some(measure(&options, &server, "unlike", Likeness::None).await?);
    }
    let report = Report { facts, postgres: server.version().to_owned(), usual, unlike };
    print(&report, options.json)
}

/// Makes a tree, looks at it in every pass, and removes it.
async fn measure(
    options: &Options,
    server: &server::Server,
    name: &str,
    likeness: Likeness,
) -> anyhow::Result<Library> {
    let library = options.dir.join(name);
    if !(options.keep && library.exists()) {
        tree::make(&library, options.files, likeness)?;
    }
    let (mut peers, mut firsts, mut agains) = (Vec::new(), Vec::new(), Vec::new());
    for pass in 0..=options.passes {
        let peer = options.python.as_deref().map(|python| peer(python, &library)).transpose()?;
        let pool = ours::catalogue(server.database(&format!("{name}_{pass}")).await?, &library).await?;
        server.settle().await?;
        let first = ours::scan(&pool, &library, options.threads).await?;
        let again = ours::scan(&pool, &library, options.threads).await?;
        pool.close().await;
        // the first pass only brings everything into the page cache
        if pass > 0 {
            peers.extend(peer);
            firsts.push(first);
            agains.push(again);
        }
    }
    if !options.keep {
        std::fs::remove_dir_all(&library)?;
    }
    peers.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    let peer = peers.get(peers.len() / 2).cloned();
    Ok(Library { peer, first: median(firsts)?, again: median(agains)? })
}

fn peer(python: &Path, library: &Path) -> anyhow::Result<Peer> {
    let output = Command::new(python).args(["-c", SCRIPT]).arg(library).output()?;
    anyhow::ensure!(output.status.success(), "Python: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("Python said something else than JSON")
}

fn median(mut scans: Vec<Scan>) -> anyhow::Result<Scan> {
    scans.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    scans.get(scans.len() / 2).copied().context("no pass")
}

fn print(report: &Report, json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        return Ok(writeln!(out, "{}", serde_json::to_string(report)?)?);
    }
    writeln!(out, "Scan: {}; Postgres {}\n", report.facts, report.postgres)?;
    writeln!(
        out,
        "| library in the page cache → listing | seconds | walk | known | read and record | end | CPU | ours is | then texts | CPU |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|---|---|---|---|")?;
    let libraries = [("usual library", &report.usual), ("no two headers alike", &report.unlike)];
    for (title, library) in libraries.iter().filter_map(|(title, library)| library.as_ref().map(|one| (title, one))) {
        table(&mut out, title, library)?;
    }
    let peers = libraries.iter().filter_map(|(_, library)| library.as_ref()?.peer.as_ref());
    for Peer { files, tensors, safetensors, torch, .. } in peers {
        writeln!(out, "\nPeer: safetensors {safetensors}, torch {torch}; {files} files with {tensors} tensors.")?;
    }
    Ok(())
}

fn table(out: &mut impl Write, title: &str, library: &Library) -> anyhow::Result<()> {
    for (name, scan) in [("first scan, recorded", &library.first), ("scan again", &library.again)] {
        let ratio =
            library.peer.as_ref().map(|peer| format!("{:.1}×", peer.seconds / scan.seconds)).unwrap_or_default();
        let Scan { seconds, cpu, walk, known, read, end, texts, texts_cpu, .. } = scan;
        writeln!(
            out,
            "| {title}: modelyard, {name} | {seconds:.2} | {walk:.2} | {known:.2} | {read:.2} | {end:.2} | {cpu:.2} | {ratio} | \
             {texts:.2} | {texts_cpu:.2} |"
        )?;
    }
    if let Some(Peer { seconds, cpu, .. }) = &library.peer {
        writeln!(
            out,
            "| {title}: Python loop, safe_open, keys, metadata | {seconds:.2} | | | | | {cpu:.2} | 1× | | |"
        )?;
    }
    Ok(())
}
