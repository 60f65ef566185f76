//! Copies from ordinary memory to the device by the product's ring of pinned buffers, beside the driver's own copies from
//! pinned memory (the limit) and from ordinary memory. The ways take turns; the median of five passes counts.
#![expect(unsafe_code, reason = "the peers are plain calls of the driver")]

use std::time::Instant;

use anyhow::{Result, anyhow};
use cudarc::driver::{
    CudaContext, DriverError,
    result::{free_host, free_sync, malloc_host, malloc_sync, memcpy_htod_async, memcpy_htod_sync},
};
use engine::Device;

use crate::ordinal;

const PASSES: usize = 5;
/// Bytes that a runner copies between two looks at whether it shall go on.
const CHUNK: usize = 8 << 20;

/// Copies `mib` MiB each way; the speeds and the ratio, in words.
///
/// # Errors
/// When the driver refuses something.
pub(crate) fn beside_the_driver(device: &str, mib: u64) -> Result<String> {
    let bytes = usize::try_from(mib << 20)?;
    let data: Vec<u8> = (0..bytes).map(|index| (index.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    let mut ours = engine::open(device, 0)?;
    let mut peers = Peers::new(ordinal(device)?, &data)?;
    let mut seconds: [Vec<f64>; 3] = Default::default();
    for _ in 0..PASSES {
        let passes = [by_us(ours.as_mut(), &data)?, peers.pinned()?, peers.pageable(&data)?];
        for (all, pass) in seconds.iter_mut().zip(passes) {
            all.push(pass);
        }
    }
    let [ours, pinned, pageable] = seconds.map(|passes| bytes as f64 / 1e9 / median(passes));
    Ok(format!(
        "{mib} MiB; ours {ours:.2} GB/s, pinned cudaMemcpy {pinned:.2} GB/s, pageable cudaMemcpy {pageable:.2} GB/s; \
         ours ÷ pinned **{:.2}** (aim ≥ 0.9)",
        ours / pinned
    ))
}

fn median(mut passes: Vec<f64>) -> f64 {
    passes.sort_by(f64::total_cmp);
    passes.get(passes.len() / 2).copied().unwrap_or(f64::NAN)
}

/// From the first byte sent to the last one there; the slab is there before, as the peers' memory is.
fn by_us(device: &mut dyn Device, data: &[u8]) -> Result<f64> {
    let slab = device.allocate(data.len() as u64)?;
    let began = Instant::now();
    let mut offset = 0;
    for chunk in data.chunks(CHUNK) {
        device.write(slab, offset, chunk)?;
        offset += chunk.len() as u64;
    }
    device.synchronize()?;
    let seconds = began.elapsed().as_secs_f64();
    device.free(slab)?;
    Ok(seconds)
}

/// The driver's own copies, to memory of their own.
struct Peers {
    context: std::sync::Arc<CudaContext>,
    target: u64,
    pinned: *mut std::ffi::c_void,
    bytes: usize,
}

fn driver(DriverError(code): DriverError) -> anyhow::Error {
    anyhow!("the driver answers {code:?}")
}

impl Peers {
    fn new(ordinal: usize, data: &[u8]) -> Result<Self> {
        let context = CudaContext::new(ordinal).map_err(driver)?;
        // SAFETY: plain allocations in the bound context; freed in `drop`.
        let (target, pinned) =
            unsafe { (malloc_sync(data.len()).map_err(driver)?, malloc_host(data.len(), 0).map_err(driver)?) };
        // SAFETY: the pinned memory has this many bytes, and nothing else refers to it.
        unsafe { std::slice::from_raw_parts_mut(pinned.cast::<u8>(), data.len()) }.copy_from_slice(data);
        Ok(Self { context, target, pinned, bytes: data.len() })
    }

    fn pinned(&mut self) -> Result<f64> {
        self.context.bind_to_thread().map_err(driver)?;
        let stream = self.context.new_stream().map_err(driver)?;
        let began = Instant::now();
        // SAFETY: both sides have this many bytes and live until the stream has been waited for.
        unsafe {
            let source = std::slice::from_raw_parts(self.pinned.cast::<u8>(), self.bytes);
            memcpy_htod_async(self.target, source, stream.cu_stream()).map_err(driver)?;
        }
        stream.synchronize().map_err(driver)?;
        Ok(began.elapsed().as_secs_f64())
    }

    fn pageable(&mut self, data: &[u8]) -> Result<f64> {
        self.context.bind_to_thread().map_err(driver)?;
        let began = Instant::now();
        // SAFETY: the target has as many bytes as the data.
        unsafe { memcpy_htod_sync(self.target, data) }.map_err(driver)?;
        self.context.synchronize().map_err(driver)?;
        Ok(began.elapsed().as_secs_f64())
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        // SAFETY: allocated in `new`, freed once; no copy runs any more. Errors have no reader.
        let _ = unsafe { (free_sync(self.target), free_host(self.pinned)) };
    }
}
