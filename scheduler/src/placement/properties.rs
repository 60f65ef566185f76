//! Properties that hold for every farm and job, over generated ones.

use std::time::Duration;

use proptest::{collection::vec, option, prelude::*, sample::subsequence};
use shared::{
    ids::{ComponentId, JobId, ModelId},
    job::{JobKind, Lane},
};

use super::{Decision, Device, Host, PendingJob, Policy, Queue, Snapshot, Tier, place};

const POLICY: Policy = Policy { lost_after: Duration::from_secs(60) };

fn id<T: std::str::FromStr>(number: u8) -> T
where
    T::Err: std::fmt::Debug,
{
    format!("01JD9Z8M3V6Q2X4K7T5R1W0Y{number:02}").parse().unwrap()
}

fn labels() -> impl Strategy<Value = Vec<String>> {
    subsequence(vec!["x".to_owned(), "y".to_owned()], 0..=2)
}

fn queue() -> impl Strategy<Value = Queue> {
    (1u32..3, 0u32..3, 0u32..5).prop_map(|(slots, ahead, jobs)| Queue { slots, ahead, jobs })
}

fn tier() -> impl Strategy<Value = Tier> {
    let resident = vec((prop::bool::ANY, prop::bool::ANY), 6);
    (0u64..60, 0u64..60, 0u64..30, resident).prop_map(|(capacity_bytes, used_bytes, held_bytes, resident)| {
        let mut tier = Tier {
            capacity_bytes,
            used_bytes: used_bytes.min(capacity_bytes),
            held_bytes: held_bytes.min(used_bytes).min(capacity_bytes),
            ..Tier::default()
        };
        for (number, (is_resident, is_ready)) in (0u8..).zip(resident) {
            if is_resident {
                tier.enter(id::<ComponentId>(number), 10, is_ready);
            }
        }
        tier
    })
}

fn host() -> impl Strategy<Value = Host> {
    let flags = (prop::bool::weighted(0.8), prop::bool::weighted(0.2), prop::bool::ANY, prop::bool::weighted(0.2));
    (flags, labels(), queue(), tier()).prop_map(|((alive, draining, rooted, without_library), labels, queue, ram)| {
        Host {
            alive,
            draining,
            labels: labels.into_iter().collect(),
            roots: rooted.then(|| "main".to_owned()).into_iter().collect(),
            runs_no_models: without_library.then(|| "no library".to_owned()),
            queue,
            ram,
        }
    })
}

fn device() -> impl Strategy<Value = Device> {
    (prop::bool::weighted(0.2), labels(), queue(), tier()).prop_map(|(lost, labels, queue, memory)| Device {
        host: String::new(),
        not_ready: lost.then(|| "lost".to_owned()),
        labels: labels.into_iter().collect(),
        queue,
        memory,
    })
}

/// Hosts with their devices and whether the one model is on their disk, well or corrupt.
type Rows = Vec<(Host, Vec<Device>, Option<bool>)>;

fn rows() -> impl Strategy<Value = Rows> {
    vec((host(), vec(device(), 0..3), option::weighted(0.7, prop::bool::weighted(0.7))), 1..5)
}

fn farm(rows: &Rows, order: impl Iterator<Item = usize>) -> Snapshot {
    let mut farm = Snapshot::default();
    for number in order {
        let (host, devices, on_disk) = &rows[number];
        let name = format!("h{number}");
        farm.hosts.insert(name.clone(), host.clone());
        if let Some(is_well) = on_disk {
            farm.locations.entry(id::<ModelId>(0)).or_default().insert(name.clone());
            if !is_well {
                farm.corrupt.entry(id::<ModelId>(0)).or_default().insert(name.clone(), "bad".to_owned());
            }
        }
        for (index, device) in devices.iter().enumerate() {
            farm.devices.insert(format!("{name}/d{index}"), Device { host: name.clone(), ..device.clone() });
        }
    }
    farm
}

