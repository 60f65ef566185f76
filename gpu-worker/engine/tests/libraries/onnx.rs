//! A library of ONNX Runtime that is too old: it is named with what would do, and nothing is taken of it.

use engine::onnx;

use crate::support::Library;

#[test]
fn a_library_that_is_too_old_is_refused_with_its_version() {
    let library = Library::compile("onnxruntime.c", "libonnxruntime.so", "");
    let found = onnx::capability(Some(library.file()));
    assert!(!found.available && found.build.is_none(), "{found:?}");
    let reason = found.reason.unwrap();
    assert!(reason.contains("version 1.9.1 is too old") && reason.contains(" or later is needed"), "{reason}");
}
