//! The file of the bench: random bytes behind a safetensors header with the tensor mix of an SDXL UNet in fp16, and a reader
//! of that header.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufWriter, Read, Write},
    path::Path,
};

use rand::{RngCore, SeedableRng, rngs::SmallRng};
use residency::{FileIdentity, IoOptions, LoadRequest, SourceFile, TensorRange};
use serde::{Deserialize, Serialize};

/// Shapes of one round; rounds repeat until the file is full. Large matrices, convolutions, and many small vectors.
const MIX: [&[u64]; 14] = [
    &[10240, 1280],
    &[1280, 5120],
    &[1280, 1280],
    &[1280, 2048],
    &[1280, 1280, 3, 3],
    &[1280, 2560, 1, 1],
    &[640, 640, 3, 3],
    &[5120, 640],
    &[320, 320, 3, 3],
    &[1280],
    &[10240],
    &[640],
    &[320],
    &[1280],
];
const DTYPE: &str = "F16";
const ELEMENT_BYTES: u64 = 2;

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// Writes a file of about `bytes` bytes and flushes it to the disk.
///
/// # Errors
/// What the file system answers.
pub(crate) fn write(path: &Path, bytes: u64) -> anyhow::Result<()> {
    let (mut entries, mut end, mut number) = (BTreeMap::new(), 0, 0);
    for shape in MIX.iter().cycle() {
        if end >= bytes {
            break;
        }
        let len = shape.iter().product::<u64>() * ELEMENT_BYTES;
        let entry = Entry { dtype: DTYPE.to_owned(), shape: shape.to_vec(), data_offsets: (end, end + len) };
        entries.insert(format!("model.diffusion_model.block.{number:04}.weight"), entry);
        (end, number) = (end + len, number + 1);
    }
    let mut header = serde_json::to_vec(&entries)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = BufWriter::with_capacity(8 << 20, File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    let (mut random, mut block) = (SmallRng::seed_from_u64(2), vec![0; 8 << 20]);
    let mut left = end;
    while left > 0 {
        random.fill_bytes(&mut block);
        let part = block.get(..usize::try_from(left)?.min(block.len())).unwrap_or_default();
        file.write_all(part)?;
        left -= part.len() as u64;
    }
    Ok(file.into_inner()?.sync_all()?)
}

/// Reads the header: the whole file as one component.
///
/// # Errors
/// When it is not such a file.
pub(crate) fn request(path: &Path, io: IoOptions) -> anyhow::Result<LoadRequest> {
    let expected = FileIdentity::of(path)?;
    let mut file = File::open(path)?;
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let mut header = vec![0; usize::try_from(u64::from_le_bytes(length))?];
    file.read_exact(&mut header)?;
    let data = 8 + header.len() as u64;
    let entries: BTreeMap<String, Entry> = serde_json::from_slice(&header)?;
    let tensor = |(name, entry): (String, Entry)| TensorRange {
        name,
        dtype: entry.dtype,
        shape: entry.shape,
        file_index: 0,
        begin: data + entry.data_offsets.0,
        end: data + entry.data_offsets.1,
    };
    Ok(LoadRequest {
        key: "bench".into(),
        sources: vec![SourceFile { path: path.to_owned(), expected }],
        tensors: entries.into_iter().map(tensor).collect(),
        gathered: Vec::new(),
        expected_digest: None,
        wanted_by: None,
        io,
    })
}
