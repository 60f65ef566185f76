//! The variants of one device: what each is made of and what it cost. Plain data behind one lock.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chrono::{DateTime, Utc};
use residency::policy::shared::{Holding, SharedMemory, choose};
use shared::ids::{ComponentId, PipelineId};

use crate::{managers::lora::PartPlan, runner::DeviceResident};

/// A variant on a device.
#[derive(Debug, Clone)]
pub struct Variant {
    /// The id that it is held under.
    pub id: ComponentId,
    /// Since when: the copy that this note is about.
    pub since: DateTime<Utc>,
    /// What the base is used as: `unet`, `text_encoder`, ….
    pub kind: String,
    /// The base, under its present id in the catalogue.
    pub base: ComponentId,
    /// Digest of the base's content.
    pub base_digest: String,
    /// Names base and stack: equal keys, equal bytes.
    pub key: String,
    /// Bytes that it takes, as its copy says now: what variants share is counted with one of them.
    pub bytes: u64,
    /// It holds every tensor, as the base's copy was converted into it.
    pub is_whole: bool,
    /// Seconds that making it takes where nothing of it is there.
    pub seconds: f64,
    /// What each changed tensor follows from.
    pub marks: Arc<BTreeMap<String, [u8; 32]>>,
    /// Names of tensors that lie together: held by another variant as well when it wants all of them as they are.
    pub sheets: Arc<Vec<Vec<String>>>,
    /// The LoRAs with their weights, as they were given.
    pub loras: Vec<String>,
    /// Pipelines that are applied and use it, with their names.
    pub pipelines: BTreeMap<PipelineId, String>,
}

/// The variants of one device, and how fast they are made there.
#[derive(Debug, Default)]
pub struct Variants {
    book: Mutex<Book>,
    /// Variants are made one after the other: whoever wants one that is being made waits and finds it.
    pub(super) making: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Book {
    variants: BTreeMap<ComponentId, Variant>,
    /// Bytes and seconds of tensors that were computed, the newer ones counting more.
    computed: (f64, f64),
}

/// A variant as the bound on their bytes sees it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Weighed {
    pub(super) id: ComponentId,
    /// Bytes that it alone holds.
    pub(super) bytes: u64,
    /// What it holds with others.
    pub(super) shared: Vec<SharedMemory>,
    pub(super) seconds: f64,
    /// Neither in use nor kept.
    pub(super) may_go: bool,
}

impl Weighed {
    pub(super) fn holding(&self) -> Holding<'_> {
        Holding { own_bytes: self.bytes, shared: &self.shared }
    }

    /// Seconds that making it again takes for each byte that it takes.
    fn worth(&self) -> f64 {
        let takes = self.shared.iter().fold(self.bytes, |sum, shared| sum.saturating_add(shared.part()));
        self.seconds / as_float(takes.max(1))
    }
}

impl Variants {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The variants whose copies are among these.
    pub fn among(&self, copies: &[DeviceResident]) -> Vec<(Variant, DeviceResident)> {
        let book = self.book();
        let one = |copy: &DeviceResident| {
            let variant = book.variants.get(&copy.component).filter(|variant| variant.since == copy.since)?;
            Some((Variant { bytes: copy.bytes, ..variant.clone() }, copy.clone()))
        };
        copies.iter().filter_map(one).collect()
    }

    /// Notes a variant that was made; `computed_bytes` of it are no copies of an earlier one's. `now` tells the base's present
    /// id: asked under the lock, so that a merge is either known to it or renames what is noted here.
    pub fn made(&self, mut variant: Variant, computed_bytes: u64, now: impl Fn(ComponentId) -> ComponentId) {
        let mut book = self.book();
        variant.base = now(variant.base);
        if computed_bytes > 0 && variant.seconds > 0.0 {
            let (bytes, seconds) = book.computed;
            book.computed = (bytes / 2.0 + as_float(computed_bytes), seconds / 2.0 + variant.seconds);
        }
        book.variants.insert(variant.id, variant);
    }

