//! The reader's rules one by one.

mod damage;

use std::fs;

use tempfile::TempDir;

use super::{HEADER_LIMIT_BYTES, read};
use crate::{
    ErrorKind, Format, FormatError, TensorProblem,
    testing::{model, raw},
};

fn header(text: &str, data_bytes: u64) -> Result<super::Header, FormatError> {
    let dir = TempDir::new().unwrap();
    read(&raw(&dir.path().join("x.safetensors"), text.as_bytes(), data_bytes), "")
}

fn bytes(content: &[u8]) -> FormatError {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("x.safetensors");
    fs::write(&path, content).unwrap();
    read(&path, "").unwrap_err()
}

fn problem(text: &str, data_bytes: u64) -> TensorProblem {
    match header(text, data_bytes) {
        Err(FormatError::Tensor { problem, .. }) => problem,
        other => panic!("expected a tensor problem, got {other:?}"),
    }
}

fn entry(name: &str, dtype: &str, shape: &str, begin: u64, end: u64) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
}

#[test]
fn a_valid_file_gives_absolute_offsets_in_data_order() {
    let text = format!("{{{},{}}}   ", entry("b", "F32", "[2]", 3, 11), entry("a", "U8", "[3]", 0, 3));
    let found = header(&text, 11).unwrap();
    let begin = 8 + u64::try_from(text.len()).unwrap();
    assert_eq!(found.data_begin, begin);
    let places: Vec<_> = found.tensors.iter().map(|t| (t.name.as_str(), t.begin - begin, t.end - begin)).collect();
    // `b` is not aligned, which the format allows
    assert_eq!(places, [("a", 0, 3), ("b", 3, 11)]);
}

#[test]
fn empty_headers_scalars_and_empty_tensors_are_valid() {
    assert!(header("{}", 0).unwrap().tensors.is_empty());
    assert_eq!(header(&format!("{{{}}}", entry("s", "F32", "[]", 0, 4)), 4).unwrap().tensors[0].elements(), 1);
    // dimensions are multiplied in order: a leading zero makes the rest harmless
    let huge = format!("{{{}}}", entry("z", "F32", "[0, 4611686018427387904, 4]", 0, 0));
    assert_eq!(header(&huge, 0).unwrap().tensors[0].bytes(), 0);
}

