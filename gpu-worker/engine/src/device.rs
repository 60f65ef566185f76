//! The device trait, its facts, figures and errors.

use std::{io, os::fd::OwnedFd};

use serde::{Deserialize, Serialize};

use crate::{CpuDevice, CudaDevice, SlabView, SlabWriter};

/// Tensors begin at multiples of this within a slab, slabs at multiples of it in the device's memory.
pub const ALIGN: u64 = 256;

/// What a device is; does not change while it is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceFacts {
    /// `cpu:0`, `cuda:1`.
    pub name: String,
    /// `cpu` or `cuda`.
    pub kind: String,
    /// Vendor UUID, where there is one.
    pub uuid: Option<String>,
    /// Product name.
    pub product: String,
    /// Bytes that weights may take.
    pub capacity_bytes: u64,
    /// Alignment of slabs in bytes.
    pub align_bytes: u64,
}

/// How a device's memory stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DeviceMemory {
    /// Bytes that weights may take.
    pub capacity_bytes: u64,
    /// Bytes of live slabs by our ledger.
    pub used_bytes: u64,
    /// Bytes that the system says our slabs take; for CUDA, bytes of the device that were free before our first slab and
    /// are not any more, whoever took them.
    pub system_bytes: u64,
}

/// How another process of this host gets at the bytes of a slab.
#[derive(Debug)]
pub enum Share {
    /// A memory file that holds exactly the slab and that nobody can write to any more.
    Memory(OwnedFd),
    /// A handle of the CUDA driver.
    Cuda(CudaShare),
}

/// What another process opens with the CUDA driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CudaShare {
    /// The driver's handle of the allocation, as bytes.
    pub handle: Vec<u8>,
    /// Where the slab begins in what the handle opens.
    pub offset: u64,
}

/// A slab of an open device; never reused for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlabId(pub(crate) u64);

impl SlabId {
    /// Tells it from all others of its device.
    pub fn number(self) -> u64 {
        self.0
    }
}

/// Why a device refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// No room.
    #[error("{needed_bytes} bytes needed, {available_bytes} free of {capacity_bytes}")]
    OutOfMemory {
        /// Bytes asked for, rounded as the device rounds.
        needed_bytes: u64,
        /// Bytes free now.
        available_bytes: u64,
        /// Bytes in all.
        capacity_bytes: u64,
    },
    /// The caller wanted no more of it; the device is as before.
    #[error("the allocation was interrupted")]
    Interrupted,
    /// The slab was freed or never existed.
    #[error("slab {0:?} is not live")]
    NoSlab(SlabId),
    /// Views of the slab live, or a writer does.
    #[error("slab {0:?} is in use")]
    InUse(SlabId),
    /// Other processes were given the slab's bytes as bytes that never change.
    #[error("slab {0:?} was opened to other processes and cannot be written to any more")]
    Sealed(SlabId),
    /// A write or read beyond the slab.
    #[error("bytes {begin}..{end} lie beyond the slab's {slab_bytes}")]
    OutOfRange {
        /// First byte.
        begin: u64,
        /// One past the last byte (saturating).
        end: u64,
        /// Bytes of the slab.
        slab_bytes: u64,
    },
    /// The device does not exist or its driver is not there.
    #[error("device `{name}` cannot be opened: {reason}")]
    NotThere {
        /// The name asked for.
        name: String,
        /// Why.
        reason: String,
    },
    /// The operating system answered with an error.
    #[error("{what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The answer.
        #[source]
        source: io::Error,
    },
    /// The driver answered with an error that leaves the device usable.
    #[error("{what}: {answer}")]
    Driver {
        /// What was tried.
        what: &'static str,
        /// The driver's answer.
        answer: String,
    },
    /// The driver answered with an error after which nothing on this device works in this process any more.
    #[error("{what}: {answer}; the process must end")]
    Sticky {
        /// What was tried.
        what: &'static str,
        /// The driver's answer.
        answer: String,
    },
}

/// Memory for weights. Owned by one thread.
pub trait Device: Send {
    /// What it is.
    fn facts(&self) -> &DeviceFacts;

    /// How its memory stands.
    ///
    /// # Errors
    /// When the device or system cannot be asked.
    fn memory(&self) -> Result<DeviceMemory, DeviceError>;

    /// A slab of at least `bytes` bytes, uninitialised.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] with the numbers; the device is as before.
    fn allocate(&mut self, bytes: u64) -> Result<SlabId, DeviceError> {
        self.allocate_while(bytes, &mut || true)
    }

