//! A table of examples: one farm, one job, one decision each. The prose is in `README.md`.

use std::time::Duration;

use shared::{
    error::ErrorCode,
    ids::{ComponentId, JobId, ModelId},
    job::{JobKind, Lane},
};

use super::{Decision, Device, Host, PendingJob, Policy, Queue, Snapshot, Tier, place};

const GIB: u64 = 1 << 30;
const POLICY: Policy = Policy { lost_after: Duration::from_secs(120) };

/// Two hosts with one 24 GiB device each and the model on both disks.
struct Example {
    farm: Snapshot,
    job: PendingJob,
}

impl Example {
    fn new(kind: JobKind) -> Self {
        let model = ModelId::generate();
        let mut farm = Snapshot::default();
        for name in ["a", "b"] {
            let queue = Queue { slots: 2, ahead: 2, jobs: 0 };
            let ram = Tier { capacity_bytes: 64 * GIB, ..Tier::default() };
            let roots = ["main".to_owned()].into();
            farm.hosts.insert(name.into(), Host { alive: true, queue, ram, roots, ..Host::default() });
            let queue = Queue { slots: 1, ahead: 2, jobs: 0 };
            let memory = Tier { capacity_bytes: 24 * GIB, ..Tier::default() };
            let device = Device { host: name.into(), queue, memory, ..Device::default() };
            farm.devices.insert(format!("{name}/cuda:0"), device);
            farm.locations.entry(model).or_default().insert(name.into());
        }
        let components = vec![(ComponentId::generate(), 5 * GIB), (ComponentId::generate(), GIB)];
        let job = PendingJob {
            id: JobId::generate(),
            kind,
            lane: kind.usual_lane(),
            pin_host: None,
            pin_device: None,
            need_labels: Vec::new(),
            model: Some(model),
            components,
            through_ram: kind == JobKind::Load,
            copies: false,
            other_models: Vec::new(),
            root: None,
            lost_for: None,
            crashed_on: None,
        };
        Self { farm, job }
    }

    fn host(&mut self, name: &str) -> &mut Host {
        self.farm.hosts.get_mut(name).unwrap()
    }

    fn device(&mut self, name: &str) -> &mut Device {
        self.farm.devices.get_mut(&format!("{name}/cuda:0")).unwrap()
    }

    fn decide(&self) -> Decision {
        place(&self.farm, &self.job, POLICY)
    }

    fn assigned(&self) -> String {
        match self.decide() {
            Decision::Assign { host, device, .. } => device.unwrap_or(host),
            other => panic!("not assigned: {other:?}"),
        }
    }

    fn waits(&self) -> (&'static str, String) {
        match self.decide() {
            Decision::Wait { code, reason } => (code, reason.to_string()),
            other => panic!("does not wait: {other:?}"),
        }
    }

    fn rejected(&self) -> ErrorCode {
        match self.decide() {
            Decision::Reject { error } => error.code,
            other => panic!("not rejected: {other:?}"),
        }
    }
}

#[test]
fn equal_places_are_ordered_by_name() {
    assert_eq!(Example::new(JobKind::Load).assigned(), "a/cuda:0");
    assert_eq!(Example::new(JobKind::CacheAdd).assigned(), "a");
    assert_eq!(Example::new(JobKind::Scan).assigned(), "a");
}

#[test]
fn resident_beats_ram_beats_disk_whatever_the_queue() {
    let mut example = Example::new(JobKind::Load);
    let components = example.job.components.clone();
    example.host("b").ram.promise(&components);
    example.device("b").queue.jobs = 2;
    assert_eq!(example.assigned(), "b/cuda:0", "RAM before disk");
    example.device("a").memory.promise(&components);
    example.device("a").queue.jobs = 2;
    assert_eq!(example.assigned(), "a/cuda:0", "resident before RAM");
}

#[test]
fn what_fits_beats_what_must_evict_and_less_beats_more() {
    let mut example = Example::new(JobKind::Load);
    example.device("a").memory.used_bytes = 20 * GIB;
    example.device("b").queue.jobs = 2;
    assert_eq!(example.assigned(), "b/cuda:0");
    example.device("b").memory.used_bytes = 22 * GIB;
    assert_eq!(example.assigned(), "a/cuda:0", "2 GiB to evict instead of 4");
}

#[test]
fn a_shorter_queue_breaks_a_tie() {
    let mut example = Example::new(JobKind::Load);
    example.device("a").queue.jobs = 1;
    assert_eq!(example.assigned(), "b/cuda:0");
}

#[test]
fn pins_are_obeyed_and_a_dead_host_keeps_its_jobs_waiting() {
    let mut example = Example::new(JobKind::Load);
    example.job.pin_device = Some("b/cuda:0".into());
    assert_eq!(example.assigned(), "b/cuda:0");
    example.host("b").alive = false;
    assert_eq!(example.waits().0, "host_down");
    example.job.pin_device = None;
    assert_eq!(example.assigned(), "a/cuda:0");
}

