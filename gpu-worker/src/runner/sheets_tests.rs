//! Sheets that several variants hold: any order of coming and going leaves every variant its bytes and the ledger its sum.

use engine::{CpuDevice, ElementType};
use proptest::{collection::vec, prelude::*, sample::Index};
use shared::ids::ComponentId;

use super::{
    ApplyOrder,
    copies::{Copies, CopyError},
    protocol::{Done, Failure, RunPart},
    variants_tests::{Stack, apply, base, digest, files, load, order, tensors},
};

struct Host {
    copies: Copies,
    base: ComponentId,
    loras: Vec<ComponentId>,
}

fn host() -> Host {
    let mut copies = Copies::new(Box::new(CpuDevice::new(64 << 20)));
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

    fn bytes(&self, component: ComponentId) -> u64 {
        self.copies.copy(component).unwrap().shown.bytes
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

    let gone = freed(host.copies.unload(first.variant));
    assert_eq!(gone, part.bytes, "the rest is the second one's as well");
    assert_eq!(host.bytes(second.variant), whole.bytes, "which has it alone now");
    assert_eq!(tensors(&mut host.copies, second.variant), again);
    assert_eq!(freed(host.copies.unload(second.variant)), whole.bytes);
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
fn what_lies_in_several_pieces_is_not_given_to_other_programs() {
    let mut host = host();
    let (several, _) = host.made(&vec![(0, 8), (1, 3)], None);
    match host.copies.share(several.variant, 1) {
        Err(CopyError::Failed(Failure::Work { error })) => assert!(error.message.contains("pieces"), "{error:?}"),
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_variant_keeps_its_bytes_and_all_together_are_what_the_device_gave(
        steps in vec((any::<bool>(), vec((0_usize..3, 6_i8..=8), 1..3), any::<Index>()), 1..12),
    ) {
        let mut host = host();
        let mut there: Vec<(ComponentId, String)> = Vec::new();
        for (makes, stack, which) in steps {
            if makes || there.is_empty() {
                let (fresh, _) = host.made(&stack, None);
                let wanted = digest(&mut host.copies, fresh.variant);
                host.copies.unload(fresh.variant).unwrap();
                let reuse = (!there.is_empty()).then(|| there[which.index(there.len())].0);
                let (order, applied) = host.made(&stack, reuse);
                prop_assert_eq!(applied.computed + applied.taken_over, order.changes.len());
                there.push((order.variant, wanted));
            } else {
                let (variant, _) = there.swap_remove(which.index(there.len()));
                let before = host.used();
                let bytes = freed(host.copies.unload(variant));
                prop_assert_eq!(before - host.used(), bytes);
            }
            for (variant, wanted) in &there {
                prop_assert_eq!(&digest(&mut host.copies, *variant), wanted);
            }
            let sum: u64 = host.copies.resident().iter().map(|copy| copy.bytes).sum();
            prop_assert_eq!(sum, host.used());
        }
    }
}
