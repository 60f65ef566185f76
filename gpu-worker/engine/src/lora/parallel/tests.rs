//! Several memories at once: whatever the number of threads, each gets its bytes, and threads spread over the memories.

use std::collections::BTreeSet;

use super::*;
use crate::lora::kernel::Summand;

/// Memory that counts what is written to each of its bytes.
struct Memory {
    bytes: Mutex<(Vec<u8>, Vec<u8>)>,
}

impl Memory {
    fn new(bytes: Vec<u8>) -> Self {
        let written = vec![0; bytes.len()];
        Self { bytes: Mutex::new((bytes, written)) }
    }
}

impl Sink for Memory {
    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let (held, written) = &mut *self.bytes.lock().unwrap();
        let range = at as usize..at as usize + bytes.len();
        held[range.clone()].copy_from_slice(bytes);
        written[range].iter_mut().for_each(|count| *count += 1);
        Ok(())
    }

    fn read(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        let (held, _) = &*self.bytes.lock().unwrap();
        out.copy_from_slice(&held[at as usize..at as usize + out.len()]);
        Ok(())
    }
}

/// Rows of a tensor with several blocks and a last one that is not whole.
const SHAPE: [usize; 2] = [331, 600];
const COUNT: usize = SHAPE[0] * SHAPE[1];
const BYTES: usize = COUNT * 4;

fn base(seed: usize) -> Vec<u8> {
    (0..COUNT).flat_map(|at| (((at * 31 + seed * 17) % 1009) as f32 / 64.0).to_le_bytes()).collect()
}

fn expected(seed: usize) -> Vec<u8> {
    let base = base(seed);
    let value = |at: usize| f32::from_le_bytes(base[at * 4..at * 4 + 4].try_into().unwrap());
    (0..COUNT).flat_map(|at| (value(at) + added(at)).to_le_bytes()).collect()
}

/// A sixty-fourth times a whole number: sums are exact.
fn added(at: usize) -> f32 {
    (at % 13) as f32
}

/// A tensor that is changed; from the base's bytes, else from where it goes.
fn changed<'a>(sink: &'a Memory, at: usize, from: Option<&'a [u8]>) -> Task<'a> {
    let prepare: Prepare<'a> = Box::new(|_| Ok(vec![Summand::Full((0..COUNT).map(added).collect(), 1.0)]));
    let to = (at * BYTES) as u64..((at + 1) * BYTES) as u64;
    Task {
        sink,
        name: "changed",
        element: ElementType::F32,
        shape: &SHAPE,
        from,
        to,
        place: None,
        prepare: Some(prepare),
    }
}

fn copied<'a>(sink: &'a Memory, at: usize, from: &'a [u8]) -> Task<'a> {
    Task { name: "copied", prepare: None, ..changed(sink, at, Some(from)) }
}

#[test]
fn every_group_gets_its_bytes_once_whatever_the_number_of_threads() {
    let [first, second, third] = [base(1), base(2), base(3)];
    for threads in [1, 2, 3, 7] {
        let (two, one, in_place) =
            (Memory::new(vec![9; 2 * BYTES]), Memory::new(vec![9; BYTES]), Memory::new(third.clone()));
        let empty = Task { shape: &[0, 600], to: 0..0, from: None, ..copied(&one, 0, &[]) };
        let groups = vec![
            vec![changed(&two, 0, Some(&first)), copied(&two, 1, &second)],
            vec![empty, changed(&one, 0, Some(&second))],
            Vec::new(),
            vec![changed(&in_place, 0, None)],
        ];
        let told = AtomicUsize::new(0);
        let done = |bytes: usize| {
            told.fetch_add(bytes, Ordering::Relaxed);
        };
        carry_out(groups, NonZeroUsize::new(threads).unwrap(), &done, &Cancel::new()).unwrap();
        let found = |memory: Memory| memory.bytes.into_inner().unwrap();
        let whole = |memory: Memory, wanted: Vec<u8>| {
            let (bytes, written) = found(memory);
            assert!(bytes == wanted && written.iter().all(|count| *count == 1), "{threads} threads");
        };
        whole(two, [expected(1), second.clone()].concat());
        whole(one, expected(2));
        whole(in_place, expected(3));
        assert_eq!(told.into_inner(), 4 * BYTES);
    }
}

/// Memory that is there, and that nobody may write to in another way.
struct There;