#[test]
fn a_job_pinned_to_a_dead_host_is_lost_only_after_its_worker_was_lost_for_long() {
    let mut example = Example::new(JobKind::Load);
    example.job.pin_host = Some("b".into());
    example.host("b").alive = false;
    example.job.lost_for = Some(Duration::from_secs(119));
    assert_eq!(example.waits().0, "host_down");
    example.job.lost_for = Some(Duration::from_secs(120));
    assert_eq!(example.rejected(), ErrorCode::WorkerLost);
    example.host("b").alive = true;
    assert_eq!(example.assigned(), "b/cuda:0", "it came back");
    example.host("b").alive = false;
    example.job.pin_host = None;
    assert_eq!(example.assigned(), "a/cuda:0", "an unpinned job goes elsewhere");
}

#[test]
fn a_job_goes_back_to_where_it_crashed_only_when_no_other_place_takes_it() {
    let mut example = Example::new(JobKind::Load);
    let components = example.job.components.clone();
    example.device("a").memory.promise(&components);
    example.job.crashed_on = Some("a/cuda:0".into());
    assert_eq!(example.assigned(), "b/cuda:0", "although all is resident on the other");
    example.job.crashed_on = Some("b/cuda:0".into());
    assert_eq!(example.assigned(), "a/cuda:0");
    example.device("a").not_ready = Some("it is gone".into());
    assert_eq!(example.assigned(), "b/cuda:0", "there is no other");
    let mut read = Example::new(JobKind::CacheAdd);
    read.job.crashed_on = Some("a".into());
    assert_eq!(read.assigned(), "b", "a host is a place, too");
}

#[test]
fn a_full_queue_and_a_draining_host_make_a_job_wait_with_every_obstacle_named() {
    let mut example = Example::new(JobKind::Load);
    example.device("a").queue.jobs = 3;
    example.host("b").draining = true;
    let (code, reason) = example.waits();
    assert_eq!(code, "queue_full");
    assert!(reason.contains("a/cuda:0") && reason.contains("b/cuda:0") && reason.contains("draining"), "{reason}");
}

#[test]
fn what_fits_nowhere_even_empty_is_rejected_with_numbers() {
    let mut example = Example::new(JobKind::Load);
    example.job.components = vec![(ComponentId::generate(), 30 * GIB)];
    example.host("b").alive = false;
    let Decision::Reject { error } = example.decide() else { panic!("too large for both, alive or not") };
    assert_eq!(error.code, ErrorCode::InsufficientCapacity);
    for number in [30 * GIB, 6 * GIB] {
        assert!(error.message.contains(&number.to_string()), "{number} in {}", error.message);
    }
    example.device("b").memory.capacity_bytes = 48 * GIB;
    assert_eq!(example.waits().0, "host_down", "the dead host's device could take it");
}

#[test]
fn a_host_whose_ram_budget_is_too_small_is_refused() {
    let mut example = Example::new(JobKind::Load);
    example.host("a").ram.capacity_bytes = GIB;
    assert_eq!(example.assigned(), "b/cuda:0");
    example.host("b").ram.capacity_bytes = GIB;
    assert_eq!(example.rejected(), ErrorCode::InsufficientCapacity);
}

#[test]
fn a_load_onto_a_device_needs_ram_for_the_largest_of_its_components() {
    let mut example = Example::new(JobKind::Load);
    example.job.components = [3, 2, 3].map(|gib| (ComponentId::generate(), gib * GIB)).into();
    example.host("a").ram.capacity_bytes = 3 * GIB;
    example.host("b").ram.capacity_bytes = 3 * GIB - 1;
    assert_eq!(example.assigned(), "a/cuda:0");
    example.host("a").ram.capacity_bytes -= 1;
    assert_eq!(example.rejected(), ErrorCode::InsufficientCapacity);
    // one that is to stay there needs all of it
    example.host("a").ram.capacity_bytes = 8 * GIB - 1;
    example.job.through_ram = false;
    assert_eq!(example.rejected(), ErrorCode::InsufficientCapacity);
}

#[test]
fn what_is_in_ram_is_held_there_while_it_is_copied() {
    let mut example = Example::new(JobKind::Load);
    let gib = [15, 10, 5].map(|gib| (ComponentId::generate(), gib * GIB));
    example.job.components = gib.into();
    example.device("a").memory.capacity_bytes = 48 * GIB;
    example.host("a").ram.promise(&gib[..1]);
    example.host("a").ram.capacity_bytes = 15 * GIB;
    assert_eq!(example.assigned(), "a/cuda:0");
    example.host("a").ram.capacity_bytes -= 1;
    example.host("b").ram.capacity_bytes = GIB;
    assert_eq!(example.rejected(), ErrorCode::InsufficientCapacity);
    // nothing is read
    example.host("a").ram.promise(&gib);
    assert_eq!(example.assigned(), "a/cuda:0");
}

