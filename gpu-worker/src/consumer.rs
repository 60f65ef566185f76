//! The apalis workers: one per device and one for the host, each over our backend, as wide as its slots.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use apalis::prelude::{Data, WorkerBuilder, WorkerBuilderExt};
use shared::{
    db::listen::{self, Hints},
    job::backend::{ClaimLane, Claimed, JobBackend},
};

use crate::{attempt, context::Agent, lease::Standing};

/// What the handler needs.
#[derive(Clone)]
struct Work {
    agent: Arc<Agent>,
    standing: Standing,
}

async fn handle(claimed: Claimed, work: Data<Work>) {
    attempt::run(work.agent.clone(), work.standing.clone(), claimed).await;
}

/// Starts a worker for every lane of this host; they claim while the standing admits.
pub fn start(agent: &Arc<Agent>, standing: &Standing, hints: &Hints, host_slots: usize) {
    for device in agent.devices.values() {
        let lane = ClaimLane::Device { host: agent.host.clone(), device: device.id.clone() };
        spawn_worker(agent, standing, hints, device.id.clone(), lane, 1);
    }
    let lane = ClaimLane::Host { host: agent.host.clone() };
    spawn_worker(agent, standing, hints, agent.host.clone(), lane, host_slots);
}

fn spawn_worker(agent: &Arc<Agent>, standing: &Standing, hints: &Hints, name: String, lane: ClaimLane, slots: usize) {
    let work = Work { agent: agent.clone(), standing: standing.clone() };
    let hints = hints.clone();
    agent.tasks.spawn("worker", async move {
        let (running, lease) = (work.agent.running.clone(), work.standing.clone());
        let teller = work.agent.teller.clone();
        let on_claim = Arc::new(move |claimed: &Claimed, asked: Instant| {
            let covered = lease.covers_since(asked);
            if covered {
                running.begin(claimed);
            }
            teller.tell(listen::JOB, claimed.id.to_string());
            covered
        });
        let mut restarts = 0_u32;
        loop {
            let agent = &work.agent;
            let admission = work.standing.admission.subscribe();
            let backend =
                JobBackend::new(agent.pool.clone(), lane.clone(), agent.me, &hints, admission, on_claim.clone());
            let worker = WorkerBuilder::new(format!("{name}#{}.{restarts}", agent.me))
                .backend(backend)
                .data(work.clone())
                .concurrency(slots)
                .build(handle);
            let token = agent.tasks.token().clone();
            let ended = worker
                .run_until(async move {
                    token.cancelled().await;
                    Ok::<(), std::io::Error>(())
                })
                .await;
            if agent.tasks.token().is_cancelled() {
                return;
            }
            // the backend reports no errors, so this is a defect of the runtime or of ours: start over, loudly
            tracing::error!(worker = name, ?ended, "a worker ended; starting another");
            restarts += 1;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    });
}
