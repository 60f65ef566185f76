//! A device whose faults are scripted, and what the runner makes of each (F28, F33, a copy that fails or hangs). Tests only.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
    mpsc::{Receiver, SyncSender, sync_channel},
};

use engine::{CpuDevice, Device, DeviceError, DeviceFacts, DeviceMemory, Share, SlabId, SlabView, SlabWriter};

/// What goes wrong, once.
#[derive(Debug)]
pub(super) enum Fault {
    /// The n-th allocation (from 1) finds no memory, although the ledger has room: another process took it.
    NoMemory(u32),
    /// The n-th slab to be freed (from 1) is not, this once.
    NotFreed(u32),
    /// The write that reaches this byte of a slab fails; the device works on.
    WriteError(u64),
    /// The write that reaches this byte fails, and everything after it.
    Sticky(u64),
    /// The write that reaches this byte says so and waits to be let go.
    Hang(u64, SyncSender<()>, Receiver<()>),
}

/// The device.
#[derive(Debug)]
pub(super) struct FaultDevice {
    device: CpuDevice,
    fault: Option<Fault>,
    allocations: u32,
    frees: u32,
    lost: bool,
    dropped: Arc<AtomicBool>,
}

impl FaultDevice {
    pub(super) fn new(capacity_bytes: u64, fault: Option<Fault>) -> Self {
        let device = CpuDevice::new(capacity_bytes);
        Self { device, fault, allocations: 0, frees: 0, lost: false, dropped: Arc::default() }
    }

    /// True once the device is gone with all its slabs.
    pub(super) fn dropped(&self) -> Arc<AtomicBool> {
        self.dropped.clone()
    }

    fn alive(&self) -> Result<(), DeviceError> {
        if self.lost { Err(sticky()) } else { Ok(()) }
    }

    fn allocates(&mut self, bytes: u64) -> Result<(), DeviceError> {
        self.alive()?;
        self.allocations += 1;
        if matches!(self.fault, Some(Fault::NoMemory(at)) if at == self.allocations) {
            self.fault = None;
            let capacity_bytes = self.device.facts().capacity_bytes;
            return Err(DeviceError::OutOfMemory { needed_bytes: bytes, available_bytes: 0, capacity_bytes });
        }
        Ok(())
    }

    /// Whether the fault strikes a write of `[offset, end)`; it is used up then.
    fn strike(&mut self, end: u64) -> Option<Fault> {
        let at = match self.fault.as_ref()? {
            Fault::WriteError(at) | Fault::Sticky(at) | Fault::Hang(at, ..) => *at,
            Fault::NoMemory(_) | Fault::NotFreed(_) => return None,
        };
        if end > at { self.fault.take() } else { None }
    }
}

fn sticky() -> DeviceError {
    DeviceError::Sticky { what: "copying to the device", answer: "ILLEGAL_ADDRESS".into() }
}

impl Drop for FaultDevice {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::Release);
    }
}

impl Device for FaultDevice {
    fn facts(&self) -> &DeviceFacts {
        self.device.facts()
    }

    fn memory(&self) -> Result<DeviceMemory, DeviceError> {
        self.alive()?;
        self.device.memory()
    }

    fn allocate_while(&mut self, bytes: u64, go_on: &mut dyn FnMut() -> bool) -> Result<SlabId, DeviceError> {
        self.allocates(bytes)?;
        self.device.allocate_while(bytes, go_on)
    }

    fn reserve(&mut self, bytes: u64) -> Result<SlabId, DeviceError> {
        self.allocates(bytes)?;
        self.device.reserve(bytes)
    }

    fn slab_bytes(&self, slab: SlabId) -> Result<u64, DeviceError> {
        self.alive()?;
        self.device.slab_bytes(slab)
    }

    fn write(&mut self, slab: SlabId, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        self.alive()?;
        match self.strike(offset + data.len() as u64) {
            Some(Fault::WriteError(_)) => {
                return Err(DeviceError::Driver { what: "copying to the device", answer: "INVALID_VALUE".into() });
            }
            Some(Fault::Sticky(_)) => {
                self.lost = true;
                return Err(sticky());
            }
            Some(Fault::Hang(_, reached, go)) => {
                reached.send(()).unwrap();
                go.recv().unwrap();
            }
            Some(Fault::NoMemory(_) | Fault::NotFreed(_)) | None => {}
        }
        self.device.write(slab, offset, data)
    }

    fn read(&mut self, slab: SlabId, offset: u64, out: &mut [u8]) -> Result<(), DeviceError> {
        self.alive()?;
        self.device.read(slab, offset, out)
    }

    fn share(&mut self, slab: SlabId) -> Result<Share, DeviceError> {
        self.alive()?;
        self.device.share(slab)
    }

