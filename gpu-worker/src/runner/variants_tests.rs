//! Variants over random stacks: fresh, from an earlier one and in place they are the same bytes, and the base stays what it was.

use std::{collections::BTreeMap, num::NonZeroUsize};

use engine::{
    Cancel, CpuDevice, ElementType,
    lora::{Lora, LoraTensor, merge},
};
use half::{bf16, f16};
use proptest::{collection::vec, prelude::*};
use shared::ids::ComponentId;

use super::{
    Applied, ApplyOrder, DeviceTensor, LoraSource, TensorChange, Term,
    copies::{Copies, CopyError, Incoming},
    payload::{self, Blob},
    protocol::{Done, Failure},
    variants::Begun,
};

/// A tensor with its values' bytes.
#[derive(Debug, Clone)]
pub(super) struct Whole {
    pub(super) name: String,
    pub(super) element: ElementType,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: Vec<u8>,
}

impl Whole {
    /// Numbers that follow from the seed, about as large as weights are.
    pub(super) fn new(name: &str, element: ElementType, shape: &[usize], seed: u64) -> Self {
        let count: usize = shape.iter().product();
        let number = |at: usize| {
            let mixed =
                (seed ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(at as u64 * 2 + 1).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            ((mixed >> 40) % 2000) as f32 / 1000.0 - 1.0
        };
        let bytes = (0..count).map(number).flat_map(|value| match element {
            ElementType::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
            ElementType::Bf16 => bf16::from_f32(value).to_le_bytes().to_vec(),
            _ => value.to_le_bytes().to_vec(),
        });
        Self { name: name.to_owned(), element, shape: shape.to_vec(), bytes: bytes.collect() }
    }

    fn lora(&self) -> LoraTensor<'_> {
        LoraTensor { name: &self.name, element: self.element, shape: &self.shape, bytes: &self.bytes }
    }
}

/// These tensors as a component that is to be loaded.
pub(super) fn packed(component: ComponentId, digest: &str, tensors: &[Whole]) -> Incoming {
    let mut bytes = Vec::new();
    let placed = tensors.iter().map(|tensor| {
        bytes.resize(bytes.len().next_multiple_of(256), 0);
        let offset = bytes.len() as u64;
        bytes.extend_from_slice(&tensor.bytes);
        DeviceTensor {
            name: tensor.name.clone(),
            dtype: tensor.element.to_string(),
            shape: tensor.shape.iter().map(|side| *side as u64).collect(),
            offset,
            len: tensor.bytes.len() as u64,
        }
    });
    let tensors = placed.collect();
    let length = bytes.len() as u64;
    let blob = Blob { name: "component".into(), media_type: String::new(), bytes };
    let (_, source) = payload::pack(&[blob]).unwrap();
    Incoming { component, digest: digest.to_owned(), tensors, source: source.unwrap(), offset: 0, bytes: length }
}

pub(super) fn load(copies: &mut Copies, digest: &str, tensors: &[Whole]) -> ComponentId {
    let component = ComponentId::generate();
    copies.load(packed(component, digest, tensors), |_| {}, || false).unwrap();
    component
}

pub(super) fn apply(copies: &mut Copies, order: &ApplyOrder, threads: usize) -> Result<Applied, CopyError> {
    match copies.begin(order)? {
        Begun::There(applied) => Ok(applied),
        Begun::Merge(merge, pending) => {
            let merged = merge.run(NonZeroUsize::new(threads).unwrap(), &Cancel::new(), |_| {});
            copies.finish(*pending, merged)
        }
    }
}

pub(super) fn tensors(copies: &mut Copies, component: ComponentId) -> BTreeMap<String, Vec<u8>> {
    let copy = copies.copy(component).unwrap();
    let places: Vec<_> = copy.tensors().map(|(sheet, tensor)| (copy.sheets[sheet].slab, tensor.clone())).collect();
    let mut read = BTreeMap::new();
    for (slab, tensor) in places {
        let mut bytes = vec![0; tensor.len as usize];
        copies.device.read(slab, tensor.offset, &mut bytes).unwrap();
        read.insert(tensor.name, bytes);
    }
    read
}

pub(super) fn digest(copies: &mut Copies, component: ComponentId) -> String {
    match copies.digest(component, |_| {}).unwrap() {
        Done::Digest { digest } => digest,
        other => panic!("{other:?}"),
    }
}

