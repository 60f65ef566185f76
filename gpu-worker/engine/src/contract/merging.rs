//! What writing a variant into a slab must do: alone at the slab, the bytes that the host's merge gives, whatever the device.

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    sync::atomic::{AtomicU64, Ordering},
};

use half::{bf16, f16};

use super::{allocate, ensure, settled};
use crate::{
    ALIGN, Cancel, Device, DeviceError, ElementType, SlabView,
    device::SlabId,
    lora::{Change, Lora, LoraIndex, LoraTensor, Made, MergeControl, Place, VariantError, VariantTensor, merge},
};

const THREADS: NonZeroUsize = NonZeroUsize::MIN;

/// Tensors of a base: names, types, shapes. Sides that no block and no vector divides.
const BASE: [(&str, ElementType, &[usize]); 5] = [
    ("plain.weight", ElementType::F16, &[70, 53]),
    ("wide.weight", ElementType::Bf16, &[37, 130]),
    ("conv.weight", ElementType::F32, &[10, 6, 3, 3]),
    ("plain.bias", ElementType::F16, &[70]),
    ("turned.weight", ElementType::F16, &[24, 18]),
];

/// What a LoRA's file holds for them: products, a Hadamard product, a bias, magnitudes.
const FILE: [(&str, &[usize]); 12] = [
    ("plain.lora_down.weight", &[5, 53]),
    ("plain.lora_up.weight", &[70, 5]),
    ("plain.diff_b", &[70]),
    ("wide.lora_down.weight", &[9, 130]),
    ("wide.lora_up.weight", &[37, 9]),
    ("conv.hada_w1_a", &[10, 2]),
    ("conv.hada_w1_b", &[2, 54]),
    ("conv.hada_w2_a", &[10, 2]),
    ("conv.hada_w2_b", &[2, 54]),
    ("turned.lora_down.weight", &[3, 18]),
    ("turned.lora_up.weight", &[24, 3]),
    ("turned.dora_scale", &[24, 1]),
];

/// Bytes of these numbers, from a seed.
fn numbers(element: ElementType, shape: &[usize], seed: u64) -> Vec<u8> {
    let count = shape.iter().product::<usize>() as u64;
    let number = |at: u64| {
        let mixed = (at + seed * 7919).wrapping_mul(6_364_136_223_846_793_005) >> 40;
        (mixed % 2001) as f32 / 1000.0 - 1.0
    };
    let values = (0..count).map(number);
    match element {
        ElementType::F16 => values.flat_map(|value| f16::from_f32(value).to_le_bytes()).collect(),
        ElementType::Bf16 => values.flat_map(|value| bf16::from_f32(value).to_le_bytes()).collect(),
        _ => values.flat_map(f32::to_le_bytes).collect(),
    }
}

/// A tensor: name, type, shape, bytes, and its first byte in a slab.
type Placed = (&'static str, ElementType, &'static [usize], Vec<u8>, u64);

/// The base on the device, and where its tensors lie in a slab.
struct Bench {
    base: SlabId,
    tensors: Vec<Placed>,
    bytes: u64,
}

impl Bench {
    fn new(device: &mut dyn Device) -> Result<Self, String> {
        let (mut tensors, mut end) = (Vec::new(), 0_u64);
        for (seed, (name, element, shape)) in BASE.into_iter().enumerate() {
            let bytes = numbers(element, shape, seed as u64 + 1);
            let at = end.next_multiple_of(ALIGN);
            end = at + bytes.len() as u64;
            tensors.push((name, element, shape, bytes, at));
        }
        let base = allocate(device, end)?;
        for (.., bytes, at) in &tensors {
            device.write(base, *at, bytes).map_err(|error| error.to_string())?;
        }
        Ok(Self { base, tensors, bytes: end })
    }

    /// Every tensor with the file's changes, made from what lies there.
    fn variant<'a>(
        &'a self,
        file: &'a LoraIndex<'a>,
        from: Option<&'a SlabView>,
        strength: f64,
    ) -> Vec<VariantTensor<'a>> {
        let tensors = self.tensors.iter().map(|(name, element, shape, bytes, at)| {
            let stem = name.rsplit_once('.').map_or(*name, |(stem, _)| stem);
            let change = Change { lora: file, stem, strength };
            let made = Made::Changed(
                from.map_or(Place::Here, |view| Place::Slab(view, *at)),
                vec![change, Change { strength: -0.25, ..change }],
            );
            VariantTensor { name, element: *element, shape, to: *at..at + bytes.len() as u64, made }
        });
        tensors.collect()
    }

    /// The same tensors, as they lie in another slab.
    fn taken<'a>(&'a self, from: &'a SlabView) -> Vec<VariantTensor<'a>> {
        let tensors = self.tensors.iter().map(|(name, element, shape, bytes, at)| VariantTensor {
            name,
            element: *element,
            shape,
            to: *at..at + bytes.len() as u64,
            made: Made::Taken(Place::Slab(from, *at)),
        });
        tensors.collect()
    }

    /// What the host makes of every weight.
    fn expected(&self, file: &Lora) -> Result<Vec<Option<Vec<u8>>>, String> {
        let tensors = self.tensors.iter().map(|(name, element, shape, bytes, _)| {
            let Some(stem) = name.strip_suffix(".weight") else { return Ok(None) };
            let module = file.modules.iter().find(|module| module.stem == stem).ok_or("no such module")?;
            merge((*element, shape, bytes), &[(module, 0.5), (module, -0.25)], THREADS)
                .map(Some)
                .map_err(|error| error.to_string())
        });
        tensors.collect()
    }

    fn compare(
        &self,
        device: &mut dyn Device,
        slab: SlabId,
        expected: &[Option<Vec<u8>>],
        what: &str,
    ) -> Result<(), String> {
        for ((name, .., bytes, at), expected) in self.tensors.iter().zip(expected) {
            let mut found = vec![0; bytes.len()];
            device.read(slab, *at, &mut found).map_err(|error| error.to_string())?;
            ensure(
                expected.as_ref().is_none_or(|expected| *expected == found),
                &format!("`{name}` {what} has other bytes than the host's"),
            )?;
            ensure(found != *bytes, &format!("`{name}` {what} is the base's"))?;
        }
        Ok(())
    }
}

