//! Opening model files safely and naming what they are by their first bytes.

use std::{
    fs::{File, FileType, Metadata, OpenOptions},
    os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt},
    path::Path,
};

use rustix::fs::OFlags;
use serde_json::Value;

use crate::{error::FormatError, inspection::FileFacts, vocab::Format};

/// Bytes that [`sniff`] looks at.
const SNIFF_BYTES: usize = 64;

/// A regular file that is open, with its identity at that moment.
#[derive(Debug)]
pub(crate) struct Probe {
    pub(crate) file: File,
    pub(crate) facts: FileFacts,
}

impl Probe {
    /// Opens `path` (links are followed) if it is a regular file.
    pub(crate) fn open(path: &Path, rel_path: &str) -> Result<Self, FormatError> {
        let before = std::fs::metadata(path).map_err(|source| FormatError::io(path, "reading its status", source))?;
        regular(path, before.file_type())?;
        // between status and open the name may change to a FIFO: NONBLOCK keeps the open from hanging
        let flags = (OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC).bits();
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags.cast_signed())
            .open(path)
            .map_err(|source| FormatError::io(path, "opening it", source))?;
        let meta = file.metadata().map_err(|source| FormatError::io(path, "reading its status", source))?;
        regular(path, meta.file_type())?;
        let absolute =
            std::path::absolute(path).map_err(|source| FormatError::io(path, "resolving its path", source))?;
        Ok(Self { file, facts: facts(absolute, rel_path, &meta) })
    }

    /// Fills `buffer` from `offset`.
    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), FormatError> {
        self.file
            .read_exact_at(buffer, offset)
            .map_err(|source| FormatError::io(&self.facts.path, "reading its header", source))
    }

    /// Fills `buffer` from `offset` of the data.
    pub(crate) fn read_data(&self, buffer: &mut [u8], offset: u64) -> Result<(), FormatError> {
        self.file.read_exact_at(buffer, offset).map_err(|source| match source.kind() {
            std::io::ErrorKind::UnexpectedEof => FormatError::Changed { path: self.facts.path.clone() },
            _ => FormatError::io(&self.facts.path, "reading its data", source),
        })
    }

    /// Fails if this is not the file that was seen before.
    pub(crate) fn must_be(&self, seen: &FileFacts) -> Result<(), FormatError> {
        let facts = |facts: &FileFacts| (facts.size, facts.mtime_ns, facts.inode, facts.dev);
        if facts(&self.facts) == facts(seen) {
            Ok(())
        } else {
            Err(FormatError::Changed { path: self.facts.path.clone() })
        }
    }

    /// The first bytes of the file, at most [`SNIFF_BYTES`].
    pub(crate) fn head(&self) -> Result<Vec<u8>, FormatError> {
        let wanted = usize::try_from(self.facts.size).unwrap_or(SNIFF_BYTES).min(SNIFF_BYTES);
        let mut head = vec![0; wanted];
        self.read_at(&mut head, 0)?;
        Ok(head)
    }

    /// Fails if the file was written to since it was opened.
    pub(crate) fn check_unchanged(&self) -> Result<(), FormatError> {
        let path = &self.facts.path;
        let meta = self.file.metadata().map_err(|source| FormatError::io(path, "reading its status", source))?;
        if meta.len() == self.facts.size && mtime_ns(&meta) == self.facts.mtime_ns {
            Ok(())
        } else {
            Err(FormatError::Changed { path: path.clone() })
        }
    }
}

fn facts(path: std::path::PathBuf, rel_path: &str, meta: &Metadata) -> FileFacts {
    FileFacts {
        path,
        rel_path: rel_path.to_owned(),
        size: meta.len(),
        mtime_ns: mtime_ns(meta),
        inode: meta.ino(),
        dev: meta.dev(),
    }
}

fn mtime_ns(meta: &Metadata) -> i64 {
    meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec())
}

fn regular(path: &Path, kind: FileType) -> Result<(), FormatError> {
    if kind.is_file() {
        return Ok(());
    }
    Err(FormatError::NotRegular { path: path.to_owned(), what: file_type_name(kind) })
}

/// What a directory entry that is no regular file is.
pub(crate) fn file_type_name(kind: FileType) -> &'static str {
    if kind.is_dir() {
        "a folder"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_block_device() || kind.is_char_device() {
        "a device"
    } else {
        "a special file"
    }
}

/// The facts of a regular file whose content is not needed.
pub(crate) fn stat(path: &Path, rel_path: &str) -> Result<FileFacts, FormatError> {
    let meta = std::fs::metadata(path).map_err(|source| FormatError::io(path, "reading its status", source))?;
    regular(path, meta.file_type())?;
    let absolute = std::path::absolute(path).map_err(|source| FormatError::io(path, "resolving its path", source))?;
    Ok(facts(absolute, rel_path, &meta))
}

/// Reads a whole JSON document of at most `limit` bytes.
pub(crate) fn read_json(
    path: &Path,
    rel_path: &str,
    what: &'static str,
    limit: u64,
) -> Result<(Value, FileFacts), FormatError> {
    let probe = Probe::open(path, rel_path)?;
    let size = probe.facts.size;
    let too_large = || FormatError::DocumentTooLarge { path: path.to_owned(), size, limit };
    if size > limit {
        return Err(too_large());
    }
    let mut bytes = vec![0; usize::try_from(size).map_err(|_| too_large())?];
    probe.read_at(&mut bytes, 0)?;
    probe.check_unchanged()?;
    let value = serde_json::from_slice(&bytes).map_err(|source| FormatError::Document {
        path: path.to_owned(),
        what,
        source,
    })?;
    Ok((value, probe.facts))
}

/// Names a file's format by its first bytes; `extension` only helps where a format has no magic.
pub(crate) fn sniff(head: &[u8], extension: &str) -> Format {
    let lower: Vec<u8> = head.iter().map(u8::to_ascii_lowercase).collect();
    let text = lower.trim_ascii_start();
    if head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06") {
        Format::TorchZip
    } else if head.starts_with(b"GGUF") || head.starts_with(b"FUGG") {
        Format::Gguf
    } else if matches!(head, [0x80, 2..=5, ..]) {
        Format::Pickle
    } else if head.starts_with(b"version https://git-lfs") {
        Format::LfsPointer
    } else if text.starts_with(b"<!doctype html") || text.starts_with(b"<html") {
        Format::Html
    } else if matches!(head, [_, _, _, _, 0, 0, 0, 0, b'{', ..]) {
        Format::Safetensors
    } else if extension == "onnx" && matches!(head, [0x08, ..]) {
        // protobuf has no magic; an ONNX model begins with its first field, `ir_version`
        Format::Onnx
    } else {
        Format::Unknown
    }
}