#[test]
fn memory_that_is_in_use_or_protected_makes_a_job_wait() {
    let mut example = Example::new(JobKind::Load);
    for name in ["a", "b"] {
        example.device(name).memory.used_bytes = 24 * GIB;
        example.device(name).memory.held_bytes = 20 * GIB;
    }
    assert_eq!(example.waits().0, "memory_held");
    example.device("b").memory.held_bytes = 10 * GIB;
    assert_eq!(example.assigned(), "b/cuda:0");
}

#[test]
fn a_load_goes_where_the_model_is_on_disk_or_in_ram() {
    let mut example = Example::new(JobKind::Load);
    let components = example.job.components.clone();
    example.farm.locations.clear();
    assert_eq!(example.waits().0, "model_absent");
    example.host("b").ram.promise(&components);
    assert_eq!(example.assigned(), "b/cuda:0");
}

#[test]
fn what_reads_a_model_waits_for_a_host_that_has_yet_to_follow_a_chosen_variant() {
    let kinds = [JobKind::Load, JobKind::Generate, JobKind::Convert, JobKind::CacheAdd, JobKind::RestorePipeline];
    for kind in kinds.into_iter().chain([JobKind::Validate]) {
        let mut example = Example::new(kind);
        // the level that runs it
        example.job.lane = if kind == JobKind::Validate { Lane::Device } else { example.job.lane };
        let model = example.job.model.unwrap();
        example.farm.behind.entry(model).or_default().insert("a".into());
        assert!(example.assigned().starts_with('b'), "{kind}");
        example.job.pin_host = Some("a".into());
        let components = example.job.components.clone();
        example.host("a").ram.promise(&components);
        let (code, reason) = example.waits();
        assert!(code == "variant_pending" && reason.contains("has not scanned the model"), "{kind}: {reason}");
    }
}

#[test]
fn a_corrupt_copy_is_not_read_and_another_one_is() {
    for kind in [JobKind::Load, JobKind::Generate, JobKind::Convert, JobKind::CacheAdd] {
        let mut example = Example::new(kind);
        let model = example.job.model.unwrap();
        example.farm.corrupt.entry(model).or_default().insert("a".into(), "`m` was read with digest `x`".into());
        assert!(example.assigned().starts_with('b'), "{kind}");
        // the other one comes back, or has room, some time
        example.host("b").alive = false;
        let (code, reason) = example.waits();
        assert!(code == "host_down" && reason.contains("file_corrupt") && reason.contains("digest `x`"), "{reason}");
        // it has another file of the work only
        example.farm.locations.get_mut(&model).unwrap().remove("b");
        assert_eq!(example.rejected(), ErrorCode::Corrupt, "{kind}");
        example.farm.locations.get_mut(&model).unwrap().insert("b".into());
        example.host("b").alive = true;
        example.job.pin_host = Some("a".into());
        assert_eq!(example.rejected(), ErrorCode::Corrupt, "{kind}: it may go nowhere else");
    }
}

#[test]
fn what_is_in_memory_is_used_however_its_file_is_and_a_file_is_looked_at_to_say_how_it_is() {
    let mut example = Example::new(JobKind::Generate);
    let model = example.job.model.unwrap();
    for name in ["a", "b"] {
        example.farm.corrupt.entry(model).or_default().insert(name.into(), "bad".into());
    }
    assert_eq!(example.rejected(), ErrorCode::Corrupt);
    let components = example.job.components.clone();
    // work that is given there, or under way, has not read it yet
    example.host("b").ram.promise(&components);
    assert_eq!(example.rejected(), ErrorCode::Corrupt, "promised");
    for (id, bytes) in &components {
        example.device("b").memory.enter(*id, *bytes, false);
    }
    assert_eq!(example.rejected(), ErrorCode::Corrupt, "on its way");
    example.host("b").ram.enter(components[0].0, components[0].1, true);
    assert_eq!(example.rejected(), ErrorCode::Corrupt, "the rest would have to be read");
    example.device("b").memory.enter(components[1].0, components[1].1, true);
    assert_eq!(example.assigned(), "b/cuda:0");
    // a conversion reads files, whatever is in memory
    example.job.kind = JobKind::Convert;
    assert_eq!(example.rejected(), ErrorCode::Corrupt);
    for kind in [JobKind::Validate, JobKind::Hash, JobKind::Scan, JobKind::Tokenize] {
        let mut look = Example::new(kind);
        look.farm.corrupt = std::mem::take(&mut example.farm.corrupt);
        look.job.model = Some(model);
        look.farm.locations.insert(model, ["a".to_owned(), "b".to_owned()].into());
        assert_eq!(look.assigned(), "a", "{kind}");
        example.farm.corrupt = look.farm.corrupt;
    }
}

