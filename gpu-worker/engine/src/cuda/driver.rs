//! Whether there is a driver, and what it shows, without opening a device.
#![expect(unsafe_code, reason = "loading the driver library, asking for an id and for a handle are unsafe calls")]

use std::mem::MaybeUninit;

use cudarc::driver::{
    DriverError, result,
    sys::{
        CUdevice, CUdeviceptr, CUipcMemHandle, CUuuid, cuDeviceGetUuid_v2, cuIpcGetMemHandle, cuMemGetAddressRange_v2,
        is_culib_present,
    },
};

use super::errors::answer;
use crate::CudaShare;

/// True when the driver library can be loaded. Nothing else of this module may be called before it said so:
/// the bindings panic on a missing library.
pub(crate) fn driver_present() -> bool {
    // SAFETY: loads a shared library by its well-known names and looks nothing up in it.
    unsafe { is_culib_present() }
}

/// How many devices the driver shows.
///
/// # Errors
/// In words, when the driver does not work.
pub(crate) fn count() -> Result<usize, String> {
    let refused = |what: &'static str| move |DriverError(code)| format!("{what}: {}", answer(code));
    result::init().map_err(refused("initialising the driver"))?;
    let count = result::device::get_count().map_err(refused("counting devices"))?;
    usize::try_from(count).map_err(|_| format!("the driver counts {count} devices"))
}

/// The device's id, `GPU-…`; of a part of a divided device that part's, which the vendor's tools write as `MIG-…`.
pub(super) fn uuid(device: CUdevice) -> Result<String, DriverError> {
    let mut uuid = MaybeUninit::<CUuuid>::uninit();
    // SAFETY: the call writes all of the sixteen bytes when it succeeds.
    let uuid = unsafe {
        cuDeviceGetUuid_v2(uuid.as_mut_ptr(), device).result()?;
        uuid.assume_init()
    };
    Ok(uuid_text(&uuid.bytes.map(|byte| byte as u8)))
}

/// The handle of the allocation that holds this pointer, for other processes, and where in it the pointer is: the driver
/// hands out whole blocks, and puts small allocations into one.
pub(super) fn share(pointer: CUdeviceptr) -> Result<CudaShare, DriverError> {
    let (mut base, mut bytes) = (0, 0);
    let mut handle = MaybeUninit::<CUipcMemHandle>::uninit();
    // SAFETY: the calls write to these places only, and the handle is whole when the second one succeeds.
    let handle = unsafe {
        cuMemGetAddressRange_v2(&mut base, &mut bytes, pointer).result()?;
        cuIpcGetMemHandle(handle.as_mut_ptr(), pointer).result()?;
        handle.assume_init()
    };
    let handle = handle.reserved.iter().map(|byte| *byte as u8).collect();
    Ok(CudaShare { handle, offset: pointer.saturating_sub(base) })
}

/// `GPU-xxxxxxxx-xxxx-…`, as the vendor's tools write it.
fn uuid_text(bytes: &[u8; 16]) -> String {
    let mut text = String::from("GPU-");
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_written_as_the_vendor_writes_them() {
        let bytes: [u8; 16] = std::array::from_fn(|index| index as u8);
        assert_eq!(uuid_text(&bytes), "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f");
    }
}
