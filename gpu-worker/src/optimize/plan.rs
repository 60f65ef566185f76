//! What to give back so that a goal is reached, and in which order: a pure choice over plain data.
//!
//! Second copies go first: they serve nobody. Then, one by one, what the policy would take next, looked at anew after each
//! choice, because losing a copy in RAM makes the loss of the copy on a device dearer. At the end whatever the goal can do
//! without is spared, the dearest first. What is used or protected is never touched.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use residency::policy::{self, Candidate, PlanRow, Rules, Verdict, shared::Going};
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
    /// Bytes that come back with it, those before it being gone.
    pub bytes: u64,
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
    let (mut freed, mut left, mut going) = (0_u64, Copies::of(pieces), Memory::default());
    let mut queue = queue(rules, pieces, &left, now);
    while freed < need_bytes {
        let Some((index, candidate)) = next(pieces, &mut queue, &left) else { break };
        let row = policy::row(rules, &candidate, now, Verdict::Evict);
        freed = freed.saturating_add(going.take(pieces, index));
        chosen.push((index, row));
        if left.take(pieces, index) {
            queue = sorted(rules, queue.into_iter().filter_map(|(at, _)| as_seen(pieces, at, &left)).collect(), now);
        }
    }
    spare(pieces, &mut chosen, &mut going, &mut freed, need_bytes);
    let (mut left, mut going) = (Copies::of(pieces), Memory::default());
    for (index, _) in &chosen {
        left.take(pieces, *index);
    }
    let step = |(piece, row): (usize, PlanRow)| Step {
        action: action(pieces, piece, &left),
        piece,
        bytes: going.take(pieces, piece),
        row,
    };
    let steps = chosen.into_iter().map(step).collect();
    Plan { steps, frees_bytes: freed, short_bytes: need_bytes.saturating_sub(freed) }
}

/// How many copies of each component each place has.
#[derive(Debug)]
struct Copies<'a> {
    left: BTreeMap<(ComponentId, &'a Place), usize>,
}

impl<'a> Copies<'a> {
    fn of(pieces: &'a [Piece]) -> Self {
        let mut left = BTreeMap::new();
        for piece in pieces {
            *left.entry((piece.component, &piece.place)).or_default() += 1;
        }
        Self { left }
    }

    fn count(&self, component: ComponentId, place: &Place) -> usize {
        self.left.get(&(component, place)).copied().unwrap_or(0)
    }

    /// One is gone; true when it was the last in RAM, which makes those on devices dearer.
    fn take(&mut self, pieces: &'a [Piece], index: usize) -> bool {
        let Some(piece) = pieces.get(index) else { return false };
        let count = self.left.entry((piece.component, &piece.place)).or_default();
        *count = count.saturating_sub(1);
        *count == 0 && piece.place == Place::Ram
    }

    /// Another copy of the component stays in the same place, when `taken` of them are not gone yet.
    fn is_duplicate(&self, piece: &Piece, taken: usize) -> bool {
        self.count(piece.component, &piece.place) > taken
    }

    /// Some device has one.
    fn on_a_device(&self, component: ComponentId) -> bool {
        let mut of_it = self.left.range((component, &Place::Ram)..).take_while(|((other, _), _)| *other == component);
        of_it.any(|((_, place), count)| *count > 0 && **place != Place::Ram)
    }
}

/// What goes of each place: copies there may hold memory together.
#[derive(Debug, Default)]
struct Memory<'a> {
    going: BTreeMap<&'a Place, Going>,
}

impl<'a> Memory<'a> {
    /// One goes: the bytes that come back with it.
    fn take(&mut self, pieces: &'a [Piece], index: usize) -> u64 {
        let Some(piece) = pieces.get(index) else { return 0 };
        self.going.entry(&piece.place).or_default().take(piece.candidate.holding())
    }

    /// One of those stays: the bytes that do not come back then.
    fn spare(&mut self, pieces: &'a [Piece], index: usize) -> u64 {
        let Some(piece) = pieces.get(index) else { return 0 };
        self.going.entry(&piece.place).or_default().spare(piece.candidate.holding())
    }
}

