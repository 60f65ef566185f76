//! Pickles that would run code, and pickles that would exhaust a careless reader.

use std::{fs, path::Path};

use tempfile::TempDir;

use super::write::{Zip, int, pickle, tensor, text};
use crate::{ErrorKind, FormatError, ModelType, inspect, pickle::read};

fn refused(content: &[u8]) -> FormatError {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("x.pt");
    fs::write(&path, content).unwrap();
    read(&path).unwrap_err()
}

/// The same pickle in both containers is refused in both, naming `what`.
fn runs_code(body: &[u8], what: &str) {
    let pickle = pickle(body);
    for content in [Zip::of(&pickle).bytes(), pickle] {
        let error = refused(&content);
        assert_eq!(error.kind(), ErrorKind::UnsafeFormat, "{error}");
        assert!(error.to_string().contains(what) && error.to_string().contains("at byte"), "{error}");
    }
}

#[test]
fn callees_that_run_code_are_named() {
    let dir = TempDir::new().unwrap();
    let canary = dir.path().join("canary");
    let command = text(&format!("touch {}", canary.display()));
    let calls = [
        ("cos\nsystem\n", "os.system"),
        ("cposix\nsystem\n", "posix.system"),
        ("cbuiltins\neval\n", "builtins.eval"),
        ("c__builtin__\nexec\n", "__builtin__.exec"),
        ("cbuiltins\ngetattr\n", "builtins.getattr"),
        ("cbuiltins\n__import__\n", "builtins.__import__"),
        ("cnumpy.testing._private.utils\nrunstring\n", "runstring"),
        ("ctorch\nload\n", "torch.load"),
        ("ctorch.hub\nload\n", "torch.hub.load"),
        ("ctorch\nFloatStorage.from_file\n", "FloatStorage.from_file"),
        ("csubprocess\nPopen\n", "subprocess.Popen"),
        ("ccopy_reg\n_reconstructor\n", "copy_reg._reconstructor"),
        ("ccollections\nOrderedDict.fromkeys\n", "OrderedDict.fromkeys"),
        ("ctorch._utils\n_rebuild_sparse_tensor\n", "_rebuild_sparse_tensor"),
    ];
    for (global, name) in calls {
        runs_code(&[global.as_bytes(), b"(", &command, b"tR"].concat(), name);
        runs_code(&[global.as_bytes(), b"(", &command, b"t\x81"].concat(), name);
    }
    let stacked = [text("os").as_slice(), &text("system"), b"\x93(", &command, b"tR"].concat();
    runs_code(&stacked, "os.system");
    assert!(!canary.exists());
}

#[test]
fn roundabout_ways_are_refused() {
    runs_code(b"(S'id'\nios\nsystem\n", "INST");
    runs_code(b"(cos\nsystem\nS'id'\no", "OBJ");
    runs_code(b"cos\nsystem\n)}\x92", "NEWOBJ_EX");
    runs_code(b"\x82\x01", "EXT1");
    runs_code(b"P1\n", "PERSID");
    runs_code(b"cos\nsystem\n}b", "BUILD changes os.system");
    runs_code(b"]]R", "no known name");
    runs_code(b"\x01", "unknown opcode 0x01");
    // the result of a call is no callee
    runs_code(b"ccollections\nOrderedDict\n)R)R", "no known name");
}

#[test]
fn a_name_that_is_never_called_is_a_value() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("x.pt");
    let callbacks = b"cpytorch_lightning.callbacks.model_checkpoint\nModelCheckpoint\n}";
    let body = [b"}".as_slice(), &text("callbacks"), b"}", callbacks, b"ss"].concat();
    fs::write(&path, Zip::of(&pickle(&body)).bytes()).unwrap();
    let found = read(&path).unwrap();
    assert!(found.tensors.is_empty());
    assert_eq!(found.extra.globals, ["pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"]);
}

#[test]
fn an_unsafe_file_is_listed_with_its_reason_and_without_components() {
    let dir = TempDir::new().unwrap();
    for name in ["x.ckpt", "x.safetensors", "x.bin"] {
        let path = dir.path().join(name);
        fs::write(&path, Zip::of(&pickle(b"cos\nsystem\n(S'id'\ntR")).bytes()).unwrap();
        let found = inspect(&path).unwrap();
        assert_eq!(found.model_type, ModelType::Unknown);
        assert!(found.components.is_empty());
        assert!(found.reason.unwrap().contains("os.system"));
        assert!(found.evidence.iter().any(|seen| seen.matched == "unsafe_format"));
    }
}

#[test]
fn text_pickles_are_refused_by_their_global_too() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("old.pt");
    fs::write(&path, b"cos\nsystem\n(S'id'\ntR.").unwrap();
    assert!(inspect(&path).unwrap().reason.unwrap().contains("os.system"));
}