/// Runs all checks on an empty device.
pub(super) fn check(device: &mut dyn Device) -> Result<(), String> {
    let words = |error: &dyn std::error::Error| error.to_string();
    let data: Vec<Vec<u8>> =
        FILE.iter().enumerate().map(|(at, (_, shape))| numbers(ElementType::F16, shape, at as u64 + 100)).collect();
    let file: Vec<LoraTensor<'_>> = FILE
        .iter()
        .zip(&data)
        .map(|((name, shape), bytes)| LoraTensor { name, element: ElementType::F16, shape, bytes })
        .collect();
    let settings = BTreeMap::new();
    let index = LoraIndex::read(&file, &settings).map_err(|error| words(&error))?;
    let bench = Bench::new(device)?;
    let expected = bench.expected(&Lora::read(&file, &settings).map_err(|error| words(&error))?)?;
    let sum = AtomicU64::new(0);
    let done = |bytes| {
        sum.fetch_add(bytes, Ordering::Relaxed);
    };
    let cancel = Cancel::new();
    let control = MergeControl { threads: NonZeroUsize::new(3).unwrap_or(THREADS), done: &done, cancel: &cancel };

    let view = device.view(bench.base).map_err(|error| words(&error))?;
    ensure(
        matches!(device.writer(bench.base), Err(DeviceError::InUse(_))),
        "a slab that somebody looks at is written to",
    )?;
    let slab = allocate(device, bench.bytes)?;
    let mut writer = device.writer(slab).map_err(|error| words(&error))?;
    alone(device, slab)?;
    writer.merge(bench.variant(&index, Some(&view), 0.5), &control).map_err(|error| words(&error))?;
    let bytes: u64 = bench.tensors.iter().map(|(.., bytes, _)| bytes.len() as u64).sum();
    ensure(sum.load(Ordering::Relaxed) == bytes, "other bytes were told than were made")?;
    drop(writer);
    bench.compare(device, slab, &expected, "in a slab of its own")?;

    let earlier = device.view(slab).map_err(|error| words(&error))?;
    let other = allocate(device, bench.bytes)?;
    let mut writer = device.writer(other).map_err(|error| words(&error))?;
    writer.merge(bench.taken(&earlier), &control).map_err(|error| words(&error))?;
    let refused = writer.merge(bench.variant(&index, Some(&view), 1e9), &control);
    ensure(matches!(refused, Err(VariantError::Tensor(_))), "values that do not fit were taken")?;
    writer.merge(bench.taken(&earlier), &control).map_err(|error| words(&error))?;
    let mut beyond = bench.taken(&earlier);
    beyond.iter_mut().for_each(|tensor| tensor.to = u64::MAX - 4..u64::MAX);
    ensure(
        matches!(writer.merge(beyond, &control), Err(VariantError::Layout { .. })),
        "a tensor lies beyond its slab",
    )?;
    drop((writer, earlier));
    bench.compare(device, other, &expected, "taken over")?;

    drop(view);
    let mut writer = device.writer(bench.base).map_err(|error| words(&error))?;
    cancel.cancel();
    ensure(writer.merge(bench.variant(&index, None, 0.5), &control).is_err(), "a merge that is not wanted was made")?;
    let cancel = Cancel::new();
    writer
        .merge(bench.variant(&index, None, 0.5), &MergeControl { cancel: &cancel, ..control })
        .map_err(|error| words(&error))?;
    drop(writer);
    bench.compare(device, bench.base, &expected, "in place")?;
    for slab in [slab, other, bench.base] {
        device.free(slab).map_err(|error| words(&error))?;
    }
    settled(device).map(drop)
}

/// While somebody writes, nobody else uses the slab.
fn alone(device: &mut dyn Device, slab: SlabId) -> Result<(), String> {
    ensure(matches!(device.view(slab), Err(DeviceError::InUse(_))), "a slab is looked at that is being written")?;
    ensure(matches!(device.share(slab), Err(DeviceError::InUse(_))), "a slab is shared that is being written")?;
    ensure(matches!(device.writer(slab), Err(DeviceError::InUse(_))), "a slab is written twice at once")?;
    ensure(matches!(device.write(slab, 0, &[1]), Err(DeviceError::InUse(_))), "a slab is written beside its writer")?;
    ensure(matches!(device.free(slab), Err(DeviceError::InUse(_))), "a slab was freed that is being written")
}