/// A convolution, a matrix, one that nothing changes, and biases.
pub(super) fn base(element: ElementType) -> Vec<Whole> {
    let shapes: [(&str, &[usize]); 5] = [
        ("conv.weight", &[8, 4, 3, 3]),
        ("conv.bias", &[8]),
        ("out.weight", &[20, 33]),
        ("out.bias", &[20]),
        ("rest.weight", &[7]),
    ];
    shapes.iter().enumerate().map(|(at, (name, shape))| Whole::new(name, element, shape, at as u64)).collect()
}

/// Three files of several flavours; which modules they have.
pub(super) fn files() -> [Vec<Whole>; 3] {
    let plain = |name: &str, shape: &[usize], seed| Whole::new(name, ElementType::F16, shape, seed);
    [
        vec![
            plain("conv.lora_down.weight", &[2, 4, 3, 3], 11),
            plain("conv.lora_up.weight", &[8, 2, 1, 1], 12),
            plain("conv.diff_b", &[8], 13),
            plain("out.lora_down.weight", &[3, 33], 14),
            plain("out.lora_up.weight", &[20, 3], 15),
        ],
        vec![
            plain("out.lora_down.weight", &[4, 33], 21),
            plain("out.lora_up.weight", &[20, 4], 22),
            plain("out.dora_scale", &[20, 1], 23),
            plain("out.diff_b", &[20], 24),
        ],
        vec![
            plain("out.hada_w1_a", &[20, 2], 31),
            plain("out.hada_w1_b", &[2, 33], 32),
            plain("out.hada_w2_a", &[20, 2], 33),
            plain("out.hada_w2_b", &[2, 33], 34),
            plain("conv.diff", &[8, 4, 3, 3], 35),
        ],
    ]
}

/// What each file's modules change.
const CHANGED: [&[(&str, &str)]; 3] = [
    &[("conv.weight", "conv"), ("conv.bias", "conv"), ("out.weight", "out")],
    &[("out.weight", "out"), ("out.bias", "out")],
    &[("out.weight", "out"), ("conv.weight", "conv")],
];

/// A stack, as places of files and weights in eighths.
pub(super) type Stack = Vec<(usize, i8)>;

pub(super) fn order(base: ComponentId, loras: &[ComponentId], stack: &Stack) -> ApplyOrder {
    let mut changes: BTreeMap<&str, Vec<Term>> = BTreeMap::new();
    for (lora, weight) in stack {
        for (tensor, stem) in CHANGED[*lora] {
            let term = Term { lora: *lora, stem: (*stem).to_owned(), strength: f64::from(*weight) / 8.0 };
            changes.entry(tensor).or_default().push(term);
        }
    }
    ApplyOrder {
        variant: ComponentId::generate(),
        key: format!("{stack:?}"),
        base,
        loras: loras.iter().map(|component| LoraSource { component: *component, settings: BTreeMap::new() }).collect(),
        changes: changes.into_iter().map(|(tensor, terms)| TensorChange { tensor: tensor.to_owned(), terms }).collect(),
        reuse: None,
        replaces: Vec::new(),
        in_place: false,
    }
}

