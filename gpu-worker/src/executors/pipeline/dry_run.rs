//! What applying a pipeline would load, evict and compute, in bytes and seconds. Nothing on the device changes; LoRAs that nobody
//! compared with this model before are read into RAM for it.

use std::collections::BTreeSet;

use residency::policy::Candidate;
use serde_json::{Value, json};
use shared::{db::models::ComponentRow, ids::ComponentId, job::ApplyPipelineArgs};

use super::{
    super::{
        Done,
        engine::{Draft, Site},
        model::unsigned,
    },
    apply,
    room::{self, Change, Space},
};
use crate::{
    commit::Effects,
    device_tier,
    error::WorkError,
    load_request::load_request,
    managers::{
        lora::{Idle, PartPlan},
        variants::{self, Trimmed, Way, Wish},
    },
};

/// What is added up.
#[derive(Debug, Default)]
struct Sum {
    bytes: u64,
    seconds: f64,
}

pub(super) async fn plan(site: Site<'_>, args: &ApplyPipelineArgs, draft: &Draft) -> Result<Done, WorkError> {
    // in the order in which they are made
    let mut parts = draft.changes();
    parts.sort_by_key(|(kind, _, _)| *kind);
    let wishes: Vec<Wish<'_>> =
        parts.iter().map(|(_, row, plan)| Wish { base: row.id, base_digest: row.digest.as_deref(), plan }).collect();
    let (ways, trimmed) = variants::foresee(site.agent, site.device, &wishes);
    let mut spared: BTreeSet<ComponentId> = ways.iter().filter_map(|way| way.cached).collect();
    let mut changes: Vec<Change> =
        parts.iter().zip(&ways).map(|(part, way)| change(site, draft, *part, *way)).collect();
    // what goes afterwards is still there when it is made, and goes for that
    for one in trimmed.iter().filter(|one| !one.afterwards) {
        if let Some(change) = changes.get_mut(one.wish) {
            change.trimmed.push(one.id);
        }
    }
    // what was converted into just that needs no base
    let whole: BTreeSet<&str> =
        parts.iter().filter(|part| is_converted(site, **part)).map(|(kind, _, _)| *kind).collect();
    let mut loading = Sum::default();
    let loads: Vec<Value> = draft
        .rows()
        .filter(|(kind, _, _)| !whole.contains(kind))
        .map(|(kind, row, subject)| (kind, row, subject.inspection(), subject.name()))
        .chain(loras(draft, &parts, &ways))
        .filter_map(|(kind, row, inspection, model)| {
            // what takes part twice is loaded once
            let is_new = spared.insert(row.id);
            is_new.then(|| load(site, (kind, model), (row, inspection), &mut loading)).flatten()
        })
        .collect();
    let computed: u64 = changes.iter().filter(|change| !change.is_there()).map(|change| change.bytes).sum();
    let mut space = space(site);
    let takes_part = |one: &Candidate| {
        let held = one.key.parse::<ComponentId>();
        held.is_ok_and(|held| spared.contains(&held) || spared.contains(&site.agent.aliases.now(held)))
    };
    let short = room::made(&mut space, loading.bytes, &mut changes, takes_part, |base| kept_by(site, base));
    let computing: f64 = changes.iter().map(|change| change.seconds).sum();
    let mut result = apply::facts(args, &site.device.id, loading.seconds + computing);
    let more = json!({
        "loads": loads, "load_bytes": loading.bytes, "load_seconds": loading.seconds,
        "variants": changes.iter().map(Change::view).collect::<Vec<_>>(),
        "compute_bytes": computed, "compute_seconds": computing,
        "evictions": evictions(&space, &trimmed), "short_bytes": short,
        "loras_without_effect": draft.idle().iter().map(Idle::view).collect::<Vec<_>>(),
        "lora_misfits": draft.misfits(),
    });
    if let Value::Object(more) = more {
        result.extend(more);
    }
    Ok(Done { result: Value::Object(result), effects: Effects::None })
}

/// Whether a copy holds all of the part as it is wanted.
fn is_converted(site: Site<'_>, (_, row, plan): (&str, &ComponentRow, &PartPlan)) -> bool {
    let whole = row.digest.as_deref().and_then(|digest| variants::whole(site.device, &plan.key(digest)));
    whole.is_some()
}

