//! Sheets that several variants hold: any order of coming and going leaves every variant its bytes and the ledger its sum.

use std::num::NonZeroUsize;

use engine::{Cancel, CpuDevice, Device, ElementType};
use proptest::{collection::vec, prelude::*, sample::Index};
use residency::policy::shared::{Going, Holding};
use shared::ids::ComponentId;

use super::{
    ApplyOrder,
    copies::{Copies, CopyError},
    fault::{Fault, FaultDevice},
    protocol::{Done, Failure, RunPart},
    variants::Begun,
    variants_tests::{Stack, apply, base, digest, files, load, order, tensors},
};

struct Host {
    copies: Copies,
    base: ComponentId,
    loras: Vec<ComponentId>,
}

fn host() -> Host {
    host_on(Box::new(CpuDevice::new(64 << 20)))
}

fn host_on(device: Box<dyn Device>) -> Host {
    let mut copies = Copies::new(device);
    let base = load(&mut copies, "base", &base(ElementType::F16));
    let loras = files().iter().enumerate().map(|(at, file)| load(&mut copies, &at.to_string(), file)).collect();
    Host { copies, base, loras }
}

impl Host {
    fn made(&mut self, stack: &Stack, reuse: Option<ComponentId>) -> (ApplyOrder, super::Applied) {
        let order = ApplyOrder { reuse, ..order(self.base, &self.loras, stack) };
        let applied = apply(&mut self.copies, &order, 2).unwrap();
        (order, applied)
    }

    fn used(&self) -> u64 {
        self.copies.device().memory().unwrap().used_bytes
    }

    fn shown(&self, component: ComponentId) -> &super::DeviceResident {
        &self.copies.copy(component).unwrap().shown
    }
}

