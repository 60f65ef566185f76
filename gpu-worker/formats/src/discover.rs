//! Finding the models below a root: one candidate per model, and a reason for what is passed over.

mod attach;
mod stamp;

use std::{
    collections::BTreeSet,
    fs::FileType,
    path::{Path, PathBuf},
};

use crate::{
    diffusers::{INDEX_NAME, index},
    error::FormatError,
    inspect::extension,
    probe::file_type_name,
    sidecar::Sidecar,
    tokenizer,
};
pub use attach::cached_repository;
pub use stamp::stamp;

/// Deepest folder that is entered below the root.
const MAX_DEPTH: usize = 32;
/// Extensions of model files.
const MODEL_EXTENSIONS: &[&str] = &["safetensors", "sft", "ckpt", "pt", "pth", "bin", "gguf", "onnx"];
/// Extensions of files that are still being written.
const UNFINISHED: &[&str] = &["part", "tmp", "aria2", "incomplete", "crdownload", "partial"];

/// What kind of path a candidate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CandidateKind {
    /// One file (or the index of a sharded one).
    SingleFile,
    /// A folder with `model_index.json`.
    DiffusersFolder,
    /// A folder with `config.json` and the weights of one component.
    ComponentFolder,
    /// A folder with a tokenizer and no weights.
    TokenizerFolder,
}

/// A path that [`crate::inspect`] should look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Absolute path.
    pub path: PathBuf,
    /// Path below the root; empty when the root itself is the model.
    pub rel_path: String,
    /// File or folder.
    pub kind: CandidateKind,
    /// The files that accompany it.
    pub sidecars: Vec<Sidecar>,
}

/// The outcome of a walk, sorted by path.
#[derive(Debug, Clone, Default)]
pub struct Discovery {
    /// Models to inspect.
    pub candidates: Vec<Candidate>,
    /// Passed over: path below the root, and why.
    pub skipped: Vec<(String, String)>,
    /// Folders that were entered, and those of the pipelines: what comes or goes in one of them may change the answer.
    pub folders: Vec<PathBuf>,
    /// True when the walk was told to stop: the lists are incomplete.
    pub stopped: bool,
}

/// [`discover_within`] with no other root and no end but its own.
///
/// # Errors
/// As [`discover_within`].
pub fn discover(root: &Path) -> Result<Discovery, FormatError> {
    discover_within(root, &[], &|| false)
}

/// Walks `root`. Opens no file; enters no hidden folder; follows links that lead into the root or into
/// one of `others` (the host's other roots). `stop` is asked at every folder.
///
/// # Errors
/// [`FormatError`] when the root itself is missing, unreadable or not a folder.
pub fn discover_within(root: &Path, others: &[PathBuf], stop: &dyn Fn() -> bool) -> Result<Discovery, FormatError> {
    let root = root.canonicalize().map_err(|source| FormatError::io(root, "resolving it", source))?;
    let meta = std::fs::metadata(&root).map_err(|source| FormatError::io(&root, "reading its status", source))?;
    if !meta.is_dir() {
        return Err(FormatError::NotRegular { path: root, what: "a file where a folder is wanted" });
    }
    std::fs::read_dir(&root).map_err(|source| FormatError::io(&root, "listing it", source))?;
    // a root that is not there cannot be led into
    let others = others.iter().filter_map(|other| other.canonicalize().ok()).collect();
    let mut walk = Walk { root: &root, others, found: Discovery::default(), entered: BTreeSet::new() };
    let mut pending = vec![(String::new(), 0usize)];
    while let Some((folder, depth)) = pending.pop() {
        if stop() {
            walk.found.stopped = true;
            break;
        }
        pending.extend(walk.folder(&folder).into_iter().map(|below| (below, depth.saturating_add(1))).filter(
            |(below, depth)| {
                let near = *depth <= MAX_DEPTH;
                if !near {
                    walk.found.skipped.push((below.clone(), format!("deeper than {MAX_DEPTH} folders")));
                }
                near
            },
        ));
    }
    let mut found = walk.found;
    found.candidates.sort_by(|a, b| a.rel_path.cmp(&b.rel_path));
    found.skipped.sort();
    Ok(found)
}

struct Walk<'r> {
    root: &'r Path,
    /// The host's other roots, resolved.
    others: Vec<PathBuf>,
    found: Discovery,
    /// Folders already entered, resolved: ends loops of links.
    entered: BTreeSet<PathBuf>,
}