/// The tensor as [`merge`] makes it of the whole file.
fn expected(tensor: &Whole, files: &[Lora], stack: &Stack) -> Vec<u8> {
    let modules: Vec<_> = stack
        .iter()
        .filter_map(|(lora, weight)| {
            let (_, stem) = CHANGED[*lora].iter().find(|(name, _)| *name == tensor.name)?;
            Some((files[*lora].modules.iter().find(|module| module.stem == *stem)?, f64::from(*weight) / 8.0))
        })
        .collect();
    merge((tensor.element, &tensor.shape, &tensor.bytes), &modules, NonZeroUsize::MIN).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn fresh_from_an_earlier_one_and_in_place_give_the_same_bytes_and_the_base_stays(
        kind in 0_usize..3, stacks in vec(vec((0_usize..3, -8_i8..=8), 0..4), 1..4), threads in 1_usize..4,
    ) {
        let base_tensors = base([ElementType::F32, ElementType::F16, ElementType::Bf16][kind]);
        let mut copies = Copies::new(Box::new(CpuDevice::new(64 << 20)));
        let base = load(&mut copies, "base", &base_tensors);
        let untouched = digest(&mut copies, base);
        let files = files();
        let loras: Vec<_> = files.iter().enumerate().map(|(at, file)| load(&mut copies, &at.to_string(), file)).collect();
        let read: Vec<Lora> = files.iter()
            .map(|file| Lora::read(&file.iter().map(Whole::lora).collect::<Vec<_>>(), &BTreeMap::new()).unwrap())
            .collect();
        let mut earlier: Option<(ComponentId, ApplyOrder)> = None;
        for stack in &stacks {
            let fresh = order(base, &loras, stack);
            let applied = apply(&mut copies, &fresh, threads).unwrap();
            prop_assert_eq!((applied.computed, applied.taken_over), (fresh.changes.len(), 0));
            let made = tensors(&mut copies, fresh.variant);
            prop_assert_eq!(made.len(), fresh.changes.len());
            for tensor in base_tensors.iter().filter(|tensor| tensor.name.ends_with("weight")) {
                if let Some(bytes) = made.get(&tensor.name) {
                    prop_assert_eq!(bytes, &expected(tensor, &read, stack), "{}", &tensor.name);
                }
            }

            let mut kept = fresh.clone();
            if let Some((component, before)) = &earlier {
                let wanted = digest(&mut copies, fresh.variant);
                // else all of it would be taken over from this one
                copies.unload(fresh.variant).unwrap();
                kept = ApplyOrder { reuse: Some(*component), ..order(base, &loras, stack) };
                let equal = kept.changes.iter().filter(|change| before.changes.contains(change)).count();
                let applied = apply(&mut copies, &kept, threads).unwrap();
                prop_assert_eq!((applied.computed, applied.taken_over), (kept.changes.len() - equal, equal));
                prop_assert_eq!(&tensors(&mut copies, kept.variant), &made, "from an earlier one");
                prop_assert_eq!(digest(&mut copies, kept.variant), wanted);
            }

            let reuse = earlier.as_ref().map(|(component, _)| *component);
            let other = load(&mut copies, "base", &base_tensors);
            let order = ApplyOrder { in_place: true, reuse, ..order(other, &loras, stack) };
            apply(&mut copies, &order, threads).unwrap();
            prop_assert!(copies.copy(other).is_err(), "the base is no more on the device");
            let whole = tensors(&mut copies, order.variant);
            for tensor in &base_tensors {
                let wanted = made.get(&tensor.name).unwrap_or(&tensor.bytes);
                prop_assert_eq!(&whole[&tensor.name], wanted, "in place: {}", &tensor.name);
            }
            copies.unload(order.variant).unwrap();
            if let Some((left, _)) = earlier.replace((kept.variant, kept)) {
                copies.unload(left).unwrap();
            }
        }
        prop_assert_eq!(digest(&mut copies, base), untouched);
    }
}

/// A host with a base and the files on it.
struct Host {
    copies: Copies,
    base: ComponentId,
    loras: Vec<ComponentId>,
}

fn host(capacity_bytes: u64) -> Host {
    let mut copies = Copies::new(Box::new(CpuDevice::new(capacity_bytes)));
    let base = load(&mut copies, "base", &base(ElementType::F16));
    let loras = files().iter().enumerate().map(|(at, file)| load(&mut copies, &at.to_string(), file)).collect();
    Host { copies, base, loras }
}