    /// As [`Device::allocate`], asking `go_on` every few milliseconds where the system is slow to promise memory.
    ///
    /// # Errors
    /// As [`Device::allocate`], and [`DeviceError::Interrupted`] once `go_on` says no.
    fn allocate_while(&mut self, bytes: u64, go_on: &mut dyn FnMut() -> bool) -> Result<SlabId, DeviceError>;

    /// As [`Device::allocate`], for a slab that a [`SlabWriter`] is to fill: where the system is slow to promise memory, it gives it
    /// as it is written.
    ///
    /// # Errors
    /// As [`Device::allocate`].
    fn reserve(&mut self, bytes: u64) -> Result<SlabId, DeviceError> {
        self.allocate(bytes)
    }

    /// As [`Device::free`] of one slab and [`Device::reserve`] of another: where the system can be left out, the second has the first
    /// one's memory.
    ///
    /// # Errors
    /// `InUse` as for [`Device::free`]; otherwise the first one is gone.
    fn replace(&mut self, slab: SlabId, bytes: u64) -> Result<SlabId, DeviceError> {
        self.free(slab)?;
        self.reserve(bytes)
    }

    /// Bytes that a slab really takes.
    ///
    /// # Errors
    /// [`DeviceError::NoSlab`].
    fn slab_bytes(&self, slab: SlabId) -> Result<u64, DeviceError>;

    /// Copies into a slab; on return `data` may be reused. The bytes are surely there after [`Device::synchronize`].
    ///
    /// # Errors
    /// `NoSlab`, `OutOfRange`, or what the device answers.
    fn write(&mut self, slab: SlabId, offset: u64, data: &[u8]) -> Result<(), DeviceError>;

    /// Copies out of a slab.
    ///
    /// # Errors
    /// As [`Device::write`].
    fn read(&mut self, slab: SlabId, offset: u64, out: &mut [u8]) -> Result<(), DeviceError>;

    /// Lets other processes at a slab's bytes; it must not be written after that, and not be freed while they use it.
    ///
    /// # Errors
    /// `NoSlab`, or what the device answers.
    fn share(&mut self, slab: SlabId) -> Result<Share, DeviceError>;

    /// The slab's bytes for other threads of this process; it is neither written nor freed while they live. All writes have
    /// arrived on return.
    ///
    /// # Errors
    /// `NoSlab`, or what the device answers.
    fn view(&mut self, slab: SlabId) -> Result<SlabView, DeviceError>;

    /// A slab that one other thread of this process may write to while the device goes on. As long as it lives the slab can
    /// neither be looked at nor shared, written, or freed. All writes have arrived on return.
    ///
    /// # Errors
    /// `NoSlab`, `InUse` while a view or another writer lives, `Sealed` where it was shared, or what the device answers.
    fn writer(&mut self, slab: SlabId) -> Result<SlabWriter, DeviceError>;

    /// Waits until all writes have arrived.
    ///
    /// # Errors
    /// The first error of a write that had not arrived.
    fn synchronize(&mut self) -> Result<(), DeviceError>;

    /// Gives a slab back; on return its bytes are free. Returns how many they were.
    ///
    /// # Errors
    /// `NoSlab`, `InUse` while a view lives (the slab stays), or what the device answers.
    fn free(&mut self, slab: SlabId) -> Result<u64, DeviceError>;
}

/// Opens a device by name; `memory_bytes` bounds it (0: all that it has, for CUDA).
///
/// # Errors
/// [`DeviceError::NotThere`] for an unknown name or missing driver.
pub fn open(name: &str, memory_bytes: u64) -> Result<Box<dyn Device>, DeviceError> {
    match name.split_once(':') {
        Some(("cpu", "0")) => Ok(Box::new(CpuDevice::new(memory_bytes))),
        Some(("cuda", ordinal)) => match ordinal.parse() {
            Ok(ordinal) => Ok(Box::new(CudaDevice::open(ordinal, memory_bytes)?)),
            Err(_) => Err(unknown(name)),
        },
        _ => Err(unknown(name)),
    }
}

fn unknown(name: &str) -> DeviceError {
    DeviceError::NotThere { name: name.to_owned(), reason: "devices are named `cpu:0` or `cuda:N`".to_owned() }
}

/// `[offset, offset + len)` must lie within `slab_bytes`.
pub(crate) fn check_range(offset: u64, len: usize, slab_bytes: u64) -> Result<(), DeviceError> {
    let end = offset.saturating_add(len as u64);
    if end > slab_bytes {
        return Err(DeviceError::OutOfRange { begin: offset, end, slab_bytes });
    }
    Ok(())
}