fn whole(rows: &Rows) -> Snapshot {
    farm(rows, 0..rows.len())
}

fn job() -> impl Strategy<Value = PendingJob> {
    let kind = prop::sample::select(JobKind::ALL.to_vec());
    let components = subsequence((0u8..6).collect::<Vec<_>>(), 0..4);
    let pin = option::weighted(0.3, (0usize..5, 0usize..3));
    // a kind may run in either lane: only the job knows
    let lane = prop::sample::select(vec![Lane::Device, Lane::Host]);
    let crashed = option::weighted(0.3, (0usize..5, 0usize..3));
    ((kind, lane), pin, labels(), components, prop::bool::ANY, (option::weighted(0.2, 0u64..120), crashed)).prop_map(
        |((kind, lane), pin, need_labels, components, rooted, (lost, crashed))| PendingJob {
            id: id::<JobId>(0),
            kind,
            lane,
            pin_host: pin.map(|(host, _)| format!("h{host}")),
            pin_device: pin
                .filter(|(_, device)| lane == Lane::Device && *device > 0)
                .map(|(host, device)| format!("h{host}/d{device}")),
            need_labels,
            model: Some(id::<ModelId>(0)),
            components: components.into_iter().map(|number| (id::<ComponentId>(number), 10)).collect(),
            through_ram: kind == JobKind::Load,
            copies: kind == JobKind::MetadataWrite,
            other_models: Vec::new(),
            root: rooted.then(|| "main".to_owned()),
            lost_for: lost.map(Duration::from_secs),
            crashed_on: crashed.map(|(host, device)| match lane {
                Lane::Device => format!("h{host}/d{device}"),
                _ => format!("h{host}"),
            }),
        },
    )
}

fn places_of(farm: &Snapshot, job: &PendingJob) -> Vec<String> {
    super::model::candidates(farm, job).map(|place| place.name.to_owned()).collect()
}

