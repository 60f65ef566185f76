//! Checkpoints as `torch.save` writes them today: a zip archive, stored, with a pickle of `{"state_dict": {…}}` and a file for each
//! tensor's storage.

#![expect(clippy::unwrap_used, reason = "a failed step of a story is a failed story")]

use std::{fs, path::Path};

use crate::lora_files::Entry;

/// Writes these tensors, in their order, as a checkpoint.
pub(crate) fn write(path: &Path, tensors: &[Entry]) {
    archive(path, tensors, pickle(tensors, &[]));
}

/// The same as a trainer saves it: with the step that it was at, and an optimizer's averages of the first tensor.
pub(crate) fn write_in_training(path: &Path, tensors: &[Entry]) {
    let averages = [Entry { name: "exp_avg".to_owned(), ..tensors[0].clone() }];
    archive(path, &[tensors, &averages].concat(), pickle(tensors, &averages));
}

fn archive(path: &Path, tensors: &[Entry], pickle: Vec<u8>) {
    let mut files = vec![("archive/data.pkl".to_owned(), pickle), ("archive/byteorder".into(), b"little".into())];
    files.extend(tensors.iter().enumerate().map(|(at, tensor)| (format!("archive/data/{at}"), tensor.bytes.clone())));
    files.push(("archive/version".into(), b"3\n".into()));
    fs::write(path, zip(&files)).unwrap();
}

/// Opcodes of protocol 2.
const PROTO: &[u8] = b"\x80\x02";
const FALSE: u8 = 0x89;

/// `{"state_dict": {…}}`; with an optimizer's tensors, whose storages follow, also what a trainer keeps.
fn pickle(tensors: &[Entry], optimizer: &[Entry]) -> Vec<u8> {
    let mut out = [PROTO, b"}("].concat();
    if !optimizer.is_empty() {
        for (name, value) in [("epoch", 3), ("global_step", 4000)] {
            text(&mut out, name);
            number(&mut out, value);
        }
    }
    text(&mut out, "state_dict");
    dictionary(&mut out, tensors, 0);
    if !optimizer.is_empty() {
        // [{"state": {0: {…}}}]
        text(&mut out, "optimizer_states");
        out.extend(b"](}(");
        text(&mut out, "state");
        out.extend(b"}(");
        number(&mut out, 0);
        dictionary(&mut out, optimizer, tensors.len());
        out.extend(b"uue");
    }
    out.extend(b"u.");
    out
}

/// Tensors by name; their storages have the numbers from `first`.
fn dictionary(out: &mut Vec<u8>, tensors: &[Entry], first: usize) {
    out.extend(b"}(");
    for (at, tensor) in tensors.iter().enumerate() {
        text(out, &tensor.name);
        rebuilt(out, first + at, tensor);
    }
    out.push(b'u');
}

/// `torch._utils._rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict())`.
fn rebuilt(out: &mut Vec<u8>, at: usize, tensor: &Entry) {
    let (storage, width) = match tensor.dtype.as_str() {
        "F16" => ("HalfStorage", 2),
        "BF16" => ("BFloat16Storage", 2),
        "F32" => ("FloatStorage", 4),
        "I32" => ("IntStorage", 4),
        "I64" => ("LongStorage", 8),
        other => panic!("no storage for {other}"),
    };
    out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
    text(out, "storage");
    out.extend(format!("ctorch\n{storage}\n").as_bytes());
    text(out, &at.to_string());
    text(out, "cpu");
    number(out, tensor.bytes.len() / width);
    out.extend(b"tQ");
    number(out, 0);
    let strides = (0..tensor.shape.len()).map(|axis| tensor.shape[axis + 1..].iter().product::<usize>());
    for sides in [tensor.shape.clone(), strides.collect()] {
        out.push(b'(');
        sides.into_iter().for_each(|side| number(out, side));
        out.push(b't');
    }
    out.push(FALSE);
    out.extend(b"ccollections\nOrderedDict\n)RtR");
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
    out.extend(text.as_bytes());
}

fn number(out: &mut Vec<u8>, number: usize) {
    out.push(b'J');
    out.extend(i32::try_from(number).unwrap().to_le_bytes());
}

/// A zip archive of stored files; small enough for sides of 32 bits.
fn zip(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in files {
        let begin = u32::try_from(out.len()).unwrap().to_le_bytes();
        let size = u32::try_from(bytes.len()).unwrap().to_le_bytes();
        // version, flags, stored, no time, no date; checksum, size twice; lengths of the name and of nothing more
        let facts = [&[20, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &checksum(bytes).to_le_bytes(), &size, &size].concat();
        let lengths = [u16::try_from(name.len()).unwrap().to_le_bytes(), [0, 0]].concat();
        out.extend([b"PK\x03\x04", &facts[..], &lengths, name.as_bytes(), bytes].concat());
        directory.extend([b"PK\x01\x02\x14\0", &facts[..], &lengths, &[0; 10], &begin, name.as_bytes()].concat());
    }
    let count = u16::try_from(files.len()).unwrap().to_le_bytes();
    let [size, begin] = [directory.len(), out.len()].map(|length| u32::try_from(length).unwrap().to_le_bytes());
    let end = [&b"PK\x05\x06"[..], &[0; 4], &count, &count, &size, &begin, &[0; 2]].concat();
    [out, directory, end].concat()
}

/// CRC-32 as archives have it.
fn checksum(bytes: &[u8]) -> u32 {
    let table: Vec<u32> = (0..256_u32)
        .map(|byte| (0..8).fold(byte, |sum, _| if sum & 1 == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 }))
        .collect();
    !bytes.iter().fold(!0, |sum, byte| table[usize::from(sum as u8 ^ byte)] ^ (sum >> 8))
}
