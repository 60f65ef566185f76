//! The memory of one tensor: a range that its owner keeps alive, on the host or on a CUDA device.

use std::{any::Any, fmt, ops::Range, sync::Arc};

/// Host memory that can be read while somebody holds it: a mapping, a buffer.
pub trait HostMemory: AsRef<[u8]> + Send + Sync {}

impl<T: AsRef<[u8]> + Send + Sync> HostMemory for T {}

/// The bytes of one tensor.
#[derive(Clone)]
pub struct Memory {
    place: Place,
}

#[derive(Clone)]
enum Place {
    Host { owner: Arc<dyn HostMemory>, range: Range<usize> },
    Cuda { owner: Arc<dyn Any + Send + Sync>, pointer: u64, bytes: usize, device: i32 },
}

impl Memory {
    /// A range of host memory; none when the memory is shorter.
    pub fn host(owner: Arc<dyn HostMemory>, range: Range<usize>) -> Option<Self> {
        (*owner).as_ref().get(range.clone())?;
        Some(Self { place: Place::Host { owner, range } })
    }

    /// Memory of a CUDA device.
    ///
    /// # Safety
    /// `pointer` is the address on device `device` of at least `bytes` readable bytes that stay there, unchanged while
    /// a run reads them, until `owner` is dropped.
    #[expect(unsafe_code, reason = "nothing on the host can check an address of a device")]
    pub unsafe fn cuda(owner: Arc<dyn Any + Send + Sync>, pointer: u64, bytes: usize, device: i32) -> Self {
        Self { place: Place::Cuda { owner, pointer, bytes, device } }
    }

    /// Length in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match &self.place {
            Place::Host { range, .. } => range.len(),
            Place::Cuda { bytes, .. } => *bytes,
        }
    }

    /// The bytes, where the host can read them.
    #[must_use]
    pub fn as_host(&self) -> Option<&[u8]> {
        match &self.place {
            Place::Host { owner, range } => (**owner).as_ref().get(range.clone()),
            Place::Cuda { .. } => None,
        }
    }

    /// Address and device number, where it is memory of a CUDA device.
    #[must_use]
    pub fn as_cuda(&self) -> Option<(u64, i32)> {
        match &self.place {
            Place::Host { .. } => None,
            Place::Cuda { pointer, device, .. } => Some((*pointer, *device)),
        }
    }

    /// How many hold the owner; for tests of what is kept alive.
    #[must_use]
    pub fn holders(&self) -> usize {
        match &self.place {
            Place::Host { owner, .. } => Arc::strong_count(owner),
            Place::Cuda { owner, .. } => Arc::strong_count(owner),
        }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Host { range, .. } => write!(f, "host {range:?}"),
            Place::Cuda { pointer, bytes, device, .. } => write!(f, "cuda:{device} {pointer:#x}+{bytes}"),
        }
    }
}