/// LoRAs come onto the device when something is computed.
fn loras<'d>(
    draft: &'d Draft,
    parts: &[(&str, &ComponentRow, &PartPlan)],
    ways: &[Way],
) -> impl Iterator<Item = (&'d str, &'d ComponentRow, &'d model_formats::Inspection, &'d str)> {
    let computed = parts.iter().zip(ways).filter(|(_, way)| way.path != variants::Path::Cached);
    let places: BTreeSet<usize> = computed.flat_map(|((_, _, plan), _)| plan.loras()).collect();
    draft.loras(&places).into_iter().map(|(name, row, inspection)| ("lora", row, inspection, name))
}

/// How a variant would come to be there, with room for it.
fn change(site: Site<'_>, draft: &Draft, (kind, row, plan): (&str, &ComponentRow, &PartPlan), way: Way) -> Change {
    let estimate =
        |bytes: u64| site.device.variants.estimate_seconds(bytes).unwrap_or_else(|| draft.estimated_seconds(plan));
    let bytes = plan.bytes();
    let is_there = way.path == variants::Path::Cached;
    Change {
        kind: kind.to_owned(),
        base: row.id,
        path: way.path,
        bytes,
        taken_over: way.taken_over,
        held: way.held,
        from: way.from,
        tensors: plan.changes.len(),
        seconds: if is_there { 0.0 } else { estimate(bytes.saturating_sub(way.taken_over)) },
        seconds_alone: estimate(bytes),
        trimmed: Vec::new(),
        base_stays: None,
    }
}

/// What a component that is not on the device would take to come there.
fn load(
    site: Site<'_>,
    (kind, model): (&str, &str),
    (row, inspection): (&ComponentRow, &model_formats::Inspection),
    sum: &mut Sum,
) -> Option<Value> {
    let agent = site.agent;
    if site.device.resident().iter().any(|copy| agent.aliases.now(copy.component) == row.id) {
        return None;
    }
    let in_ram = agent.aliases.held(row.id).iter().any(|held| agent.tier.holds(&held.to_string()));
    let request = if in_ram { None } else { load_request(row, inspection) };
    let reading = request.map_or(0.0, |request| agent.tier.read_seconds(&request.read_from()));
    let bytes = unsigned(row.bytes);
    let seconds = reading + site.device.tier.copy_seconds(bytes);
    sum.bytes = sum.bytes.saturating_add(bytes);
    sum.seconds += seconds;
    let from = if in_ram { "ram" } else { "disk" };
    Some(json!({ "id": row.id, "kind": kind, "model": model, "bytes": bytes, "from": from, "seconds": seconds }))
}

/// Why the copy of a base could not be converted now; nothing keeps one that is not there yet.
fn kept_by(site: Site<'_>, base: ComponentId) -> Option<&'static str> {
    let copies = site.device.resident();
    let copy = copies.iter().find(|copy| copy.variant.is_none() && site.agent.aliases.now(copy.component) == base)?;
    let noted = site.device.tier.noted(copy);
    variants::base_stays(noted.leases, noted.protected)
}

/// The room that there is, and what may go for more.
fn space(site: Site<'_>) -> Space {
    let memory = site.device.runner.status().borrow().memory;
    let free_bytes = memory.capacity_bytes.saturating_sub(memory.used_bytes);
    let candidates = device_tier::candidates(site.agent, site.device);
    let (rules, now) = (site.device.tier.rules(), site.device.tier.uptime());
    Space { free_bytes, candidates, rules, now, going: Vec::new() }
}

/// What would go: variants above their bound, and what the device's policy takes for room.
fn evictions(space: &Space, trimmed: &[Trimmed]) -> Vec<Value> {
    let view = |component: &str, bytes: u64, seconds: f64, why: &str| json!({ "component": component, "bytes": bytes, "reload_seconds": seconds, "why": why });
    let goes = |one: &&Trimmed| !space.going.iter().any(|(gone, _)| gone.key.parse() == Ok(one.id));
    let bound = trimmed.iter().filter(goes);
    let bound = bound.map(|one| view(&one.id.to_string(), one.bytes, one.seconds, "variant_budget"));
    let room = space.going.iter().map(|(one, bytes)| view(&one.key, *bytes, one.reload_seconds, "room"));
    bound.chain(room).collect()
}
