//! The loop of a merge on the device: a program for the driver's own compiler, and its launches.
#![expect(
    unsafe_code,
    reason = "programs of the device take addresses; every one lies in memory that is held for the launch"
)]

use std::{ffi::c_void, ptr};

use cudarc::driver::{
    DriverError,
    result::{launch_kernel, module},
    sys::{CUdeviceptr, CUfunction, CUmodule},
};

/// `merge.cu`, compiled; ends with a zero as the driver wants it.
const PROGRAM: &str = concat!(include_str!("merge.ptx"), "\0");
/// Threads of a block: columns, and groups of rows.
const BLOCK: (u32, u32) = (32, 8);
/// Rows of a thread.
const ROWS: u32 = 4;

/// A change as the program reads it.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Added {
    /// Address of the left factor, or of every entry.
    pub(super) left: CUdeviceptr,
    /// Address of the right factor.
    pub(super) right: CUdeviceptr,
    /// Multiplies every entry; a left factor is scaled already.
    pub(super) scale: f32,
    /// 0 for every entry.
    pub(super) rank: u32,
}

impl Added {
    /// As it lies in the device's memory.
    pub(super) fn to_bytes(self) -> [u8; size_of::<Self>()] {
        let mut bytes = [0; size_of::<Self>()];
        let fields = [
            &self.left.to_le_bytes()[..],
            &self.right.to_le_bytes(),
            &self.scale.to_le_bytes(),
            &self.rank.to_le_bytes(),
        ];
        bytes.iter_mut().zip(fields.concat()).for_each(|(to, byte)| *to = byte);
        bytes
    }
}

/// A launch: all addresses lie in allocations of the bound context.
#[derive(Debug, Clone, Copy)]
pub(super) struct Launch {
    pub(super) from: CUdeviceptr,
    pub(super) to: CUdeviceptr,
    /// 0 for 32-bit floats, 1 for 16-bit ones, 2 for bfloat16.
    pub(super) stored: u32,
    pub(super) rows: u32,
    pub(super) columns: u32,
    /// So many [`Added`], one behind the other.
    pub(super) changes: CUdeviceptr,
    pub(super) count: u32,
    /// A counter of values that are no numbers.
    pub(super) lost: CUdeviceptr,
}

/// The program, loaded into the context that was bound.
#[derive(Debug)]
pub(super) struct Kernel {
    module: CUmodule,
    function: CUfunction,
}

impl Kernel {
    /// Loads it into the bound context.
    pub(super) fn load() -> Result<Self, DriverError> {
        // SAFETY: the text ends with a zero, and the driver copies it.
        let module = unsafe { module::load_data(PROGRAM.as_ptr().cast()) }?;
        // SAFETY: the module was just loaded.
        match unsafe { module::get_function(module, c"change".to_owned()) } {
            Ok(function) => Ok(Self { module, function }),
            Err(error) => {
                // SAFETY: loaded above, and unloaded once.
                let _ = unsafe { module::unload(module) };
                Err(error)
            }
        }
    }

    /// Starts it; it is through when a copy back that was asked for afterwards is.
    ///
    /// # Safety
    /// The ranges that the launch names lie in live allocations of the bound context, which nobody else writes to and which
    /// stay until the launch is through.
    pub(super) unsafe fn launch(&self, launch: &Launch) -> Result<(), DriverError> {
        let Launch { from, to, stored, rows, columns, changes, count, lost } = launch;
        let address = |value: &u64| ptr::from_ref(value).cast_mut().cast::<c_void>();
        let number = |value: &u32| ptr::from_ref(value).cast_mut().cast::<c_void>();
        let mut parameters = [
            address(from),
            address(to),
            number(stored),
            number(rows),
            number(columns),
            address(changes),
            number(count),
            address(lost),
        ];
        let grid = (columns.div_ceil(BLOCK.0), rows.div_ceil(BLOCK.1 * ROWS), 1);
        // SAFETY: as many parameters of the same widths as the program has, all read before the call returns; the rest is the
        // caller's promise.
        unsafe { launch_kernel(self.function, grid, (BLOCK.0, BLOCK.1, 1), 0, ptr::null_mut(), &mut parameters) }
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // SAFETY: loaded by `load`, and unloaded only here; the writer that owns it waited for its launches.
        let _ = unsafe { module::unload(self.module) };
    }
}
