//! What applying a pipeline would load, evict and compute, in bytes and seconds. Nothing on the device changes; LoRAs that nobody
//! compared with this model before are read into RAM for it.

use std::collections::{BTreeMap, BTreeSet};

use residency::policy::{Goal, select_victims};
use serde_json::{Value, json};
use shared::{db::models::ComponentRow, ids::ComponentId, job::ApplyPipelineArgs};

use super::{
    super::{
        Done,
        engine::{Draft, Site},
        model::unsigned,
    },
    apply,
};
use crate::{
    commit::Effects,
    device_tier,
    error::WorkError,
    load_request::load_request,
    managers::{lora::PartPlan, variants},
};

/// What is added up.
#[derive(Debug, Default)]
struct Sum {
    bytes: u64,
    seconds: f64,
}

pub(super) async fn plan(site: Site<'_>, args: &ApplyPipelineArgs, draft: &Draft) -> Result<Done, WorkError> {
    let (mut loading, mut computing) = (Sum::default(), Sum::default());
    let mut spared = BTreeSet::new();
    let mut changes: Vec<Value> =
        draft.changes().into_iter().map(|part| change(site, draft, part, &mut computing)).collect();
    // what was converted into just that needs no base
    let whole: BTreeMap<&str, ComponentId> =
        draft.changes().into_iter().filter_map(|part| converted_to(site, part)).collect();
    spared.extend(whole.values().copied());
    let loads: Vec<Value> = draft
        .rows()
        .filter(|(kind, _, _)| !whole.contains_key(kind))
        .map(|(kind, row, subject)| (kind, row, subject.inspection(), subject.name()))
        .chain(loras(draft, &changes))
        .filter_map(|(kind, row, inspection, model)| {
            // what takes part twice is loaded once
            let is_new = spared.insert(row.id);
            is_new.then(|| load(site, (kind, model), (row, inspection), &mut loading)).flatten()
        })
        .collect();
    let (evictions, short_bytes) = evictions(site, loading.bytes.saturating_add(computing.bytes), &spared);
    let short_bytes = converted(&mut changes, short_bytes, |base| may_be_converted(site, base));
    let mut result = apply::facts(args, &site.device.id, loading.seconds + computing.seconds);
    let idle = draft.idle().iter().map(|idle| json!({ "lora": idle.lora, "why": idle.why }));
    let more = json!({
        "loads": loads, "load_bytes": loading.bytes, "load_seconds": loading.seconds,
        "variants": changes, "compute_bytes": computing.bytes, "compute_seconds": computing.seconds,
        "evictions": evictions, "short_bytes": short_bytes,
        "loras_without_effect": idle.collect::<Vec<_>>(),
    });
    if let Value::Object(more) = more {
        result.extend(more);
    }
    Ok(Done { result: Value::Object(result), effects: Effects::None })
}

/// The part, with the copy that holds all of it as it is wanted.
fn converted_to<'d>(
    site: Site<'_>,
    (kind, row, plan): (&'d str, &ComponentRow, &PartPlan),
) -> Option<(&'d str, ComponentId)> {
    Some((kind, variants::whole(site.device, &plan.key(row.digest.as_deref()?))?))
}

/// LoRAs come onto the device when something is computed.
fn loras<'d>(
    draft: &'d Draft,
    changes: &[Value],
) -> impl Iterator<Item = (&'d str, &'d ComponentRow, &'d model_formats::Inspection, &'d str)> {
    let is_computed = |kind: &str| changes.iter().any(|one| one["component"] == kind && one["path"] != "cached");
    let parts = draft.changes().into_iter().filter(|(kind, _, _)| is_computed(kind));
    let places: BTreeSet<usize> = parts.flat_map(|(_, _, plan)| plan.loras()).collect();
    draft.loras(&places).into_iter().map(|(name, row, inspection)| ("lora", row, inspection, name))
}

