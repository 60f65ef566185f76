//! What every device must do: the same checks for each implementation, run by its tests and by hosts that have the hardware.

mod merging;

use crate::{ALIGN, Device, DeviceError, Place, Share, device::SlabId};

/// Bytes that a driver may keep after everything was freed.
const DRIVER_KEEPS: u64 = 64 << 20;

/// Runs all checks on an empty device of at least 4 MiB.
///
/// # Errors
/// The first rule that the device broke, in words.
pub fn check(device: &mut dyn Device) -> Result<(), String> {
    let before = settled(device)?;
    ensure(before.used_bytes == 0, "the device was not empty")?;
    round_trip(device)?;
    out_of_memory(device)?;
    ranges(device)?;
    stale_slabs(device)?;
    churn(device)?;
    whole_again(device)?;
    replacing(device)?;
    sharing(device)?;
    viewing(device)?;
    sharing_what_is_looked_at(device)?;
    merging::check(device)?;
    let after = settled(device)?;
    ensure(after.used_bytes == 0, "bytes are still booked after all was freed")?;
    // the figure of a CUDA device is that of all its users, and the driver keeps a few blocks for small allocations
    let tolerated = if device.facts().kind == "cpu" { 0 } else { DRIVER_KEEPS };
    ensure(after.system_bytes <= before.system_bytes + tolerated, "the system still holds bytes after all was freed")
}

fn ensure(holds: bool, otherwise: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise.to_owned()) }
}

fn settled(device: &mut dyn Device) -> Result<crate::DeviceMemory, String> {
    device.synchronize().map_err(|error| error.to_string())?;
    let memory = device.memory().map_err(|error| error.to_string())?;
    ensure(memory.used_bytes <= memory.capacity_bytes, "more is booked than the device has")?;
    Ok(memory)
}

fn allocate(device: &mut dyn Device, bytes: u64) -> Result<SlabId, String> {
    let slab = device.allocate(bytes).map_err(|error| format!("allocating {bytes} bytes: {error}"))?;
    let real = device.slab_bytes(slab).map_err(|error| error.to_string())?;
    ensure(real >= bytes && real % ALIGN == 0, "a slab is smaller than asked for or not aligned")?;
    Ok(slab)
}

