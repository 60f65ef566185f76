//! What to give back so that a goal is reached, and in which order: a pure choice over plain data.
//!
//! Second copies go first: they serve nobody. Then, one by one, what the policy would take next, looked at anew after each
//! choice, because losing a copy in RAM makes the loss of the copy on a device dearer. At the end whatever the goal can do
//! without is spared, the dearest first. What is used or protected is never touched.

use std::time::Duration;

use residency::policy::{self, Candidate, PlanRow, Rules, Verdict};
use serde::Serialize;
use shared::ids::ComponentId;

/// Where bytes are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(untagged)]
pub enum Place {
    /// In the RAM of the host.
    Ram,
    /// On this device.
    Device(String),
}

/// One copy that could go.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// Where it is.
    pub place: Place,
    /// The component, under its present id.
    pub component: ComponentId,
    /// The copy as the policy of its tier sees it; the key is the id that it is held under.
    pub candidate: Candidate,
    /// On a device: what reading it takes if it has to come from a disk, in seconds.
    pub disk_seconds: f64,
    /// Taking it away serves the goal; the others are only looked at.
    pub in_scope: bool,
}

/// What a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Gives back a second copy in the same tier.
    DropDuplicate,
    /// Takes it off a device; its copy in RAM stays.
    Demote,
    /// Takes the last copy out of memory; only the disk has it then.
    Evict,
    /// Takes it out of RAM; a device still has it.
    DropRamCopy,
}

impl Action {
    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DropDuplicate => "drop_duplicate",
            Self::Demote => "demote",
            Self::Evict => "evict",
            Self::DropRamCopy => "drop_ram_copy",
        }
    }
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// What is done.
    pub action: Action,
    /// Which of the pieces.
    pub piece: usize,
    /// What the policy thought of it when it was chosen.
    pub row: PlanRow,
}

/// A plan.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// In the order in which they are done.
    pub steps: Vec<Step>,
    /// Bytes that they give back.
    pub frees_bytes: u64,
    /// Bytes by which the goal is missed.
    pub short_bytes: u64,
}

/// Plans to give `need_bytes` back.
pub fn plan(rules: Rules, pieces: &[Piece], need_bytes: u64, now: Duration) -> Plan {
    let mut chosen: Vec<(usize, PlanRow)> = Vec::new();
    let mut freed: u64 = 0;
    while freed < need_bytes {
        let Some((index, row)) = next(rules, pieces, &chosen, now) else { break };
        freed = freed.saturating_add(row.bytes);
        chosen.push((index, row));
    }
    spare(pieces, &mut chosen, &mut freed, need_bytes);
    let indices: Vec<usize> = chosen.iter().map(|(index, _)| *index).collect();
    let step = |(piece, row): (usize, PlanRow)| Step { action: action(pieces, piece, &indices), piece, row };
    let steps = chosen.into_iter().map(step).collect();
    Plan { steps, frees_bytes: freed, short_bytes: need_bytes.saturating_sub(freed) }
}

/// The piece that is the least loss now: a second copy, else what the policy takes first.
fn next(rules: Rules, pieces: &[Piece], chosen: &[(usize, PlanRow)], now: Duration) -> Option<(usize, PlanRow)> {
    let gone = |index: usize| chosen.iter().any(|(other, _)| *other == index);
    let stays = |index: usize| !gone(index);
    let free: Vec<usize> = (0..pieces.len()).filter(|index| stays(*index) && may_go(pieces, *index)).collect();
    let seen: Vec<Candidate> = free.iter().filter_map(|index| as_seen(pieces, *index, &stays)).collect();
    let order = policy::order(rules, &seen, now);
    let at = |one: &Candidate| free.iter().copied().find(|index| key(pieces, *index).as_deref() == Some(&*one.key));
    let first = order
        .iter()
        .copied()
        .find(|one| at(one).is_some_and(|index| is_duplicate(pieces, index, &stays)))
        .or_else(|| order.first().copied())?;
    let row = policy::row(rules, first, now, Verdict::Evict);
    Some((at(first)?, row))
}

fn may_go(pieces: &[Piece], index: usize) -> bool {
    pieces.get(index).is_some_and(|one| {
        one.in_scope && one.candidate.holders == 0 && !one.candidate.protected && one.candidate.bytes > 0
    })
}

/// A key that tells copies of one component in several places apart.
fn key(pieces: &[Piece], index: usize) -> Option<String> {
    let piece = pieces.get(index)?;
    Some(match &piece.place {
        Place::Ram => format!("ram/{}", piece.candidate.key),
        Place::Device(id) => format!("{id}/{}", piece.candidate.key),
    })
}

/// The candidate as things are with what is chosen gone: on a device without its copy in RAM the disk counts as well.
fn as_seen(pieces: &[Piece], index: usize, stays: &impl Fn(usize) -> bool) -> Option<Candidate> {
    let piece = pieces.get(index)?;
    let lost_in_ram = piece.place != Place::Ram
        && has(pieces, piece, &Place::Ram, &|_| true)
        && !has(pieces, piece, &Place::Ram, stays);
    let disk = if lost_in_ram { piece.disk_seconds } else { 0.0 };
    let reload_seconds = piece.candidate.reload_seconds + disk;
    Some(Candidate { key: key(pieces, index)?.into(), reload_seconds, ..piece.candidate.clone() })
}

/// Whether some copy of the component is in a place.
fn has(pieces: &[Piece], of: &Piece, place: &Place, counts: &impl Fn(usize) -> bool) -> bool {
    let copies = pieces.iter().enumerate().filter(|(_, one)| one.component == of.component && one.place == *place);
    copies.into_iter().any(|(index, _)| counts(index))
}

/// Another copy of the component stays in the same place.
fn is_duplicate(pieces: &[Piece], index: usize, stays: &impl Fn(usize) -> bool) -> bool {
    pieces.get(index).is_some_and(|one| has(pieces, one, &one.place, &|other| other != index && stays(other)))
}

/// Spares what the goal can do without, the last chosen first: it is the dearest.
fn spare(pieces: &[Piece], chosen: &mut Vec<(usize, PlanRow)>, freed: &mut u64, need_bytes: u64) {
    for at in (0..chosen.len()).rev() {
        let bytes = chosen.get(at).and_then(|(index, _)| pieces.get(*index)).map_or(0, |piece| piece.candidate.bytes);
        if freed.saturating_sub(bytes) >= need_bytes {
            *freed = freed.saturating_sub(bytes);
            chosen.remove(at);
        }
    }
}

/// What taking this piece amounts to when all the chosen are gone.
fn action(pieces: &[Piece], index: usize, chosen: &[usize]) -> Action {
    let stays = |other: usize| !chosen.contains(&other);
    let Some(piece) = pieces.get(index) else { return Action::Evict };
    let elsewhere = |one: &Piece| one.component == piece.component && one.place != piece.place;
    let on_device = pieces.iter().enumerate().any(|(at, one)| elsewhere(one) && one.place != Place::Ram && stays(at));
    match piece.place {
        _ if is_duplicate(pieces, index, &stays) => Action::DropDuplicate,
        Place::Device(_) if has(pieces, piece, &Place::Ram, &stays) => Action::Demote,
        Place::Ram if on_device => Action::DropRamCopy,
        _ => Action::Evict,
    }
}
