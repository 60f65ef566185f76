//! The two threads, and the place where they leave what they know.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fmt, io,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use nvml_wrapper::{Nvml, error::NvmlError};

use super::{
    NvmlFigures, NvmlView, events,
    figures::Identity,
    library::{self, code},
    state::{Side, State},
};

/// How the library is watched.
#[derive(Debug, Clone)]
pub struct MonitorOptions {
    /// The library's file; the system's when absent.
    pub library: Option<PathBuf>,
    /// Time between two rounds of figures.
    pub period: Duration,
    /// How long a round may take in all.
    pub deadline: Duration,
    /// How long the library, and the first round with it, may take to open: a driver that was asleep wakes every device.
    pub opening: Duration,
    /// How long one wait for events lasts.
    pub event_wait: Duration,
    /// Pause before a failed library is opened again; doubles up to the longest.
    pub backoff: Duration,
    /// The longest pause.
    pub backoff_longest: Duration,
}

impl Default for MonitorOptions {
    fn default() -> Self {
        Self {
            library: None,
            period: Duration::from_secs(1),
            deadline: Duration::from_secs(3),
            opening: Duration::from_secs(30),
            event_wait: Duration::from_secs(1),
            backoff: Duration::from_secs(1),
            backoff_longest: Duration::from_secs(30),
        }
    }
}

/// The watched library of one host. Dropping it ends its threads when their calls return.
#[derive(Debug)]
pub struct Monitor(Arc<Shared>);

impl Monitor {
    /// Starts both threads; `changed` is called after each round of figures and each event, from these threads.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(options: MonitorOptions, changed: impl Fn() + Send + Sync + 'static) -> io::Result<Self> {
        let shared =
            Arc::new(Shared { state: Mutex::default(), wake: Condvar::new(), changed: Box::new(changed), options });
        let (reader, waiter) = (shared.clone(), shared.clone());
        thread::Builder::new().name("nvml figures".into()).spawn(move || read_figures(&reader))?;
        thread::Builder::new().name("nvml events".into()).spawn(move || events::watch(&waiter))?;
        Ok(Self(shared))
    }

    /// What is known now. Never waits for the library.
    pub fn view(&self) -> NvmlView {
        self.0.state().view(Instant::now())
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.0.state().stop = true;
        self.0.wake.notify_all();
    }
}

/// What both threads and the monitor hold.
pub(super) struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    changed: Box<dyn Fn() + Send + Sync>,
    pub(super) options: MonitorOptions,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("options", &self.options).finish_non_exhaustive()
    }
}

/// Whose side of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Thread {
    Figures,
    Events,
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn side(state: &mut State, thread: Thread) -> &mut Side {
        match thread {
            Thread::Figures => &mut state.figures,
            Thread::Events => &mut state.events,
        }
    }

    /// The library works for this thread.
    pub(super) fn answered(&self, thread: Thread) {
        let mut state = self.state();
        let side = Self::side(&mut state, thread);
        (side.call, side.fault, side.answered) = (None, None, true);
    }

    /// The library does not work for this thread.
    pub(super) fn failed(&self, thread: Thread, error: &NvmlError) {
        let mut state = self.state();
        let side = Self::side(&mut state, thread);
        (side.call, side.fault) = (None, Some(error.to_string()));
        drop(state);
        self.tell();
    }

    fn publish(&self, figures: NvmlFigures) {
        self.state().latest = Some(figures);
        self.answered(Thread::Figures);
        self.tell();
    }

    /// Somebody may want to look.
    pub(super) fn tell(&self) {
        (self.changed)();
    }

    /// Waits; false when the monitor is gone.
    pub(super) fn rest(&self, pause: Duration) -> bool {
        let state = self.state();
        let waited = self.wake.wait_timeout_while(state, pause, |state| !state.stop);
        !waited.unwrap_or_else(PoisonError::into_inner).0.stop
    }

    pub(super) fn open(&self, calls: &Calls<'_>) -> Result<Nvml, NvmlError> {
        let mut builder = Nvml::builder();
        if let Some(path) = &self.options.library {
            builder.lib_path(OsStr::new(path));
        }
        calls.make("opening the library", || builder.init())
    }

    /// Calls whose time runs from now on, all together.
    pub(super) fn calls(&self, thread: Thread, allowed: Duration) -> Calls<'_> {
        Calls { shared: self, thread, since: Instant::now(), allowed }
    }
}

/// Makes calls, notes which one is out, and counts errors.
#[derive(Debug)]
pub(super) struct Calls<'a> {
    shared: &'a Shared,
    thread: Thread,
    since: Instant,
    allowed: Duration,
}

impl Calls<'_> {
    pub(super) fn make<T>(
        &self,
        name: &'static str,
        call: impl FnOnce() -> Result<T, NvmlError>,
    ) -> Result<T, NvmlError> {
        Shared::side(&mut self.shared.state(), self.thread).call = Some((name, self.since, self.allowed));
        let answer = call();
        let mut state = self.shared.state();
        Shared::side(&mut state, self.thread).call = None;
        if let Some(code) = answer.as_ref().err().and_then(code) {
            state.error(code);
        }
        answer
    }
}

/// Pauses that grow.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    pub(super) fn new(options: &MonitorOptions) -> Self {
        Self { next: options.backoff, longest: options.backoff_longest }
    }

    pub(super) fn step(&mut self) -> Duration {
        let pause = self.next;
        self.next = (self.next * 2).min(self.longest);
        pause
    }
}

/// The figures thread: opens the library, reads until it fails, opens it again.
fn read_figures(shared: &Shared) {
    let mut known = BTreeMap::new();
    let mut backoff = Backoff::new(&shared.options);
    loop {
        match read_until_it_fails(shared, &mut known, &mut backoff) {
            Ok(()) => return,
            Err(error) => shared.failed(Thread::Figures, &error),
        }
        if !shared.rest(backoff.step()) {
            return;
        }
    }
}

/// Returns without an error when the monitor is gone.
fn read_until_it_fails(
    shared: &Shared,
    known: &mut BTreeMap<u32, Identity>,
    backoff: &mut Backoff,
) -> Result<(), NvmlError> {
    let opening = shared.calls(Thread::Figures, shared.options.opening);
    let nvml = shared.open(&opening)?;
    let driver = opening.make("driver version", || nvml.sys_driver_version()).ok();
    let mut calls = opening;
    loop {
        let began = Some(Instant::now());
        let devices = library::devices(&nvml, known, &calls)?;
        shared.publish(NvmlFigures { began, driver: driver.clone(), devices });
        *backoff = Backoff::new(&shared.options);
        if !shared.rest(shared.options.period) {
            return Ok(());
        }
        calls = shared.calls(Thread::Figures, shared.options.deadline);
    }
}
