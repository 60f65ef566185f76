//! Rules about manifests: who may depend on whom, dependencies named once and used, one version and one TLS.

use toml::{Table, Value};

use crate::{Finding, manifest::Member, source::Source};

/// What each package may use of ours. Programs never depend on each other: they talk through the API and the stores.
const ALLOWED: [(&str, &[&str]); 14] = [
    ("shared", &[]),
    ("model-formats", &["shared"]),
    // a mechanism of the system that both tiers of memory use
    ("huge-pages", &[]),
    // a loop of its own package, so that debug builds compile it for speed
    ("linear-kernel", &[]),
    ("residency", &["shared", "huge-pages"]),
    ("engine", &["shared", "huge-pages", "linear-kernel"]),
    ("private-stores", &["shared"]),
    ("modelyard-api", &["shared"]),
    ("modelyard-scheduler", &["shared"]),
    ("gpu-worker", &["shared", "model-formats", "residency", "engine"]),
    ("modelyard", &["shared", "private-stores"]),
    ("modelyard-tests", &["shared", "private-stores", "model-formats", "residency", "engine"]),
    // measures what the agent does with its own code
    ("modelyard-bench", &["shared", "private-stores", "model-formats", "residency", "engine", "gpu-worker"]),
    // brings the product's device code to a machine with a GPU
    ("modelyard-gpu-check", &["shared", "residency", "engine", "gpu-worker"]),
];

/// Must be locked in one version only: two would be two pools, two routers or two TLS stacks in one program.
const ONE_VERSION: [&str; 7] = ["sqlx", "axum", "rustls", "redis", "tokio", "apalis-core", "utoipa"];

/// Must not be locked at all: one TLS, built without a system library.
const ABSENT: [&str; 4] = ["openssl", "openssl-sys", "native-tls", "aws-lc-sys"];

/// Packages of ours are used in the allowed directions.
pub(crate) fn directions(members: &[Member]) -> Vec<Finding> {
    let ours: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
    let mut findings = Vec::new();
    for member in members {
        let place = format!("{}/Cargo.toml", member.folder);
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == member.name) else {
            findings.push(Finding::new(place, format!("say in tests/tidy what `{}` may depend on", member.name)));
            continue;
        };
        for (section, name, _) in member.dependencies() {
            if ours.contains(&name.as_str()) && !allowed.contains(&name.as_str()) {
                findings
                    .push(Finding::new(&place, format!("`{}` must not depend on `{name}` ([{section}])", member.name)));
            }
        }
    }
    findings
}

/// Members inherit every dependency from the workspace.
pub(crate) fn inherited(members: &[Member]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for member in members {
        for (section, name, value) in member.dependencies() {
            if value.get("workspace").and_then(Value::as_bool) != Some(true) {
                let what = format!(
                    "[{section}] `{name}`: name it in the workspace's manifest and write `{name}.workspace = true`"
                );
                findings.push(Finding::new(format!("{}/Cargo.toml", member.folder), what));
            }
        }
        if member.manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(Value::as_bool) != Some(true)
        {
            findings.push(Finding::new(format!("{}/Cargo.toml", member.folder), "inherit the workspace's lints"));
        }
    }
    findings
}

/// Every dependency of the workspace has a user.
pub(crate) fn unused(workspace: &Table, members: &[Member]) -> Vec<Finding> {
    let named = workspace["workspace"]["dependencies"].as_table().expect("dependencies are a table");
    let used = |name: &str| members.iter().any(|member| member.dependencies().iter().any(|(_, used, _)| used == name));
    let unused = named.keys().filter(|name| !used(name));
    unused.map(|name| Finding::new("Cargo.toml", format!("nobody uses `{name}`: remove it"))).collect()
}

/// Every dependency of a member is named by its sources.
pub(crate) fn unnamed(members: &[Member], sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for member in members {
        // a member may lie below another one
        let nested = |file: &&Source| {
            members.iter().any(|other| other.folder.len() > member.folder.len() && file.below(&other.folder))
        };
        let code: Vec<&Source> = sources.iter().filter(|file| file.below(&member.folder) && !nested(file)).collect();
        for (section, name, _) in member.dependencies() {
            let word = name.replace('-', "_");
            let names =
                |file: &&Source| file.text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|found| found == word);
            if !code.iter().any(names) {
                let what = format!("[{section}] `{name}`: no source of this package names it; remove it");
                findings.push(Finding::new(format!("{}/Cargo.toml", member.folder), what));
            }
        }
    }
    findings
}

/// The lock file holds what it may.
pub(crate) fn locked(lock: &[(String, String)]) -> Vec<Finding> {
    let versions = |wanted: &str| {
        lock.iter().filter(|(name, _)| name == wanted).map(|(_, version)| version.as_str()).collect::<Vec<_>>()
    };
    let twice = ONE_VERSION.iter().map(|name| (name, versions(name))).filter(|(_, versions)| versions.len() > 1);
    let twice = twice.map(|(name, versions)| {
        Finding::new("Cargo.lock", format!("`{name}` in several versions: {}", versions.join(", ")))
    });
    let absent = ABSENT.iter().filter(|name| !versions(name).is_empty());
    let absent = absent.map(|name| {
        Finding::new("Cargo.lock", format!("`{name}` must not be there: `cargo tree -i {name}` says who brings it"))
    });
    twice.chain(absent).collect()
}
