//! How variants would come to be there, and what the bound on their bytes would take off for them. Nothing on the device changes.

use std::collections::BTreeSet;

use residency::policy::shared::{Going, SharedMemory, joined, lend};
use shared::ids::ComponentId;

use super::{
    book::{Variant, Weighed, closest, held_bytes, surplus},
    bound::weighed,
    ensure::Path,
    tries::Try,
};
use crate::{
    context::{Agent, Device},
    managers::lora::PartPlan,
    runner::DeviceResident,
};

/// A variant that somebody would want.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'p> {
    /// Its base, under its present id in the catalogue.
    pub base: ComponentId,
    /// Digest of the base; none while it is not known.
    pub base_digest: Option<&'p str>,
    /// What changes.
    pub plan: &'p PartPlan,
}

impl Wish<'_> {
    fn is(&self, variant: &Variant) -> bool {
        self.base_digest.is_some_and(|digest| variant.key == self.plan.key(digest))
    }
}

/// How it would come to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// Cached, delta or full.
    pub path: Path,
    /// Bytes of it that would be taken over from an earlier one.
    pub taken_over: u64,
    /// Bytes of these that need no memory: it would be held by one more.
    pub held: u64,
    /// The variant that these are taken over from.
    pub from: Option<ComponentId>,
    /// The variant that is it already.
    pub cached: Option<ComponentId>,
}

/// A variant that would go.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trimmed {
    /// Its id.
    pub id: ComponentId,
    /// Bytes that are free then.
    pub bytes: u64,
    /// Seconds that making it again takes.
    pub seconds: f64,
    /// The place of the wish that it goes for.
    pub wish: usize,
    /// Only once what is made is there: its bytes are no room for that.
    pub afterwards: bool,
}

