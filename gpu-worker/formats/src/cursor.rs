//! Reading forward through a file in small windows: bounded, checked, without loading what is skipped.

use std::path::Path;

use crate::{error::FormatError, probe::Probe, vocab::Format};

/// Bytes read at a time.
const WINDOW_BYTES: usize = 64 << 10;

/// A position in an open file. Every read is checked against the end of the file first.
#[derive(Debug)]
pub(crate) struct Cursor<'p> {
    probe: &'p Probe,
    format: Format,
    window: Vec<u8>,
    window_at: u64,
    at: u64,
    /// Bytes of text that may still be kept.
    text_left: u64,
}

impl<'p> Cursor<'p> {
    /// At the beginning of `probe`; `text_limit` bounds all text that is kept.
    pub(crate) const fn new(probe: &'p Probe, format: Format, text_limit: u64) -> Self {
        Self { probe, format, window: Vec::new(), window_at: 0, at: 0, text_left: text_limit }
    }

    /// The current offset in the file.
    pub(crate) const fn at(&self) -> u64 {
        self.at
    }

    /// Size of the file.
    pub(crate) const fn size(&self) -> u64 {
        self.probe.facts.size
    }

    /// The file, for errors.
    pub(crate) fn path(&self) -> &Path {
        &self.probe.facts.path
    }

    /// The error that the bytes here contradict the format.
    pub(crate) fn problem(&self, problem: &'static str) -> FormatError {
        FormatError::Structure { path: self.path().to_owned(), format: self.format, at: self.at, problem }
    }

    /// Moves `count` bytes ahead without reading them.
    pub(crate) fn skip(&mut self, count: u64) -> Result<(), FormatError> {
        let next = self.at.checked_add(count).filter(|next| *next <= self.size());
        self.at = next.ok_or_else(|| self.problem("a length reaches beyond the end of the file"))?;
        Ok(())
    }

    /// The next byte.
    pub(crate) fn byte(&mut self) -> Result<u8, FormatError> {
        let [byte] = self.array::<1>()?;
        Ok(byte)
    }

    /// The next `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// Little-endian 32 bits.
    pub(crate) fn u32(&mut self) -> Result<u32, FormatError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Little-endian 64 bits.
    pub(crate) fn u64(&mut self) -> Result<u64, FormatError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// UTF-8 text of `length` bytes, at most `limit`; invalid sequences become U+FFFD.
    pub(crate) fn text(&mut self, length: u64, limit: u64) -> Result<String, FormatError> {
        if length > limit || length > self.text_left {
            return Err(self.problem("a text is longer than any in a sound file"));
        }
        if length > self.size().saturating_sub(self.at) {
            return Err(self.problem("a text reaches beyond the end of the file"));
        }
        self.text_left = self.text_left.saturating_sub(length);
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| self.problem("a text is too long"))?];
        self.fill(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn fill(&mut self, target: &mut [u8]) -> Result<(), FormatError> {
        let end = self.at.checked_add(target.len() as u64).filter(|end| *end <= self.size());
        let end = end.ok_or_else(|| self.problem("the file ends in the middle of a value"))?;
        if target.len() > WINDOW_BYTES {
            self.probe.read_at(target, self.at)?;
        } else {
            self.cover(end)?;
            let from = usize::try_from(self.at.saturating_sub(self.window_at)).unwrap_or(usize::MAX);
            let bytes = self.window.get(from..from.saturating_add(target.len()));
            target.copy_from_slice(bytes.ok_or_else(|| self.problem("the file ends in the middle of a value"))?);
        }
        self.at = end;
        Ok(())
    }

    /// Makes the window hold everything from here to `end`.
    fn cover(&mut self, end: u64) -> Result<(), FormatError> {
        let window_end = self.window_at.saturating_add(self.window.len() as u64);
        if self.at >= self.window_at && end <= window_end {
            return Ok(());
        }
        let left = usize::try_from(self.size().saturating_sub(self.at)).unwrap_or(usize::MAX);
        self.window.resize(left.min(WINDOW_BYTES), 0);
        self.window_at = self.at;
        self.probe.read_at(&mut self.window, self.at)
    }
}
