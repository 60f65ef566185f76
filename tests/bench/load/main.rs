//! The load bench: one cold file from disk to memory, by a raw direct read, by the product's loader with its digest, and by
//! `safetensors.torch.load_file` and other readers of the Python world, in interleaved passes of one run; then the digest beside `b3sum` and `sha256sum`,
//! and the way from RAM to `cpu:0` beside memcpy.
//! `README.md` in the parent folder has the method.
#![expect(clippy::print_stdout, reason = "printing results is what a bench is for")]

#[path = "../backed.rs"]
mod backed;
mod ballast;
mod cache;
mod copy;
mod digest;
#[path = "../facts.rs"]
mod facts;
mod memory;
mod model;
mod ours;
mod python;
mod raw;

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use ballast::Ballast;
use clap::Parser;
use residency::{Digest, Direct, RamTier};
use serde::Serialize;

/// Measures cold loads.
#[derive(Debug, Parser)]
struct Args {
    /// Folder for the file; removed by the caller.
    #[arg(long)]
    dir: PathBuf,
    /// Interpreter with torch and safetensors, and runai-model-streamer and fastsafetensors if they are to be measured; without it
    /// the peers are left out.
    #[arg(long)]
    python: Option<PathBuf>,
    /// Bytes of the file.
    #[arg(long, default_value_t = 2_000_000_000)]
    bytes: u64,
    /// Passes of each kind.
    #[arg(long, default_value_t = 5)]
    passes: usize,
    /// With memory full of the page cache, instead of free.
    #[arg(long)]
    pressure: bool,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// One way to do it.
#[derive(Debug, Serialize)]
struct Row {
    what: String,
    /// Seconds of each pass.
    seconds: Vec<f64>,
    /// 10⁹ bytes per second of the median pass.
    gb_per_s: f64,
    /// That speed over ours (above 1: faster than we are).
    of_ours: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    machine: facts::Facts,
    file_bytes: u64,
    cold: &'static str,
    peer: Option<python::Versions>,
    load: Vec<Row>,
    digest: Vec<Row>,
    copy: Vec<Row>,
    /// The best raw read's speed is 1.
    of_best_raw: f64,
    /// Memory at the peak of a load beyond the component's bytes.
    beside_bytes: u64,
    /// Bytes of the last load's memory that are in huge pages.
    huge_bytes: u64,
    /// The system's setting of huge pages for memory files.
    shmem_huge_pages: String,
}

const OURS: &str = "modelyard: RAM tier, digest in the same pass";

/// Named series of seconds, in the order of their first pass.
#[derive(Debug, Default)]
struct Series(Vec<(String, Vec<f64>)>);

/// The file and what every load of it must have: the digest of the first one.
struct Subject {
    path: PathBuf,
    runtime: tokio::runtime::Runtime,
    tier: RamTier,
    digest: Option<Digest>,
    beside_bytes: u64,
    huge_bytes: u64,
    /// How the file was made cold.
    cold: &'static str,
    /// As much memory as the file takes, and a quarter more; absent where memory is to be full of the page cache.
    ballast: Option<Ballast>,
}

impl Subject {
    /// Has `work` done with a cold file and memory as it is to be.
    fn cold<T>(&mut self, work: impl FnOnce(&mut Self) -> anyhow::Result<T>) -> anyhow::Result<T> {
        self.cold = cache::drop_pages(&self.path, self.ballast.is_some())?;
        if self.ballast.is_none() {
            memory::fill_page_cache(self.path.parent().unwrap_or(&self.path))?;
        }
        self.with_memory(work)
    }

    /// Has `work` done with memory that nobody has to find first.
    fn with_memory<T>(&mut self, work: impl FnOnce(&mut Self) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let Some(ballast) = self.ballast.take() else { return work(self) };
        ballast.let_go();
        let done = work(self)?;
        self.ballast = Some(ballast_of(&self.path)?);
        Ok(done)
    }

    /// One load by the product; answers its seconds.
    fn load(&mut self, direct: Direct) -> anyhow::Result<f64> {
        let loaded = self.runtime.block_on(ours::load(&self.tier, &self.path, direct))?;
        self.beside_bytes = self.beside_bytes.max(loaded.beside_bytes);
        self.huge_bytes = loaded.huge_bytes;
        let first = *self.digest.get_or_insert(loaded.digest);
        anyhow::ensure!(first == loaded.digest, "two loads of one file have the digests {first} and {}", loaded.digest);
        Ok(loaded.seconds)
    }

    /// From RAM to `cpu:0`, with the memory that was held.
    fn copies(&mut self, passes: usize) -> anyhow::Result<Series> {
        self.ballast = None;
        let lease = self.runtime.block_on(ours::resident(&self.tier, &self.path))?;
        copy::passes(&lease, passes)
    }
}

fn ballast_of(path: &Path) -> anyhow::Result<Ballast> {
    Ballast::take(usize::try_from(std::fs::metadata(path)?.len())? / 4 * 5)
}

impl Series {
    fn add(&mut self, what: &str, seconds: f64) {
        match self.0.iter_mut().find(|(name, _)| name == what) {
            Some((_, passes)) => passes.push(seconds),
            None => self.0.push((what.to_owned(), vec![seconds])),
        }
    }

