//! Random damage to a valid header: no panic, no tensor beyond the file, and the reference reader's
//! verdict except where this one is stricter on purpose.

use std::{fs, path::Path};

use proptest::{
    prelude::*,
    test_runner::{TestCaseError, TestRunner},
};
use tempfile::TempDir;

use super::{
    super::{Header, read},
    entry,
};
use crate::FormatError;

/// A valid file to damage: metadata, several dtypes, a scalar, an empty tensor.
fn sample() -> Vec<u8> {
    let entries = [
        r#""__metadata__":{"format":"pt","k":"v"}"#.to_owned(),
        entry("w", "F32", "[2, 3]", 0, 24),
        entry("half.weight", "F16", "[4]", 24, 32),
        entry("scale", "BF16", "[]", 32, 34),
        entry("empty", "U8", "[0, 7]", 34, 34),
        entry("m", "BOOL", "[2]", 34, 36),
    ];
    let text = format!("{{{}}}", entries.join(","));
    let mut file = u64::try_from(text.len()).unwrap().to_le_bytes().to_vec();
    file.extend_from_slice(text.as_bytes());
    file.extend_from_slice(&[0; 36]);
    file
}

fn read_bytes(dir: &Path, content: &[u8]) -> Result<Header, FormatError> {
    let path = dir.join("x.safetensors");
    fs::write(&path, content).unwrap();
    read(&path, "")
}

/// Whether a file that only the reference accepts is one of the documented stricter cases.
fn is_stricter_case(error: &FormatError) -> bool {
    match error {
        FormatError::DuplicateTensor { .. }
        | FormatError::DuplicateMetadata { .. }
        | FormatError::TooMany { .. }
        | FormatError::HeaderStart { .. } => true,
        FormatError::HeaderInvalid { source, .. } => {
            let text = source.to_string();
            ["unknown field", "is given twice", "invalid type: null", "invalid type: sequence", "invalid length"]
                .iter()
                .any(|case| text.contains(case))
        }
        _ => false,
    }
}

/// One damaged file, read by both.
fn compare(dir: &Path, file: &[u8]) -> Result<(), TestCaseError> {
    let ours = read_bytes(dir, file);
    let reference = ::safetensors::SafeTensors::read_metadata(file);
    match (&ours, &reference) {
        (Ok(header), Ok((_, theirs))) => {
            let size = u64::try_from(file.len()).unwrap();
            prop_assert!(header.tensors.iter().all(|tensor| tensor.begin <= tensor.end && tensor.end <= size));
            prop_assert_eq!(header.tensors.len(), theirs.tensors().len());
            for tensor in &header.tensors {
                let info = theirs.info(&tensor.name).unwrap();
                prop_assert_eq!(u64::try_from(info.data_offsets.1 - info.data_offsets.0).unwrap(), tensor.bytes());
            }
        }
        (Err(error), Ok(_)) => prop_assert!(is_stricter_case(error), "only we refuse: {}", error.full_text()),
        (Ok(_), Err(error)) => prop_assert!(false, "only the reference refuses: {error}"),
        (Err(_), Err(_)) => {}
    }
    Ok(())
}

#[test]
fn damaged_headers_never_panic_and_agree_with_the_reference() {
    let dir = TempDir::new().unwrap();
    let edits = prop::collection::vec((any::<prop::sample::Index>(), damage()), 1..4);
    let config = ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() };
    let outcome = TestRunner::new(config).run(&(edits, 0usize..8), |(edits, cut)| {
        let mut file = sample();
        for (at, byte) in edits {
            let at = at.index(file.len());
            file[at] = byte;
        }
        file.truncate(file.len() - cut.saturating_sub(5));
        compare(dir.path(), &file)
    });
    outcome.unwrap();
}

/// Bytes that keep a header interesting: digits, brackets and letters of its own words, or any byte.
fn damage() -> impl Strategy<Value = u8> {
    prop_oneof![
        4 => b'0'..=b'9',
        3 => prop::sample::select(b"{}[]:,\" ".to_vec()),
        2 => prop::sample::select(b"FUIB1684dtypeshape".to_vec()),
        1 => any::<u8>(),
    ]
}
