//! Measures one placement decision on a farm of 200 devices and 5,000 resident components; prints microseconds.
#![expect(clippy::print_stdout, reason = "the measurement is the output")]

use std::time::{Duration, Instant};

use modelyard_scheduler::placement::{Decision, Device, Host, PendingJob, Policy, Queue, Snapshot, Tier, place};
use shared::{
    ids::{ComponentId, JobId, ModelId},
    job::{JobKind, Lane},
};

const HOSTS: usize = 50;
const DEVICES_PER_HOST: usize = 4;
const COMPONENTS: usize = 5000;
const ROUNDS: usize = 2000;
const GIB: u64 = 1 << 30;

fn farm(components: &[(ComponentId, u64)], model: ModelId) -> Snapshot {
    let mut farm = Snapshot::default();
    for number in 0..HOSTS {
        let name = format!("gpu-{number:02}");
        let every = |step: usize, from: usize| components.iter().skip(from).step_by(step).copied();
        let ram = Tier { capacity_bytes: 512 * GIB, resident: every(HOSTS, number).collect(), ..Tier::default() };
        let queue = Queue { slots: 2, ahead: 2, jobs: 0 };
        farm.hosts.insert(name.clone(), Host { alive: true, ram, queue, ..Host::default() });
        farm.locations.entry(model).or_default().insert(name.clone());
        for index in 0..DEVICES_PER_HOST {
            let resident = every(HOSTS * DEVICES_PER_HOST, number * DEVICES_PER_HOST + index).collect();
            let memory = Tier { capacity_bytes: 80 * GIB, used_bytes: 20 * GIB, resident, ..Tier::default() };
            let queue = Queue { slots: 1, ahead: 2, jobs: u32::try_from(index % 3).unwrap_or(0) };
            let device = Device { host: name.clone(), memory, queue, ..Device::default() };
            farm.devices.insert(format!("{name}/cuda:{index}"), device);
        }
    }
    farm
}

fn main() {
    let components: Vec<(ComponentId, u64)> = (0..COMPONENTS).map(|_| (ComponentId::generate(), GIB)).collect();
    let model = ModelId::generate();
    let farm = farm(&components, model);
    let policy = Policy { lost_after: Duration::from_secs(120) };
    let mut micros = Vec::with_capacity(ROUNDS);
    let mut assigned = 0;
    for round in 0..ROUNDS {
        let job = PendingJob {
            id: JobId::generate(),
            kind: JobKind::Load,
            lane: Lane::Device,
            pin_host: None,
            pin_device: None,
            need_labels: Vec::new(),
            model: Some(model),
            components: components.iter().cycle().skip(round * 7).take(5).copied().collect(),
            through_ram: true,
            copies: false,
            other_models: Vec::new(),
            root: None,
            lost_for: None,
            crashed_on: None,
        };
        let began = Instant::now();
        let decision = place(&farm, &job, policy);
        micros.push(began.elapsed().as_secs_f64() * 1e6);
        assigned += usize::from(matches!(decision, Decision::Assign { .. }));
    }
    micros.sort_by(f64::total_cmp);
    let at = |fraction: f64| micros.get((fraction * (ROUNDS - 1) as f64) as usize).copied().unwrap_or_default();
    println!(
        "{} devices, {COMPONENTS} components, {assigned}/{ROUNDS} assigned: p50 {:.0} us, p99 {:.0} us, max {:.0} us",
        HOSTS * DEVICES_PER_HOST,
        at(0.5),
        at(0.99),
        at(1.0)
    );
}
