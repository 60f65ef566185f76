//! Rules about where things may stand: SQL, Redis, apalis, `unsafe`, and what may lie in `shared`.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Finding, manifest::Member, source::Source};

/// A crate, the packages whose manifests may name it, and the files or folders whose code may.
struct Place {
    name: &'static str,
    packages: &'static [&'static str],
    files: &'static [&'static str],
    advice: &'static str,
}

/// `tests/` looks at tables itself: its ledger must not trust the code that it checks.
const PLACES: [Place; 4] = [
    Place {
        name: "sqlx",
        packages: &["shared", "modelyard-tests", "modelyard-bench"],
        files: &[
            "shared/src/db/",
            "shared/src/ids.rs",
            "shared/src/job/backend.rs",
            "shared/src/job/enqueue.rs",
            "tests/",
        ],
        advice: "write a function in shared/src/db (`db::Pool`, `db::Session` and `db::Transaction` name the types)",
    },
    Place {
        name: "redis",
        packages: &["shared"],
        // cli/stores has a module of this name: the private server, no client
        files: &["shared/src/status/", "cli/stores/src/"],
        advice: "Redis keys stand in shared/src/status only",
    },
    Place {
        name: "apalis",
        packages: &["gpu-worker", "modelyard-scheduler", "modelyard-bench"],
        // the benchmark's no-op worker is a consumer too
        files: &["gpu-worker/src/consumer.rs", "scheduler/src/reconcile/", "tests/bench/"],
        advice: "apalis stands in shared/src/job and in the two consumers only",
    },
    Place {
        name: "apalis_core",
        packages: &["shared", "gpu-worker", "modelyard-scheduler", "modelyard-bench"],
        files: &["shared/src/job/", "gpu-worker/src/consumer.rs", "scheduler/src/reconcile/", "tests/bench/"],
        advice: "apalis stands in shared/src/job and in the two consumers only",
    },
];

/// Files that may hold `unsafe`, with the reason.
const UNSAFE: &[(&str, &str)] = &[
    ("gpu-worker/formats/tests/bounds/allocator.rs", "counts what a test allocates"),
    ("gpu-worker/residency/src/arena/map.rs", "maps sealed memory files"),
    ("gpu-worker/huge-pages/src/aligned.rs", "maps memory files where huge pages may begin"),
    ("gpu-worker/huge-pages/src/window.rs", "asks for huge pages through a mapping that nobody accesses"),
    (
        "gpu-worker/linear-kernel/src/avx/mod.rs",
        "vector loads and stores of the processor, parts of one result on several threads",
    ),
    ("gpu-worker/linear-kernel/src/avx/panel.rs", "vector loads and stores of the processor"),
    ("gpu-worker/linear-kernel/src/parts.rs", "calls for parts of one result that have no output in common"),
    ("tests/gpu/share.rs", "opens a handle of the CUDA driver"),
    ("tests/gpu/copy.rs", "the CUDA driver's own copies, as peers"),
    ("gpu-worker/engine/src/cuda/driver.rs", "finds the CUDA driver"),
    ("gpu-worker/engine/src/cuda/fill.rs", "cuts a copy among threads"),
    ("gpu-worker/engine/src/cuda/mod.rs", "copies through the CUDA driver"),
    ("gpu-worker/engine/src/cuda/slab.rs", "allocates and frees through the CUDA driver"),
    ("gpu-worker/engine/src/mapped.rs", "maps the memory files of slabs"),
    ("gpu-worker/engine/src/cuda/staging.rs", "copies through the CUDA driver"),
    ("gpu-worker/engine/src/cuda/batch.rs", "starts programs of a CUDA device"),
    ("gpu-worker/engine/src/cuda/kernel.rs", "loads and starts programs of a CUDA device"),
    ("gpu-worker/engine/src/lora/kernel/avx.rs", "vector loads and stores of the processor"),
    ("gpu-worker/engine/src/lora/kernel/stream.rs", "stores of the processor that pass its caches by"),
    ("gpu-worker/engine/src/lora/kernel/mod.rs", "calls a loop that is compiled for the features this processor has"),
    ("gpu-worker/engine/src/runtime/binding.rs", "binds weights to a session for the time of a run"),
    ("gpu-worker/engine/src/runtime/peak.rs", "asks ONNX Runtime's allocator what it has taken"),
    ("gpu-worker/engine/src/runtime/value.rs", "makes values of ONNX Runtime over memory of ours"),
    ("gpu-worker/engine/src/weights/memory.rs", "takes addresses of a CUDA device"),
];

