//! Pickles and archives written byte by byte, to be wrong in chosen places.

/// A zip archive of stored members in which every field can be bent.
#[derive(Debug, Clone)]
pub(super) struct Zip {
    pub(super) members: Vec<(String, Vec<u8>)>,
    pub(super) method: u16,
    pub(super) extra_size: u32,
    /// Every member's offset in the directory is that of the first.
    pub(super) overlapping: bool,
}

impl Zip {
    pub(super) fn of(pickle: &[u8]) -> Self {
        let member = |name: &str, data: &[u8]| (format!("x/{name}"), data.to_vec());
        let members = vec![member("data.pkl", pickle), member("data/0", &[0; 24]), member("version", b"3\n")];
        Self { members, method: 0, extra_size: 0, overlapping: false }
    }

    pub(super) fn with(mut self, name: &str, data: &[u8]) -> Self {
        self.members.push((name.to_owned(), data.to_vec()));
        self
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let (mut out, mut directory) = (Vec::new(), Vec::new());
        for (name, data) in &self.members {
            let at = if self.overlapping { 0 } else { u32::try_from(out.len()).unwrap() };
            let length = u16::try_from(name.len()).unwrap();
            let size = u32::try_from(data.len()).unwrap() + self.extra_size;
            out.extend(b"PK\x03\x04\0\0\x08\x08");
            out.extend(self.method.to_le_bytes());
            out.extend([0; 16]);
            out.extend(length.to_le_bytes());
            out.extend([0; 2]);
            out.extend(name.as_bytes());
            out.extend(data);
            directory.extend(b"PK\x01\x02\0\0\0\0\x08\x08");
            directory.extend(self.method.to_le_bytes());
            directory.extend([0; 8]);
            directory.extend(size.to_le_bytes());
            directory.extend(size.to_le_bytes());
            directory.extend(length.to_le_bytes());
            directory.extend([0; 12]);
            directory.extend(at.to_le_bytes());
            directory.extend(name.as_bytes());
        }
        let (begin, size) = (u32::try_from(out.len()).unwrap(), u32::try_from(directory.len()).unwrap());
        let count = u16::try_from(self.members.len()).unwrap();
        out.extend(directory);
        out.extend(b"PK\x05\x06\0\0\0\0");
        out.extend(count.to_le_bytes());
        out.extend(count.to_le_bytes());
        out.extend(size.to_le_bytes());
        out.extend(begin.to_le_bytes());
        out.extend([0; 2]);
        out
    }
}

/// A pickle of protocol 2 of this body.
pub(super) fn pickle(body: &[u8]) -> Vec<u8> {
    [b"\x80\x02", body, b"."].concat()
}

/// `BINUNICODE`.
pub(super) fn text(text: &str) -> Vec<u8> {
    [b"X".as_slice(), &u32::try_from(text.len()).unwrap().to_le_bytes(), text.as_bytes()].concat()
}

/// An integer as LONG1 of nine bytes or as BININT.
pub(super) fn int(number: i64) -> Vec<u8> {
    [b"\x8a\x08".as_slice(), &number.to_le_bytes()].concat()
}

/// A tensor `w` in a dict: over storage 0 of `count` floats, with this offset, shape and strides.
pub(super) fn tensor(count: i64, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    let tuple = |numbers: &[i64]| {
        let items: Vec<u8> = numbers.iter().flat_map(|number| int(*number)).collect();
        [b"(".as_slice(), &items, b"t"].concat()
    };
    let storage = [
        b"(".to_vec(),
        text("storage"),
        b"ctorch\nFloatStorage\n".to_vec(),
        text("0"),
        text("cpu"),
        int(count),
        b"tQ".to_vec(),
    ];
    let parts = [
        b"}".to_vec(),
        text("w"),
        b"ctorch._utils\n_rebuild_tensor_v2\n(".to_vec(),
        storage.concat(),
        int(offset),
        tuple(shape),
        tuple(strides),
        b"\x89ccollections\nOrderedDict\n)RtRs".to_vec(),
    ];
    pickle(&parts.concat())
}
