//! Many tensors at once: queues of blocks of rows from which all threads take, so that none waits for the others' tensors.
//!
//! A tensor's changes are prepared once, by the thread that opens it, just before its rows are changed. Which thread takes
//! which block decides no byte. Tensors of one memory are a group, and threads keep to different groups as long as there are
//! enough: the system lets one of them at a time write to a memory file, and whoever waits burns its processor.

use std::{
    borrow::Cow,
    collections::VecDeque,
    io,
    num::NonZeroUsize,
    ops::Range,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{
    change::Stored,
    kernel::{ROWS, Rows, Summand, change, stream},
    merge::MergeError,
};
use crate::{
    Cancel,
    tensor::{ElementType, elements},
};

/// Bytes of a block, about: a fraction of a millisecond for usual ranks, and within a processor's cache.
const BLOCK: usize = 256 << 10;

/// Bytes that are made at a time where memory is written to past the caches, about: they stay in the innermost one.
const PIECE: usize = 16 << 10;

/// Makes what is added to a tensor.
pub(crate) type Prepare<'a> = Box<dyn FnOnce(Stored<'_>) -> Result<Vec<Summand>, MergeError> + Send + 'a>;

/// Where tensors go: memory that several threads write to, each its own range.
pub(crate) trait Sink: Sync {
    /// Hears that all of this range is written next: memory can be made ready for it. Whether all of it is there now, so that it
    /// may be written to as memory.
    fn expect(&self, _range: Range<u64>) -> bool {
        false
    }

    /// Writes all bytes from this place on.
    ///
    /// # Errors
    /// What the system answers.
    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()>;

    /// Reads from this place on.
    ///
    /// # Errors
    /// What the system answers.
    fn read(&self, at: u64, out: &mut [u8]) -> io::Result<()>;
}

/// A tensor to be made.
pub(crate) struct Task<'a> {
    /// The memory that it goes to.
    pub(crate) sink: &'a dyn Sink,
    pub(crate) name: &'a str,
    pub(crate) element: ElementType,
    pub(crate) shape: &'a [usize],
    /// The bytes that are changed; none when they are where the changed ones go.
    pub(crate) from: Option<&'a [u8]>,
    /// Where it goes.
    pub(crate) to: Range<u64>,
    /// The same as memory of this process, where the sink has it.
    pub(crate) place: Option<&'a mut [u8]>,
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

/// Why not all tensors were made.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// One of them cannot be made.
    Tensor(Failed),
    /// The memory that they go to does not take them.
    Memory(io::Error),
}

/// Makes all of them, group by group; `done` hears of the bytes of each block. What stands in the targets after an error is not to
/// be used.
///
/// # Errors
/// The first that was found.
pub(crate) fn carry_out(
    groups: Vec<Vec<Task<'_>>>,
    threads: NonZeroUsize,
    done: &(dyn Fn(usize) + Sync),
    cancel: &Cancel,
) -> Result<(), Trouble> {
    let bytes: usize = groups.iter().flatten().filter_map(Task::length).sum();
    let state = State { groups: groups.into_iter().map(Group::of).collect(), ..State::default() };
    let queue = Queue { state: Mutex::new(state), changed: Condvar::new(), done, cancel };
    let helpers = (threads.get() - 1).min(bytes / BLOCK);
    std::thread::scope(|scope| {
        for _ in 0..helpers {
            // a thread that the system refuses is one less
            let _ = std::thread::Builder::new().name("merge".into()).spawn_scoped(scope, || queue.work());
        }
        queue.work();
    });
    match queue.state.into_inner().unwrap_or_else(PoisonError::into_inner).trouble {
        Some(trouble) => Err(trouble),
        None => Ok(()),
    }
}

impl Task<'_> {
    fn length(&self) -> Option<usize> {
        self.to.end.checked_sub(self.to.start).and_then(|bytes| usize::try_from(bytes).ok())
    }
}

struct Queue<'a> {
    state: Mutex<State<'a>>,
    changed: Condvar,
    done: &'a (dyn Fn(usize) + Sync),
    cancel: &'a Cancel,
}

#[derive(Default)]
struct State<'a> {
    groups: Vec<Group<'a>>,
    /// Tensors whose changes are being prepared: blocks will come of them.
    preparing: usize,
    trouble: Option<Trouble>,
}

/// Tensors of one memory.
#[derive(Default)]
struct Group<'a> {
    waiting: VecDeque<Task<'a>>,
    open: VecDeque<Open<'a>>,
    /// Threads that keep to it.
    threads: usize,
}

/// A tensor whose rows are being changed.
struct Open<'a> {
    /// The first byte of the next block.
    next: usize,
    /// Memory for it and those after it.
    place: Option<&'a mut [u8]>,
    facts: Arc<Facts<'a>>,
}