    /// Beside the way of this name.
    fn rows(self, bytes: u64, ours: &str) -> Vec<Row> {
        let speed = |seconds: &[f64]| bytes as f64 / median(seconds) / 1e9;
        let ours = self.0.iter().find(|(what, _)| what == ours).map_or(f64::NAN, |(_, seconds)| speed(seconds));
        let row = |(what, seconds): (String, Vec<f64>)| {
            let gb_per_s = speed(&seconds);
            Row { what, seconds, gb_per_s, of_ours: gb_per_s / ours }
        };
        self.0.into_iter().map(row).collect()
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let machine = facts::facts(&args.dir)?;
    let path = args.dir.join("bench.safetensors");
    model::write(&path, args.bytes)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let ballast = if args.pressure { None } else { Some(ballast_of(&path)?) };
    let mut subject =
        Subject { path, runtime, tier: ours::tier(), digest: None, beside_bytes: 0, huge_bytes: 0, cold: "", ballast };
    let (mut loads, mut peer) = (Series::default(), None);
    for _ in 0..args.passes {
        // a process of its own for each pass: pages that one still maps cannot be dropped, and the next load would be warm
        let mut python = args.python.as_deref().map(python::Python::start).transpose()?;
        load_pass(&mut subject, python.as_mut(), &mut loads)?;
        peer = python.map(|python| python.versions.clone());
    }
    let mut digests = Series::default();
    for _ in 0..args.passes {
        digest_pass(&mut subject, &mut digests)?;
    }
    let file_bytes = std::fs::metadata(&subject.path)?.len();
    let copies = subject.copies(args.passes)?;
    let load = loads.rows(file_bytes, OURS);
    let best_raw = load.iter().filter(|row| row.what.starts_with("raw")).map(|row| row.of_ours).fold(0.0, f64::max);
    let report = Report {
        machine,
        file_bytes,
        cold: subject.cold,
        peer,
        load,
        digest: digests.rows(file_bytes, OURS),
        copy: copies.rows(file_bytes, copy::OURS),
        of_best_raw: 1.0 / best_raw,
        beside_bytes: subject.beside_bytes,
        huge_bytes: subject.huge_bytes,
        shmem_huge_pages: chosen("/sys/kernel/mm/transparent_hugepage/shmem_enabled"),
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    Ok(())
}

/// The word in brackets of a kernel setting.
fn chosen(path: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or("unknown", |(word, _)| word).to_owned()
}

/// Every way once, each on a cold file.
fn load_pass(subject: &mut Subject, python: Option<&mut python::Python>, loads: &mut Series) -> anyhow::Result<()> {
    for depth in raw::DEPTHS {
        let seconds = subject.cold(|subject| {
            let began = Instant::now();
            raw::read(&subject.path, depth)?;
            Ok(began.elapsed().as_secs_f64())
        })?;
        loads.add(depth.what, seconds);
    }
    loads.add(OURS, subject.cold(|subject| subject.load(Direct::Auto))?);
    let Some(python) = python else { return Ok(()) };
    for way in python.versions.ways.clone().into_keys() {
        let loaded = subject.cold(|subject| python.load(&way, &subject.path))?;
        loads.add(&format!("{way}, every page read once"), loaded.touched);
        loads.add(&format!("{way}, until it returns"), loaded.returned);
    }
    Ok(())
}

/// Every digest once, on a file in the page cache.
fn digest_pass(subject: &mut Subject, digests: &mut Series) -> anyhow::Result<()> {
    std::io::copy(&mut std::fs::File::open(&subject.path)?, &mut std::io::sink())?;
    digests.add(OURS, subject.with_memory(|subject| subject.load(Direct::Off))?);
    for command in [&["b3sum"][..], &["sha256sum"]] {
        if let Some(seconds) = digest::program(command, &subject.path)? {
            digests.add(&command.join(" "), seconds);
        }
    }
    Ok(())
}

fn print(report: &Report) {
    println!("\nLoad: {}; file of {} bytes, {}", report.machine, report.file_bytes, report.cold);
    if let Some(python::Versions { torch, ways }) = &report.peer {
        let ways: Vec<String> = ways.iter().map(|(way, version)| format!("{way} {version}")).collect();
        println!("Peers: torch {torch}, {}", ways.join(", "));
    }
    table("cold file → memory", &report.load);
    println!(
        "\nOurs is {:.2}× the best raw read; beyond the component's bytes a load takes {:.0} MiB at its peak; {:.0} MiB of it were in huge pages (the system's setting for memory files: {}).",
        report.of_best_raw,
        report.beside_bytes as f64 / f64::from(1 << 20),
        report.huge_bytes as f64 / f64::from(1 << 20),
        report.shmem_huge_pages
    );
    table("digest of the file in the page cache", &report.digest);
    table("RAM → `cpu:0`", &report.copy);
}

fn table(title: &str, rows: &[Row]) {
    println!("\n| {title} | seconds (passes) | GB/s | ours is |");
    println!("|---|---|---|---|");
    for row in rows {
        let passes: Vec<String> = row.seconds.iter().map(|seconds| format!("{seconds:.2}")).collect();
        println!("| {} | {} | {:.2} | {:.2}× |", row.what, passes.join(", "), row.gb_per_s, 1.0 / row.of_ours);
    }
}