    fn view(&mut self, slab: SlabId) -> Result<SlabView, DeviceError> {
        self.alive()?;
        self.device.view(slab)
    }

    fn writer(&mut self, slab: SlabId) -> Result<SlabWriter, DeviceError> {
        self.alive()?;
        self.device.writer(slab)
    }

    fn synchronize(&mut self) -> Result<(), DeviceError> {
        self.alive()
    }

    fn free(&mut self, slab: SlabId) -> Result<u64, DeviceError> {
        self.alive()?;
        self.frees += 1;
        if matches!(self.fault, Some(Fault::NotFreed(at)) if at == self.frees) {
            self.fault = None;
            return Err(DeviceError::Driver { what: "freeing memory of the device", answer: "UNKNOWN".into() });
        }
        self.device.free(slab)
    }
}

pub(super) mod tests {
    use std::{os::unix::net::UnixStream, thread::JoinHandle};

    use engine::onnx::OnnxCapability;
    use residency::{FileIdentity, IoOptions, Lease, LoadRequest, RamTier, SourceFile, TensorRange, TierConfig};
    use shared::{ids::ComponentId, shutdown::Tasks};
    use tokio::sync::mpsc;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::runner::{
        DeviceTensor, EngineFacts, Runner, RunnerConfig,
        channel::{self, Commands},
        child::{End, serve},
        copies::Copies,
        engine_thread::{MakeWorker, Order, Outcome, RunFailure, Tell, Worker},
        protocol::{Call, Command, Done, EXIT_STICKY, Event, Failure, Step},
    };

    const MIB: u64 = 1 << 20;
    pub(in crate::runner) const BYTES: u64 = 24 * MIB;

    /// A runner in a thread, and a component in memory for it.
    pub(in crate::runner) struct Bench {
        pub(in crate::runner) commands: Commands,
        pub(in crate::runner) events: mpsc::Receiver<Event>,
        pub(in crate::runner) runner: JoinHandle<Result<(), End>>,
        dropped: Arc<AtomicBool>,
        pub(in crate::runner) lease: Lease,
        last: DeviceMemory,
        resident: usize,
    }

    async fn component() -> Lease {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights");
        std::fs::write(&path, vec![7; BYTES as usize]).unwrap();
        let tensor = TensorRange {
            name: "weight".into(),
            dtype: "U8".into(),
            shape: vec![BYTES],
            file_index: 0,
            begin: 0,
            end: BYTES,
        };
        let request = LoadRequest {
            key: "component".into(),
            sources: vec![SourceFile { expected: FileIdentity::of(&path).unwrap(), path }],
            tensors: vec![tensor],
            gathered: Vec::new(),
            expected_digest: None,
            wanted_by: None,
            io: IoOptions::default(),
        };
        let tier = RamTier::new(TierConfig::new(1 << 30));
        tier.acquire(request, &CancellationToken::new()).await.unwrap()
    }

    /// Nothing runs on it.
    pub(in crate::runner) struct NoWorker;

    /// What a scripted worker says it can do.
    pub(in crate::runner) fn scripted() -> EngineFacts {
        EngineFacts { onnxruntime: OnnxCapability::unknown("a test"), provider: "cpu".into(), threads: 1 }
    }

    impl Worker for NoWorker {
        fn facts(&self) -> EngineFacts {
            scripted()
        }

        fn run(&mut self, order: &Order, _: &Tell) -> Result<Outcome, RunFailure> {
            panic!("nobody asked for {order:?}")
        }
    }

    async fn bench(fault: Fault) -> Bench {
        Bench::new(Some(fault), Box::new(|| Box::new(NoWorker))).await
    }

    async fn started(device: FaultDevice, make: MakeWorker) -> Bench {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let dropped = device.dropped();
        let runner = std::thread::spawn(move || serve(Copies::new(Box::new(device)), make, theirs));
        let (commands, events) = channel::agent_ends(ours).unwrap();
        let (sender, events_received) = mpsc::channel(64);
        Tasks::new().spawn("events", events.forward(sender));
        let lease = component().await;
        Bench { commands, events: events_received, runner, dropped, lease, last: DeviceMemory::default(), resident: 0 }
    }

    impl Bench {
        pub(in crate::runner) async fn new(fault: Option<Fault>, make: MakeWorker) -> Self {
            started(FaultDevice::new(64 * MIB, fault), make).await
        }

        async fn load(&mut self, call: Call) {
            self.load_as(call, ComponentId::generate()).await;
        }

        pub(in crate::runner) async fn load_as(&mut self, call: Call, component: ComponentId) {
            let tensor =
                DeviceTensor { name: "weight".into(), dtype: "U8".into(), shape: vec![BYTES], offset: 0, len: BYTES };
            let digest = self.lease.digest().to_string();
            let command =
                Command::Load { call, component, digest, tensors: vec![tensor], offset: 0, bytes: self.lease.bytes() };
            let fd = self.lease.fd_readonly().unwrap();
            self.commands.send(&command, Some(&fd)).await.unwrap();
        }

