//! The queue bench: the product beside a hand-written SKIP LOCKED + NOTIFY loop and graphile-worker, on one private Postgres,
//! in one run, with interleaved passes, without and with a past of finished jobs. `README.md` in the parent folder has the method.

#[path = "../facts.rs"]
mod facts;
mod graphile;
mod history;
#[path = "../latency.rs"]
mod latency;
mod measure;
mod ours;
mod reference;
mod report;
#[path = "../server.rs"]
mod server;
mod worker;

use std::path::PathBuf;

use clap::Parser;

use graphile::Graphile;
use latency::Latency;
use ours::Ours;
use reference::Reference;
use report::{Drain, Report, Row};
use server::Server;

/// Jobs of the pass that finds out how many a system does in a second.
const PROBE: usize = 600;
const YARDSTICK: &str = "hand-written loop";

/// Measures enqueue → start and no-op jobs per second.
#[derive(Debug, Parser)]
struct Args {
    /// Folder for the private server; removed by the caller.
    #[arg(long)]
    dir: PathBuf,
    /// Folder with `graphile.mjs` and an installed graphile-worker; without it the peer is left out.
    #[arg(long)]
    graphile: Option<PathBuf>,
    /// Finished jobs of the second half.
    #[arg(long, default_value_t = 1_000_000)]
    history: i64,
    /// Jobs at a time.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 16])]
    concurrency: Vec<usize>,
    /// Passes of each kind.
    #[arg(long, default_value_t = 3)]
    passes: usize,
    /// Aimed length of a pass.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Latency samples of each pass.
    #[arg(long, default_value_t = 100)]
    samples: usize,
    /// Only these systems.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// What to log to stderr.
    #[arg(long, default_value = "warn")]
    log: String,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// One of the systems.
enum System {
    Ours(Ours),
    Reference(Reference),
    Graphile(Graphile),
}

impl System {
    fn name(&self) -> &'static str {
        match self {
            Self::Ours(_) => "modelyard",
            Self::Reference(_) => YARDSTICK,
            Self::Graphile(_) => "graphile-worker",
        }
    }

    async fn drain(&self, jobs: usize, concurrency: usize) -> anyhow::Result<f64> {
        match self {
            Self::Ours(system) => system.drain(jobs, concurrency).await,
            Self::Reference(system) => system.drain(jobs, concurrency).await,
            Self::Graphile(system) => system.drain(jobs, concurrency).await,
        }
    }

    async fn latency(&self, samples: usize) -> anyhow::Result<Vec<f64>> {
        match self {
            Self::Ours(system) => system.latency(samples).await,
            Self::Reference(system) => system.latency(samples).await,
            Self::Graphile(system) => system.latency(samples).await,
        }
    }

    /// Gives its connections back before the server ends.
    async fn close(self) {
        if let Self::Ours(system) = self {
            system.close().await;
        }
    }

    /// Empty tables, then this past.
    async fn prepare(&self, history: i64) -> anyhow::Result<()> {
        match self {
            Self::Ours(system) => {
                system.clear().await?;
                if history > 0 { system.add_history(history).await } else { Ok(()) }
            }
            Self::Reference(system) => {
                system.clear().await?;
                if history > 0 { system.add_history(history).await } else { Ok(()) }
            }
            // it keeps nothing of jobs that succeeded
            Self::Graphile(_) => Ok(()),
        }
    }
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    shared::telemetry::init(&args.log, shared::telemetry::LogFormat::Auto)
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(run(&args))?;
    if args.json {
        report.print_json()
    } else {
        report.print();
        Ok(())
    }
}

async fn run(args: &Args) -> anyhow::Result<Report> {
    let machine = facts::facts(&args.dir)?;
    let server = Server::start(&args.dir).await?;
    let systems = systems(args, &server).await?;
    let graphile_worker = systems.iter().find_map(|system| match system {
        System::Graphile(graphile) => Some(graphile.version()),
        _ => None,
    });
    let mut report = Report {
        machine,
        postgres: server.version().to_owned(),
        graphile_worker: graphile_worker.transpose()?,
        rows: Vec::new(),
    };
    for finished in [0, args.history] {
        report.rows.extend(measure(args, &server, &systems, finished).await?);
    }
    for system in systems {
        system.close().await;
    }
    report.relate(YARDSTICK);
    Ok(report)
}

async fn systems(args: &Args, server: &Server) -> anyhow::Result<Vec<System>> {
    let mut systems = vec![
        System::Ours(Ours::create(server.database("bench_modelyard").await?, &args.dir).await?),
        System::Reference(Reference::create(server.database("bench_reference").await?).await?),
    ];
    if let Some(dir) = &args.graphile {
        systems.push(System::Graphile(Graphile::create(dir.clone(), server.database("bench_graphile").await?).await?));
    }
    systems.retain(|system| args.only.is_empty() || args.only.iter().any(|name| system.name().contains(name.as_str())));
    Ok(systems)
}

/// A system with what was measured of it at one number of finished jobs.
struct Subject<'a> {
    system: &'a System,
    widths: Vec<Width>,
    waited_ms: Vec<f64>,
}

/// The passes of one concurrency.
struct Width {
    concurrency: usize,
    jobs: usize,
    jobs_per_second: Vec<f64>,
}

/// All passes at one number of finished jobs, interleaved: a disturbance hits every system.
async fn measure(args: &Args, server: &Server, systems: &[System], finished: i64) -> anyhow::Result<Vec<Row>> {
    let mut subjects = Vec::new();
    for system in systems {
        subjects.push(subject(args, server, system, finished).await?);
    }
    for _ in 0..args.passes {
        for position in 0..args.concurrency.len() {
            for subject in &mut subjects {
                if finished == 0 {
                    subject.system.prepare(0).await?;
                }
                if let Some(width) = subject.widths.get_mut(position) {
                    let seconds = subject.system.drain(width.jobs, width.concurrency).await?;
                    width.jobs_per_second.push(width.jobs as f64 / seconds);
                    tracing::info!(
                        system = subject.system.name(),
                        finished,
                        width.concurrency,
                        width.jobs,
                        seconds,
                        "drain"
                    );
                }
            }
        }
        for subject in &mut subjects {
            subject.waited_ms.extend(subject.system.latency(args.samples).await?);
        }
    }
    Ok(subjects.into_iter().map(|subject| subject.row(finished)).collect())
}

/// Gives a system its past and finds out how many jobs make a pass of the aimed length.
async fn subject<'a>(args: &Args, server: &Server, system: &'a System, finished: i64) -> anyhow::Result<Subject<'a>> {
    system.prepare(finished).await?;
    // what was written so far goes to disk now and not during a pass
    server.settle().await?;
    let mut widths = Vec::new();
    for concurrency in &args.concurrency {
        let per_second = PROBE as f64 / system.drain(PROBE, *concurrency).await?;
        let jobs = (per_second * args.seconds) as usize;
        widths.push(Width { concurrency: *concurrency, jobs, jobs_per_second: Vec::new() });
    }
    Ok(Subject { system, widths, waited_ms: Vec::new() })
}

impl Subject<'_> {
    fn row(self, finished_jobs: i64) -> Row {
        let drain = |width: Width| Drain::of(width.concurrency, width.jobs_per_second);
        Row {
            system: self.system.name(),
            finished_jobs,
            latency: Latency::of(self.waited_ms),
            drains: self.widths.into_iter().map(drain).collect(),
        }
    }
}