#[test]
fn a_copy_of_a_corrupt_file_is_not_written_and_a_side_car_is() {
    let mut example = Example::new(JobKind::MetadataWrite);
    let model = example.job.model.unwrap();
    example.farm.corrupt.entry(model).or_default().insert("a".into(), "bad".into());
    assert_eq!(example.assigned(), "a");
    example.job.copies = true;
    assert_eq!(example.assigned(), "b");
    example.job.pin_host = Some("a".into());
    assert_eq!(example.rejected(), ErrorCode::Corrupt);
}

#[test]
fn work_that_is_placed_on_a_corrupt_copy_draws_no_more_there() {
    let mut example = Example::new(JobKind::Load);
    let (model, first) = (example.job.model.unwrap(), example.job.clone());
    example.farm.assign(&first, "a", Some("a/cuda:0"));
    example.farm.corrupt.entry(model).or_default().insert("a".into(), "bad".into());
    assert_eq!(example.assigned(), "b/cuda:0");
}

#[test]
fn a_host_that_cannot_run_models_holds_weights_and_waits_with_what_runs_them() {
    let mut example = Example::new(JobKind::Generate);
    example.host("a").runs_no_models = Some("no library".into());
    assert_eq!(example.assigned(), "b/cuda:0");
    example.host("b").runs_no_models = Some("version 1.10 is too old".into());
    let (code, reason) = example.waits();
    assert!(code == "no_runtime" && reason.contains("no library") && reason.contains("too old"), "{reason}");
    example.job.kind = JobKind::Load;
    assert_eq!(example.assigned(), "a/cuda:0");
}

#[test]
fn labels_of_host_and_device_count_together() {
    let mut example = Example::new(JobKind::Load);
    example.job.need_labels = vec!["fast".into(), "lab".into()];
    assert_eq!(example.waits().0, "labels_missing");
    example.host("b").labels.insert("lab".into());
    example.device("b").labels.insert("fast".into());
    assert_eq!(example.assigned(), "b/cuda:0");
}

#[test]
fn a_scan_goes_to_a_host_with_its_root() {
    let mut example = Example::new(JobKind::Scan);
    example.job.root = Some("extra".into());
    assert_eq!(example.waits().0, "root_absent");
    example.host("b").roots.insert("extra".into());
    assert_eq!(example.assigned(), "b");
}

#[test]
fn places_that_are_not_registered_are_named() {
    let mut example = Example::new(JobKind::Unload);
    example.job.pin_device = Some("c/cuda:9".into());
    let (code, reason) = example.waits();
    assert!(code == "no_place" && reason.contains("c/cuda:9"), "{reason}");
}

#[test]
fn an_assignment_takes_room_so_that_the_next_job_goes_elsewhere() {
    let mut example = Example::new(JobKind::Load);
    let first = example.job.clone();
    example.farm.assign(&first, "a", Some("a/cuda:0"));
    assert_eq!(example.assigned(), "a/cuda:0", "the same weights are on their way there");
    example.job.components = vec![(ComponentId::generate(), 5 * GIB)];
    assert_eq!(example.assigned(), "b/cuda:0");
}

#[test]
fn running_models_needs_all_their_files_and_the_root_of_the_input() {
    for kind in [JobKind::Generate, JobKind::VaeDecode] {
        let mut example = Example::new(kind);
        assert_eq!(example.assigned(), "a/cuda:0");
        // another model's VAE lies on one host only
        let vae = ModelId::generate();
        example.job.other_models = vec![vae];
        assert_eq!(example.waits().0, "model_absent");
        example.farm.locations.entry(vae).or_default().insert("b".into());
        assert_eq!(example.assigned(), "b/cuda:0");
        example.job.root = Some("inputs".into());
        let (_, reason) = example.waits();
        assert!(reason.contains("root_absent") && reason.contains("model_absent"), "{reason}");
        example.host("b").roots.insert("inputs".into());
        assert_eq!(example.assigned(), "b/cuda:0");
    }
    let mut tokens = Example::new(JobKind::Tokenize);
    tokens.job.model = None;
    tokens.job.components.clear();
    assert_eq!(tokens.assigned(), "a", "the vocabulary that ships with agents is everywhere");
}

#[test]
fn what_runs_a_model_goes_where_its_weights_are() {
    let mut example = Example::new(JobKind::Generate);
    let components = example.job.components.clone();
    example.device("b").memory.promise(&components);
    assert_eq!(example.assigned(), "b/cuda:0");
}
