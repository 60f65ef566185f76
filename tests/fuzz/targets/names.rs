//! Fuzzes `model_formats::fuzzing::tensor_names`.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| TempDir::new().expect("a folder for the input"));

fuzz_target!(|bytes: &[u8]| model_formats::fuzzing::tensor_names(FOLDER.path(), bytes));
