//! The opcodes that checkpoints are written with; all others are refused by name.

use super::{
    machine::{Machine, Persistent},
    value::Value,
};
use crate::error::FormatError;

impl Machine<'_, '_> {
    /// One opcode; false at STOP.
    pub(super) fn step(&mut self) -> Result<bool, FormatError> {
        let opcode = self.source.byte()?;
        match opcode {
            b'.' => return Ok(false),
            0x80 => self.protocol()?,
            0x95 => {
                // a frame's length only helps readers that read ahead
                self.source.array::<8>()?;
            }
            b'(' => self.mark(),
            b'0' => self.discard()?,
            b'1' => {
                self.since_mark()?;
            }
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }
            b'c' => {
                let (module, name) = (self.source.line()?, self.source.line()?);
                self.global(module, name)?;
            }
            0x93 => self.stack_global()?,
            b'R' => self.apply("REDUCE")?,
            0x81 => self.apply("NEWOBJ")?,
            b'b' => self.build()?,
            b'Q' if self.persistent == Persistent::Storages => self.persistent_id()?,
            b'Q' | b'P' | b'i' | b'o' | 0x92 | 0x82..=0x84 | 0x97 | 0x98 => {
                return Err(self.source.refuse(format!("the opcode {}", name(opcode))));
            }
            _ if self.constant(opcode)? || self.container(opcode)? || self.memo_opcode(opcode)? => {}
            other => return Err(self.source.refuse(format!("the unknown opcode {other:#04x}"))),
        }
        Ok(true)
    }

    fn protocol(&mut self) -> Result<(), FormatError> {
        match self.source.byte()? {
            0..=5 => Ok(()),
            _ => Err(self.source.bad("an unknown pickle protocol")),
        }
    }

    fn stack_global(&mut self) -> Result<(), FormatError> {
        let (name, module) = (self.pop()?, self.pop()?);
        let pair = (self.heap.text(module), self.heap.text(name));
        let (Some(module), Some(name)) = pair else {
            return Err(self.source.bad("a global whose name is no text"));
        };
        // the names may be recalled from the memo again and again: what is copied counts
        let (module, name) = (module.to_owned(), name.to_owned());
        self.copying(module.len().saturating_add(name.len()) / 16)?;
        self.global(module, name)
    }

    fn constant(&mut self, opcode: u8) -> Result<bool, FormatError> {
        let value = match opcode {
            b'N' => Value::None,
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'J' => Value::Int(i64::from(i32::from_le_bytes(self.source.array()?))),
            b'K' => Value::Int(i64::from(self.source.byte()?)),
            b'M' => Value::Int(i64::from(u16::from_le_bytes(self.source.array()?))),
            0x8a => {
                let length = u64::from(self.source.byte()?);
                self.long(length)?
            }
            0x8b => {
                let length = self.length_4()?;
                self.long(length)?
            }
            b'I' => self.int_line()?,
            b'L' => self.long_line()?,
            b'F' => {
                self.source.line()?;
                Value::Opaque
            }
            b'G' => {
                self.source.array::<8>()?;
                Value::Opaque
            }
            _ => return self.text_or_bytes(opcode),
        };
        self.push(value)?;
        Ok(true)
    }

    fn text_or_bytes(&mut self, opcode: u8) -> Result<bool, FormatError> {
        let is_bytes = matches!(opcode, b'B' | b'C' | 0x8e | 0x96);
        let length = match opcode {
            b'S' | b'V' => return self.text_line(opcode).map(|()| true),
            b'T' | b'X' | b'B' => self.length_4()?,
            b'U' | b'C' | 0x8c => u64::from(self.source.byte()?),
            0x8d | 0x8e | 0x96 => u64::from_le_bytes(self.source.array()?),
            _ => return Ok(false),
        };
        let bytes = self.source.take(length)?;
        let text = || String::from_utf8(bytes).map_err(|_| self.source.bad("a text that is not UTF-8"));
        let value = match opcode {
            _ if is_bytes => Value::Opaque,
            // Python 2's strings may be bytes of anything
            b'T' | b'U' => text().map_or(Value::Opaque, |text| Value::Text(text.into())),
            _ => Value::Text(text()?.into()),
        };
        self.push(value)?;
        Ok(true)
    }

    fn container(&mut self, opcode: u8) -> Result<bool, FormatError> {
        let value = match opcode {
            b']' => Value::List(Vec::new()),
            b')' => Value::Tuple(Vec::new()),
            b'}' => Value::Dict(Vec::new()),
            0x8f => Value::Opaque,
            b'l' => Value::List(self.since_mark()?),
            b't' => Value::Tuple(self.since_mark()?),
            b'd' => {
                let items = self.since_mark()?;
                Value::Dict(self.pairs(&items)?)
            }
            0x91 => {
                self.since_mark()?;
                Value::Opaque
            }
            0x85..=0x87 => self.short_tuple(usize::from(opcode - 0x84))?,
            _ => return self.filling(opcode),
        };
        self.push(value)?;
        Ok(true)
    }

    fn filling(&mut self, opcode: u8) -> Result<bool, FormatError> {
        match opcode {
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => {
                let items = self.since_mark()?;
                self.append(items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(&[key, value])?;
            }
            b'u' => {
                let items = self.since_mark()?;
                self.set_items(&items)?;
            }
            0x90 => {
                self.since_mark()?;
                self.top()?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn short_tuple(&mut self, length: usize) -> Result<Value, FormatError> {
        let mut items = (0..length).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        Ok(Value::Tuple(items))
    }

    fn memo_opcode(&mut self, opcode: u8) -> Result<bool, FormatError> {
        match opcode {
            b'q' => {
                let key = self.source.byte()?;
                self.remember(u32::from(key))?;
            }
            b'r' => {
                let key = u32::from_le_bytes(self.source.array()?);
                self.remember(key)?;
            }
            0x94 => {
                let key = u32::try_from(self.memo.len()).unwrap_or(u32::MAX);
                self.remember(key)?;
            }
            b'p' => {
                let key = self.key_line()?;
                self.remember(key)?;
            }
            b'h' => {
                let key = self.source.byte()?;
                self.recall(u32::from(key))?;
            }
            b'j' => {
                let key = u32::from_le_bytes(self.source.array()?);
                self.recall(key)?;
            }
            b'g' => {
                let key = self.key_line()?;
                self.recall(key)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn length_4(&mut self) -> Result<u64, FormatError> {
        Ok(u64::from(u32::from_le_bytes(self.source.array()?)))
    }

    fn key_line(&mut self) -> Result<u32, FormatError> {
        self.source.line()?.parse().map_err(|_| self.source.bad("a memo entry that is no number"))
    }

    /// A little-endian integer in two's complement.
    fn long(&mut self, length: u64) -> Result<Value, FormatError> {
        let bytes = self.source.take(length)?;
        if bytes.len() > 8 {
            return Ok(Value::Long(bytes.into()));
        }
        let negative = bytes.last().is_some_and(|last| *last >= 0x80);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide.iter_mut().zip(&bytes).for_each(|(to, from)| *to = *from);
        Ok(Value::Int(i64::from_le_bytes(wide)))
    }

    fn int_line(&mut self) -> Result<Value, FormatError> {
        Ok(match self.source.line()?.as_str() {
            "00" => Value::Bool(false),
            "01" => Value::Bool(true),
            text => text.parse().map(Value::Int).map_err(|_| self.source.bad("an integer that is no number"))?,
        })
    }

    fn long_line(&mut self) -> Result<Value, FormatError> {
        let text = self.source.line()?;
        let digits = text.strip_suffix('L').unwrap_or(&text);
        // beyond 64 bits nothing here needs the number
        let is_number = digits.trim_start_matches('-').bytes().all(|byte| byte.is_ascii_digit());
        if !is_number {
            return Err(self.source.bad("an integer that is no number"));
        }
        Ok(digits.parse().map_or(Value::Opaque, Value::Int))
    }

    /// STRING has quotes around it; an escape in either would be another name to another reader.
    fn text_line(&mut self, opcode: u8) -> Result<(), FormatError> {
        let text = self.source.line()?;
        let quoted = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote);
        let text = match opcode {
            b'S' => quoted('\'').or_else(|| quoted('"')).ok_or_else(|| self.source.bad("a text without its quotes"))?,
            _ => text.as_str(),
        };
        if text.contains('\\') {
            return Err(self.source.bad("a text with escapes"));
        }
        let value = Value::Text(text.into());
        self.push(value)
    }
}

/// The name of a refused opcode.
const fn name(opcode: u8) -> &'static str {
    match opcode {
        b'Q' => "BINPERSID",
        b'P' => "PERSID",
        b'i' => "INST",
        b'o' => "OBJ",
        0x92 => "NEWOBJ_EX",
        0x82 => "EXT1",
        0x83 => "EXT2",
        0x84 => "EXT4",
        0x97 => "NEXT_BUFFER",
        _ => "READONLY_BUFFER",
    }
}