/// What all blocks of a tensor share.
struct Facts<'a> {
    name: &'a str,
    sink: &'a dyn Sink,
    element: ElementType,
    from: Option<&'a [u8]>,
    to: u64,
    length: usize,
    columns: usize,
    /// Bytes of a row, and of a block.
    width: usize,
    share: usize,
    /// None to copy.
    changes: Option<Vec<Summand>>,
    /// Values that do not fit.
    lost: AtomicUsize,
}

struct Block<'a> {
    range: Range<usize>,
    place: Option<&'a mut [u8]>,
    facts: Arc<Facts<'a>>,
}

/// What a thread does next, for the group that it keeps to.
enum Next<'a> {
    Prepare(Task<'a>),
    Change(Block<'a>),
}

impl<'a> Group<'a> {
    fn of(mut tasks: Vec<Task<'a>>) -> Self {
        // the largest first: what is left for the end is small
        tasks.sort_by_key(|task| std::cmp::Reverse(task.length()));
        Self { waiting: tasks.into(), ..Self::default() }
    }

    fn has_work(&self) -> bool {
        !self.open.is_empty() || !self.waiting.is_empty()
    }

    fn block(&mut self) -> Option<Block<'a>> {
        let open = self.open.front_mut()?;
        let (begin, facts) = (open.next, open.facts.clone());
        open.next += facts.share;
        let range = begin..facts.length.min(open.next);
        let place = open.place.take().and_then(|place| place.split_at_mut_checked(range.len()));
        let place = place.map(|(place, rest)| {
            open.place = Some(rest);
            place
        });
        // only its blocks hold the facts of a tensor that is through
        if open.next >= facts.length {
            self.open.pop_front();
        }
        Some(Block { range, place, facts })
    }
}

impl<'a> State<'a> {
    /// Something of the thread's own group, else of the one that fewest keep to.
    fn take(&mut self, own: &mut Option<usize>) -> Option<Next<'a>> {
        let works = |at: &usize| self.groups.get(*at).is_some_and(Group::has_work);
        let at = own.filter(works).or_else(|| {
            let with_work = self.groups.iter().enumerate().filter(|(_, group)| group.has_work());
            with_work.min_by_key(|(at, group)| (group.threads, *at)).map(|(at, _)| at)
        })?;
        if *own != Some(at) {
            if let Some(left) = own.and_then(|left| self.groups.get_mut(left)) {
                left.threads -= 1;
            }
            *own = Some(at);
            self.groups.get_mut(at)?.threads += 1;
        }
        let group = self.groups.get_mut(at)?;
        if let Some(block) = group.block() {
            return Some(Next::Change(block));
        }
        let task = group.waiting.pop_front()?;
        self.preparing += 1;
        Some(Next::Prepare(task))
    }
}