        /// The answer to a call, with the status before it noted; none when the runner ended.
        pub(in crate::runner) async fn answer(&mut self) -> Option<Result<Done, Failure>> {
            loop {
                match self.events.recv().await? {
                    Event::Status { memory, resident, .. } => (self.last, self.resident) = (memory, resident.len()),
                    Event::Done { done, .. } => return Some(Ok(done)),
                    Event::Failed { failure, .. } => return Some(Err(failure)),
                    Event::Hello { .. } | Event::Learned { .. } | Event::Preview(_) | Event::Progress { .. } => {}
                }
            }
        }

        /// The status that came with the last answer: nothing half-resident, ledger and system agree.
        pub(in crate::runner) fn assert_holds(&self, components: usize) {
            let bytes = components as u64 * self.lease.bytes();
            assert_eq!((self.last.used_bytes, self.last.system_bytes, self.resident), (bytes, bytes, components));
        }

        async fn assert_works(&mut self) {
            self.load(100).await;
            assert!(matches!(self.answer().await, Some(Ok(Done::Loaded { already: false, .. }))));
            self.assert_holds(1);
        }
    }

    #[tokio::test]
    async fn f28_no_memory_is_typed_and_the_next_load_works() {
        let mut bench = bench(Fault::NoMemory(1)).await;
        bench.load(1).await;
        let answer = bench.answer().await;
        assert!(matches!(answer, Some(Err(Failure::OutOfMemory { available_bytes: 0, .. }))), "{answer:?}");
        bench.assert_holds(0);
        bench.assert_works().await;
    }

    #[tokio::test]
    async fn a_copy_that_fails_midway_leaves_nothing_behind() {
        let mut bench = bench(Fault::WriteError(BYTES / 2)).await;
        bench.load(1).await;
        let answer = bench.answer().await;
        let Some(Err(Failure::Device { message })) = answer else { panic!("{answer:?}") };
        assert!(message.contains("INVALID_VALUE"), "{message}");
        bench.assert_holds(0);
        bench.assert_works().await;
    }

    #[tokio::test]
    async fn f34_a_cancel_during_a_slow_copy_gives_the_memory_back() {
        let ((reached, seen), (go, wait)) = (sync_channel(1), sync_channel(1));
        let mut bench = bench(Fault::Hang(BYTES / 2, reached, wait)).await;
        bench.load(1).await;
        tokio::task::spawn_blocking(move || seen.recv().unwrap()).await.unwrap();
        bench.commands.send(&Command::Cancel { call: 1 }, None).await.unwrap();
        // commands are read in order: the answer to an unload of nothing cannot come before the load ends, so the copy is
        // let go and the mark is looked at before the next chunk
        go.send(()).unwrap();
        let answer = loop {
            match bench.events.recv().await.unwrap() {
                Event::Progress { step: Step::Copied(_) | Step::Stopping, .. } | Event::Hello { .. } => {}
                Event::Status { memory, resident, .. } => (bench.last, bench.resident) = (memory, resident.len()),
                other => break other,
            }
        };
        match answer {
            Event::Failed { failure: Failure::Cancelled, .. } => bench.assert_holds(0),
            // the mark came after the last chunk: then all of it is there
            Event::Done { .. } => bench.assert_holds(1),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn f33_a_sticky_error_ends_the_runner_with_the_reserved_code() {
        let mut bench = bench(Fault::Sticky(BYTES / 2)).await;
        bench.load(1).await;
        let end = tokio::task::spawn_blocking(move || bench.runner.join().unwrap()).await.unwrap().unwrap_err();
        assert_eq!(end.code(), EXIT_STICKY);
        while let Ok(event) = bench.events.try_recv() {
            assert!(!matches!(event, Event::Done { .. } | Event::Failed { .. }), "a lost device answered: {event:?}");
        }
        assert!(bench.dropped.load(Ordering::Acquire), "slabs outlived the runner");
    }

    #[tokio::test]
    async fn f33_a_runner_that_ended_so_is_started_again_and_the_reason_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let config = RunnerConfig::of_script(dir.path().join("runner"), "#!/bin/sh\nexit 86\n");
        let runner = Runner::supervise(config, crate::runner::unwatched(), &Tasks::new());
        let mut status = runner.status();
        let seen = status.wait_for(|status| status.restarts_total >= 2).await.unwrap().clone();
        assert_eq!(seen.last_exit.as_deref(), Some("exit code 86: sticky device error"));
        assert!(seen.resident.is_empty() && seen.memory.used_bytes == 0);
    }
}