#[test]
fn bombs_end_early() {
    let deep = [b"]".repeat(1_000_000), b"a".repeat(999_999)].concat();
    let mut shared = b"]q\x00".to_vec();
    for _ in 0..30 {
        // each list holds the one before twice: 2^30 elements if somebody walked it
        shared.extend(b"]q\x01(h\x00h\x00eq\x00");
    }
    for body in [deep, shared] {
        assert_ne!(refused(&Zip::of(&pickle(&body)).bytes()).kind(), ErrorKind::UnsafeFormat);
    }
    let values = b"N0".repeat(4_500_000);
    assert!(matches!(refused(&Zip::of(&pickle(&values)).bytes()), FormatError::TooMany { .. }));
    let own = [b"}q\x00".as_slice(), &text("state_dict"), b"h\x00s"].concat();
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("loop.pt"), Zip::of(&pickle(&own)).bytes()).unwrap();
    assert!(read(&dir.path().join("loop.pt")).unwrap().tensors.is_empty());
}

#[test]
fn lengths_are_checked_before_memory_is_taken() {
    for body in [
        b"X\xff\xff\xff\xff".as_slice(),
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x8b\xff\xff\xff\xff",
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        let error = refused(&Zip::of(&pickle(body)).bytes());
        assert!(error.to_string().contains("reaches beyond the end"), "{error}");
    }
}

#[test]
fn what_is_left_over_is_an_error() {
    for (body, problem) in [
        (b".".as_slice(), "without its operands"),
        (b"NN", "left over"),
        (b"(N", "left over"),
        (b"N.junk", "behind the end"),
        (b"h\x05", "unknown memo"),
        (b"}Na", "no list"),
        (b"](N", "left over"),
        (b"(a", "without its operands"),
    ] {
        let error = refused(&Zip::of(&pickle(body)).bytes());
        assert!(error.to_string().contains(problem), "{problem}: {error}");
    }
}

#[test]
fn tensors_must_lie_in_their_storage() {
    let max = i64::MAX;
    for (count, offset, shape, strides) in [
        (6, 1, vec![6], vec![1]),
        (6, 7, vec![0], vec![1]),
        (6, -1, vec![1], vec![1]),
        (6, 0, vec![-1], vec![1]),
        (6, 0, vec![2], vec![-1]),
        (6, 0, vec![2, 3], vec![3]),
        (6, 0, vec![2, 3], vec![max, max]),
        (6, 0, vec![max, max], vec![0, 0]),
        (6, 0, vec![1 << 40], vec![0]),
        (6, max, vec![1], vec![1]),
        (7, 0, vec![1], vec![1]),
        (max, 0, vec![1], vec![1]),
        (-1, 0, vec![1], vec![1]),
    ] {
        let error = refused(&Zip::of(&tensor(count, offset, &shape, &strides)).bytes());
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{count} {offset} {shape:?} {strides:?}: {error}");
    }
    let dir = TempDir::new().unwrap();
    assert_eq!(good(dir.path(), &tensor(6, 0, &[2, 3], &[3, 1])).strides, None);
    assert_eq!(good(dir.path(), &tensor(6, 1, &[2, 2], &[1, 2])).strides, Some(vec![1, 2]));
}

fn good(dir: &Path, pickle: &[u8]) -> crate::TensorFacts {
    let path = dir.join("good.pt");
    fs::write(&path, Zip::of(pickle).bytes()).unwrap();
    read(&path).unwrap().tensors.remove(0)
}

#[test]
fn a_weight_that_is_named_twice_is_an_error() {
    let once = tensor(6, 0, &[6], &[1]);
    let entry = &once[3..once.len() - 1];
    let twice = [b"}".as_slice(), entry, entry].concat();
    assert!(matches!(refused(&Zip::of(&pickle(&twice)).bytes()), FormatError::DuplicateTensor { .. }));
    let other = [b"}".as_slice(), &text("a"), &int(5), b"s"].concat();
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("x.pt"), Zip::of(&pickle(&other)).bytes()).unwrap();
    assert_eq!(read(&dir.path().join("x.pt")).unwrap().extra.ignored, ["a"]);
}

/// What two programs would read as two things is one thing here, by its first bytes, and whole or refused.
#[test]
fn polyglots_are_what_they_begin_as() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("x.safetensors");
    let evil = Zip::of(&pickle(b"cos\nsystem\n(S'id'\ntR")).bytes();
    let header = |bytes: usize| {
        let text = format!("{{\"w\":{{\"dtype\":\"U8\",\"shape\":[{bytes}],\"data_offsets\":[0,{bytes}]}}}}");
        [u64::try_from(text.len()).unwrap().to_le_bytes().as_slice(), text.as_bytes()].concat()
    };
    // an archive in the data of a tensor is data
    fs::write(&path, [header(evil.len()), evil.clone()].concat()).unwrap();
    let found = crate::safetensors::read(&path, "").unwrap();
    assert_eq!(found.tensors[0].bytes(), u64::try_from(evil.len()).unwrap());
    // behind the data it is a byte too many
    fs::write(&path, [header(0), evil.clone()].concat()).unwrap();
    assert_eq!(crate::safetensors::read(&path, "").unwrap_err().kind(), ErrorKind::Corrupt);
    // a header before an archive, and a pickle before an archive, are no archive
    for front in [header(0), pickle(b"}")] {
        let path = dir.path().join("x.ckpt");
        fs::write(&path, [front, evil.clone()].concat()).unwrap();
        let found = inspect(&path).unwrap();
        assert!(found.components.is_empty() && found.reason.is_some());
    }
}
