//! A range of a file read forward in windows: lengths are checked before anything is allocated.

use crate::{error::FormatError, probe::Probe, vocab::Format};

/// Bytes that are read at once.
const WINDOW_BYTES: u64 = 64 << 10;
/// Longest line of a text opcode.
const LINE_BYTES: usize = 4096;

/// Where reading is, and what errors say about it.
#[derive(Debug)]
pub(super) struct Source<'p> {
    probe: &'p Probe,
    pub(super) format: Format,
    /// Absolute offset of the next byte.
    pub(super) at: u64,
    end: u64,
    window: Vec<u8>,
    window_at: u64,
}

impl<'p> Source<'p> {
    /// The bytes `begin..end` of the file, which must lie in it.
    pub(super) fn new(probe: &'p Probe, format: Format, begin: u64, end: u64) -> Self {
        Self { probe, format, at: begin, end, window: Vec::new(), window_at: begin }
    }

    /// A byte.
    pub(super) fn byte(&mut self) -> Result<u8, FormatError> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    /// A fixed number of bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let mut bytes = [0; N];
        for byte in &mut bytes {
            *byte = self.next()?;
        }
        Ok(bytes)
    }

    /// `length` bytes; fails before it allocates more than there is.
    pub(super) fn take(&mut self, length: u64) -> Result<Vec<u8>, FormatError> {
        if length > self.end.saturating_sub(self.at) {
            return Err(self.bad("a length reaches beyond the end"));
        }
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| self.bad("a length that memory cannot hold"))?];
        self.probe.read_at(&mut bytes, self.at)?;
        self.at = self.at.saturating_add(length);
        Ok(bytes)
    }

    /// Passes over `length` bytes, which must be there.
    pub(super) fn skip(&mut self, length: u64) -> Result<(), FormatError> {
        if length > self.end.saturating_sub(self.at) {
            return Err(self.bad("a length reaches beyond the end (truncated?)"));
        }
        self.at = self.at.saturating_add(length);
        Ok(())
    }

    /// The text up to the next line feed, which is consumed.
    pub(super) fn line(&mut self) -> Result<String, FormatError> {
        let mut bytes = Vec::new();
        loop {
            match self.next()? {
                b'\n' => break,
                _ if bytes.len() == LINE_BYTES => return Err(self.bad("a line that is too long")),
                byte => bytes.push(byte),
            }
        }
        String::from_utf8(bytes).map_err(|_| self.bad("a line that is not UTF-8"))
    }

    /// Whether everything has been read.
    pub(super) const fn is_at_end(&self) -> bool {
        self.at >= self.end
    }

    /// The bytes contradict the format.
    pub(super) fn bad(&self, problem: &'static str) -> FormatError {
        FormatError::Structure { path: self.probe.facts.path.clone(), format: self.format, at: self.at, problem }
    }

    /// A budget is spent.
    pub(super) fn too_many(&self, what: &'static str, limit: u64) -> FormatError {
        FormatError::TooMany { path: self.probe.facts.path.clone(), what, limit }
    }

    /// Loading the file would run code.
    pub(super) fn refuse(&self, what: String) -> FormatError {
        FormatError::RunsCode { path: self.probe.facts.path.clone(), what, at: self.at }
    }

    /// Harmless, but not read here.
    pub(super) fn not_handled(&self, what: String) -> FormatError {
        FormatError::NotHandled { path: self.probe.facts.path.clone(), what }
    }

    fn next(&mut self) -> Result<u8, FormatError> {
        if self.is_at_end() {
            return Err(self.bad("it ends in the middle"));
        }
        let inside = |source: &Self| usize::try_from(source.at.checked_sub(source.window_at)?).ok();
        if let Some(byte) = inside(self).and_then(|index| self.window.get(index)) {
            self.at = self.at.saturating_add(1);
            return Ok(*byte);
        }
        let length = self.end.saturating_sub(self.at).min(WINDOW_BYTES);
        self.window.resize(usize::try_from(length).unwrap_or_default(), 0);
        self.window_at = self.at;
        self.probe.read_at(&mut self.window, self.at)?;
        self.at = self.at.saturating_add(1);
        self.window.first().copied().ok_or_else(|| self.bad("it ends in the middle"))
    }
}
