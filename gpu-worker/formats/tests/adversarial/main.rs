//! Files that were made to deceive. This table says where each sort is held; the tests here are those that go through every reader.
//!
//! | what | held by |
//! |---|---|
//! | truncated | `safetensors::tests::a_file_truncated_after_writing_is_refused`, `pickle::tests::containers::every_truncation_of_a_checkpoint_is_an_error`, `gguf::tests::every_truncation_is_an_error_and_no_panic`, `onnx::tests::damage_is_an_error_and_never_a_panic`, here [`a_file_cut_anywhere_is_never_taken_for_a_whole_one`] |
//! | offsets that lie | `safetensors::tests::shapes_must_fit_their_ranges_without_overflow`, `pickle::tests::hostile::tensors_must_lie_in_their_storage`, `pickle::tests::containers::members_lie_where_the_directory_says`, `gguf::tests::lies_are_named`, `onnx::tests::weights_beside_the_model_are_ranges_of_plain_files` |
//! | overlaps, holes | `safetensors::tests::the_tensors_must_tile_the_data` |
//! | a huge header | `safetensors::tests::lengths_are_checked_before_anything_is_read`; memory: `tests/bounds` |
//! | names twice | `safetensors::tests::repeated_names_are_refused`, `pickle::tests::hostile::a_weight_that_is_named_twice_is_an_error`, `pickle::tests::containers::members_have_safe_and_single_names` |
//! | polyglots | `pickle::tests::hostile::polyglots_are_what_they_begin_as` |
//! | renamed pickles | here [`what_runs_code_is_named_under_any_name_and_nothing_runs`], `safetensors::tests::a_wrong_file_is_named_for_what_it_is` |
//! | `os.system`, `eval`, `__reduce__` and other ways | here, `pickle::tests::hostile::callees_that_run_code_are_named`, `…::roundabout_ways_are_refused`, `…::text_pickles_are_refused_by_their_global_too` |
//! | bombs of pickles and of zips | `pickle::tests::hostile::bombs_end_early`, `…::lengths_are_checked_before_memory_is_taken`; memory: `tests/bounds` |
//! | absolute names and `..` | `onnx::tests::names_that_leave_the_folder_are_refused`, `diffusers::tests::an_index_that_lies_or_leaves_the_folder_is_refused`, `pickle::tests::containers::members_have_safe_and_single_names`, `write::tests::nothing_is_written_outside_of_the_root_or_over_what_others_wrote` |
//! | links out, links in circles | `discover::tests::links_are_followed_inside_the_root_only`, here [`links_in_circles_end`] |
//! | FIFOs and devices | `safetensors::tests::special_files_are_not_opened`, `discover::tests::unfinished_hidden_and_special_entries_are_passed_over` |
//! | anything | `fuzzing::no_parser_panics_over_damaged_files`, `safetensors::tests::damage::damaged_headers_never_panic_and_agree_with_the_reference`, the targets of `tests/fuzz` |
#![expect(clippy::unwrap_used, reason = "a test: what fails here fails the test")]

use std::{fs, os::unix::fs::symlink, path::Path};

use model_formats::{ModelType, discover, inspect};

/// Endings that suggest every reader.
const ENDINGS: [&str; 9] =
    ["safetensors", "ckpt", "pt", "pth", "bin", "onnx", "gguf", "safetensors.index.json", "model.index.json"];