#[test]
fn metadata_is_strings_only() {
    let found = header(r#"{"__metadata__":{"a":"1"}}"#, 0).unwrap();
    assert_eq!(found.metadata.get("a").map(String::as_str), Some("1"));
    assert!(matches!(header(r#"{"__metadata__":{"a":1}}"#, 0), Err(FormatError::HeaderInvalid { .. })));
    assert!(matches!(header(r#"{"__metadata__":null}"#, 0), Err(FormatError::HeaderInvalid { .. })));
}

#[test]
fn the_tensors_must_tile_the_data() {
    let two = |first: (u64, u64), second: (u64, u64)| {
        format!("{{{},{}}}", entry("a", "U8", "[4]", first.0, first.1), entry("b", "U8", "[4]", second.0, second.1))
    };
    assert_eq!(problem(&two((0, 4), (5, 9)), 9), TensorProblem::Hole { expected: 4, found: 5 });
    assert_eq!(problem(&two((0, 4), (3, 7)), 7), TensorProblem::Overlap { expected: 4, found: 3 });
    assert_eq!(problem(&two((0, 4), (0, 4)), 4), TensorProblem::Overlap { expected: 4, found: 0 });
    assert_eq!(problem(&two((1, 5), (5, 9)), 9), TensorProblem::Hole { expected: 0, found: 1 });
    let trailing = header(&two((0, 4), (4, 8)), 9).unwrap_err();
    assert!(matches!(trailing, FormatError::TrailingBytes { expected: 8, found: 9, .. }));
    assert_eq!(problem(&two((0, 4), (4, 8)), 7), TensorProblem::BeyondFile { end: 8, available: 7 });
}

#[test]
fn shapes_must_fit_their_ranges_without_overflow() {
    let one = |dtype: &str, shape: &str, end: u64| format!("{{{}}}", entry("t", dtype, shape, 0, end));
    let mismatch = TensorProblem::SizeMismatch { expected: 8, found: 4 };
    assert_eq!(problem(&one("F32", "[2]", 4), 4), mismatch);
    assert_eq!(problem(&one("F32", "[4611686018427387904, 4]", 4), 4), TensorProblem::Overflow);
    assert_eq!(problem(&one("F32", "[4611686018427387904, 4, 0]", 0), 0), TensorProblem::Overflow);
    assert_eq!(problem(&one("F4", "[3]", 2), 2), TensorProblem::PartialByte { bits: 12 });
    let reversed = format!(
        "{{{}}}",
        r#""t":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"u":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}"#
    );
    assert_eq!(header(&reversed, 4).unwrap().tensors.len(), 2);
    let wide = format!("[{}]", vec!["1"; 65].join(","));
    assert!(matches!(header(&one("U8", &wide, 1), 1), Err(FormatError::HeaderInvalid { .. })));
}

#[test]
fn repeated_names_are_refused() {
    let twice = format!("{{{},{}}}", entry("a", "U8", "[4]", 0, 4), entry("a", "U8", "[4]", 0, 4));
    assert!(matches!(header(&twice, 4), Err(FormatError::DuplicateTensor { tensor, .. }) if tensor == "a"));
    let key = r#"{"__metadata__":{"k":"1","k":"2"}}"#;
    assert!(matches!(header(key, 0), Err(FormatError::DuplicateMetadata { key, .. }) if key == "k"));
    let maps = r#"{"__metadata__":{},"__metadata__":{}}"#;
    assert!(matches!(header(maps, 0), Err(FormatError::DuplicateTensor { .. })));
}

#[test]
fn malformed_entries_are_refused_by_name() {
    for text in [
        r#"{"t":{"dtype":"f32","shape":[1],"data_offsets":[0,4]}}"#,
        r#"{"t":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#,
        r#"{"t":{"dtype":"F32","shape":[1]}}"#,
        r#"{"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"extra":1}}"#,
        r#"{"t":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
        r#"{"t":["F32",[1],[0,4]]}"#,
        r#"{"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}} x"#,
    ] {
        let error = header(text, 4).unwrap_err();
        assert!(matches!(error, FormatError::HeaderInvalid { .. }), "{text}: {error}");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert_eq!(error.full_text().lines().count(), 1);
    }
}

#[test]
fn lengths_are_checked_before_anything_is_read() {
    assert!(matches!(bytes(b"1234567"), FormatError::TooShort { size: 7, .. }));
    let huge = bytes(&u64::MAX.to_le_bytes());
    assert!(matches!(huge, FormatError::HeaderTooLarge { declared: u64::MAX, .. }));
    let above = bytes(&(HEADER_LIMIT_BYTES + 1).to_le_bytes());
    assert!(matches!(above, FormatError::HeaderTooLarge { .. }));
    let truncated = bytes(&HEADER_LIMIT_BYTES.to_le_bytes());
    assert!(matches!(truncated, FormatError::HeaderTruncated { size: 8, .. }));
    assert!(matches!(bytes(&[0; 8]), FormatError::HeaderStart { .. }));
    assert!(matches!(bytes(b"\x02\0\0\0\0\0\0\0 {}"), FormatError::HeaderStart { .. }));
    let not_utf8 = bytes(b"\x04\0\0\0\0\0\0\0{\"\xff\"");
    assert!(matches!(not_utf8, FormatError::HeaderNotUtf8 { at: 2, .. }));
}

#[test]
fn a_wrong_file_is_named_for_what_it_is() {
    let cases: [(&[u8], Format); 6] = [
        (b"PK\x03\x04\x14\0\0\0\0\0data.pkl", Format::TorchZip),
        (b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20", Format::Pickle),
        (b"GGUF\x03\0\0\0\x10\0\0\0\0\0\0\0", Format::Gguf),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", Format::LfsPointer),
        (b"<!DOCTYPE html><html></html>", Format::Html),
        (b"GGUF", Format::Gguf),
    ];
    for (content, expected) in cases {
        let error = bytes(content);
        assert!(matches!(error, FormatError::WrongFormat { found, .. } if found == expected), "{expected}: {error}");
    }
}

#[test]
fn special_files_are_not_opened() {
    let dir = TempDir::new().unwrap();
    let fifo = dir.path().join("x.safetensors");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    assert_eq!(read(&fifo, "").unwrap_err().kind(), ErrorKind::Unsafe);
    assert_eq!(read(dir.path(), "").unwrap_err().kind(), ErrorKind::Unsafe);
    assert_eq!(read(&dir.path().join("none"), "").unwrap_err().kind(), ErrorKind::Missing);
}

#[test]
fn a_file_truncated_after_writing_is_refused() {
    let dir = TempDir::new().unwrap();
    let path = model(&dir.path().join("x.safetensors"), &[("a", &[64]), ("b", &[64])]);
    let size = fs::metadata(&path).unwrap().len();
    fs::File::options().write(true).open(&path).unwrap().set_len(size - 1).unwrap();
    assert!(matches!(read(&path, ""), Err(FormatError::Tensor { problem: TensorProblem::BeyondFile { .. }, .. })));
}
