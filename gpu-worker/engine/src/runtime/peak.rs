//! What memory a session's runs took: its allocator's own count, which nothing else in the process disturbs.
//!
//! Counted is what the allocator has taken from the system, not what was in use: it grows in powers of two and touches most
//! of what it takes (1.3 GiB for the 640 MiB of a decode at 512×512), and keeps it for the next run.

use std::{ffi::CStr, ptr};

use ort::{
    AsPointer,
    memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType},
    session::Session as Compiled,
};

use crate::graph::Provider;

/// The key of the count in the allocator's statistics.
const TAKEN: &CStr = c"TotalAllocated";

/// The bytes that the allocator of the session's device has taken so far; none when the library does not count.
pub(super) fn taken_bytes(session: &Compiled, (provider, device): (Provider, i32)) -> Option<u64> {
    let (place, number) = match provider {
        Provider::Cpu => (AllocationDevice::CPU, 0),
        Provider::Cuda => (AllocationDevice::CUDA, device),
    };
    let info = MemoryInfo::new(place, number, AllocatorType::Device, MemoryType::Default).ok()?;
    let allocator = Allocator::new(session, info).ok()?;
    count(&allocator)
}

#[expect(unsafe_code, reason = "the wrapper does not have this call")]
fn count(allocator: &Allocator) -> Option<u64> {
    let api = ort::api();
    let mut pairs = ptr::null_mut();
    // SAFETY: the allocator lives through the call; the answer is released below.
    let status = unsafe { (api.AllocatorGetStats)(allocator.ptr(), &mut pairs) };
    // SAFETY: the status is the answer of the call above and is given on once.
    unsafe { ort::Error::result_from_status(status) }.ok()?;
    if pairs.is_null() {
        return None;
    }
    // SAFETY: `pairs` is the library's; its text lives until the release and is copied out before.
    unsafe {
        let value = (api.GetKeyValue)(pairs, TAKEN.as_ptr());
        let count = if value.is_null() { None } else { CStr::from_ptr(value).to_str().ok() };
        let count = count.and_then(|count| count.parse().ok());
        (api.ReleaseKeyValuePairs)(pairs);
        count
    }
}