/// Pickles that would write the canary in the way that is named, were they run. `{}` is its path.
fn programs(canary: &Path) -> Vec<(&'static str, Vec<u8>)> {
    let path = canary.to_str().unwrap();
    let write = format!("open({path:?}, 'w').close()");
    let touch = format!("touch {path}");
    let short = |text: &str| [&[b'U', u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let called = |global: &str, argument: &str| {
        [b"\x80\x02c".as_slice(), global.as_bytes(), b"\n", &short(argument), b"\x85R."].concat()
    };
    let stacked = [
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c".as_slice(),
        &[u8::try_from(touch.len()).unwrap()],
        touch.as_bytes(),
        b"\x85R.",
    ];
    let instance = format!("(S'{touch}'\nios\nsystem\n.");
    let object = [b"\x80\x02(cos\nsystem\n".as_slice(), &short(&touch), b"o."].concat();
    let built = [b"\x80\x02cos\nsystem\nq\0}".as_slice(), &short("a"), b"h\0", &short(&touch), b"\x85Rs."].concat();
    let opened = [b"\x80\x02cbuiltins\nopen\n".as_slice(), &short(path), &short("w"), b"\x86R."].concat();
    vec![
        ("os.system", called("os\nsystem", &touch)),
        ("posix.system", called("posix\nsystem", &touch)),
        ("os.popen", called("os\npopen", &touch)),
        ("subprocess", called("subprocess\ngetoutput", &touch)),
        ("eval", called("builtins\neval", &write)),
        ("exec", called("builtins\nexec", &write)),
        ("eval of Python 2", called("__builtin__\neval", &write)),
        ("open", opened),
        ("a global made on the stack", stacked.concat()),
        ("an instance in text", instance.into_bytes()),
        ("an object", object),
        ("a value of a state", built),
        ("torch's own loader", called("torch\nload", path)),
        ("a function's code", called("types\nFunctionType", &write)),
    ]
}

#[test]
fn what_runs_code_is_named_under_any_name_and_nothing_runs() {
    let folder = tempfile::tempdir().unwrap();
    let canary = folder.path().join("canary");
    for (way, program) in programs(&canary) {
        for ending in ENDINGS {
            let path = folder.path().join(format!("x.{ending}"));
            fs::write(&path, &program).unwrap();
            let found = inspect(&path).unwrap();
            assert_eq!(found.model_type, ModelType::Unknown, "{way} as .{ending}");
            assert!(found.components.is_empty(), "{way} as .{ending}");
            assert!(found.reason.is_some_and(|reason| !reason.is_empty()), "{way} as .{ending}");
            fs::remove_file(&path).unwrap();
        }
        assert!(!canary.exists(), "{way} ran");
    }
}

#[test]
fn a_file_cut_anywhere_is_never_taken_for_a_whole_one() {
    let folder = tempfile::tempdir().unwrap();
    let header = br#"{"emb_params":{"dtype":"F32","shape":[2,768],"data_offsets":[0,6144]}}"#;
    let whole = [u64::try_from(header.len()).unwrap().to_le_bytes().as_slice(), header, &[0; 6144]].concat();
    let path = folder.path().join("x.safetensors");
    fs::write(&path, &whole).unwrap();
    assert_eq!(inspect(&path).unwrap().model_type, ModelType::Embedding);
    for length in (0..whole.len()).filter(|length| *length < 100 || length % 97 == 0).chain([whole.len() - 1]) {
        fs::write(&path, &whole[..length]).unwrap();
        let found = inspect(&path).unwrap();
        assert_eq!(found.model_type, ModelType::Unknown, "{length} bytes");
        assert!(found.components.is_empty() && found.reason.is_some(), "{length} bytes");
    }
}

#[test]
fn links_in_circles_end() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    symlink(at("a.safetensors"), at("b.safetensors")).unwrap();
    symlink(at("b.safetensors"), at("a.safetensors")).unwrap();
    symlink(at("self"), at("self")).unwrap();
    fs::create_dir_all(at("deep/deeper")).unwrap();
    symlink(root.path(), at("deep/deeper/root")).unwrap();
    symlink(at("deep"), at("deep/deeper/deep")).unwrap();
    let found = discover(root.path()).unwrap();
    assert!(found.candidates.is_empty(), "{:?}", found.candidates);
    for name in ["a.safetensors", "b.safetensors", "deep/deeper/root", "deep/deeper/deep"] {
        assert!(found.skipped.iter().any(|(path, _)| path == name), "{name}: {:?}", found.skipped);
    }
}
