//! A component in RAM to `cpu:0`: as a runner writes it to its device, piece by piece, beside one memcpy of the same bytes by the
//! same thread. Once into memory that is there, and once with memory that each has to get first.

use std::{hint::black_box, time::Instant};

use engine::Device;
use memmap2::{Advice, MmapMut, MmapOptions};
use residency::{Lease, arena::ReadMap};

use crate::{Series, backed};

/// Bytes that a runner writes between two looks at whether it shall go on.
const CHUNK: usize = 8 << 20;

pub(crate) const OURS: &str = "modelyard: `cpu:0`, memory that is there";
const OURS_NEW: &str = "modelyard: `cpu:0`, new memory";

/// So many passes of every way, after one that is not counted.
///
/// # Errors
/// When there is no memory, or the device has other bytes than the component.
pub(crate) fn passes(lease: &Lease, passes: usize) -> anyhow::Result<Series> {
    let length = usize::try_from(lease.bytes())?;
    let source = ReadMap::open(&lease.fd_readonly()?, lease.offset(), length)?;
    let mut device = engine::open("cpu:0", 2 * lease.bytes())?;
    let mut target = memory(length)?;
    target.fill(1);
    let mut series = Series::default();
    for pass in 0..=passes {
        let ours = by_us(device.as_mut(), &source)?;
        let began = Instant::now();
        black_box(&mut target).copy_from_slice(&source);
        let plain = began.elapsed().as_secs_f64();
        if pass > 0 {
            series.add(OURS, ours);
            series.add("memcpy, memory that is there", plain);
        }
    }
    drop(target);
    for _ in 0..passes {
        backed::back(length)?;
        series.add(OURS_NEW, by_us_anew(device.as_mut(), &source)?);
        backed::back(length)?;
        let began = Instant::now();
        let mut target = memory(length)?;
        black_box(&mut target).copy_from_slice(&source);
        series.add("memcpy, new memory", began.elapsed().as_secs_f64());
    }
    Ok(series)
}

/// In huge pages, where they are to be had.
fn memory(length: usize) -> anyhow::Result<MmapMut> {
    let memory = MmapOptions::new().len(length).map_anon()?;
    // a hint; without it the same takes longer
    let _ = memory.advise(Advice::HugePage);
    Ok(memory)
}

fn by_us(device: &mut dyn Device, source: &[u8]) -> anyhow::Result<f64> {
    let slab = device.allocate(source.len() as u64)?;
    let began = Instant::now();
    write(device, slab, source)?;
    let seconds = began.elapsed().as_secs_f64();
    let mut last = vec![0; CHUNK.min(source.len())];
    device.read(slab, (source.len() - last.len()) as u64, &mut last)?;
    anyhow::ensure!(source.ends_with(&last), "the device has other bytes than were written");
    device.free(slab)?;
    Ok(seconds)
}

fn by_us_anew(device: &mut dyn Device, source: &[u8]) -> anyhow::Result<f64> {
    let began = Instant::now();
    let slab = device.allocate(source.len() as u64)?;
    write(device, slab, source)?;
    let seconds = began.elapsed().as_secs_f64();
    device.free(slab)?;
    Ok(seconds)
}

fn write(device: &mut dyn Device, slab: engine::SlabId, source: &[u8]) -> anyhow::Result<()> {
    let mut offset = 0;
    for chunk in source.chunks(CHUNK) {
        device.write(slab, offset, chunk)?;
        offset += chunk.len() as u64;
    }
    Ok(device.synchronize()?)
}
