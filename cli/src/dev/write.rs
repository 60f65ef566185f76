//! Writes safetensors files of any size in constant memory: the header first, then the data in chunks by
//! several threads, under another name until all is on disk.

use std::{
    collections::{BTreeMap, HashSet},
    fmt::Write as _,
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use anyhow::{Context, ensure};

use super::{tensor::Tensor, values::Generator};

/// What a thread makes and writes at a time; a multiple of every element's size.
const CHUNK_BYTES: u64 = 4 << 20;

/// A file that is to be written.
#[derive(Debug, Clone)]
pub(super) struct TensorFile {
    pub(super) tensors: Vec<Tensor>,
    pub(super) metadata: BTreeMap<String, String>,
}

impl TensorFile {
    /// A file of these tensors in the order of the reference writer: by descending element type, then by name.
    pub(super) fn new(mut tensors: Vec<Tensor>, metadata: BTreeMap<String, String>) -> Self {
        tensors.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(&b.name)));
        Self { tensors, metadata }
    }

    /// Bytes of all tensors.
    pub(super) fn data_bytes(&self) -> u64 {
        self.tensors.iter().map(Tensor::bytes).sum()
    }

    /// Bytes of the whole file.
    pub(super) fn bytes(&self) -> anyhow::Result<u64> {
        Ok(u64::try_from(self.header()?.len())? + self.data_bytes())
    }

    /// Length and text of the header, padded with spaces to a multiple of eight. Entries in the order of
    /// the data, as the reference writer has them.
    fn header(&self) -> anyhow::Result<Vec<u8>> {
        let mut text = format!("{{\"__metadata__\":{}", serde_json::to_string(&self.metadata)?);
        let (mut begin, mut names) = (0, HashSet::new());
        for tensor in &self.tensors {
            ensure!(names.insert(&tensor.name), "the tensor `{}` is described twice", tensor.name);
            let end = begin + tensor.bytes();
            let (name, shape) = (serde_json::to_string(&tensor.name)?, serde_json::to_string(&tensor.shape)?);
            let dtype = tensor.dtype.name();
            write!(text, ",{name}:{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":[{begin},{end}]}}")?;
            begin = end;
        }
        text.push('}');
        let padding = text.len().next_multiple_of(8) - text.len();
        text.push_str(&" ".repeat(padding));
        let mut bytes = u64::try_from(text.len())?.to_le_bytes().to_vec();
        bytes.extend(text.into_bytes());
        Ok(bytes)
    }
}

/// How files are written.
pub(super) struct Writer<'p> {
    pub(super) generator: Generator,
    pub(super) threads: usize,
    /// Told the bytes of every chunk that has been written.
    pub(super) progress: &'p (dyn Fn(u64) + Sync),
}

impl Writer<'_> {
    /// Writes `file` to `path`, whole or not at all.
    pub(super) fn write(&self, file: &TensorFile, path: &Path) -> anyhow::Result<()> {
        let part = part_path(path);
        let done = self.fill(file, &part).with_context(|| format!("cannot write {}", part.display()));
        if let Err(error) = done {
            // the error says more than a failed clean-up would
            let _ = fs::remove_file(&part);
            return Err(error);
        }
        fs::rename(&part, path).with_context(|| format!("cannot name {}", path.display()))
    }

    fn fill(&self, file: &TensorFile, path: &Path) -> anyhow::Result<()> {
        let header = file.header()?;
        let out = File::create(path)?;
        let header_bytes = u64::try_from(header.len())?;
        out.set_len(header_bytes + file.data_bytes())?;
        out.write_all_at(&header, 0)?;
        (self.progress)(header_bytes);
        let job = Job {
            writer: self,
            tensors: &placed(&file.tensors),
            data_bytes: file.data_bytes(),
            header_bytes,
            out: &out,
            turn: Mutex::new(()),
        };
        job.run()?;
        Ok(out.sync_all()?)
    }
}

/// The name until a file is complete.
pub(super) fn part_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}

/// Tensors with where their data begins.
fn placed(tensors: &[Tensor]) -> Vec<(u64, &Tensor)> {
    let mut begin = 0;
    let place = |tensor| {
        let here = begin;
        begin += Tensor::bytes(tensor);
        (here, tensor)
    };
    tensors.iter().map(place).collect()
}

struct Job<'j> {
    writer: &'j Writer<'j>,
    tensors: &'j [(u64, &'j Tensor)],
    data_bytes: u64,
    header_bytes: u64,
    out: &'j File,
    turn: Mutex<()>,
}

impl Job<'_> {
    /// Threads take chunks until none is left or one failed.
    fn run(&self) -> anyhow::Result<()> {
        let (next, failed) = (AtomicU64::new(0), AtomicBool::new(false));
        let work = || {
            let result = self.chunks(&next, &failed);
            if result.is_err() {
                failed.store(true, Ordering::Relaxed);
            }
            result
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..self.writer.threads.max(1)).map(|_| scope.spawn(work)).collect();
            let join = |thread: thread::ScopedJoinHandle<'_, anyhow::Result<()>>| {
                thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a writing thread died")))
            };
            threads.into_iter().map(join).fold(Ok(()), anyhow::Result::and)
        })
    }

    fn chunks(&self, next: &AtomicU64, failed: &AtomicBool) -> anyhow::Result<()> {
        let mut buffer = vec![0; usize::try_from(CHUNK_BYTES.min(self.data_bytes))?];
        while !failed.load(Ordering::Relaxed) {
            let begin = next.fetch_add(CHUNK_BYTES, Ordering::Relaxed);
            if begin >= self.data_bytes {
                break;
            }
            let bytes = CHUNK_BYTES.min(self.data_bytes - begin);
            let chunk = buffer.get_mut(..usize::try_from(bytes)?).context("a chunk is longer than its buffer")?;
            self.generate(begin, chunk)?;
            self.put(chunk, self.header_bytes + begin)?;
            (self.writer.progress)(bytes);
        }
        Ok(())
    }

    /// One write at a time: the system would serialise them anyway, its waiters spinning on the file's
    /// lock instead of making the next chunk.
    fn put(&self, chunk: &[u8], at: u64) -> std::io::Result<()> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.out.write_all_at(chunk, at)
    }

    /// Makes the data from `begin` on.
    fn generate(&self, mut begin: u64, mut out: &mut [u8]) -> anyhow::Result<()> {
        let first = self.tensors.partition_point(|(at, tensor)| at + tensor.bytes() <= begin);
        for (at, tensor) in self.tensors.iter().skip(first) {
            let mut part_at = *at;
            for part in &tensor.parts {
                let part_end = part_at + part.elements * tensor.dtype.bytes();
                if begin < part_end && !out.is_empty() {
                    let bytes = usize::try_from(part_end - begin)?.min(out.len());
                    let (here, rest) = out.split_at_mut(bytes);
                    let element = (begin - part_at) / tensor.dtype.bytes();
                    self.writer.generator.write(part, tensor.dtype, element, here);
                    (out, begin) = (rest, begin + u64::try_from(bytes)?);
                }
                part_at = part_end;
            }
            if out.is_empty() {
                break;
            }
        }
        Ok(())
    }
}
