//! Views of slabs: bytes that another thread reads while the device goes on, with the memory kept for as long as it does.

use std::{any::Any, borrow::Cow, fmt, ops::Range, sync::Arc};

use crate::{DeviceError, cuda::CudaMemory, mapped::Mapped, weights};

/// A slab's bytes, for reading. While a view or a clone of it lives, the slab cannot be freed and nobody may write to it.
#[derive(Clone)]
pub struct SlabView {
    memory: Memory,
    bytes: u64,
}

#[derive(Clone)]
enum Memory {
    Host(Arc<Mapped>),
    Cuda(Arc<CudaMemory>),
}

/// Where the bytes of a view are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In this process's memory, at this address.
    Host(usize),
    /// In the memory of a CUDA device.
    Cuda {
        /// The device's number.
        ordinal: usize,
        /// Address on the device.
        pointer: u64,
    },
}

impl SlabView {
    pub(crate) fn host(memory: Arc<Mapped>, bytes: u64) -> Self {
        Self { memory: Memory::Host(memory), bytes }
    }

    pub(crate) fn cuda(memory: Arc<CudaMemory>, bytes: u64) -> Self {
        Self { memory: Memory::Cuda(memory), bytes }
    }

    /// Bytes of the slab.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where its first byte is. Valid while this view or something of [`SlabView::keeper`] lives.
    pub fn place(&self) -> Place {
        match &self.memory {
            Memory::Host(mapped) => Place::Host(mapped.as_slice().as_ptr().addr()),
            Memory::Cuda(slab) => Place::Cuda { ordinal: slab.ordinal(), pointer: slab.pointer() },
        }
    }

    /// The bytes, of a slab in host memory.
    pub fn as_slice(&self) -> Option<&[u8]> {
        match &self.memory {
            Memory::Host(mapped) => Some(mapped.as_slice()),
            Memory::Cuda(_) => None,
        }
    }

    /// The bytes on the host: read down from a device of its own.
    ///
    /// # Errors
    /// What the device answers.
    pub fn to_host(&self) -> Result<Cow<'_, [u8]>, DeviceError> {
        match &self.memory {
            Memory::Host(mapped) => Ok(Cow::Borrowed(mapped.as_slice())),
            Memory::Cuda(memory) => memory.to_host().map(Cow::Owned),
        }
    }

    /// The allocation, of a slab on a CUDA device.
    pub(crate) fn as_cuda(&self) -> Option<&Arc<CudaMemory>> {
        match &self.memory {
            Memory::Host(_) => None,
            Memory::Cuda(memory) => Some(memory),
        }
    }

    /// A range of it as the memory of a weight, which keeps the slab as this view does; none beyond its end.
    pub fn weight(&self, range: Range<u64>) -> Option<weights::Memory> {
        if range.start > range.end || range.end > self.bytes {
            return None;
        }
        let (begin, end) = (usize::try_from(range.start).ok()?, usize::try_from(range.end).ok()?);
        match &self.memory {
            Memory::Host(mapped) => weights::Memory::host(mapped.clone(), begin..end),
            Memory::Cuda(slab) => CudaMemory::weight(slab, range.start, end - begin),
        }
    }

    /// Keeps the memory alive, for whoever has no use for the view itself.
    pub fn keeper(&self) -> Arc<dyn Any + Send + Sync> {
        match &self.memory {
            Memory::Host(mapped) => mapped.clone(),
            Memory::Cuda(slab) => slab.clone(),
        }
    }
}

impl fmt::Debug for SlabView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlabView").field("place", &self.place()).field("bytes", &self.bytes).finish()
    }
}