/// Crates are named where they belong, in manifests and in code.
pub(crate) fn crates(sources: &[Source], members: &[Member]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for place in &PLACES {
        for member in members {
            let names = member.dependencies().into_iter().any(|(_, name, _)| name.replace('-', "_") == place.name);
            if names && !place.packages.contains(&member.name.as_str()) {
                let what = format!("`{}` must not use `{}`: {}", member.name, place.name, place.advice);
                findings.push(Finding::new(format!("{}/Cargo.toml", member.folder), what));
            }
        }
        let outside = sources.iter().filter(|file| !place.files.iter().any(|allowed| file.path.starts_with(allowed)));
        for file in outside {
            for (number, line) in file.code().iter().enumerate() {
                if names_crate(line, place.name) {
                    findings.push(Finding::at(file, number, format!("`{}` here: {}", place.name, place.advice)));
                }
            }
        }
    }
    findings
}

/// True when the line names something of this crate: `name::` at the start of a path, or `use name`.
fn names_crate(line: &str, name: &str) -> bool {
    let path = format!("{name}::");
    line.match_indices(&path).any(|(at, _)| {
        let before = line.get(..at).unwrap_or_default();
        !before.ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | ':'))
    })
}

/// `unsafe` stands in named files only.
pub(crate) fn unsafe_blocks(sources: &[Source]) -> Vec<Finding> {
    let allowed = |file: &&Source| !UNSAFE.iter().any(|(path, _)| *path == file.path);
    let mut findings = Vec::new();
    for file in sources.iter().filter(allowed) {
        for (number, line) in file.code().iter().enumerate() {
            if ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "unsafe("]
                .iter()
                .any(|form| line.contains(form))
            {
                findings.push(Finding::at(
                    file,
                    number,
                    "`unsafe` here: move it to a file of tests/tidy's list, or add this one with its reason",
                ));
            }
        }
    }
    for (path, _) in UNSAFE {
        if !sources.iter().any(|file| file.path == *path && file.code().iter().any(|line| line.contains("unsafe"))) {
            findings.push(Finding::new(
                "tests/tidy/rules/places.rs",
                format!("{path} holds no `unsafe`: take it off the list"),
            ));
        }
    }
    findings
}

/// Every module of `shared` is used by two packages beside it.
pub(crate) fn shared_users(sources: &[Source]) -> Vec<Finding> {
    let root = sources.iter().find(|file| file.path == "shared/src/lib.rs").expect("shared has a root");
    let modules: Vec<&str> =
        root.text.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let mut users: BTreeMap<&str, BTreeSet<&str>> = modules.iter().map(|module| (*module, BTreeSet::new())).collect();
    for file in sources.iter().filter(|file| !file.below("shared")) {
        let package = file.path.split("/src/").next().unwrap_or_default();
        let code = file.code().join("\n");
        let uses = statements(&code);
        for module in &modules {
            if code.contains(&format!("shared::{module}")) || uses.iter().any(|text| has_word(text, module)) {
                users.entry(module).or_default().insert(package);
            }
        }
    }
    let lonely = users.into_iter().filter(|(_, packages)| packages.len() < 2);
    let finding = |(module, packages): (&str, BTreeSet<&str>)| {
        Finding::new("shared/src/lib.rs", format!("`{module}` has the users {packages:?}: move it to its only user"))
    };
    lonely.map(finding).collect()
}

/// The texts of `use shared::{…};`.
fn statements(code: &str) -> Vec<&str> {
    let begin = "use shared::";
    let text = |(at, _): (usize, &str)| code.get(at + begin.len()..)?.split(';').next();
    code.match_indices(begin).filter_map(text).collect()
}

fn has_word(text: &str, word: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|found| found == word)
}

#[test]
fn a_crate_is_found_at_the_start_of_a_path_only() {
    assert!(names_crate("use sqlx::PgPool;", "sqlx") && names_crate("x: &sqlx::PgPool", "sqlx"));
    assert!(!names_crate("private_stores::redis::Redis", "redis") && !names_crate("my_sqlx::x", "sqlx"));
}
