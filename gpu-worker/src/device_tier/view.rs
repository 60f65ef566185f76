//! The copies on a device as the policy and the outside see them.

use std::{collections::HashMap, time::Duration};

use chrono::{DateTime, Utc};
use residency::{
    Standing,
    policy::{self, Candidate, Rules, bandwidth::ReadFrom},
    request::Key,
};
use shared::ids::{JobId, ModelId};

use super::DeviceTier;
use crate::{
    context::{Agent, Device},
    runner::DeviceResident,
};

/// Where each copy stands with the policy, by component id.
pub type Standings = HashMap<Key, Standing>;

/// What is noted of one copy.
#[derive(Debug, Clone, Default)]
pub struct Noted {
    /// The models that need it.
    pub models: Vec<ModelId>,
    /// Leases on it, of jobs and of programs that are attached.
    pub leases: usize,
    /// Who uses it.
    pub holders: Vec<String>,
    /// The job that copied it.
    pub brought_by: Option<JobId>,
    /// The operator's keep.
    pub protected: bool,
    /// Its last use; none where nothing was noted.
    pub used_at: Option<DateTime<Utc>>,
    /// Uses of it.
    pub uses: u64,
    /// Time until its keep-alive ends.
    pub expires_in: Option<Duration>,
}

impl DeviceTier {
    /// What is noted of this copy.
    pub fn noted(&self, copy: &DeviceResident) -> Noted {
        let now = self.uptime();
        let book = self.book();
        let (attached, holders, brought_by) = (copy.leases as usize, book.holders(copy), book.brought_by(copy));
        let Some(note) = book.of(copy) else {
            return Noted { leases: attached, holders, brought_by, ..Noted::default() };
        };
        Noted {
            models: note.models.iter().copied().collect(),
            leases: note.leases.len() + attached,
            holders,
            brought_by,
            protected: note.protected.value,
            used_at: Some(note.used_at),
            uses: note.uses,
            // what a program is attached to outlives its time, and goes when the program does
            expires_in: note.expires().filter(|_| attached == 0).map(|at| at.saturating_sub(now)),
        }
    }

    /// How victims are chosen.
    pub fn rules(&self) -> Rules {
        self.rules
    }
}

/// The copies on a device as the policy sees them. What is in RAM needs only to be copied again.
pub fn candidates(agent: &Agent, device: &Device) -> Vec<Candidate> {
    let now = device.tier.uptime();
    let copies = device.resident();
    // the RAM tier is asked before the book is locked
    let in_ram: Vec<bool> = copies.iter().map(|copy| is_in_ram(agent, copy)).collect();
    let book = device.tier.book();
    let one = |(copy, in_ram): (&DeviceResident, bool)| {
        let reading = |from: &[ReadFrom]| if in_ram { 0.0 } else { agent.tier.read_seconds(from) };
        book.candidate(copy, reading, now)
    };
    copies.iter().zip(in_ram).map(one).collect()
}

/// Where each copy on a device stands.
pub fn standings(agent: &Agent, device: &Device) -> Standings {
    policy::standings(device.tier.rules, &candidates(agent, device), device.tier.uptime())
}

/// Whether the bytes of a copy are in RAM as well, under whatever id.
pub fn is_in_ram(agent: &Agent, copy: &DeviceResident) -> bool {
    let component = agent.aliases.now(copy.component);
    agent.aliases.held(component).iter().any(|id| agent.tier.holds(&id.to_string()))
}
