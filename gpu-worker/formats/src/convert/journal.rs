//! What of a conversion is safe on disk: a line for every stretch of whole tensors, written after their bytes were flushed.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
};

/// First word of a journal.
const HEAD: &str = "modelyard-convert-1";
/// Longest journal that is read.
const LIMIT_BYTES: u64 = 4 << 20;

/// A stretch that is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Index of the file.
    pub(super) file: usize,
    /// Its tensors that are whole.
    pub(super) tensors: usize,
    /// Their bytes.
    pub(super) bytes: u64,
    /// SHA-256 of these bytes.
    pub(super) sha256: String,
}

/// The stretches of a journal for the plan of this key, none for another plan's; a line that was cut short does not count.
pub(super) fn entries(text: &str, key: &str) -> Vec<Entry> {
    let mut lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    if lines.next() != Some(&format!("{HEAD} {key}")) {
        return Vec::new();
    }
    lines.map_while(entry).collect()
}

fn entry(line: &str) -> Option<Entry> {
    let mut words = line.split(' ');
    let (file, tensors) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let (bytes, sha256) = (words.next()?.parse().ok()?, words.next()?.to_owned());
    let is_whole = sha256.len() == 64 && words.next().is_none();
    is_whole.then_some(Entry { file, tensors, bytes, sha256 })
}

/// Reads a journal from its begin.
pub(super) fn read(file: &mut File, key: &str) -> io::Result<Vec<Entry>> {
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(LIMIT_BYTES).read_to_end(&mut text)?;
    Ok(entries(&String::from_utf8_lossy(&text), key))
}

/// Begins a journal anew, with the stretches that still count.
pub(super) fn begin(file: &mut File, key: &str, entries: &[Entry]) -> io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(format!("{HEAD} {key}\n").as_bytes())?;
    entries.iter().try_for_each(|entry| append(file, entry))?;
    file.sync_data()
}

/// Adds a stretch, whose bytes must be on disk by now.
pub(super) fn append(file: &mut File, entry: &Entry) -> io::Result<()> {
    let Entry { file: number, tensors, bytes, sha256 } = entry;
    file.write_all(format!("{number} {tensors} {bytes} {sha256}\n").as_bytes())?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_lines_of_the_same_plan_count() {
        let hash = "a".repeat(64);
        let text = format!("{HEAD} k\n0 3 12 {hash}\n1 1 4 {hash}\n1 2 8 {hash}");
        let read = entries(&text, "k");
        assert_eq!(read.iter().map(|entry| (entry.file, entry.tensors)).collect::<Vec<_>>(), [(0, 3), (1, 1)]);
        assert!(entries(&text, "other").is_empty() && entries("", "k").is_empty());
        assert!(entries(&format!("{HEAD} k\n0 x 12 {hash}\n0 1 2 {hash}\n"), "k").is_empty());
    }
}
