//! Many tensors at once: a queue of blocks of rows from which all threads take, so that none waits for the others' tensors.
//!
//! A tensor's changes are prepared once, by the thread that opens it, just before its rows are changed. Which thread takes
//! which block decides no byte.

use std::{
    collections::VecDeque,
    num::NonZeroUsize,
    slice::{Chunks, ChunksMut},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{
    change::Stored,
    kernel::{ROWS, Rows, Summand, change},
    merge::MergeError,
};
use crate::{Cancel, tensor::ElementType, tensor::elements};

/// Bytes of a block, about: a fraction of a millisecond for usual ranks, and within a processor's cache.
const BLOCK: usize = 256 << 10;

/// Makes what is added to a tensor from the tensor's own bytes.
pub(crate) type Prepare<'a> = Box<dyn FnOnce(Stored<'_>) -> Result<Vec<Summand>, MergeError> + Send + 'a>;

/// A tensor to be made.
pub(crate) struct Task<'a> {
    pub(crate) name: &'a str,
    pub(crate) element: ElementType,
    pub(crate) shape: &'a [usize],
    /// The bytes that are changed; none when they are where the changed ones go.
    pub(crate) from: Option<&'a [u8]>,
    pub(crate) to: &'a mut [u8],
    /// The changes; none when the bytes are only to be copied.
    pub(crate) prepare: Option<Prepare<'a>>,
}

/// A tensor that could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{tensor}`: {error}")]
pub struct Failed {
    /// Its name.
    pub tensor: String,
    /// Why.
    #[source]
    pub error: MergeError,
}

/// Makes all of them; `done` hears of the bytes of each block. What stands in the targets after an error is not to be used.
///
/// # Errors
/// The first that was found.
pub(crate) fn carry_out(
    mut tasks: Vec<Task<'_>>,
    threads: NonZeroUsize,
    done: &(dyn Fn(usize) + Sync),
    cancel: &Cancel,
) -> Result<(), Failed> {
    // the largest first: what is left for the end is small
    tasks.sort_by_key(|task| std::cmp::Reverse(task.to.len()));
    let bytes: usize = tasks.iter().map(|task| task.to.len()).sum();
    let queue =
        Queue { state: Mutex::new(State { waiting: tasks.into(), ..State::default() }), changed: Condvar::new() };
    let helpers = (threads.get() - 1).min(bytes / BLOCK);
    std::thread::scope(|scope| {
        for _ in 0..helpers {
            // a thread that the system refuses is one less
            let _ = std::thread::Builder::new().name("merge".into()).spawn_scoped(scope, || work(&queue, done, cancel));
        }
        work(&queue, done, cancel);
    });
    match queue.state.into_inner().unwrap_or_else(PoisonError::into_inner).failed {
        Some(failed) => Err(failed),
        None => Ok(()),
    }
}

struct Queue<'a> {
    state: Mutex<State<'a>>,
    changed: Condvar,
}

#[derive(Default)]
struct State<'a> {
    waiting: VecDeque<Task<'a>>,
    open: VecDeque<Open<'a>>,
    /// Tensors whose changes are being prepared: blocks will come of them.
    preparing: usize,
    failed: Option<Failed>,
}

/// A tensor whose rows are being changed.
struct Open<'a> {
    from: Option<Chunks<'a, u8>>,
    to: ChunksMut<'a, u8>,
    /// The first row of the next block.
    row: usize,
    facts: Arc<Facts<'a>>,
}

/// What all blocks of a tensor share.
struct Facts<'a> {
    name: &'a str,
    element: ElementType,
    columns: usize,
    /// Rows of a block.
    rows: usize,
    /// None to copy.
    changes: Option<Vec<Summand>>,
    /// Values that do not fit.
    lost: AtomicUsize,
}

struct Block<'a> {
    from: Option<&'a [u8]>,
    to: &'a mut [u8],
    row: usize,
    facts: Arc<Facts<'a>>,
}