type Queue = Vec<(usize, Candidate)>;

/// What may go, the least loss first.
fn queue(rules: Rules, pieces: &[Piece], left: &Copies<'_>, now: Duration) -> Queue {
    let free = (0..pieces.len()).filter(|index| may_go(pieces, *index));
    sorted(rules, free.filter_map(|index| as_seen(pieces, index, left)).collect(), now)
}

fn sorted(rules: Rules, queue: Queue, now: Duration) -> Queue {
    let (indices, seen): (Vec<usize>, Vec<Candidate>) = queue.into_iter().unzip();
    let at: HashMap<&str, usize> = seen.iter().zip(&indices).map(|(one, index)| (&*one.key, *index)).collect();
    let order = policy::order(rules, &seen, now);
    order.into_iter().filter_map(|one| Some((*at.get(&*one.key)?, one.clone()))).collect()
}

/// Takes out the piece that is the least loss now: a second copy, else what the policy takes first.
fn next(pieces: &[Piece], queue: &mut Queue, left: &Copies<'_>) -> Option<(usize, Candidate)> {
    let is_second = |(index, _): &(usize, Candidate)| pieces.get(*index).is_some_and(|one| left.is_duplicate(one, 1));
    let at = queue.iter().position(is_second).unwrap_or(0);
    (at < queue.len()).then(|| queue.remove(at))
}

fn may_go(pieces: &[Piece], index: usize) -> bool {
    pieces.get(index).is_some_and(|one| {
        one.in_scope && one.candidate.holders == 0 && !one.candidate.protected && one.candidate.takes_bytes() > 0
    })
}

/// A key that tells copies of one component in several places apart.
fn key(piece: &Piece) -> String {
    match &piece.place {
        Place::Ram => format!("ram/{}", piece.candidate.key),
        Place::Device(id) => format!("{id}/{}", piece.candidate.key),
    }
}

/// The candidate as things are with what is chosen gone: on a device without its copy in RAM the disk counts as well.
fn as_seen(pieces: &[Piece], index: usize, left: &Copies<'_>) -> Option<(usize, Candidate)> {
    let piece = pieces.get(index)?;
    // a place that never had a copy is not in the map
    let lost_in_ram = piece.place != Place::Ram && left.left.get(&(piece.component, &Place::Ram)) == Some(&0);
    let disk = if lost_in_ram { piece.disk_seconds } else { 0.0 };
    let reload_seconds = piece.candidate.reload_seconds + disk;
    Some((index, Candidate { key: key(piece).into(), reload_seconds, ..piece.candidate.clone() }))
}

/// Spares what the goal can do without, the last chosen first: it is the dearest.
fn spare<'a>(
    pieces: &'a [Piece],
    chosen: &mut Vec<(usize, PlanRow)>,
    going: &mut Memory<'a>,
    freed: &mut u64,
    need_bytes: u64,
) {
    for at in (0..chosen.len()).rev() {
        let Some((index, _)) = chosen.get(at) else { continue };
        let (index, bytes) = (*index, going.spare(pieces, *index));
        // where the goal is missed, what gives nothing back has no reason to go
        if freed.saturating_sub(bytes) >= need_bytes.min(*freed) {
            *freed = freed.saturating_sub(bytes);
            chosen.remove(at);
        } else {
            going.take(pieces, index);
        }
    }
}

/// What taking this piece amounts to when all the chosen are gone.
fn action(pieces: &[Piece], index: usize, left: &Copies<'_>) -> Action {
    let Some(piece) = pieces.get(index) else { return Action::Evict };
    match piece.place {
        _ if left.is_duplicate(piece, 0) => Action::DropDuplicate,
        Place::Device(_) if left.count(piece.component, &Place::Ram) > 0 => Action::Demote,
        Place::Ram if left.on_a_device(piece.component) => Action::DropRamCopy,
        _ => Action::Evict,
    }
}