impl Sink for There {
    fn expect(&self, _range: Range<u64>) -> bool {
        true
    }

    fn write(&self, _at: u64, _bytes: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn read(&self, _at: u64, _out: &mut [u8]) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}

#[test]
fn memory_that_is_there_is_written_to_as_memory() {
    let [first, second] = [base(1), base(2)];
    for threads in [1, 3] {
        let (mut memory, unused) = (vec![9; 2 * BYTES + 5], Memory::new(Vec::new()));
        let (one, rest) = memory.split_at_mut(BYTES);
        let (two, _) = rest.split_at_mut(BYTES);
        let one = Task { sink: &There, place: Some(one), ..changed(&unused, 0, Some(&first)) };
        let two = Task { sink: &There, place: Some(two), ..copied(&unused, 1, &second) };
        carry_out(vec![vec![one, two]], NonZeroUsize::new(threads).unwrap(), &|_| {}, &Cancel::new()).unwrap();
        assert!(memory == [expected(1), second.clone(), vec![9; 5]].concat(), "{threads} threads");
    }
    // what is changed where it lies is read there first, and a place of another length is none
    let (mut place, third) = (vec![9; BYTES], Memory::new(base(3)));
    let in_place = Task { place: Some(&mut place), ..changed(&third, 0, None) };
    carry_out(vec![vec![in_place]], NonZeroUsize::MIN, &|_| {}, &Cancel::new()).unwrap();
    let short = Task { place: Some(&mut place[1..]), ..changed(&third, 0, Some(&first)) };
    carry_out(vec![vec![short]], NonZeroUsize::MIN, &|_| {}, &Cancel::new()).unwrap();
    assert!(third.bytes.into_inner().unwrap().0 == expected(1) && place.iter().all(|byte| *byte == 9));
}

#[test]
fn threads_keep_to_groups_of_their_own_as_long_as_there_are_enough() {
    let bytes = base(1);
    let sinks = [(); 2].map(|()| Memory::new(vec![0; BYTES]));
    let groups = sinks.iter().map(|sink| Group::of(vec![copied(sink, 0, &bytes)])).collect();
    let mut state = State { groups, ..State::default() };
    let (mut one, mut other, mut third) = (None, None, None);
    assert!(matches!(state.take(&mut one), Some(Next::Prepare(_))));
    assert!(matches!(state.take(&mut other), Some(Next::Prepare(_))));
    assert_eq!(BTreeSet::from([one, other]), BTreeSet::from([Some(0), Some(1)]));
    assert!(state.take(&mut third).is_none() && third.is_none(), "both are being prepared");
    // the first group's blocks come: whoever has none of its own takes from it, and is back where it was when that has some
    state.groups[0].open.push_back(open(copied(&sinks[0], 0, &bytes)).unwrap_or_else(|_| panic!("it has its length")));
    assert!(matches!(state.take(&mut other), Some(Next::Change(_))));
    assert_eq!((other, state.groups[0].threads, state.groups[1].threads), (Some(0), 2, 0));
    state.groups[1].open.push_back(open(copied(&sinks[1], 0, &bytes)).unwrap_or_else(|_| panic!("it has its length")));
    assert!(matches!(state.take(&mut third), Some(Next::Change(_))));
    assert_eq!(third, Some(1), "the one that fewest keep to");
}

#[test]
fn what_fails_in_one_group_ends_all_and_is_named() {
    let bytes = base(1);
    for threads in [1, 4] {
        let (good, bad) = (Memory::new(vec![0; BYTES]), Memory::new(vec![0; BYTES]));
        let refuse: Prepare<'_> = Box::new(|_| Ok(vec![Summand::Full(vec![f32::INFINITY; COUNT], 1.0)]));
        let wrong = Task { name: "wrong", prepare: Some(refuse), ..changed(&bad, 0, Some(&bytes)) };
        let groups = vec![vec![changed(&good, 0, Some(&bytes))], vec![wrong]];
        match carry_out(groups, NonZeroUsize::new(threads).unwrap(), &|_| {}, &Cancel::new()) {
            Err(Trouble::Tensor(Failed { tensor, error: MergeError::Overflow { values, .. } })) => {
                assert_eq!((tensor.as_str(), values), ("wrong", COUNT));
            }
            other => panic!("{other:?}"),
        }
    }
}