fn score_of(decision: &Decision) -> Option<(bool, u64, u64, u64, u64)> {
    let Decision::Assign { explanation, .. } = decision else { return None };
    let score = &explanation["score"];
    let locality = ["resident", "ram", "disk"].iter().position(|name| score["locality"] == *name).unwrap();
    let number = |field: &str| score[field].as_u64().unwrap();
    let crashed_here = score["crashed_here"].as_bool().unwrap();
    Some((crashed_here, locality as u64, number("evict_bytes"), number("queue"), number("read_bytes")))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn never_assigns_a_place_that_cannot_take_the_job(rows in rows(), job in job()) {
        let farm = whole(&rows);
        let Decision::Assign { host, device, .. } = place(&farm, &job, POLICY) else { return Ok(()) };
        let at = &farm.hosts[&host];
        prop_assert!(at.alive && !at.draining);
        prop_assert!(job.pin_host.as_ref().is_none_or(|pin| *pin == host));
        prop_assert!(job.pin_device.is_none() || job.pin_device == device);
        let dev = device.as_ref().map(|device| &farm.devices[device]);
        prop_assert_eq!(dev.is_some(), job.lane == Lane::Device);
        for label in &job.need_labels {
            prop_assert!(at.labels.contains(label) || dev.is_some_and(|dev| dev.labels.contains(label)));
        }
        if let Some(dev) = dev {
            prop_assert!(dev.host == host && dev.not_ready.is_none() && dev.queue.has_room());
        } else {
            prop_assert!(at.queue.has_room());
        }
        if job.brings_weights() {
            let tier = dev.map_or(&at.ram, |dev| &dev.memory);
            prop_assert!(job.needs_bytes() <= tier.capacity_bytes);
            prop_assert!(tier.missing(&job.components) <= tier.capacity_bytes - tier.held_bytes);
        }
        prop_assert!(!job.runs_models() || at.runs_no_models.is_none());
        if job.reads_weights() && farm.corrupt_on(&id::<ModelId>(0), &host).is_some() {
            let in_memory = |id| at.ram.ready.contains(id) || dev.is_some_and(|dev| dev.memory.ready.contains(id));
            prop_assert!(job.brings_weights() && job.components.iter().all(|(id, _)| in_memory(id)));
        }
        if job.kind == JobKind::Scan {
            prop_assert!(!at.roots.is_empty());
        }
    }

    #[test]
    fn the_order_of_rows_does_not_matter(rows in rows(), job in job()) {
        let forward = place(&whole(&rows), &job, POLICY);
        let backward = place(&farm(&rows, (0..rows.len()).rev()), &job, POLICY);
        prop_assert_eq!(&forward, &backward);
        prop_assert_eq!(forward, place(&whole(&rows), &job, POLICY));
    }

    #[test]
    fn one_more_host_never_makes_it_worse(rows in rows(), job in job()) {
        let fewer = place(&farm(&rows, 0..rows.len() - 1), &job, POLICY);
        let more = place(&whole(&rows), &job, POLICY);
        if let Some(before) = score_of(&fewer) {
            let after = score_of(&more);
            prop_assert!(after.is_some_and(|after| after <= before), "{:?} became {:?}", fewer, more);
        }
    }

    #[test]
    fn where_it_crashed_is_taken_only_when_the_rest_of_the_farm_takes_it_nowhere(rows in rows(), job in job()) {
        let farm = whole(&rows);
        let decision = place(&farm, &job, POLICY);
        let Decision::Assign { host, device, .. } = &decision else { return Ok(()) };
        let unharmed = PendingJob { crashed_on: None, ..job.clone() };
        prop_assert!(matches!(place(&farm, &unharmed, POLICY), Decision::Assign { .. }), "it hinders nothing");
        if job.crashed_on.as_ref() != Some(device.as_ref().unwrap_or(host)) {
            return Ok(());
        }
        let mut rest = farm;
        match device {
            Some(device) => drop(rest.devices.remove(device)),
            None => drop(rest.hosts.remove(host)),
        }
        let elsewhere = place(&rest, &job, POLICY);
        prop_assert!(!matches!(elsewhere, Decision::Assign { .. }), "{:?} instead of {:?}", decision, elsewhere);
    }

    #[test]
    fn a_waiting_job_names_every_candidate_and_only_those(rows in rows(), job in job()) {
        let farm = whole(&rows);
        let Decision::Wait { reason, .. } = place(&farm, &job, POLICY) else { return Ok(()) };
        let mut named: Vec<String> = reason["obstacles"].as_array().unwrap().iter()
            .flat_map(|obstacle| obstacle["places"].as_array().unwrap())
            .map(|place| place.as_str().unwrap().to_owned())
            .collect();
        named.sort();
        prop_assert_eq!(named, places_of(&farm, &job));
        prop_assert!(reason["code"].is_string() && reason["message"].is_string());
    }

    #[test]
    fn a_rejected_job_could_not_run_on_the_same_farm_empty_and_alive(rows in rows(), job in job()) {
        let mut farm = whole(&rows);
        let Decision::Reject { error } = place(&farm, &job, POLICY) else { return Ok(()) };
        if error.code == shared::error::ErrorCode::WorkerLost {
            prop_assert!(job.lost_for >= Some(POLICY.lost_after) && job.pin_host.is_some());
            return Ok(());
        }
        for host in farm.hosts.values_mut() {
            (host.alive, host.draining, host.queue.jobs) = (true, false, 0);
            (host.ram.used_bytes, host.ram.held_bytes) = (0, 0);
        }
        for device in farm.devices.values_mut() {
            (device.not_ready, device.queue.jobs) = (None, 0);
            (device.memory.used_bytes, device.memory.held_bytes) = (0, 0);
        }
        let again = place(&farm, &job, POLICY);
        prop_assert!(matches!(again, Decision::Reject { .. }), "{:?}", again);
    }
}