enum Next<'a> {
    Prepare(Task<'a>),
    Change(Block<'a>),
}

impl<'a> Queue<'a> {
    fn lock(&self) -> MutexGuard<'_, State<'a>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a thread does next; none when nothing is left for it.
    fn next(&self) -> Option<Next<'a>> {
        let mut state = self.lock();
        loop {
            if state.failed.is_some() {
                return None;
            }
            if let Some(block) = state.block() {
                return Some(Next::Change(block));
            }
            if let Some(task) = state.waiting.pop_front() {
                state.preparing += 1;
                return Some(Next::Prepare(task));
            }
            if state.preparing == 0 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn opened(&self, opened: Result<Open<'a>, Failed>) {
        let mut state = self.lock();
        state.preparing -= 1;
        match opened {
            Ok(open) => state.open.push_back(open),
            Err(failed) => state.failed = state.failed.take().or(Some(failed)),
        }
        self.changed.notify_all();
    }

    fn fail(&self, name: &str, error: MergeError) {
        let mut state = self.lock();
        state.failed = state.failed.take().or(Some(Failed { tensor: name.to_owned(), error }));
        self.changed.notify_all();
    }
}

impl<'a> State<'a> {
    fn block(&mut self) -> Option<Block<'a>> {
        while let Some(open) = self.open.front_mut() {
            let (from, to) = (open.from.as_mut().and_then(Iterator::next), open.to.next());
            let (row, facts) = (open.row, open.facts.clone());
            open.row += facts.rows;
            // only its blocks hold the facts of a tensor that is through
            if open.to.len() == 0 {
                self.open.pop_front();
            }
            if let Some(to) = to {
                return Some(Block { from, to, row, facts });
            }
        }
        None
    }
}

/// Lets nobody wait for a thread that panicked: the panic itself goes to whoever called.
struct Watch<'q, 'a>(&'q Queue<'a>);

impl Drop for Watch<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail("", MergeError::Cancelled);
        }
    }
}

fn work(queue: &Queue<'_>, done: &(dyn Fn(usize) + Sync), cancel: &Cancel) {
    let _watch = Watch(queue);
    while let Some(next) = queue.next() {
        match next {
            Next::Prepare(task) => {
                let name = task.name;
                queue.opened(open(task).map_err(|error| Failed { tensor: name.to_owned(), error }));
            }
            Next::Change(block) => {
                if cancel.is_cancelled() {
                    return queue.fail(block.facts.name, MergeError::Cancelled);
                }
                let bytes = block.to.len();
                let facts = block.facts.clone();
                if let Err(error) = carry_out_block(block) {
                    queue.fail(facts.name, error);
                }
                // whoever holds the facts last has changed the last block
                if let Some(facts) = Arc::into_inner(facts) {
                    match facts.lost.into_inner() {
                        0 => {}
                        values => queue.fail(facts.name, MergeError::Overflow { values, element: facts.element }),
                    }
                }
                done(bytes);
            }
        }
    }
}

fn open(task: Task<'_>) -> Result<Open<'_>, MergeError> {
    let Task { name, element, shape, from, to, prepare } = task;
    let whole = elements(shape).and_then(|count| count.checked_mul(element.bytes()));
    if whole != Some(to.len()) || from.is_some_and(|from| from.len() != to.len()) {
        return Err(MergeError::Shape { stem: String::new(), found: [to.len(), 1], expected: shape.to_vec() });
    }
    let stored = Stored { element, shape, bytes: from.unwrap_or(to) };
    let (_, columns) = stored.matrix();
    let changes = prepare.map(|prepare| prepare(stored)).transpose()?;
    let width = (columns * element.bytes()).max(1);
    let rows = (BLOCK / width).next_multiple_of(ROWS).max(ROWS);
    let facts = Facts { name, element, columns, rows, changes, lost: AtomicUsize::new(0) };
    let share = rows * width;
    Ok(Open { from: from.map(|from| from.chunks(share)), to: to.chunks_mut(share), row: 0, facts: Arc::new(facts) })
}

fn carry_out_block(Block { from, to, row, facts }: Block<'_>) -> Result<(), MergeError> {
    let Some(changes) = &facts.changes else {
        if let Some(from) = from {
            to.copy_from_slice(from);
        }
        return Ok(());
    };
    let rows = Rows { from, first: row, columns: facts.columns };
    let lost = change(facts.element, rows, to, changes).ok_or(MergeError::Type { found: facts.element })?;
    facts.lost.fetch_add(lost, Ordering::Relaxed);
    Ok(())
}