/// How these variants would come to be there, made one after the other, and what the bound would take off meanwhile.
pub fn foresee(agent: &Agent, device: &Device, wishes: &[Wish<'_>]) -> (Vec<Way>, Vec<Trimmed>) {
    let all = device.variants.among(&device.resident());
    let used: BTreeSet<ComponentId> = all
        .iter()
        .filter(|(variant, _)| wishes.iter().any(|wish| wish.is(variant)))
        .map(|(variant, _)| variant.id)
        .collect();
    let there = weighed(device, &all, &used);
    foreseen(&all, there, wishes, agent.variant_budget(device))
}

fn foreseen(
    all: &[(Variant, DeviceResident)],
    mut there: Vec<Weighed>,
    wishes: &[Wish<'_>],
    budget: u64,
) -> (Vec<Way>, Vec<Trimmed>) {
    let (mut ways, mut trimmed): (Vec<Way>, Vec<Trimmed>) = (Vec::new(), Vec::new());
    for (number, wish) in wishes.iter().enumerate() {
        if let Some((variant, _)) = all.iter().find(|(variant, _)| wish.is(variant)) {
            let bytes = wish.plan.bytes();
            ways.push(Way { path: Path::Cached, taken_over: bytes, held: bytes, from: None, cached: Some(variant.id) });
            continue;
        }
        let left: Vec<(Variant, DeviceResident)> =
            all.iter().filter(|(variant, _)| trimmed.iter().all(|gone| gone.id != variant.id)).cloned().collect();
        let from = wish.base_digest.and_then(|digest| closest(&left, (wish.base, digest), wish.plan));
        let spared = from.map(|(variant, _)| variant.id);
        let taken_over = from.map_or(0, |(variant, _)| wish.plan.shared_bytes(&variant.marks));
        let path = Try::first(from.is_some()).path(taken_over > 0);
        let held = from.map_or(0, |(variant, _)| held_bytes(variant, wish.plan));
        ways.push(Way { path, taken_over, held, from: spared, cached: None });
        let bytes = wish.plan.bytes().saturating_sub(held);
        trimmed.extend(trim(&mut there, (number, bytes), spared, budget, false));
        let shared = lent(&mut there, spared, held, ways.len());
        there.push(Weighed { id: ComponentId::generate(), bytes, shared, seconds: 0.0, may_go: false });
        trimmed.extend(trim(&mut there, (number, 0), None, budget, true));
    }
    (ways, trimmed)
}

/// So many bytes of what this variant holds are held by one more from now on: what that one has of it.
fn lent(there: &mut [Weighed], from: Option<ComponentId>, bytes: u64, number: usize) -> Vec<SharedMemory> {
    let Some(from) = there.iter_mut().find(|one| Some(one.id) == from) else { return Vec::new() };
    // slabs are numbered from the other end
    let memory = u64::MAX - u64::try_from(number).unwrap_or(0);
    let lent = lend(&mut from.bytes, &mut from.shared, bytes, memory);
    there.iter_mut().for_each(|one| joined(&mut one.shared, &lent));
    lent
}

/// Takes what the bound would take off out of what is there.
fn trim(
    there: &mut Vec<Weighed>,
    (wish, incoming): (usize, u64),
    spared: Option<ComponentId>,
    budget: u64,
    afterwards: bool,
) -> Vec<Trimmed> {
    let seen: Vec<Weighed> =
        there.iter().map(|one| Weighed { may_go: one.may_go && spared != Some(one.id), ..one.clone() }).collect();
    let ids = surplus(&seen, incoming, budget);
    let mut going = Going::default();
    let gone = ids.iter().filter_map(|id| seen.iter().find(|one| one.id == *id));
    let gone = gone.map(|one| {
        let bytes = going.take(one.holding());
        Trimmed { id: one.id, bytes, seconds: one.seconds, wish, afterwards }
    });
    let gone = gone.collect();
    there.retain(|one| !ids.contains(&one.id));
    there.iter_mut().for_each(|one| going.leave(&mut one.shared));
    gone
}

#[cfg(test)]
mod tests {
    use super::{
        super::book::tests::{plan, variant},
        *,
    };

    #[test]
    fn what_the_bound_takes_off_is_foreseen_and_what_is_taken_over_from_stays_until_it_was() {
        let [unet, encoder] = std::array::from_fn(|_| ComponentId::generate());
        let all = [variant(unet, &[("a", 1), ("b", 1)]), variant(encoder, &[("t", 1)]), variant(unet, &[("z", 9)])];
        let weigh = |kept: usize| {
            let one = |(at, (variant, _)): (usize, &(Variant, DeviceResident))| Weighed {
                id: variant.id,
                // the first has as many as are taken over from it, and more
                bytes: if at == 0 { 150 } else { variant.bytes },
                shared: Vec::new(),
                seconds: 1.0,
                may_go: at != kept,
            };
            all.iter().enumerate().map(one).collect::<Vec<_>>()
        };
        let (next, other) = (plan(&[("a", 1), ("b", 2)]), plan(&[("t", 2)]));
        let wishes = [(encoder, &other), (unet, &next)].map(|(base, plan)| Wish { base, base_digest: Some("d"), plan });
        let ids = |trimmed: &[Trimmed]| trimmed.iter().map(|one| one.id).collect::<Vec<_>>();
        let ways = |ways: &[Way]| ways.iter().map(|way| (way.path, way.taken_over)).collect::<Vec<_>>();

        let (way, trimmed) = foreseen(&all, weigh(9), &wishes, 0);
        assert_eq!((ways(&way), trimmed), (vec![(Path::Full, 0), (Path::Delta, 100)], Vec::new()), "no bound");
        let (way, trimmed) = foreseen(&all, weigh(9), &wishes[1..], 100);
        assert_eq!(ways(&way), [(Path::Delta, 100)]);
        let mut gone = ids(&trimmed);
        gone.sort_unstable();
        let mut three: Vec<ComponentId> = all.iter().map(|(variant, _)| variant.id).collect();
        let last = trimmed.last().unwrap().id;
        three.sort_unstable();
        assert_eq!((gone, last), (three, all[0].0.id), "the one that is taken over from goes last");
        // one that went for the part before has nothing to be taken over from
        let (way, trimmed) = foreseen(&all, weigh(1), &wishes, 1);
        assert_eq!((ways(&way), trimmed.len()), (vec![(Path::Full, 0), (Path::Full, 0)], 2), "a kept one stays");
        // and one that is wanted is there
        let mut made = all.clone();
        made[0].0.key = next.key("d");
        let (way, trimmed) = foreseen(&made, weigh(0), &wishes[1..], 10_000);
        assert_eq!((way[0].cached, trimmed), (Some(all[0].0.id), Vec::new()));
    }
    #[test]
    fn what_a_chain_of_variants_holds_comes_back_with_none_of_them_while_the_newest_holds_it() {
        let unet = ComponentId::generate();
        let all = [variant(unet, &[("z", 9)]), variant(unet, &[("a", 1)])];
        let sheet = SharedMemory { memory: 1, bytes: 100, holders: 2 };
        let weigh = |(at, (variant, _)): (usize, &(Variant, DeviceResident))| {
            let bytes = if at == 0 { 3 } else { 4 };
            Weighed { id: variant.id, bytes, shared: vec![sheet], seconds: 1.0, may_go: true }
        };
        let there: Vec<Weighed> = all.iter().enumerate().map(weigh).collect();
        let next = plan(&[("a", 1), ("b", 2)]);
        let (way, trimmed) = foreseen(&all, there, &[Wish { base: unet, base_digest: Some("d"), plan: &next }], 1);
        assert_eq!((way[0].taken_over, way[0].from), (100, Some(all[1].0.id)));
        assert_eq!(trimmed.iter().map(|one| one.bytes).sum::<u64>(), 7, "the sheet stays with the new one");
    }
}