fn freed(done: Result<Done, CopyError>) -> u64 {
    match done {
        Ok(Done::Unloaded { bytes }) => bytes,
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_what_a_changed_weight_touches_takes_new_bytes_and_what_two_hold_stays_with_the_last() {
    let mut host = host();
    // the second file changes `out` alone; `conv` is the first one's and the third one's
    let (first, whole) = host.made(&vec![(0, 8), (1, 3)], None);
    let before = host.used();
    let (second, part) = host.made(&vec![(0, 8), (1, 4)], Some(first.variant));
    assert_eq!((part.computed, part.taken_over), (2, 2), "`out`, and what is the first one's alone");
    assert_eq!(host.used() - before, part.bytes);
    assert!(part.bytes < whole.bytes);
    let (again, fresh) = (tensors(&mut host.copies, second.variant), host.made(&vec![(0, 8), (1, 4)], None).0);
    assert_eq!(again, tensors(&mut host.copies, fresh.variant));
    host.copies.unload(fresh.variant).unwrap();

    assert_eq!(host.shown(second.variant).bytes, whole.bytes, "what both hold is counted with the one that came last");
    assert_eq!(host.shown(first.variant).alone_bytes, host.shown(first.variant).bytes);
    assert_eq!(host.shown(first.variant).held_bytes(), whole.bytes);
    let gone = freed(host.copies.unload(first.variant));
    assert_eq!(gone, part.bytes, "the rest is the second one's as well");
    assert_eq!(host.shown(second.variant).alone_bytes, whole.bytes, "which has it alone now");
    assert_eq!(tensors(&mut host.copies, second.variant), again);
    assert_eq!(freed(host.copies.unload(second.variant)), whole.bytes);
}

#[test]
fn what_a_variant_that_is_being_made_will_share_does_not_come_back_any_more() {
    let mut host = host();
    let (first, whole) = host.made(&vec![(0, 8), (1, 3)], None);
    let order = ApplyOrder { reuse: Some(first.variant), ..order(host.base, &host.loras, &vec![(0, 8), (1, 4)]) };
    let Begun::Merge(merge, pending) = host.copies.begin(&order).unwrap() else { panic!("it is not there") };
    let shown = host.shown(first.variant);
    assert!(shown.alone_bytes < whole.bytes && shown.held_bytes() == whole.bytes, "{shown:?}");
    let cancel = Cancel::new();
    cancel.cancel();
    let merged = merge.run(NonZeroUsize::MIN, &cancel, |_| {});
    assert!(host.copies.finish(*pending, merged).is_err());
    assert_eq!(host.shown(first.variant).alone_bytes, whole.bytes, "it was not made");
}

#[test]
fn a_run_of_one_variant_does_not_hold_another_that_has_some_of_the_same_memory() {
    let mut host = host();
    let (first, _) = host.made(&vec![(0, 8), (1, 3)], None);
    let (second, _) = host.made(&vec![(0, 8), (1, 4)], Some(first.variant));
    let part = RunPart { slot: "unet".into(), component: host.base, overlay: Some(second.variant) };
    let parts = host.copies.parts(vec![part]).unwrap();
    let bytes = tensors(&mut host.copies, second.variant);
    freed(host.copies.unload(first.variant));
    assert!(matches!(host.copies.unload(second.variant), Err(CopyError::Failed(Failure::InUse { leases: 1, .. }))));
    for layer in &parts[0].layers[1..] {
        for tensor in layer.tensors.iter() {
            let (begin, end) = (tensor.offset as usize, (tensor.offset + tensor.len) as usize);
            assert_eq!(layer.view.as_slice().unwrap()[begin..end], bytes[&tensor.name], "{}", tensor.name);
        }
    }
    drop(parts);
    freed(host.copies.unload(second.variant));
}

#[test]
fn a_variant_goes_for_another_and_what_is_used_stays() {
    let mut host = host();
    let (stack, next): (Stack, Stack) = (vec![(0, 8), (1, 3)], vec![(0, 7), (1, 4)]);
    let wanted = host.made(&next, None).0;
    let bytes = tensors(&mut host.copies, wanted.variant);
    host.copies.unload(wanted.variant).unwrap();
    let (first, _) = host.made(&stack, None);
    let used = host.used();
    let second = ApplyOrder { replaces: vec![first.variant, host.base], ..order(host.base, &host.loras, &next) };
    apply(&mut host.copies, &second, 2).unwrap();
    assert_eq!(
        (host.used(), tensors(&mut host.copies, second.variant)),
        (used, bytes),
        "in its place, the base is none"
    );
    assert!(host.copies.copy(first.variant).is_err() && host.copies.copy(host.base).is_ok());

    // what a run reads stays, and so does what is copied from
    let part = RunPart { slot: "unet".into(), component: host.base, overlay: Some(second.variant) };
    let parts = host.copies.parts(vec![part]).unwrap();
    let third = ApplyOrder { replaces: vec![second.variant], ..order(host.base, &host.loras, &stack) };
    apply(&mut host.copies, &third, 2).unwrap();
    assert!(host.copies.copy(second.variant).is_ok());
    drop(parts);

    // one that is refused takes nothing off; one that fails later has
    let absent = ComponentId::generate();
    let refused = ApplyOrder { base: absent, replaces: vec![second.variant], ..order(host.base, &host.loras, &stack) };
    assert!(apply(&mut host.copies, &refused, 2).is_err() && host.copies.copy(second.variant).is_ok());
    let failing = ApplyOrder { replaces: vec![second.variant], ..order(host.base, &host.loras, &vec![(0, 5)]) };
    let Begun::Merge(merge, pending) = host.copies.begin(&failing).unwrap() else { panic!("it is not there") };
    let cancel = Cancel::new();
    cancel.cancel();
    let merged = merge.run(NonZeroUsize::MIN, &cancel, |_| {});
    assert!(host.copies.finish(*pending, merged).is_err() && host.copies.copy(second.variant).is_err());
    let sum: u64 = host.copies.resident().iter().map(|copy| copy.bytes).sum();
    assert_eq!(sum, host.used(), "nothing is left of it");
}

fn all_shown(host: &Host) -> u64 {
    host.copies.resident().iter().map(|copy| copy.bytes).sum()
}

#[test]
fn no_memory_is_left_of_what_went_for_a_variant_that_was_not_made() {
    // a run has set aside what the new sheets would need more
    let mut host = host();
    let (small, _) = host.made(&vec![(1, 3)], None);
    let memory = host.copies.device().memory().unwrap();
    let free = memory.capacity_bytes - memory.used_bytes;
    host.copies.ledger().look(memory);
    let run = host.copies.ledger().run();
    run.set(free).unwrap();
    let large = vec![(0, 8), (1, 3), (2, 7)];
    let order = |host: &Host, replaces: &[ComponentId], reuse| ApplyOrder {
        replaces: replaces.to_vec(),
        reuse,
        ..order(host.base, &host.loras, &large)
    };
    let order_for_all = order(&host, &[small.variant], None);
    let full = apply(&mut host.copies, &order_for_all, 2);
    assert!(matches!(full, Err(CopyError::Failed(Failure::OutOfMemory { .. }))), "{full:?}");
    assert_eq!(host.used(), all_shown(&host));
    drop(run);

    // a sheet of what goes was to be held by the new one as well
    let (closest, _) = host.made(&vec![(0, 8), (1, 3)], None);
    let (other, _) = host.made(&vec![(0, 7), (1, 4)], None);
    let wanted = vec![(0, 8), (1, 4)];
    let free = host.copies.device().memory().unwrap().capacity_bytes - host.used();
    let blocker = host.copies.device.allocate(free).unwrap();
    let order = ApplyOrder {
        replaces: vec![other.variant],
        reuse: Some(closest.variant),
        ..self::order(host.base, &host.loras, &wanted)
    };
    let before = host.used();
    let made = apply(&mut host.copies, &order, 2);
    assert!(host.copies.copy(other.variant).is_err() && host.used() <= before);
    host.copies.device.free(blocker).unwrap();
    assert_eq!(host.used(), all_shown(&host), "{made:?}");
}

#[test]
fn what_goes_and_cannot_be_freed_yet_is_freed_later() {
    for not_freed in [1, 2] {
        let mut host = host_on(Box::new(FaultDevice::new(64 << 20, Some(Fault::NotFreed(not_freed)))));
        let (first, _) = host.made(&vec![(0, 8), (1, 3)], None);
        let order =
            ApplyOrder { replaces: vec![first.variant], ..order(host.base, &host.loras, &vec![(0, 7), (1, 4)]) };
        apply(&mut host.copies, &order, 2).unwrap();
        assert!(host.copies.copy(first.variant).is_err());
        host.copies.free_late().unwrap();
        assert_eq!(host.used(), all_shown(&host));
    }
}

#[test]
fn what_one_slab_has_too_much_of_is_room_for_another() {
    const PAGE: u64 = 4096;
    let mut host = host();
    let spare = [(); 2].map(|()| host.copies.device.allocate(8 * PAGE).unwrap());
    let free = host.copies.device().memory().unwrap().capacity_bytes - host.used();
    host.copies.device.allocate(free).unwrap();
    let slabs = host.copies.reserved(&[10 * PAGE, 5 * PAGE, PAGE], spare.to_vec()).unwrap();
    let sizes: Vec<u64> = slabs.iter().map(|(slab, _)| host.copies.device.slab_bytes(*slab).unwrap()).collect();
    assert_eq!(sizes, [10 * PAGE, 5 * PAGE, PAGE], "in the order in which they were asked for");
}

#[test]
fn what_is_missing_is_told_when_what_goes_is_not_enough() {
    let mut host = host();
    let (small, _) = host.made(&vec![(1, 3)], None);
    let capacity = host.copies.device().memory().unwrap().capacity_bytes;
    let free = capacity - host.used();
    let blocker = host.copies.device.allocate(free).unwrap();
    let large = ApplyOrder { replaces: vec![small.variant], ..order(host.base, &host.loras, &vec![(0, 8), (1, 3)]) };
    match apply(&mut host.copies, &large, 2) {
        Err(CopyError::Failed(Failure::OutOfMemory { needed_bytes, available_bytes, .. })) => {
            assert_eq!(available_bytes, capacity - host.used(), "as it is now");
            assert!(needed_bytes > available_bytes);
        }
        other => panic!("{other:?}"),
    }
    assert!(host.copies.copy(small.variant).is_err());
    host.copies.device.free(blocker).unwrap();
    host.made(&vec![(0, 8), (1, 3)], None);
}

#[test]
fn what_lies_in_several_pieces_is_not_given_to_other_programs() {
    let mut host = host();
    let (several, _) = host.made(&vec![(0, 8), (1, 3)], None);
    match host.copies.share(several.variant, 1) {
        Err(CopyError::Failed(Failure::Work { error })) => assert!(error.message.contains("pieces"), "{error:?}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_variant_that_could_be_freed_only_in_part_serves_nobody_and_its_memory_comes_back_later() {
    for not_freed in [1, 2] {
        let mut host = host_on(Box::new(FaultDevice::new(64 << 20, Some(Fault::NotFreed(not_freed)))));
        let before = host.used();
        let (first, whole) = host.made(&vec![(0, 8), (1, 3)], None);
        let wanted = tensors(&mut host.copies, first.variant);
        let held = host.used();
        let gone = freed(host.copies.unload(first.variant));
        assert_eq!(gone, held - host.used(), "what came back, and no more");
        assert!(host.used() > before, "a sheet is left");
        assert!(host.copies.copy(first.variant).is_err() && host.copies.layers(first.variant).is_err());
        // the sheets of the one that has left are the only ones that could be taken
        let (second, made) = host.made(&vec![(0, 8), (1, 3)], Some(first.variant));
        assert_eq!((made.taken_over, made.bytes), (0, whole.bytes), "{made:?}");
        assert_eq!(tensors(&mut host.copies, second.variant), wanted);
        assert_eq!(freed(host.copies.unload(second.variant)), whole.bytes);
        assert_eq!(host.used(), before);
    }
}

#[test]
fn an_unload_of_what_was_loaded_succeeds_only_when_the_bytes_are_back() {
    let mut host = host_on(Box::new(FaultDevice::new(64 << 20, Some(Fault::NotFreed(1)))));
    let (held, base) = (host.used(), host.base);
    let owed = host.shown(base).bytes;
    match host.copies.unload(base) {
        Err(CopyError::Failed(Failure::NotFreed { component, freed_bytes: 0, owed_bytes })) => {
            assert_eq!((component, owed_bytes), (base, owed));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(host.used(), held, "the device has it still");
    assert!(host.copies.copy(base).is_err(), "and nobody can use it");
    // asked again, the rest is freed, and there is nothing to unload any more
    assert!(matches!(host.copies.unload(base), Err(CopyError::Failed(Failure::NotResident { .. }))));
    assert_eq!(host.used(), held - owed);
}

#[test]
fn a_sheet_that_would_be_too_large_is_cut_and_its_pieces_are_shared_like_others() {
    let stack = vec![(0, 8), (1, 3)];
    let mut host = host();
    let sheets = |host: &Host, order: &ApplyOrder| host.copies.copy(order.variant).unwrap().sheets.len();
    let (plain, _) = host.made(&stack, None);
    let (few, wanted) = (sheets(&host, &plain), tensors(&mut host.copies, plain.variant));
    host.copies.unload(plain.variant).unwrap();
    // `conv.weight` and its bias are changed by the same and have more together, each alone has not
    host.copies.sheet_bytes = 580;
    let (first, _) = host.made(&stack, None);
    assert_eq!(sheets(&host, &first), few + 1);
    assert_eq!(tensors(&mut host.copies, first.variant), wanted);
    let (second, part) = host.made(&vec![(0, 8), (1, 4)], Some(first.variant));
    assert_eq!((part.computed, part.taken_over), (2, 2));
    let fresh = host.made(&vec![(0, 8), (1, 4)], None).0;
    assert_eq!(tensors(&mut host.copies, second.variant), tensors(&mut host.copies, fresh.variant));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_variant_keeps_its_bytes_and_all_together_are_what_the_device_gave(
        steps in vec((any::<bool>(), vec((0_usize..3, 6_i8..=8), 1..3), any::<Index>(), any::<bool>()), 1..12),
    ) {
        let mut host = host();
        let mut there: Vec<(ComponentId, String)> = Vec::new();
        for (makes, stack, which, replaces) in steps {
            if makes || there.is_empty() {
                let (fresh, _) = host.made(&stack, None);
                let wanted = digest(&mut host.copies, fresh.variant);
                host.copies.unload(fresh.variant).unwrap();
                let reuse = (!there.is_empty()).then(|| there[which.index(there.len())].0);
                let replaced: Vec<_> = there.drain(..if replaces { which.index(there.len() + 1) } else { 0 }).collect();
                let ids = replaced.iter().map(|(variant, _)| *variant).collect();
                let order = ApplyOrder { reuse, replaces: ids, ..order(host.base, &host.loras, &stack) };
                let applied = apply(&mut host.copies, &order, 2).unwrap();
                prop_assert_eq!(applied.computed + applied.taken_over, order.changes.len());
                // one stays that something was copied from
                let stays = replaced.into_iter().filter(|(variant, _)| host.copies.copy(*variant).is_ok());
                there.extend(stays.inspect(|(variant, _)| assert_eq!(Some(*variant), order.reuse)));
                there.push((order.variant, wanted));
            } else {
                // several at once: what a plan of all of them expects is what comes
                let (mut going, mut expected, before) = (Going::default(), 0, host.used());
                let some = which.index(there.len());
                let leaving: Vec<ComponentId> = there.drain(some..).map(|(variant, _)| variant).collect();
                for variant in &leaving {
                    let shown = host.shown(*variant);
                    expected += going.take(Holding { own_bytes: shown.alone_bytes, shared: &shown.shared });
                }
                let bytes: u64 = leaving.iter().map(|variant| freed(host.copies.unload(*variant))).sum();
                prop_assert_eq!((before - host.used(), expected), (bytes, bytes));
            }
            for (variant, wanted) in &there {
                prop_assert_eq!(&digest(&mut host.copies, *variant), wanted);
            }
            let sum: u64 = host.copies.resident().iter().map(|copy| copy.bytes).sum();
            prop_assert_eq!(sum, host.used());
        }
    }
}
