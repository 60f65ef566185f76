//! Listing many files: what equal headers have in common is worked out once.

use std::path::Path;

use crate::{
    correction::Correction,
    detect::judge,
    error::FormatError,
    inspect::{Extent, Opened, inspect_opened, open, refused},
    inspection::{Inspection, Listing},
    keys::Keys,
    memo::{Known, Memo},
    probe::Probe,
    recognise::{Cut, Source, answer, config_beside},
    safetensors::{self, Section, Text},
    vocab::Format,
};

/// The largest buffer that is kept from one file to the next.
const KEPT_BUFFER_BYTES: usize = 16 << 20;

/// Inspects one path after the other for a list. Each thread has its own; they share what they know.
#[derive(Debug)]
pub struct Lister<'m> {
    memo: &'m Memo,
    buffer: Vec<u8>,
}

impl<'m> Lister<'m> {
    /// One that uses and adds to `memo`.
    #[must_use]
    pub fn new(memo: &'m Memo) -> Self {
        Self { memo, buffer: Vec::new() }
    }

    /// What [`inspect_all`](crate::inspect_all) answers, without the tensors.
    ///
    /// # Errors
    /// As [`inspect`](crate::inspect).
    pub fn list(&mut self, path: &Path, correction: Correction) -> Result<Listing, FormatError> {
        match open(path)? {
            // a config beside a file is one more thing to judge by
            Opened::File(probe, Format::Safetensors) if config_beside(path).is_none() => {
                self.safetensors(path, &probe, &correction)
            }
            opened => inspect_opened(path, opened, &correction, Extent::AllVariants).map(Inspection::listing),
        }
    }

    fn safetensors(&mut self, path: &Path, probe: &Probe, correction: &Correction) -> Result<Listing, FormatError> {
        let read = safetensors::text(probe, &mut self.buffer)
            .and_then(|text| listing(self.memo, path, probe, &text, correction));
        if self.buffer.len() > KEPT_BUFFER_BYTES {
            self.buffer = Vec::new();
        }
        read.or_else(|error| refused(path, Format::Safetensors, vec![probe.facts.clone()], error))
    }
}

fn listing(
    memo: &Memo,
    path: &Path,
    probe: &Probe,
    text: &Text<'_>,
    correction: &Correction,
) -> Result<Listing, FormatError> {
    let Section { metadata, key } = Section::of(text.bytes);
    let format = Format::Safetensors;
    if let Some(known) = memo.find(key, text.data_bytes) {
        let mut verdict = known.verdict.clone();
        verdict.refine(&metadata);
        if let Some(cut) = known.cut(correction.of(verdict.model_type, verdict.base)) {
            let source = Source { path, format, files: vec![probe.facts.clone()], metadata: &metadata };
            return Ok(answer(source, verdict, cut.clone(), correction));
        }
    }
    let header = safetensors::check(probe.facts.clone(), text)?;
    let judged = judge(&Keys::new(&header.tensors), None);
    let mut verdict = judged.clone();
    verdict.refine(&header.metadata);
    let kind = correction.of(verdict.model_type, verdict.base);
    let cut = Cut::of(kind, header.tensors).summary();
    // metadata that is not at the beginning is part of the key, and would have to be kept with it
    if header.metadata == metadata {
        memo.keep(key, Known::new(text.data_bytes, judged, kind, cut.clone()));
    }
    let source = Source { path, format, files: vec![header.file], metadata: &header.metadata };
    Ok(answer(source, verdict, cut, correction))
}

#[cfg(test)]
mod tests;
