//! The protobuf wire format, just enough to walk a message (tags, varints and lengths, all bounded) and to write a few fields.

use crate::{cursor::Cursor, error::FormatError};

/// Longest name or text that is read.
const TEXT_BYTES: u64 = 64 << 10;
/// Most fields of all messages that are visited in one file.
const FIELD_LIMIT: u64 = 1 << 25;

/// One field: its number and where its value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    /// A number.
    Number(u32, u64),
    /// `length` bytes that begin at the cursor.
    Bytes(u32, u64),
    /// A fixed-size number, already passed.
    Fixed,
}

/// Walks messages of one file.
#[derive(Debug)]
pub(super) struct Walker<'p> {
    pub(super) cursor: Cursor<'p>,
    fields: u64,
}

impl<'p> Walker<'p> {
    pub(super) const fn new(cursor: Cursor<'p>) -> Self {
        Self { cursor, fields: 0 }
    }

    /// The next field of the message that ends at `end`; none at its end.
    pub(super) fn next(&mut self, end: u64) -> Result<Option<Field>, FormatError> {
        if self.cursor.at() == end {
            return Ok(None);
        }
        self.fields = self.fields.saturating_add(1);
        if self.fields > FIELD_LIMIT {
            return Err(FormatError::TooMany {
                path: self.cursor.path().to_owned(),
                what: "protobuf fields",
                limit: FIELD_LIMIT,
            });
        }
        let tag = self.varint(end)?;
        let number = u32::try_from(tag >> 3).unwrap_or_default();
        if number == 0 || number > 0x1fff_ffff {
            return Err(self.cursor.problem("a protobuf field has no valid number"));
        }
        let field = match tag & 7 {
            0 => Field::Number(number, self.varint(end)?),
            1 => self.fixed(8, end)?,
            2 => Field::Bytes(number, self.length(end)?),
            5 => self.fixed(4, end)?,
            _ => return Err(self.cursor.problem("a protobuf field of a kind that ONNX does not use")),
        };
        Ok(Some(field))
    }

    /// Where the value of `length` bytes at the cursor ends.
    pub(super) fn end_of(&self, length: u64) -> u64 {
        self.cursor.at().saturating_add(length)
    }

    pub(super) fn text(&mut self, length: u64) -> Result<String, FormatError> {
        self.cursor.text(length, TEXT_BYTES)
    }

    /// A varint that lies before `end`.
    pub(super) fn varint(&mut self, end: u64) -> Result<u64, FormatError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            if self.cursor.at() >= end {
                return Err(self.cursor.problem("a protobuf message ends in the middle of a number"));
            }
            let byte = self.cursor.byte()?;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.cursor.problem("a protobuf number is longer than 64 bits"))
    }

    fn length(&mut self, end: u64) -> Result<u64, FormatError> {
        let length = self.varint(end)?;
        if length > end.saturating_sub(self.cursor.at()) {
            return Err(self.cursor.problem("a protobuf field reaches beyond its message"));
        }
        Ok(length)
    }

    fn fixed(&mut self, bytes: u64, end: u64) -> Result<Field, FormatError> {
        if bytes > end.saturating_sub(self.cursor.at()) {
            return Err(self.cursor.problem("a protobuf field reaches beyond its message"));
        }
        self.cursor.skip(bytes)?;
        Ok(Field::Fixed)
    }
}

/// Writing fields.
pub(super) mod put {
    /// A number.
    pub(in super::super) fn number(message: &mut Vec<u8>, field: u32, value: u64) {
        varint(message, u64::from(field) << 3);
        varint(message, value);
    }

    /// Bytes: a text, or another message.
    pub(in super::super) fn bytes(message: &mut Vec<u8>, field: u32, value: &[u8]) {
        varint(message, u64::from(field) << 3 | 2);
        varint(message, value.len() as u64);
        message.extend_from_slice(value);
    }

    fn varint(message: &mut Vec<u8>, mut value: u64) {
        while value >= 0x80 {
            message.push((value as u8 & 0x7f) | 0x80);
            value >>= 7;
        }
        message.push(value as u8);
    }
}
