//! Making a variant: found by its key, else computed from its base, what is the same taken over from an earlier one. Room is
//! made as for a load; where none can be, and nobody else uses the base's copy, that copy is converted.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use residency::Reason;
use shared::ids::{ComponentId, PipelineId};

use super::{
    book::{Variant, closest},
    bound::{going, reckoned, trim},
    tries::{Try, base_stays},
};
use crate::{
    context::{Agent, Device},
    device_tier::{Departing, DeviceLease, evict, lend},
    error::WorkError,
    managers::lora::PartPlan,
    runner::{Applied, ApplyOrder, DeviceResident, LoraSource, RunnerError, TensorChange},
    running::Attempt,
};

/// How a variant came to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// It was there.
    Cached,
    /// Some of its tensors were copied from an earlier variant.
    Delta,
    /// All of its tensors were computed.
    Full,
    /// The base's copy was converted.
    InPlace,
}

impl Path {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Cached, Self::Delta, Self::Full, Self::InPlace];

    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cached => "cached",
            Self::Delta => "delta",
            Self::Full => "full",
            Self::InPlace => "in_place",
        }
    }
}

/// A variant that is wanted.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// What the base is used as.
    pub kind: &'a str,
    /// The base's copy on the device, leased by whoever asks, once.
    pub base: &'a DeviceResident,
    /// What changes.
    pub plan: &'a PartPlan,
    /// The stack, in words.
    pub told: &'a [String],
}

/// How it is computed.
#[derive(Debug)]
pub struct Recipe {
    /// The LoRAs that take part, on the device and leased.
    pub loras: Vec<LoraSource>,
    /// The changes, whose terms name these.
    pub changes: Vec<TensorChange>,
}

/// A variant that is on the device while this lives.
#[derive(Debug)]
pub struct Made {
    /// Which.
    pub variant: Variant,
    /// How it came to be there.
    pub path: Path,
    /// Seconds that it took now.
    pub seconds: f64,
    /// Tensors that were computed.
    pub computed: usize,
    /// Tensors that were copied from an earlier variant.
    pub taken_over: usize,
    /// Bytes of both now.
    pub changed_bytes: u64,
    _lease: DeviceLease,
}

impl Made {
    /// As a job's result shows it.
    pub fn view(&self, kind: &str) -> serde_json::Value {
        serde_json::json!({
            "component": kind, "base": self.variant.base, "path": self.path.as_str(), "key": self.variant.key,
            "bytes": self.variant.bytes, "seconds": self.seconds, "tensors_computed": self.computed,
            "tensors_taken_over": self.taken_over,
        })
    }
}

/// Makes the variant, or finds it. Of two that want the same one at a time, one makes it.
///
/// # Errors
/// What kept it from being made; what was on the device before is there, unless room had to be made.
pub async fn ensure(
    agent: &Agent,
    (device, attempt): (&Device, &Attempt),
    wanted: &Wanted<'_>,
    recipe: &Recipe,
) -> Result<Made, WorkError> {
    let key = wanted.plan.key(&wanted.base.digest);
    let _one = device.variants.making.lock().await;
    if let Some(found) = find(agent, (device, attempt), wanted) {
        return Ok(found);
    }
    let (spared, incoming) = reckoned(agent, device, wanted);
    let going = going(agent, device, incoming, &spared);
    let id = ComponentId::generate();
    let (applied, path) = Making { agent, device, attempt, wanted, recipe, id, key: &key }.make(going).await?;
    let made = note(agent, device, wanted, (id, key), &applied, path)?;
    let lease = device.tier.lease(&made.1, &attempt.holder()).ok_or_else(|| gone(device, &made.0.kind))?;
    trim(agent, device).await;
    let Applied { seconds, computed, taken_over, .. } = applied;
    let changed_bytes = wanted.plan.bytes();
    agent.metrics.variants.applied(path, seconds, changed_bytes);
    Ok(Made { variant: made.0, path, seconds, computed, taken_over, changed_bytes, _lease: lease })
}

/// The whole variant of this key, in use while the answer lives.
pub fn lease_whole(agent: &Agent, (device, attempt): (&Device, &Attempt), key: &str) -> Option<Made> {
    looked_up(agent, (device, attempt), Instant::now(), |variant| variant.is_whole && variant.key == key)
}