impl Walk<'_> {
    /// Handles one folder and returns the folders below it.
    fn folder(&mut self, rel: &str) -> Vec<String> {
        let path = self.root.join(rel);
        let names = match (path.canonicalize(), names(&path)) {
            (Ok(real), Ok(names)) if self.entered.insert(real.clone()) => names,
            (Ok(_), Ok(_)) => return self.skip(rel, "reached before through another link"),
            (Err(error), _) | (_, Err(error)) => return self.skip(rel, format!("cannot be listed: {error}")),
        };
        let (names, odd): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| name.to_str().is_some());
        let names: Vec<String> = names.into_iter().filter_map(|name| name.into_string().ok()).collect();
        for name in odd {
            self.skip(&join(rel, &name.to_string_lossy()), "its name is not UTF-8");
        }
        self.found.folders.push(path.clone());
        if names.iter().any(|name| name == INDEX_NAME) {
            self.pipeline(rel, path);
            return Vec::new();
        }
        let whole = self.whole_folder(rel, &path, &names);
        names
            .iter()
            .filter(|name| !(whole && attach::is_component_weight(name)))
            .filter_map(|name| self.entry(rel, name, &names))
            .collect()
    }

    /// Lists a folder that is one component or one tokenizer; true when its weights are accounted for.
    fn whole_folder(&mut self, rel: &str, path: &Path, names: &[String]) -> bool {
        let is_component = attach::is_component(names);
        let plain: Vec<&str> = names.iter().map(String::as_str).collect();
        let kind = match (is_component, tokenizer::is_tokenizer(&plain)) {
            (true, _) => CandidateKind::ComponentFolder,
            (false, true) => CandidateKind::TokenizerFolder,
            (false, false) => return false,
        };
        if let Some(outside) = self.escape(path, 1) {
            self.skip(rel, format!("a folder with a link that leaves the roots: {outside}"));
            return is_component;
        }
        let path = path.to_owned();
        self.found.candidates.push(Candidate { path, rel_path: rel.to_owned(), kind, sidecars: Vec::new() });
        is_component
    }

    /// Whether a resolved path lies in one of the host's roots.
    fn allowed(&self, target: &Path) -> bool {
        target.starts_with(self.root) || self.others.iter().any(|other| target.starts_with(other))
    }

    /// Handles one entry; a folder to enter is returned.
    fn entry(&mut self, folder: &str, name: &str, siblings: &[String]) -> Option<String> {
        let rel = join(folder, name);
        let path = self.root.join(&rel);
        let kind = match std::fs::symlink_metadata(&path) {
            Ok(meta) => meta.file_type(),
            Err(error) => return self.skip(&rel, format!("its status cannot be read: {error}")).pop(),
        };
        if name.starts_with('.') {
            return self.skip(&rel, "hidden").pop();
        }
        let kind = if kind.is_symlink() { self.follow(&rel, &path)? } else { kind };
        if kind.is_dir() {
            return Some(rel);
        }
        self.file(rel, path, name, kind, siblings);
        None
    }

    /// What a link leads to, if it may be followed.
    fn follow(&mut self, rel: &str, path: &Path) -> Option<FileType> {
        let target = match path.canonicalize() {
            Ok(target) => target,
            Err(error) => {
                self.skip(rel, format!("a link that leads nowhere: {error}"));
                return None;
            }
        };
        if !self.allowed(&target) {
            self.skip(rel, "a link that leaves the root");
            return None;
        }
        let kind = std::fs::metadata(&target).ok()?.file_type();
        let Ok(inside) = target.strip_prefix(self.root) else {
            return Some(kind);
        };
        // what the walk finds under its own name is not listed twice
        let hidden = inside.components().any(|part| part.as_os_str().to_string_lossy().starts_with('.'));
        if !hidden && (kind.is_dir() || is_model_name(&target)) {
            self.skip(rel, format!("a link to {}, which is listed itself", inside.display()));
            return None;
        }
        Some(kind)
    }

    fn file(&mut self, rel: String, path: PathBuf, name: &str, kind: FileType, siblings: &[String]) {
        let is_index = index::parse_name(name).is_some();
        if UNFINISHED.contains(&extension(&path).as_str()) {
            self.skip(&rel, "unfinished: still being written");
        } else if !is_model_name(&path) && !is_index {
            // side-cars, previews, configs: not models and not worth a word
        } else if !kind.is_file() {
            self.skip(&rel, format!("not a regular file but {}", file_type_name(kind)));
        } else if index::shard_number(name).is_some() {
            self.skip(&rel, "a shard: its index is the model");
        } else if is_companion(name, siblings) {
            self.skip(&rel, "the VAE that accompanies the checkpoint of the same name");
        } else if let Some(shard) = is_index.then(|| self.shard_outside(&path, siblings)).flatten() {
            self.skip(&rel, format!("the index of a model with a link that leaves the root: {shard}"));
        } else {
            let folder = path.parent().unwrap_or(self.root);
            let mut sidecars = attach::sidecars(folder, name, siblings);
            sidecars.retain(|sidecar| !self.leads_out(&sidecar.path));
            self.found.candidates.push(Candidate { path, rel_path: rel, kind: CandidateKind::SingleFile, sidecars });
        }
    }

    /// A shard beside its index that is a link out of the roots. Those that an index names in any other way are no links (`index::read`).
    fn shard_outside<'s>(&self, index: &Path, siblings: &'s [String]) -> Option<&'s String> {
        let stem = index.file_name().and_then(|name| index::parse_name(name.to_str()?)).map_or("", |(stem, _)| stem);
        let is_shard = |name: &&String| name.starts_with(stem) && index::is_weights(name);
        siblings.iter().filter(is_shard).find(|name| self.leads_out(&index.with_file_name(name)))
    }

    /// Whether an entry is a link that resolves outside of the roots.
    fn leads_out(&self, path: &Path) -> bool {
        let is_link = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_symlink());
        is_link && path.canonicalize().is_ok_and(|target| !self.allowed(&target))
    }

    /// A pipeline folder is one model, unless something in it leads out of the root.
    fn pipeline(&mut self, rel: &str, path: PathBuf) {
        if let Some(outside) = self.escape(&path, 2) {
            self.skip(rel, format!("a diffusers folder with a link that leaves the root: {outside}"));
            return;
        }
        self.below(&path, stamp::LEVELS - 1);
        let kind = CandidateKind::DiffusersFolder;
        self.found.candidates.push(Candidate { path, rel_path: rel.to_owned(), kind, sidecars: Vec::new() });
    }

    /// Notes the folders of a pipeline.
    fn below(&mut self, folder: &Path, levels: usize) {
        let Ok(entries) = std::fs::read_dir(folder) else { return };
        for path in entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()) {
            if levels > 1 {
                self.below(&path, levels - 1);
            }
            self.found.folders.push(path);
        }
    }

    /// The first entry, down to the components' files, that resolves outside the root.
    fn escape(&self, folder: &Path, levels: usize) -> Option<String> {
        let entries = std::fs::read_dir(folder).ok()?;
        for path in entries.flatten().map(|entry| entry.path()) {
            let outside = path.canonicalize().is_ok_and(|target| !self.allowed(&target));
            if outside {
                return Some(path.strip_prefix(self.root).unwrap_or(&path).display().to_string());
            }
            let below = (levels > 1 && path.is_dir()).then(|| self.escape(&path, levels - 1)).flatten();
            if below.is_some() {
                return below;
            }
        }
        None
    }

    fn skip(&mut self, rel: &str, why: impl Into<String>) -> Vec<String> {
        self.found.skipped.push((rel.to_owned(), why.into()));
        Vec::new()
    }
}

fn names(folder: &Path) -> std::io::Result<Vec<std::ffi::OsString>> {
    let mut names =
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

/// Whether an entry of this name is neither listed nor entered: hidden, or still being written.
#[must_use]
pub fn is_passed_over(name: &str) -> bool {
    name.starts_with('.') || UNFINISHED.contains(&extension(Path::new(name)).as_str())
}

fn is_model_name(path: &Path) -> bool {
    MODEL_EXTENSIONS.contains(&extension(path).as_str())
}

/// `x.vae.pt` or `x.vae.safetensors` beside the checkpoint `x`.
fn is_companion(name: &str, siblings: &[String]) -> bool {
    let stem = name.strip_suffix(".vae.pt").or_else(|| name.strip_suffix(".vae.safetensors"));
    stem.is_some_and(|stem| {
        siblings.iter().any(|other| {
            let rest = other.strip_prefix(stem);
            rest.is_some_and(|rest| matches!(rest, ".safetensors" | ".ckpt" | ".pt"))
        })
    })
}

#[cfg(test)]
mod tests;