impl<'a> Queue<'a> {
    fn lock(&self) -> MutexGuard<'_, State<'a>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a thread does next; none when nothing is left for it.
    fn next(&self, own: &mut Option<usize>) -> Option<Next<'a>> {
        let mut state = self.lock();
        loop {
            if state.trouble.is_some() {
                return None;
            }
            if let Some(next) = state.take(own) {
                return Some(next);
            }
            if state.preparing == 0 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn opened(&self, group: Option<usize>, opened: Result<Open<'a>, Trouble>) {
        let mut state = self.lock();
        state.preparing -= 1;
        match opened {
            // one without bytes has no blocks
            Ok(open) if open.facts.length > 0 => {
                if let Some(group) = group.and_then(|group| state.groups.get_mut(group)) {
                    group.open.push_back(open);
                }
            }
            Ok(_) => {}
            Err(trouble) => state.trouble = state.trouble.take().or(Some(trouble)),
        }
        self.changed.notify_all();
    }

    fn fail(&self, trouble: Trouble) {
        let mut state = self.lock();
        state.trouble = state.trouble.take().or(Some(trouble));
        self.changed.notify_all();
    }

    fn work(&self) {
        let _watch = Watch(self);
        let (mut buffer, mut own) = (Vec::new(), None);
        while let Some(next) = self.next(&mut own) {
            match next {
                Next::Prepare(task) => self.opened(own, open(task)),
                Next::Change(block) => {
                    if self.cancel.is_cancelled() {
                        return self.fail(failed(block.facts.name, MergeError::Cancelled));
                    }
                    let (facts, bytes) = (block.facts.clone(), block.range.len());
                    if let Err(trouble) = make(block, &mut buffer) {
                        self.fail(trouble);
                    }
                    // whoever holds the facts last has changed the last block
                    if let Some(facts) = Arc::into_inner(facts)
                        && let values @ 1.. = facts.lost.into_inner()
                    {
                        self.fail(failed(facts.name, MergeError::Overflow { values, element: facts.element }));
                    }
                    (self.done)(bytes);
                }
            }
        }
    }
}

fn open(task: Task<'_>) -> Result<Open<'_>, Trouble> {
    let length = task.length();
    let Task { sink, name, element, shape, from, to, place, prepare } = task;
    let whole = elements(shape).and_then(|count| count.checked_mul(element.bytes()));
    let Some(length) = length.filter(|length| whole == Some(*length) && from.is_none_or(|from| from.len() == *length))
    else {
        let found = [length.unwrap_or(0), 1];
        return Err(failed(name, MergeError::Shape { stem: String::new(), found, expected: shape.to_vec() }));
    };
    let bytes = || match from {
        Some(from) => Ok(Cow::Borrowed(from)),
        None => {
            let mut bytes = vec![0; length];
            let read = sink.read(to.start, &mut bytes);
            read.map(|()| Cow::Owned(bytes)).map_err(|error| MergeError::Memory { answer: error.to_string() })
        }
    };
    let stored = Stored { element, shape, bytes: &bytes };
    let (_, columns) = stored.matrix();
    let changes = prepare.map(|prepare| prepare(stored)).transpose().map_err(|error| failed(name, error))?;
    let width = (columns * element.bytes()).max(1);
    let share = (BLOCK / width).next_multiple_of(ROWS).max(ROWS) * width;
    // what is changed where it lies is read and written through the sink
    let place = place.filter(|_| from.is_some());
    let is_there = from.is_some() && sink.expect(to.clone());
    let place = place.filter(|place| is_there && place.len() == length);
    let (to, lost) = (to.start, AtomicUsize::new(0));
    let facts = Facts { name, sink, element, from, to, length, columns, width, share, changes, lost };
    Ok(Open { next: 0, place, facts: Arc::new(facts) })
}

fn make(Block { range, place, facts }: Block<'_>, buffer: &mut Vec<u8>) -> Result<(), Trouble> {
    if let Some(place) = place {
        return make_in(place, range, &facts, buffer);
    }
    let at = facts.to + range.start as u64;
    let from = facts.from.and_then(|from| from.get(range.clone()));
    let Some(changes) = &facts.changes else {
        // what is to be copied from where it goes is there
        return from.map_or(Ok(()), |from| facts.sink.write(at, from)).map_err(Trouble::Memory);
    };
    // from a buffer that stays in the processor's cache: where the sink has ordinary pages, writing to them through a
    // mapping would cost a fault and a page of zeros for each
    buffer.resize(range.len(), 0);
    if from.is_none() {
        facts.sink.read(at, buffer).map_err(Trouble::Memory)?;
    }
    facts.change(from, range.start, buffer, changes)?;
    facts.sink.write(at, buffer).map_err(Trouble::Memory)
}

/// As [`make`], in memory that is there: a few rows at a time, which then go past the caches.
fn make_in(place: &mut [u8], range: Range<usize>, facts: &Facts<'_>, buffer: &mut Vec<u8>) -> Result<(), Trouble> {
    let from = facts.from.and_then(|from| from.get(range.clone())).unwrap_or_default();
    let Some(changes) = &facts.changes else {
        stream(place, from);
        return Ok(());
    };
    let piece = (PIECE / facts.width).next_multiple_of(ROWS).max(ROWS) * facts.width;
    let mut first = range.start;
    for (place, from) in place.chunks_mut(piece).zip(from.chunks(piece)) {
        buffer.resize(from.len(), 0);
        facts.change(Some(from), first, buffer, changes)?;
        stream(place, buffer);
        first += from.len();
    }
    Ok(())
}

impl Facts<'_> {
    /// Rows with the changes added; the first of them begins at this byte of the tensor.
    fn change(&self, from: Option<&[u8]>, at: usize, to: &mut [u8], changes: &[Summand]) -> Result<(), Trouble> {
        let rows = Rows { from, first: at / self.width, columns: self.columns };
        let lost = change(self.element, rows, to, changes);
        let lost = lost.ok_or_else(|| failed(self.name, MergeError::Type { found: self.element }))?;
        self.lost.fetch_add(lost, Ordering::Relaxed);
        Ok(())
    }
}

fn failed(name: &str, error: MergeError) -> Trouble {
    Trouble::Tensor(Failed { tensor: name.to_owned(), error })
}

/// Lets nobody wait for a thread that panicked: the panic itself goes to whoever called.
struct Watch<'q, 'a>(&'q Queue<'a>);

impl Drop for Watch<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(failed("", MergeError::Cancelled));
        }
    }
}

#[cfg(test)]
mod tests;