/// The id of the whole variant of this key, if it is there.
pub fn whole(device: &Device, key: &str) -> Option<ComponentId> {
    let all = device.variants.among(&device.resident());
    all.into_iter().find(|(variant, _)| variant.is_whole && variant.key == key).map(|(variant, _)| variant.id)
}

/// The wanted variant, if it is there, in use while the answer lives.
pub fn find(agent: &Agent, (device, attempt): (&Device, &Attempt), wanted: &Wanted<'_>) -> Option<Made> {
    let since = Instant::now();
    let key = wanted.plan.key(&wanted.base.digest);
    // one that was converted needs no base, and whoever has a base asks for what lies over it
    looked_up(agent, (device, attempt), since, |variant| variant.key == key)
}

/// Keeps the variant of this key where it is, if it is there, while the answer lives.
pub fn lease_cached(device: &Device, attempt: &Attempt, key: &str) -> Option<DeviceLease> {
    let all = device.variants.among(&device.resident());
    let (_, copy) = all.into_iter().find(|(variant, _)| variant.key == key)?;
    device.tier.lease(&copy, &attempt.holder())
}

/// A pipeline uses these variants on a device and no others any more. What its last pipeline left nobody keeps: which those are.
pub fn use_for(
    device: &Device,
    (pipeline, name): (PipelineId, &str),
    ids: &BTreeSet<ComponentId>,
) -> BTreeSet<ComponentId> {
    let left = device.variants.used_by(pipeline, name, ids);
    for copy in device.resident().iter().filter(|copy| left.contains(&copy.component)) {
        device.tier.say(copy, Some(false), None);
    }
    left
}

/// The variant that is there, in use while the answer lives; it counts as applied, with the time since it was looked for.
fn looked_up(
    agent: &Agent,
    (device, attempt): (&Device, &Attempt),
    since: Instant,
    is_it: impl Fn(&Variant) -> bool,
) -> Option<Made> {
    let all = device.variants.among(&device.resident());
    let (variant, copy) = all.into_iter().find(|(variant, _)| is_it(variant))?;
    let lease = device.tier.lease(&copy, &attempt.holder())?;
    let seconds = since.elapsed().as_secs_f64();
    agent.metrics.variants.applied(Path::Cached, seconds, 0);
    Some(Made { variant, path: Path::Cached, seconds, computed: 0, taken_over: 0, changed_bytes: 0, _lease: lease })
}

struct Making<'a> {
    agent: &'a Agent,
    device: &'a Device,
    attempt: &'a Attempt,
    wanted: &'a Wanted<'a>,
    recipe: &'a Recipe,
    id: ComponentId,
    key: &'a str,
}

