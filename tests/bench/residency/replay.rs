//! Replays a trace against a RAM of so many bytes on a simulated clock.

use std::{collections::HashMap, sync::Arc, time::Duration};

use residency::policy::{
    Candidate,
    bandwidth::{Bandwidth, ReadFrom},
    reuse::Reuse,
};

use crate::{
    chooser::{self, Knowledge, Way},
    library::Library,
    trace::Use,
};

/// What a replay cost.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Outcome {
    pub(crate) reload_seconds: f64,
    pub(crate) hits: u64,
    pub(crate) misses: u64,
}

impl Outcome {
    pub(crate) fn add(&mut self, more: &Self) {
        self.reload_seconds += more.reload_seconds;
        self.hits += more.hits;
        self.misses += more.misses;
    }
}

#[derive(Debug, Clone, Copy)]
struct Resident {
    loaded_at: Duration,
    last_used: Duration,
    hits: u64,
}

struct Replay<'a> {
    library: &'a Library,
    way: Way,
    budget: u64,
    resident: HashMap<usize, Resident>,
    used: u64,
    reuse: Reuse,
    bandwidth: Bandwidth,
    knowledge: Knowledge,
    frequency: HashMap<usize, f64>,
    outcome: Outcome,
}

/// The cost of a trace. A model that is used holds all its components until they are there.
pub(crate) fn run(library: &Library, trace: &[Use], way: Way, budget: u64) -> Outcome {
    let mut replay = Replay {
        library,
        way,
        budget,
        resident: HashMap::new(),
        used: 0,
        reuse: Reuse::default(),
        bandwidth: Bandwidth::default(),
        knowledge: Knowledge::default(),
        frequency: HashMap::new(),
        outcome: Outcome::default(),
    };
    let next = next_uses(library, trace);
    for (use_, next) in trace.iter().zip(&next) {
        replay.step(use_, next);
    }
    replay.outcome
}

/// For each use, when each of its components is used next.
fn next_uses(library: &Library, trace: &[Use]) -> Vec<HashMap<usize, Duration>> {
    let mut later: HashMap<usize, Duration> = HashMap::new();
    let mut all: Vec<HashMap<usize, Duration>> = Vec::with_capacity(trace.len());
    for use_ in trace.iter().rev() {
        let parts = library.models.get(use_.model).into_iter().flatten();
        all.push(parts.clone().filter_map(|part| Some((*part, *later.get(part)?))).collect());
        later.extend(parts.map(|part| (*part, use_.at)));
    }
    all.reverse();
    all
}

impl Replay<'_> {
    fn step(&mut self, use_: &Use, next: &HashMap<usize, Duration>) {
        let parts = self.library.models.get(use_.model).cloned().unwrap_or_default();
        let missing: Vec<usize> = parts.iter().copied().filter(|part| !self.resident.contains_key(part)).collect();
        for part in &parts {
            self.reuse.touch(&key(*part), use_.at);
            *self.frequency.entry(*part).or_default() += 1.0;
            match next.get(part) {
                Some(at) => self.knowledge.next.insert(*part, *at),
                None => self.knowledge.next.remove(part),
            };
        }
        for part in &parts {
            if let Some(resident) = self.resident.get_mut(part) {
                (resident.last_used, resident.hits) = (use_.at, resident.hits + 1);
                self.outcome.hits += 1;
            }
        }
        for part in missing {
            self.load(part, &parts, use_.at);
        }
        for part in parts {
            let component = self.library.components[part];
            let worth = component.seconds() * self.frequency.get(&part).copied().unwrap_or(0.0);
            let priority = self.knowledge.inflation + worth / component.bytes as f64;
            self.knowledge.priority.insert(part, priority);
        }
    }

    fn load(&mut self, part: usize, held: &[usize], now: Duration) {
        let component = self.library.components[part];
        let need = (self.used + component.bytes).saturating_sub(self.budget);
        if need > 0 {
            let candidates: Vec<Candidate> =
                self.resident.iter().map(|(key, resident)| self.candidate(*key, *resident, held, now)).collect();
            for victim in chooser::victims(self.way, &candidates, need, now, &mut self.knowledge) {
                self.resident.remove(&victim);
                self.used -= self.library.components[victim].bytes;
            }
        }
        assert!(self.used + component.bytes <= self.budget, "every model fits beside what it holds");
        let seconds = component.seconds();
        self.bandwidth.observe(&self.from(part), Duration::from_secs_f64(seconds));
        self.used += component.bytes;
        self.resident.insert(part, Resident { loaded_at: now, last_used: now, hits: 0 });
        self.outcome.reload_seconds += seconds;
        self.outcome.misses += 1;
    }

    fn from(&self, part: usize) -> [ReadFrom; 1] {
        let component = self.library.components[part];
        [ReadFrom { device: component.disk, bytes: component.bytes }]
    }

    fn candidate(&self, part: usize, resident: Resident, held: &[usize], now: Duration) -> Candidate {
        let key = key(part);
        Candidate {
            bytes: self.library.components[part].bytes,
            shared: Vec::new(),
            last_used: resident.last_used,
            loaded_at: resident.loaded_at,
            hits: resident.hits,
            reload_seconds: self.bandwidth.seconds(&self.from(part)),
            reuses_per_hour: self.reuse.per_hour(&key, now),
            reused: self.reuse.was_reused(&key),
            holders: u32::from(held.contains(&part)),
            protected: false,
            key,
        }
    }
}

fn key(part: usize) -> Arc<str> {
    part.to_string().into()
}