    /// A component was merged into another: it is what its variants lie over now.
    pub fn merged(&self, component: ComponentId, now: ComponentId) {
        for variant in self.book().variants.values_mut().filter(|variant| variant.base == component) {
            variant.base = now;
        }
    }

    /// A pipeline that was applied uses these variants, and no others any more; those that no pipeline uses now, and one did.
    pub fn used_by(&self, pipeline: PipelineId, name: &str, ids: &BTreeSet<ComponentId>) -> BTreeSet<ComponentId> {
        let mut left = BTreeSet::new();
        for variant in self.book().variants.values_mut() {
            if ids.contains(&variant.id) {
                variant.pipelines.insert(pipeline, name.to_owned());
            } else if variant.pipelines.remove(&pipeline).is_some() && variant.pipelines.is_empty() {
                left.insert(variant.id);
            }
        }
        left
    }

    /// The variants that a pipeline uses.
    pub fn uses_of(&self, pipeline: PipelineId) -> BTreeSet<ComponentId> {
        let book = self.book();
        book.variants
            .values()
            .filter(|variant| variant.pipelines.contains_key(&pipeline))
            .map(|variant| variant.id)
            .collect()
    }

    /// Forgets variants whose copies are gone.
    pub fn prune(&self, on_device: impl Fn() -> Vec<DeviceResident>) {
        // looked at under the lock: what is noted was there before, and is there unless it has gone since
        let mut book = self.book();
        let copies = on_device();
        book.variants
            .retain(|id, variant| copies.iter().any(|copy| copy.component == *id && copy.since == variant.since));
    }

    /// Seconds that computing so many bytes takes here; none before anything was computed.
    pub fn estimate_seconds(&self, bytes: u64) -> Option<f64> {
        let (computed, seconds) = self.book().computed;
        (computed > 0.0).then(|| as_float(bytes) * seconds / computed)
    }
}

/// The variant of this base that has most bytes of the plan already; none when no tensor is the same.
pub(super) fn closest<'v>(
    variants: &'v [(Variant, DeviceResident)],
    (base, base_digest): (ComponentId, &str),
    plan: &PartPlan,
) -> Option<&'v (Variant, DeviceResident)> {
    let of_base = variants
        .iter()
        .filter(|(variant, _)| variant.base == base && variant.base_digest == base_digest && !variant.is_whole);
    let shared = of_base.map(|one| (plan.shared_bytes(&one.0.marks), one));
    shared.filter(|(bytes, _)| *bytes > 0).max_by_key(|(bytes, (variant, _))| (*bytes, variant.id)).map(|(_, one)| one)
}

/// Bytes of the plan that this variant, which is closest to it, has in memory of which it wants everything: what is to be had without a
/// copy. What lies beside something else is copied. The runner finds some with other variants as well, which may go before.
pub(super) fn held_bytes(closest: &Variant, plan: &PartPlan) -> u64 {
    let is_wanted =
        |tensor: &String| plan.marks.get(tensor).is_some_and(|mark| closest.marks.get(tensor) == Some(mark));
    let serving = closest.sheets.iter().filter(|sheet| sheet.iter().all(is_wanted));
    serving.flatten().filter_map(|tensor| plan.sizes.get(tensor)).sum()
}

