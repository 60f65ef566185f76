//! Manifests and the lock file.

use std::fs;

use toml::{Table, Value};

/// A member of the workspace.
pub(crate) struct Member {
    /// Package name.
    pub(crate) name: String,
    /// Folder below the root.
    pub(crate) folder: String,
    /// Its manifest.
    pub(crate) manifest: Table,
}

impl Member {
    /// (section, name, value) of every dependency.
    pub(crate) fn dependencies(&self) -> Vec<(&'static str, String, Value)> {
        let sections = ["dependencies", "dev-dependencies", "build-dependencies"];
        let of = |section: &'static str| {
            let table = self.manifest.get(section).and_then(Value::as_table).cloned().unwrap_or_default();
            table.into_iter().map(move |(name, value)| (section, name, value))
        };
        sections.into_iter().flat_map(of).collect()
    }
}

fn read(path: &str) -> Table {
    let full = crate::root().join(path);
    let text = fs::read_to_string(&full).unwrap_or_else(|error| panic!("{}: {error}", full.display()));
    text.parse().unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The workspace's manifest.
pub(crate) fn workspace() -> Table {
    read("Cargo.toml")
}

/// All members.
pub(crate) fn members() -> Vec<Member> {
    let workspace = workspace();
    let folders = workspace["workspace"]["members"].as_array().expect("members are a list").clone();
    let member = |folder: Value| {
        let folder = folder.as_str().expect("a member is a folder").to_owned();
        let manifest = read(&format!("{folder}/Cargo.toml"));
        let name = manifest["package"]["name"].as_str().expect("a package has a name").to_owned();
        Member { name, folder, manifest }
    };
    folders.into_iter().map(member).collect()
}

/// (name, version) of every locked package.
pub(crate) fn lock() -> Vec<(String, String)> {
    let lock = read("Cargo.lock");
    let packages = lock["package"].as_array().expect("packages are a list");
    let text = |package: &Value, key: &str| package[key].as_str().expect("text").to_owned();
    packages.iter().map(|package| (text(package, "name"), text(package, "version"))).collect()
}
