//! How a crew ends when one of its threads does not do its part: all others end, too, and the first error is the answer.

use std::{fs, path::PathBuf, sync::Arc};

use tokio_util::sync::CancellationToken;

use super::{batch, crew::Crew, disk::Disks, file::Source, finish::Piece, hung::Hung};
use crate::{
    ResidencyError,
    arena::{Arenas, Draft},
    identity::{FileIdentity, SourceFile},
    layout::Layout,
    loader::batch::Batch,
    progress::Progress,
    request::{IoOptions, LoadRequest, TensorRange},
};

const CHUNK: usize = 64 << 10;
const BYTES: u64 = 40 * CHUNK as u64;

fn request(path: PathBuf) -> LoadRequest {
    let tensor = TensorRange {
        name: "weight".into(),
        dtype: "U8".into(),
        shape: vec![BYTES],
        file_index: 0,
        begin: 0,
        end: BYTES,
    };
    LoadRequest {
        key: "m".into(),
        sources: vec![SourceFile { expected: FileIdentity::of(&path).unwrap(), path }],
        tensors: vec![tensor],
        gathered: Vec::new(),
        expected_digest: None,
        wanted_by: None,
        io: IoOptions { chunk_bytes: CHUNK, ..IoOptions::default() },
    }
}

/// What a crew of eight readers brings of a file after `spoil` had its way with the draft and the batches.
fn crew(
    change: impl FnOnce(&mut LoadRequest),
    spoil: impl FnOnce(&Draft, &mut Vec<Batch>),
) -> Result<Vec<Piece>, ResidencyError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m");
    fs::write(&path, vec![7; BYTES as usize]).unwrap();
    let mut request = request(path);
    change(&mut request);
    let (disks, hung, cancel) = (Disks::default(), Hung::default(), CancellationToken::new());
    let (reading, progress) = (hung.begin_by_call(Vec::new()).reading(), Progress::new(BYTES));
    let sources = [Source::open(&request.sources[0], &request.io, &disks, &reading).unwrap()];
    let layout = Layout::plan(&request).unwrap();
    let draft = Arenas::default().create(layout.extent_bytes).unwrap();
    let mut batches = batch::plan(&request, &layout, CHUNK);
    spoil(&draft, &mut batches);
    let crew = Crew::new(&request, &sources, &draft, batches, 8, &cancel, &progress)?;
    let ended = crew.run();
    assert!(!progress.is_held() && !cancel.is_cancelled());
    ended
}

#[test]
fn a_crew_brings_every_slice_once() {
    let mut pieces: Vec<usize> = crew(|_| {}, |_, _| {}).unwrap().iter().map(|piece| piece.slice).collect();
    pieces.sort_unstable();
    assert_eq!(pieces, (0..40).collect::<Vec<_>>());
}

#[test]
fn one_read_that_fails_ends_all_with_its_error() {
    let beyond = |_: &Draft, batches: &mut Vec<Batch>| {
        let batch = &mut batches[20];
        (batch.begin, batch.end) = (batch.begin + BYTES, batch.end + BYTES);
    };
    match crew(|_| {}, beyond).unwrap_err() {
        ResidencyError::ShortRead { offset, got_bytes, .. } => {
            assert_eq!((offset, got_bytes), (20 * CHUNK as u64 + BYTES, 0));
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_reader_that_panics_ends_all() {
    let no_such_file = |_: &Draft, batches: &mut Vec<Batch>| batches[20].file = 1;
    let ended = crew(|_| {}, no_such_file).unwrap_err();
    assert!(matches!(&ended, ResidencyError::Aborted { key } if &**key == "m"), "{ended}");
}

#[test]
fn one_that_hashes_and_panics_ends_all() {
    let panics = |request: &mut LoadRequest| {
        request.io.on_chunk = Some(Arc::new(|done, _| assert!(done < BYTES / 2, "on purpose")));
    };
    let ended = crew(panics, |_, _| {}).unwrap_err();
    assert!(matches!(&ended, ResidencyError::Aborted { key } if &**key == "m"), "{ended}");
}

#[test]
fn memory_that_is_not_to_be_had_ends_all_with_its_error() {
    let ended = crew(|_| {}, |draft, _| draft.discard().unwrap()).unwrap_err();
    assert!(matches!(&ended, ResidencyError::Memory { .. }), "{ended}");
}