/// Which variants go so that those that stay and `incoming` bytes are within the budget: the quickest to make again for
/// their bytes first, and none that gives nothing back because others hold its memory. No budget is no bound.
pub(super) fn surplus(variants: &[Weighed], incoming: u64, budget: u64) -> Vec<ComponentId> {
    if budget == 0 {
        return Vec::new();
    }
    let own = variants.iter().fold(incoming, |sum, variant| sum.saturating_add(variant.bytes));
    // what several hold is there once
    let together: BTreeMap<u64, u64> =
        variants.iter().flat_map(|variant| &variant.shared).map(|shared| (shared.memory, shared.bytes)).collect();
    let excess = together.values().fold(own, |sum, bytes| sum.saturating_add(*bytes)).saturating_sub(budget);
    let mut order: Vec<&Weighed> = variants.iter().filter(|variant| variant.may_go).collect();
    order.sort_by(|a, b| a.worth().total_cmp(&b.worth()).then_with(|| a.id.cmp(&b.id)));
    let holdings: Vec<_> = order.iter().map(|variant| Some(variant.holding())).collect();
    let chosen = choose(&holdings, excess, true);
    order.iter().zip(chosen).filter(|(_, goes)| *goes).map(|(variant, _)| variant.id).collect()
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn as_float(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::runner::{TensorChange, Term};

    pub(in super::super) fn variant(base: ComponentId, marks: &[(&str, u8)]) -> (Variant, DeviceResident) {
        let (id, since) = (ComponentId::generate(), Utc::now());
        let marks: BTreeMap<String, [u8; 32]> =
            marks.iter().map(|(tensor, mark)| ((*tensor).to_owned(), [*mark; 32])).collect();
        let variant = Variant {
            id,
            since,
            kind: "unet".into(),
            base,
            base_digest: "d".into(),
            key: id.to_string(),
            bytes: 10,
            is_whole: false,
            seconds: 1.0,
            sheets: Arc::new(vec![BTreeMap::keys(&marks).cloned().collect()]),
            marks: Arc::new(marks),
            loras: Vec::new(),
            pipelines: BTreeMap::new(),
        };
        (variant, copy(id, since))
    }

    fn copy(component: ComponentId, since: DateTime<Utc>) -> DeviceResident {
        DeviceResident {
            component,
            digest: "k".into(),
            bytes: 10,
            alone_bytes: 10,
            shared: Vec::new(),
            since,
            last_used: since,
            uses: 1,
            leases: 0,
            variant: None,
        }
    }

    pub(in super::super) fn plan(marks: &[(&str, u8)]) -> PartPlan {
        let mut plan = PartPlan::default();
        for (tensor, mark) in marks {
            plan.marks.insert((*tensor).to_owned(), [*mark; 32]);
            plan.sizes.insert((*tensor).to_owned(), 100);
            let terms = vec![Term { lora: 0, stem: "s".into(), strength: 1.0 }];
            plan.changes.push(TensorChange { tensor: (*tensor).to_owned(), terms });
        }
        plan
    }

    #[test]
    fn the_variant_with_most_of_the_bytes_is_taken_over_from() {
        let [base, other] = std::array::from_fn(|_| ComponentId::generate());
        let all = [
            variant(base, &[("a", 1), ("b", 2)]),
            variant(base, &[("a", 1), ("b", 3), ("c", 4)]),
            variant(other, &[("a", 1), ("b", 3), ("c", 5)]),
        ];
        let wanted = plan(&[("a", 1), ("b", 3), ("c", 5)]);
        assert_eq!(closest(&all, (base, "d"), &wanted).unwrap().0.id, all[1].0.id);
        assert!(closest(&all, (base, "e"), &wanted).is_none(), "the base has other bytes");
        assert!(closest(&all, (base, "d"), &plan(&[("a", 9)])).is_none(), "nothing is the same");
    }

    #[test]
    fn memory_is_held_with_another_where_all_in_it_is_wanted() {
        let (mut one, _) = variant(ComponentId::generate(), &[("a", 1), ("b", 2), ("c", 3)]);
        let held = |one: &Variant, marks: &[(&str, u8)]| held_bytes(one, &plan(marks));
        assert_eq!(held(&one, &[("a", 1), ("b", 2)]), 0, "it lies beside something that is not wanted");
        assert_eq!(held(&one, &[("a", 1), ("b", 2), ("c", 3), ("z", 9)]), 300);
        one.sheets = Arc::new(vec![vec!["a".into(), "b".into()], vec!["c".into()]]);
        assert_eq!(held(&one, &[("a", 1), ("b", 2)]), 200);
        assert_eq!(held(&one, &[("a", 1), ("b", 3), ("c", 3)]), 100, "one of them is made of something else");
    }

    #[test]
    fn a_note_is_about_one_copy_and_pipelines_use_what_was_applied_last() {
        let (variants, base, pipeline) = (Variants::default(), ComponentId::generate(), PipelineId::generate());
        let [(a, copy_a), (b, copy_b)] = std::array::from_fn(|_| variant(base, &[("a", 1)]));
        assert_eq!(variants.estimate_seconds(20), None);
        let merged = ComponentId::generate();
        variants.made(a.clone(), 10, |_| merged);
        variants.made(b.clone(), 0, |base| base);
        assert_eq!(variants.estimate_seconds(20), Some(2.0));
        assert!(variants.used_by(pipeline, "p", &[a.id].into()).is_empty(), "no pipeline used the other");
        assert_eq!(variants.used_by(pipeline, "p", &[b.id].into()), [a.id].into(), "its last pipeline left it");
        assert_eq!(variants.uses_of(pipeline), [b.id].into());
        let copies = [copy_a.clone(), copy_b];
        let bases = || variants.among(&copies).iter().map(|(variant, _)| variant.base).collect::<Vec<_>>();
        let users: Vec<usize> = variants.among(&copies).iter().map(|(variant, _)| variant.pipelines.len()).collect();
        assert_eq!(users, [0, 1]);
        assert_eq!(bases(), [merged, base], "a merge before the note");
        variants.merged(base, merged);
        assert_eq!(bases(), [merged, merged], "and after it");
        let later = DeviceResident { since: copy_a.since + chrono::TimeDelta::seconds(1), ..copy_a };
        variants.prune(|| vec![later.clone()]);
        assert!(variants.among(&copies).is_empty(), "the runner died, and another copy has the id");
    }

    proptest! {
        /// The bound holds whenever it can, nothing goes that has to stay, and nothing goes in vain.
        #[test]
        fn the_bound_holds_and_takes_no_more_than_it_must(
            given in proptest::collection::vec((1..100_u64, 0.0..10.0_f64, any::<bool>(), any::<[bool; 2]>()), 0..8),
            incoming in 0..100_u64,
            budget in 0..300_u64,
        ) {
            let all: Vec<Weighed> = given
                .iter()
                .map(|(bytes, seconds, may_go, with)| Weighed {
                    id: ComponentId::generate(),
                    bytes: bytes % 60,
                    shared: (0..2).filter(|memory| with[*memory]).map(|memory| SharedMemory {
                        memory: memory as u64,
                        bytes: 40,
                        holders: given.iter().filter(|(.., with)| with[memory]).count() as u32,
                    }).collect(),
                    seconds: *seconds,
                    may_go: *may_go,
                })
                .collect();
            let going = surplus(&all, incoming, budget);
            let left = |gone: &dyn Fn(ComponentId) -> bool| -> u64 {
                let stays = || all.iter().filter(|one| !gone(one.id));
                let together: BTreeMap<u64, u64> =
                    stays().flat_map(|one| &one.shared).map(|shared| (shared.memory, shared.bytes)).collect();
                stays().map(|one| one.bytes).sum::<u64>() + together.values().sum::<u64>() + incoming
            };
            let after = left(&|id| going.contains(&id));
            prop_assert!(going.iter().all(|id| all.iter().any(|one| one.id == *id && one.may_go)));
            if budget == 0 {
                prop_assert!(going.is_empty());
            } else if after > budget {
                let all_that_may = left(&|id| all.iter().any(|one| one.id == id && one.may_go));
                prop_assert_eq!(after, all_that_may, "nothing that would help stays");
            } else if let Some(last) = going.last() {
                prop_assert!(left(&|id| going.contains(&id) && id != *last) > budget, "the last one had to go");
            }
            if budget > 0 {
                let in_vain = |one: &ComponentId| left(&|id| going.contains(&id) && id != *one) == after;
                prop_assert!(!going.iter().any(in_vain) || all.iter().any(|one| one.bytes == 0 && one.shared.is_empty()));
            }
        }
    }
}
