//! What an answer of the driver means for the process.

use cudarc::driver::{DriverError, sys::CUresult};

use crate::DeviceError;

/// Answers after which the context works on. After any other it may answer nothing but errors, and a process that goes on
/// with such a context reports a device as idle that does nothing any more; ending a sound process costs a second.
fn leaves_the_context_usable(code: CUresult) -> bool {
    matches!(
        code,
        CUresult::CUDA_ERROR_INVALID_VALUE
            | CUresult::CUDA_ERROR_OUT_OF_MEMORY
            | CUresult::CUDA_ERROR_NOT_READY
            | CUresult::CUDA_ERROR_NOT_FOUND
            | CUresult::CUDA_ERROR_NOT_SUPPORTED
            | CUresult::CUDA_ERROR_NOT_PERMITTED
            | CUresult::CUDA_ERROR_INVALID_HANDLE
            | CUresult::CUDA_ERROR_OPERATING_SYSTEM
            | CUresult::CUDA_ERROR_MAP_FAILED
            | CUresult::CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED
            | CUresult::CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED
            | CUresult::CUDA_ERROR_TOO_MANY_PEERS
    )
}

/// The driver's answer to something tried on an open device.
pub(super) fn failed(what: &'static str) -> impl Fn(DriverError) -> DeviceError {
    move |DriverError(code)| {
        let answer = answer(code);
        if leaves_the_context_usable(code) {
            DeviceError::Driver { what, answer }
        } else {
            DeviceError::Sticky { what, answer }
        }
    }
}

/// The answer's name, without asking the driver for it: a broken one does not give it.
pub(super) fn answer(code: CUresult) -> String {
    format!("{code:?} ({})", code as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f33_poisoned_contexts_are_sticky_and_refusals_are_not() {
        let sticky = |code| matches!(failed("copying")(DriverError(code)), DeviceError::Sticky { .. });
        for code in [
            CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
            CUresult::CUDA_ERROR_LAUNCH_FAILED,
            CUresult::CUDA_ERROR_ECC_UNCORRECTABLE,
            CUresult::CUDA_ERROR_NVLINK_UNCORRECTABLE,
            CUresult::CUDA_ERROR_CONTAINED,
            CUresult::CUDA_ERROR_DEINITIALIZED,
            CUresult::CUDA_ERROR_UNKNOWN,
        ] {
            assert!(sticky(code), "{code:?}");
        }
        for code in [CUresult::CUDA_ERROR_OUT_OF_MEMORY, CUresult::CUDA_ERROR_INVALID_VALUE] {
            assert!(!sticky(code), "{code:?}");
        }
        assert_eq!(answer(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS), "CUDA_ERROR_ILLEGAL_ADDRESS (700)");
    }
}
