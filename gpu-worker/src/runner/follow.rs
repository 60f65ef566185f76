//! Copies whose source is still being written: what is complete goes to the device, and only what came whole, with its digest,
//! becomes resident.
//!
//! A slow source holds up nobody: between two pieces the device's thread obeys other commands.

use std::{
    collections::BTreeMap,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use engine::{Cancel, SlabId};
use rustix::io::{pread, retry_on_intr};
use shared::ids::ComponentId;

use super::{
    DeviceTensor,
    copies::{CHUNK, Copies, CopyError},
    protocol::{Call, Done, Failure, Step},
};

/// Bytes between the component's memory and the device's: few, since no ledger holds them, and from one cache to the other.
const PIECE: usize = 1 << 20;

/// A component that is on its way into memory.
#[derive(Debug)]
pub(super) struct Coming {
    pub(super) component: ComponentId,
    pub(super) tensors: Vec<DeviceTensor>,
    /// The memory file that it comes into: others write to it, so it is read and never mapped.
    pub(super) source: OwnedFd,
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// What there is of it now.
#[derive(Debug)]
pub(super) struct Landed {
    /// Bytes from its beginning that nobody writes to any more.
    pub(super) bytes: u64,
    /// Its digest, once all of it is there and verified.
    pub(super) digest: Option<String>,
}

/// A copy of a part.
#[derive(Debug)]
struct Follow {
    coming: Coming,
    slab: SlabId,
    done: u64,
    /// Time in which something was done for it.
    took: Duration,
    stop: Cancel,
}

/// All such copies of a device; none of them is resident.
#[derive(Debug, Default)]
pub(super) struct Follows {
    by_call: BTreeMap<Call, Follow>,
    /// Bytes on their way, kept from one piece to the next.
    buffer: Vec<u8>,
}

impl Follows {
    /// Makes room for one; `told` hears when there is. An error is the answer to its call.
    pub(super) fn begin(
        &mut self,
        copies: &mut Copies,
        (call, coming): (Call, Coming),
        stop: Cancel,
        mut told: impl FnMut(Step),
    ) -> Result<(), CopyError> {
        let began = Instant::now();
        let mut wanted = || {
            told(Step::Copied(0));
            !stop.is_cancelled()
        };
        // what the device holds under this id stays until the new content has its digest
        let slab = copies.allocate(coming.bytes, &mut wanted).map_err(|error| copies.with_would_free(error))?;
        told(Step::Copied(0));
        self.by_call.insert(call, Follow { coming, slab, done: 0, took: began.elapsed(), stop });
        Ok(())
    }

    /// Copies what is there now; the answer, when that was the end of it. A call that has ended already is none.
    pub(super) fn landed(
        &mut self,
        copies: &mut Copies,
        (call, landed): (Call, Landed),
        mut told: impl FnMut(Step),
    ) -> Option<Result<Done, CopyError>> {
        let mut follow = self.by_call.remove(&call)?;
        let began = Instant::now();
        let copied = follow.copy(copies, &mut self.buffer, landed.bytes, &mut told);
        follow.took += began.elapsed();
        if landed.digest.is_some() || copied.is_err() {
            // it is nobody's memory in any ledger
            self.buffer = Vec::new();
        }
        match (copied, landed.digest) {
            (Ok(()), None) => {
                self.by_call.insert(call, follow);
                None
            }
            (Ok(()), Some(digest)) => Some(follow.end(copies, digest)),
            (Err(error), _) => Some(Err(follow.give_up(copies, error, told))),
        }
    }

    /// Gives back what nobody wants any more; what to answer.
    pub(super) fn sweep(
        &mut self,
        copies: &mut Copies,
        mut told: impl FnMut(Call, Step),
    ) -> Vec<(Call, Result<Done, CopyError>)> {
        let cancelled = self.by_call.extract_if(.., |_, follow| follow.stop.is_cancelled());
        let given_up: Vec<_> = cancelled
            .map(|(call, follow)| {
                let error = CopyError::Failed(Failure::Cancelled);
                (call, Err(follow.give_up(copies, error, |step| told(call, step))))
            })
            .collect();
        if self.by_call.is_empty() {
            self.buffer = Vec::new();
        }
        given_up
    }
}

impl Follow {
    /// Copies up to this byte.
    fn copy(
        &mut self,
        copies: &mut Copies,
        buffer: &mut Vec<u8>,
        to: u64,
        told: &mut impl FnMut(Step),
    ) -> Result<(), CopyError> {
        if to > self.coming.bytes {
            return Err(device(format!("{to} bytes of a component of {} are said to be there", self.coming.bytes)));
        }
        while self.done < to {
            if self.stop.is_cancelled() {
                return Err(CopyError::Failed(Failure::Cancelled));
            }
            self.chunk(copies, buffer, to.min(self.done + CHUNK as u64))?;
            told(Step::Copied(self.done));
        }
        Ok(())
    }

    /// The same in one go.
    fn chunk(&mut self, copies: &mut Copies, buffer: &mut Vec<u8>, to: u64) -> Result<(), CopyError> {
        while self.done < to {
            buffer.resize(usize::try_from(to - self.done).unwrap_or(PIECE).min(PIECE), 0);
            read(&self.coming.source, self.coming.offset + self.done, buffer)?;
            copies.device.write(self.slab, self.done, buffer)?;
            self.done += buffer.len() as u64;
        }
        Ok(())
    }

    /// It is whole and has this digest: from here on it is resident.
    fn end(mut self, copies: &mut Copies, digest: String) -> Result<Done, CopyError> {
        let began = Instant::now();
        let whole = if self.done == self.coming.bytes {
            copies.device.synchronize().map_err(CopyError::from)
        } else {
            Err(device(format!("a component of {} bytes ended after {}", self.coming.bytes, self.done)))
        };
        if let Err(error) = whole {
            return Err(self.give_up(copies, error, |_| {}));
        }
        self.took += began.elapsed();
        copies.admit(self.slab, (self.coming.component, digest, self.coming.tensors), self.took)
    }

    /// Its memory goes back; why it is not there.
    fn give_up(self, copies: &mut Copies, error: CopyError, mut told: impl FnMut(Step)) -> CopyError {
        // giving gigabytes back takes a moment, which is not the copy going on
        told(Step::Stopping);
        copies.given_up(self.slab, error)
    }
}

/// All of the buffer, from the memory file.
fn read(source: &OwnedFd, at: u64, buffer: &mut [u8]) -> Result<(), CopyError> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match retry_on_intr(|| pread(source, &mut *rest, at + done as u64)) {
            Ok(0) => return Err(device("the component's memory file is shorter than the component".to_owned())),
            Ok(count) => done += count,
            Err(errno) => return Err(device(format!("the component's memory cannot be read: {errno}"))),
        }
    }
    Ok(())
}

fn device(message: String) -> CopyError {
    CopyError::Failed(Failure::Device { message })
}