/// How a variant would come to be there.
fn change(site: Site<'_>, draft: &Draft, (kind, row, plan): (&str, &ComponentRow, &PartPlan), sum: &mut Sum) -> Value {
    let found = row.digest.as_ref().map(|digest| variants::foresee(site.device, (row.id, digest), plan));
    let (path, taken_over) = found.unwrap_or((variants::Path::Full, 0));
    let (bytes, left) = (plan.bytes(), plan.bytes().saturating_sub(taken_over));
    let is_there = path == variants::Path::Cached;
    let estimate = || site.device.variants.estimate_seconds(left).unwrap_or_else(|| draft.estimated_seconds(plan));
    let seconds = if is_there { 0.0 } else { estimate() };
    if !is_there {
        sum.bytes = sum.bytes.saturating_add(bytes);
        sum.seconds += seconds;
    }
    json!({
        "component": kind, "base": row.id, "path": path.as_str(), "bytes": bytes, "seconds": seconds,
        "tensors": plan.changes.len(), "taken_over_bytes": taken_over,
    })
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

/// Whether nobody uses or keeps the copy of a base, if there is one.
fn may_be_converted(site: Site<'_>, base: &str) -> bool {
    let is_it = |copy: &crate::runner::DeviceResident| site.agent.aliases.now(copy.component).to_string() == base;
    let copies = site.device.resident();
    let noted = copies.iter().find(|copy| is_it(copy)).map(|copy| site.device.tier.noted(copy));
    noted.is_none_or(|noted| noted.leases == 0 && !noted.protected)
}

/// Where room is short, bases that may be would be converted, the largest variants first; the bytes that would be missing all
/// the same.
fn converted(changes: &mut [Value], mut short: u64, may_be: impl Fn(&str) -> bool) -> u64 {
    let bytes = |change: &Value| change["bytes"].as_u64().unwrap_or(0);
    let is_open = |change: &&mut Value| change["path"] != "cached" && change["base"].as_str().is_some_and(&may_be);
    let mut computed: Vec<&mut Value> = changes.iter_mut().filter(is_open).collect();
    computed.sort_by_key(|change| std::cmp::Reverse(bytes(change)));
    for change in computed {
        if short == 0 {
            break;
        }
        short = short.saturating_sub(bytes(change));
        change["path"] = variants::Path::InPlace.as_str().into();
    }
    short
}

/// What would go for so many bytes, and how many would still be missing. What takes part stays.
fn evictions(site: Site<'_>, bytes: u64, spared: &BTreeSet<ComponentId>) -> (Vec<Value>, u64) {
    let memory = site.device.runner.status().borrow().memory;
    let free = memory.capacity_bytes.saturating_sub(memory.used_bytes);
    let need = bytes.saturating_sub(free);
    if need == 0 {
        return (Vec::new(), 0);
    }
    let mut candidates = device_tier::candidates(site.agent, site.device);
    candidates
        .retain(|one| one.key.parse().is_ok_and(|held: ComponentId| !spared.contains(&site.agent.aliases.now(held))));
    let plan = select_victims(site.device.tier.rules(), &candidates, Goal::UpTo(need), site.device.tier.uptime());
    let going: Vec<_> = candidates.iter().filter(|one| plan.victims.contains(&one.key)).collect();
    let freed: u64 = going.iter().map(|one| one.bytes).sum();
    let view = |one: &&residency::policy::Candidate| json!({ "component": &*one.key, "bytes": one.bytes, "reload_seconds": one.reload_seconds });
    (going.iter().map(view).collect(), need.saturating_sub(freed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_uses_is_not_converted_and_its_bytes_stay_missing() {
        let change = |base: &str, path: &str, bytes: u64| json!({ "base": base, "path": path, "bytes": bytes });
        let mut changes =
            [change("a", "full", 10), change("b", "delta", 30), change("c", "cached", 90), change("d", "full", 20)];
        assert_eq!(converted(&mut changes, 25, |base| base != "b"), 0);
        let paths = changes.each_ref().map(|change| change["path"].as_str().unwrap());
        assert_eq!(paths, ["in_place", "delta", "cached", "in_place"]);
        assert_eq!(converted(&mut changes, 50, |base| base != "b"), 20);
        assert_eq!(converted(&mut [change("a", "full", 10)], 0, |_| true), 0);
    }
}