fn round_trip(device: &mut dyn Device) -> Result<(), String> {
    let data: Vec<u8> = (0..1_000_003_u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let slab = allocate(device, data.len() as u64 + ALIGN)?;
    let used = settled(device)?;
    let real = device.slab_bytes(slab).map_err(|error| error.to_string())?;
    ensure(used.used_bytes == real, "the ledger is not the sum of the slabs")?;
    for (index, piece) in data.chunks(70_001).enumerate() {
        let offset = ALIGN + index as u64 * 70_001;
        device.write(slab, offset, piece).map_err(|error| error.to_string())?;
    }
    device.synchronize().map_err(|error| error.to_string())?;
    let mut back = vec![0; data.len()];
    device.read(slab, ALIGN, &mut back).map_err(|error| error.to_string())?;
    ensure(back == data, "what was written is not what was read")?;
    let freed = device.free(slab).map_err(|error| error.to_string())?;
    ensure(freed == real, "freeing said another size than the slab had")
}

/// A slab as large as the device (or a quarter GiB of it), written whole in pieces that fit no buffer: what was freed can
/// be had again, and copies that overlap keep their order.
fn whole_again(device: &mut dyn Device) -> Result<(), String> {
    let memory = settled(device)?;
    let bytes = memory.capacity_bytes.min(256 << 20) / ALIGN * ALIGN;
    let slab = allocate(device, bytes)?;
    let piece: Vec<u8> = (0..(9 << 20) + 13_u32).map(|index| (index.wrapping_mul(40_503) >> 9) as u8).collect();
    let mut offset = 0;
    while offset < bytes {
        let length = usize::try_from(bytes - offset).unwrap_or(usize::MAX).min(piece.len());
        device.write(slab, offset, &piece[..length]).map_err(|error| error.to_string())?;
        offset += length as u64;
    }
    let mut back = vec![0; piece.len()];
    let mut offset = 0;
    while offset < bytes {
        let length = usize::try_from(bytes - offset).unwrap_or(usize::MAX).min(piece.len());
        device.read(slab, offset, &mut back[..length]).map_err(|error| error.to_string())?;
        ensure(back[..length] == piece[..length], "a large slab does not hold what was written")?;
        offset += length as u64;
    }
    device.free(slab).map(drop).map_err(|error| error.to_string())
}

/// What is shared is what was written, and is not written any more where the device can see to that.
/// A slab in the memory of another: the first is gone, and whoever was given its bytes has them still.
fn replacing(device: &mut dyn Device) -> Result<(), String> {
    for (bytes, shared) in [(300_000, false), (70_000, false), (300_000, true)] {
        let first = allocate(device, 200_000)?;
        device.write(first, 0, &[3; 4096]).map_err(|error| error.to_string())?;
        let view = device.view(first).map_err(|error| error.to_string())?;
        ensure(
            matches!(device.replace(first, bytes), Err(DeviceError::InUse(_))),
            "a slab went that somebody looks at",
        )?;
        drop(view);
        let share = shared.then(|| device.share(first)).transpose().map_err(|error| error.to_string())?;
        let second = device.replace(first, bytes).map_err(|error| format!("replacing a slab: {error}"))?;
        ensure(matches!(device.slab_bytes(first), Err(DeviceError::NoSlab(_))), "a replaced slab is there")?;
        let real = device.slab_bytes(second).map_err(|error| error.to_string())?;
        ensure(real >= bytes && settled(device)?.used_bytes == real, "the ledger is not the sum of the slabs")?;
        device.write(second, bytes - 4096, &[9; 4096]).map_err(|error| error.to_string())?;
        device.write(second, 0, &[9; 4096]).map_err(|error| error.to_string())?;
        if let Some(Share::Memory(file)) = share {
            let mut seen = [0; 4096];
            rustix::io::pread(&file, &mut seen, 0).map_err(|error| error.to_string())?;
            ensure(seen == [3; 4096], "bytes that others have were written over")?;
        }
        let mut seen = [0; 4096];
        device.read(second, bytes - 4096, &mut seen).map_err(|error| error.to_string())?;
        ensure(seen == [9; 4096], "what was written is not what was read")?;
        device.free(second).map_err(|error| error.to_string())?;
    }
    let first = allocate(device, 200_000)?;
    let beyond = settled(device)?.capacity_bytes.saturating_add(1);
    let refused = device.replace(first, beyond);
    ensure(matches!(refused, Err(DeviceError::OutOfMemory { .. })), "more than the device has was given")?;
    ensure(settled(device)?.used_bytes == 0, "a slab that was to be replaced is left")
}

/// Programs see what was written, and nobody writes to it any more.
fn sharing(device: &mut dyn Device) -> Result<(), String> {
    let slab = allocate(device, 4096)?;
    let written: Vec<u8> = (0..4096_u32).map(|index| (index * 7) as u8).collect();
    device.write(slab, 0, &written).map_err(|error| error.to_string())?;
    for _ in 0..2 {
        match device.share(slab).map_err(|error| format!("sharing a slab: {error}"))? {
            Share::Memory(file) => {
                let mut seen = vec![0; written.len()];
                let read = rustix::io::pread(&file, &mut *seen, 0).map_err(|error| error.to_string())?;
                ensure(read == seen.len() && seen == written, "a shared slab does not hold what was written")?;
                ensure(device.write(slab, 0, &[1]).is_err(), "a shared slab was written to")?;
                ensure(rustix::io::pwrite(&file, &[1], 0).is_err(), "others may write to a shared slab")?;
            }
            Share::Cuda(share) => ensure(share.handle.iter().any(|byte| *byte != 0), "the driver's handle is empty")?,
        }
    }
    device.free(slab).map(drop).map_err(|error| error.to_string())?;
    ensure(matches!(device.share(slab), Err(DeviceError::NoSlab(_))), "a freed slab was shared")
}

/// What somebody looks at, or has looked at, can be shared all the same, and be looked at again.
fn sharing_what_is_looked_at(device: &mut dyn Device) -> Result<(), String> {
    let slab = allocate(device, 4096)?;
    device.write(slab, 0, &[7; 4096]).map_err(|error| error.to_string())?;
    let view = device.view(slab).map_err(|error| error.to_string())?;
    device.share(slab).map(drop).map_err(|error| format!("sharing a slab that somebody looks at: {error}"))?;
    drop(view);
    device.share(slab).map(drop).map_err(|error| format!("sharing it again: {error}"))?;
    let again = device.view(slab).map_err(|error| format!("looking at a shared slab: {error}"))?;
    ensure(again.as_slice().is_none_or(|seen| seen.iter().all(|byte| *byte == 7)), "a shared slab has other bytes")?;
    drop(again);
    device.free(slab).map(drop).map_err(|error| error.to_string())
}

/// What is looked at is what was written, stays as it is, and is not freed under whoever looks.
fn viewing(device: &mut dyn Device) -> Result<(), String> {
    let slab = allocate(device, 70_000)?;
    let written: Vec<u8> = (0..70_000_u32).map(|index| (index.wrapping_mul(31) >> 3) as u8).collect();
    device.write(slab, 0, &written).map_err(|error| error.to_string())?;
    let view = device.view(slab).map_err(|error| format!("looking at a slab: {error}"))?;
    let again = device.view(slab).map_err(|error| format!("looking at a slab again: {error}"))?;
    ensure(view.place() == again.place() && view.bytes() >= 70_000, "two views of a slab are at two places")?;
    let host = device.facts().kind == "cpu";
    ensure(matches!(view.place(), Place::Host(_)) == host, "a view is in memory of another kind than the device's")?;
    ensure(device.write(slab, 0, &[1]).is_err(), "a slab was written to that somebody looks at")?;
    let seen = std::thread::spawn(move || view.as_slice().is_none_or(|seen| seen.get(..70_000) == Some(&*written)));
    ensure(seen.join().is_ok_and(|same| same), "another thread sees other bytes than were written")?;
    ensure(again.weight(again.bytes() - 1..again.bytes() + 1).is_none(), "a weight lies beyond its slab")?;
    let (keeper, weight) = (again.keeper(), again.weight(256..512));
    // whoever wants to know whether somebody looks holds nothing up
    let watched = std::sync::Arc::downgrade(&keeper);
    drop((again, keeper));
    ensure(weight.is_some(), "a range of a slab is no memory of a weight")?;
    let before = settled(device)?;
    ensure(matches!(device.free(slab), Err(DeviceError::InUse(_))), "a slab was freed that somebody looks at")?;
    ensure(settled(device)? == before, "a refused release changed the ledger")?;
    drop(weight);
    device.free(slab).map(drop).map_err(|error| format!("freeing a slab that nobody looks at any more: {error}"))?;
    ensure(watched.upgrade().is_none(), "the memory of a freed slab is still there")?;
    ensure(matches!(device.view(slab), Err(DeviceError::NoSlab(_))), "a freed slab was looked at")
}

fn out_of_memory(device: &mut dyn Device) -> Result<(), String> {
    let before = settled(device)?;
    for bytes in [before.capacity_bytes + 1, u64::MAX] {
        match device.allocate(bytes) {
            Err(DeviceError::OutOfMemory { needed_bytes, available_bytes, capacity_bytes }) => {
                ensure(needed_bytes >= bytes, "the refusal names fewer bytes than were asked for")?;
                ensure(available_bytes <= capacity_bytes, "more is free than there is")?;
                ensure(capacity_bytes == before.capacity_bytes, "the refusal names another capacity")?;
            }
            Err(error) => return Err(format!("too large an allocation gave `{error}`, not out of memory")),
            Ok(_) => return Err("more was allocated than the device has".to_owned()),
        }
    }
    ensure(settled(device)? == before, "a refused allocation changed the ledger")?;
    let unwanted = device.allocate_while(before.capacity_bytes / 2, &mut || false);
    ensure(matches!(unwanted, Err(DeviceError::Interrupted)), "an unwanted allocation was made")?;
    ensure(settled(device)? == before, "an interrupted allocation changed the ledger")
}

fn ranges(device: &mut dyn Device) -> Result<(), String> {
    let slab = allocate(device, 4096)?;
    let end = device.slab_bytes(slab).map_err(|error| error.to_string())?;
    for offset in [end, end - 1, u64::MAX] {
        let mut out = [0; 2];
        ensure(
            matches!(device.write(slab, offset, &[0; 2]), Err(DeviceError::OutOfRange { .. })),
            "a write beyond the slab was taken",
        )?;
        ensure(
            matches!(device.read(slab, offset, &mut out), Err(DeviceError::OutOfRange { .. })),
            "a read beyond the slab was taken",
        )?;
    }
    device.write(slab, end - 2, &[1; 2]).map_err(|error| error.to_string())?;
    device.write(slab, end, &[]).map_err(|error| error.to_string())?;
    device.free(slab).map(drop).map_err(|error| error.to_string())
}

fn stale_slabs(device: &mut dyn Device) -> Result<(), String> {
    let slab = allocate(device, 1)?;
    device.free(slab).map_err(|error| error.to_string())?;
    let stale = matches!(device.free(slab), Err(DeviceError::NoSlab(_)))
        && matches!(device.write(slab, 0, &[1]), Err(DeviceError::NoSlab(_)))
        && matches!(device.slab_bytes(slab), Err(DeviceError::NoSlab(_)));
    ensure(stale, "a freed slab was still usable")?;
    let next = allocate(device, 1)?;
    ensure(next != slab, "a slab's id was used again")?;
    device.free(next).map(drop).map_err(|error| error.to_string())
}

/// Many allocations of mixed sizes: the ledger is their sum at every step, and the system agrees.
fn churn(device: &mut dyn Device) -> Result<(), String> {
    let capacity = device.facts().capacity_bytes.min(64 << 20);
    let mut live: Vec<(SlabId, u64)> = Vec::new();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..400 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let roll = state >> 33;
        if roll.is_multiple_of(3) && !live.is_empty() {
            let (slab, bytes) = live.swap_remove(roll as usize % live.len());
            let freed = device.free(slab).map_err(|error| error.to_string())?;
            ensure(freed == bytes, "freeing said another size than the slab had")?;
        } else {
            match device.allocate(roll % (capacity / 4) + 1) {
                Ok(slab) => live.push((slab, device.slab_bytes(slab).map_err(|error| error.to_string())?)),
                Err(DeviceError::OutOfMemory { .. }) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        let memory = settled(device)?;
        let sum: u64 = live.iter().map(|(_, bytes)| bytes).sum();
        ensure(memory.used_bytes == sum, "the ledger is not the sum of the slabs")?;
        if device.facts().kind == "cpu" {
            ensure(memory.system_bytes == sum, "the system does not say what the ledger says")?;
        }
    }
    for (slab, _) in live {
        device.free(slab).map_err(|error| error.to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use proptest::{collection::vec, prelude::*, sample::Index};

    use super::*;
    use crate::{Cancel, lora::MergeControl};

    #[test]
    fn cpu_contract() {
        check(&mut crate::CpuDevice::new(16 << 20)).unwrap();
    }

    fn whole(device: &mut crate::CpuDevice, slab: SlabId) {
        let control = MergeControl { threads: NonZeroUsize::MIN, done: &|_| {}, cancel: &Cancel::new() };
        device.writer(slab).unwrap().merge(Vec::new(), &control).unwrap();
    }

    proptest! {
        #[test]
        fn any_order_of_steps_keeps_the_ledger_true(steps in vec((0..3_u8, 0_u64..3 << 20, any::<Index>()), 1..60)) {
            let mut device = crate::CpuDevice::new(8 << 20);
            let mut live: Vec<(SlabId, u64)> = Vec::new();
            for (take, bytes, which) in steps {
                if take < 2 {
                    let given = if take == 0 || live.is_empty() {
                        device.allocate(bytes)
                    } else {
                        // its pages come with whoever writes it
                        let (slab, _) = live.swap_remove(which.index(live.len()));
                        device.replace(slab, bytes).inspect(|slab| whole(&mut device, *slab))
                    };
                    match given {
                        Ok(slab) => live.push((slab, device.slab_bytes(slab).unwrap())),
                        Err(DeviceError::OutOfMemory { needed_bytes, available_bytes, .. }) => {
                            prop_assert!(needed_bytes > available_bytes);
                        }
                        Err(error) => panic!("{error}"),
                    }
                } else if !live.is_empty() {
                    let (slab, bytes) = live.swap_remove(which.index(live.len()));
                    prop_assert_eq!(device.free(slab).unwrap(), bytes);
                }
                let memory = device.memory().unwrap();
                let sum: u64 = live.iter().map(|(_, bytes)| bytes).sum();
                prop_assert_eq!((memory.used_bytes, memory.system_bytes), (sum, sum));
                prop_assert!(sum <= memory.capacity_bytes);
            }
        }
    }

    #[test]
    fn cuda_contract() {
        let report = crate::probe();
        let Some(first) = report.devices.first() else {
            println!("skipped: {}", report.reason.unwrap_or_default());
            return;
        };
        check(crate::open(&first.name, 256 << 20).unwrap().as_mut()).unwrap();
    }
}