impl Making<'_> {
    /// Makes it, in the memory of variants that go for it as far as that goes.
    async fn make(&self, mut going: Vec<ComponentId>) -> Result<(Applied, Path), WorkError> {
        let bytes = self.wanted.plan.bytes();
        self.attempt.progress.enter("applying", bytes);
        self.attempt.progress.detail(self.wanted.kind);
        let mut reuse = self.reusable();
        // and what was missing when the base's copy had to be converted
        let (mut tried, mut no_room) = (Try::first(reuse.is_some()), None);
        loop {
            let progress = |done: u64| self.attempt.progress.set(done.min(bytes));
            let lending = lend(self.agent, self.device, &std::mem::take(&mut going));
            let mut order = self.order(reuse.as_ref().map(|(id, _)| *id), tried == Try::InPlace);
            order.replaces = lending.components();
            let converted = order.in_place.then_some(order.base);
            let converted =
                converted.map(|base| Departing::begin(self.device, base, self.attempt.why(Reason::Superseded)));
            let applied = self.device.runner.apply(order, progress, &self.attempt.cancel).await;
            // where it failed, the base stays or went with its process
            if let Some(base) = converted.filter(|_| applied.is_ok()) {
                base.gone();
            }
            match &applied {
                // what went with its process went for nothing else
                Err(RunnerError::Crashed { .. } | RunnerError::Unavailable { .. }) => drop(lending),
                Ok(_) | Err(_) => lending.settle(),
            }
            let full = match applied {
                Ok(applied) => {
                    self.attempt.progress.set(bytes);
                    let path = tried.path(applied.taken_over > 0);
                    return Ok((applied, path));
                }
                Err(full @ RunnerError::OutOfMemory { .. }) if tried != Try::InPlace => full,
                // somebody reads the base after all: it is about room again, which may come
                Err(RunnerError::InUse { .. }) if let Some(full) = no_room => return Err(full),
                Err(RunnerError::NotResident { .. }) => return Err(gone(self.device, self.wanted.kind)),
                Err(error) => return Err(error.into()),
            };
            if self.make_room(&full).await {
                continue;
            }
            let Some(next) = tried.next(self.base_stays()?) else { return Err(full.into()) };
            no_room = (next == Try::InPlace).then(|| full.into());
            (tried, reuse) = (next, None);
        }
    }

    fn order(&self, reuse: Option<ComponentId>, in_place: bool) -> ApplyOrder {
        ApplyOrder {
            variant: self.id,
            key: self.key.to_owned(),
            base: self.wanted.base.component,
            loras: self.recipe.loras.clone(),
            changes: self.recipe.changes.clone(),
            reuse,
            replaces: Vec::new(),
            in_place,
        }
    }

    /// The earlier variant that has most of the bytes, in use meanwhile.
    fn reusable(&self) -> Option<(ComponentId, DeviceLease)> {
        let all = self.device.variants.among(&self.device.resident());
        let base = self.agent.aliases.now(self.wanted.base.component);
        let (variant, copy) = closest(&all, (base, &self.wanted.base.digest), self.wanted.plan)?;
        let lease = self.device.tier.lease(copy, &self.attempt.holder())?;
        Some((variant.id, lease))
    }

    /// Whether there is a point in trying again. A variant whose memory others hold as well frees nothing when it goes, and yet
    /// they can be freed after that.
    async fn make_room(&self, full: &RunnerError) -> bool {
        let RunnerError::OutOfMemory { needed_bytes, available_bytes, .. } = full else { return false };
        let missing = needed_bytes.saturating_sub(*available_bytes).max(1);
        let before = self.device.resident().len();
        let freed = evict::make_room(self.agent, self.device, (self.id, *needed_bytes), missing).await;
        freed.is_some_and(|freed| freed > 0) || self.device.resident().len() < before
    }

    /// Why the base's copy may not be changed now, where anybody but who asks here uses it, or somebody keeps it.
    fn base_stays(&self) -> Result<Option<&'static str>, WorkError> {
        // as it is now: programs may have come to it
        let (copies, base) = (self.device.resident(), self.wanted.base);
        let is_base = |copy: &&DeviceResident| copy.component == base.component && copy.since == base.since;
        let copy = copies.iter().find(is_base).ok_or_else(|| gone(self.device, self.wanted.kind))?;
        let noted = self.device.tier.noted(copy);
        Ok(base_stays(noted.leases.saturating_sub(1), noted.protected))
    }
}

fn note(
    agent: &Agent,
    device: &Device,
    wanted: &Wanted<'_>,
    (id, key): (ComponentId, String),
    applied: &Applied,
    path: Path,
) -> Result<(Variant, DeviceResident), WorkError> {
    let copies = device.resident();
    let copy = copies.into_iter().find(|copy| copy.component == id).ok_or_else(|| gone(device, wanted.kind))?;
    // what was taken over has a price, too: the variant that it came from may go first
    let anew = if applied.taken_over == 0 { None } else { device.variants.estimate_seconds(wanted.plan.bytes()) };
    let seconds = applied.seconds.max(anew.unwrap_or(0.0));
    let variant = Variant {
        id,
        since: copy.since,
        kind: wanted.kind.to_owned(),
        base: agent.aliases.now(wanted.base.component),
        base_digest: wanted.base.digest.clone(),
        key,
        bytes: copy.bytes,
        is_whole: path == Path::InPlace,
        seconds,
        marks: Arc::new(wanted.plan.marks.clone()),
        sheets: Arc::new(applied.sheets.clone()),
        loras: wanted.told.to_vec(),
        pipelines: BTreeMap::new(),
    };
    device.tier.made(&copy, Duration::from_secs_f64(seconds.max(0.0)));
    let computed_bytes = if applied.taken_over == 0 { wanted.plan.bytes() } else { 0 };
    device.variants.made(variant.clone(), computed_bytes, |base| agent.aliases.now(base));
    Ok((variant, copy))
}

/// What was on the device went with its process: the next attempt brings it back.
pub fn gone(device: &Device, kind: &str) -> WorkError {
    let reason = format!("its process was replaced, and what `{kind}` takes is not there any more");
    RunnerError::Unavailable { device: device.id.clone(), reason }.into()
}