fn refusal(result: Result<Applied, CopyError>) -> (shared::error::ErrorCode, String) {
    match result {
        Err(CopyError::Failed(Failure::Work { error })) => (error.code, error.message),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_cannot_be_made_is_named_and_leaves_the_device_as_it_was() {
    let Host { mut copies, base, loras } = host(64 << 20);
    let before = copies.device().memory().unwrap();
    let good = order(base, &loras, &vec![(0, 8)]);
    let mut cases = Vec::new();
    let mut large = good.clone();
    large.changes[2].terms[0].strength = 1e6;
    cases.push((large, "`out.weight`: "));
    let mut missing = good.clone();
    missing.changes[0].tensor = "other.weight".into();
    cases.push((missing, "the base has no tensor `other.weight`"));
    let mut stem = good.clone();
    stem.changes[1].terms[0].stem = "other".into();
    cases.push((stem, "`conv.weight`: `other` is incomplete"));
    let mut unfit = good.clone();
    unfit.changes[1].terms[0].stem = "out".into();
    cases.push((unfit, "`conv.weight`: `out` changes [20, 33], the weight has shape [8, 4, 3, 3]"));
    let mut nowhere = good.clone();
    nowhere.changes[1].terms[0].lora = 3;
    cases.push((nowhere, "the order has no LoRA 3"));
    let mut twice = good.clone();
    twice.changes.push(twice.changes[0].clone());
    cases.push((twice, "`conv.bias` is changed twice"));
    let mut no_lora = good.clone();
    no_lora.loras[0].component = base;
    cases.push((no_lora, "none of its 5 tensors is a part of a LoRA"));
    for (order, wanted) in cases {
        let (_, message) = refusal(apply(&mut copies, &order, 2));
        assert!(message.starts_with(wanted), "{message}");
        assert_eq!(copies.device().memory().unwrap(), before, "{wanted}");
    }
    let absent = ApplyOrder { base: ComponentId::generate(), ..good.clone() };
    assert!(matches!(apply(&mut copies, &absent, 2), Err(CopyError::Failed(Failure::NotResident { .. }))));

    apply(&mut copies, &good, 2).unwrap();
    assert!(apply(&mut copies, &good, 2).unwrap().already);
    let other = ApplyOrder { key: "other".into(), ..good.clone() };
    assert_eq!(refusal(apply(&mut copies, &other, 2)).0, shared::error::ErrorCode::Conflict);
    let on_top = ApplyOrder { base: good.variant, ..order(base, &loras, &vec![(0, 8)]) };
    assert!(refusal(apply(&mut copies, &on_top, 2)).1.contains("is a variant itself"));
}

#[test]
fn a_full_device_is_told_with_its_numbers_and_in_place_needs_none() {
    let Host { mut copies, base, loras } = host(4 * 4096);
    let before = tensors(&mut copies, base);
    let order = order(base, &loras, &vec![(0, 8), (2, 3)]);
    match apply(&mut copies, &order, 2) {
        Err(CopyError::Failed(Failure::OutOfMemory { needed_bytes: 4097..=8192, available_bytes: 0, .. })) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(tensors(&mut copies, base), before);
    let whole = ApplyOrder { in_place: true, ..order };
    let applied = apply(&mut copies, &whole, 2).unwrap();
    assert_eq!(applied.computed, whole.changes.len());
    let facts = copies.copy(whole.variant).unwrap().shown.variant.clone().unwrap();
    assert_eq!((facts.base, facts.base_digest.as_str(), facts.whole), (base, "base", true));
}

#[test]
fn in_place_waits_for_whoever_uses_the_base_and_what_was_shared_is_never_written() {
    let Host { mut copies, base, loras } = host(64 << 20);
    let in_place = ApplyOrder { in_place: true, ..order(base, &loras, &vec![(0, 8)]) };
    let view = copies.layer(base).unwrap();
    let refused = apply(&mut copies, &in_place, 2);
    assert!(matches!(refused, Err(CopyError::Failed(Failure::InUse { leases: 1, .. }))), "{refused:?}");
    drop(view);
    // a merge that failed in its middle leaves nothing that could serve
    let mut wrong = in_place.clone();
    wrong.changes[2].terms[0].strength = 1e6;
    refusal(apply(&mut copies, &wrong, 2));
    assert!(copies.copy(base).is_err() && copies.copy(wrong.variant).is_err());
    assert_eq!(copies.resident().len(), 3, "the LoRAs");

    let base = load(&mut copies, "base", &super::variants_tests::base(ElementType::F16));
    copies.share(base, 1).unwrap();
    copies.unshare(base, 1);
    let (code, message) = refusal(apply(&mut copies, &ApplyOrder { base, ..in_place }, 2));
    assert_eq!(code, shared::error::ErrorCode::Precondition, "{message}");
    assert!(copies.copy(base).is_ok(), "it stays as it is");
}

#[test]
fn a_cancelled_merge_leaves_nothing() {
    let Host { mut copies, base, loras } = host(64 << 20);
    let before = copies.device().memory().unwrap();
    let cancel = Cancel::new();
    cancel.cancel();
    let Begun::Merge(merge, pending) = copies.begin(&order(base, &loras, &vec![(0, 8)])).unwrap() else {
        panic!("it is not there")
    };
    assert!(matches!(copies.unload(base), Err(CopyError::Failed(Failure::InUse { .. }))), "a merge reads it");
    let merged = merge.run(NonZeroUsize::MIN, &cancel, |_| {});
    assert!(matches!(copies.finish(*pending, merged), Err(CopyError::Failed(Failure::Cancelled))));
    assert_eq!(copies.device().memory().unwrap(), before);
    copies.unload(base).unwrap();
}
