//! Loads whole files into a RAM tier, cut into tensor-sized ranges, and prints what it took as one JSON line for each pass.
//!
//! ```text
//! load_once FILE... [--threads N] [--chunk MIB] [--direct auto|on|off] [--tensor MIB] [--passes N] [--back]
//! ```
//!
//! `seconds` and `gb_per_s` (10⁹ bytes) are of the whole acquisition: room, reading, hashing, sealing; `cpu_per_gb` is processor
//! seconds of all threads meanwhile, the kernel's included. `hit_us` is the mean of a thousand acquisitions of what is then
//! ready. One tier serves all passes. With `--back` so much memory as the files take and a quarter more is written before
//! each pass and given back: in a virtual machine memory that was free for a while may be with the host.
//! For a cold figure drop the page cache first and compare with `dd iflag=direct bs=8M` of the file.
#![expect(clippy::print_stdout, reason = "printing its result is what this example does")]

use std::{error::Error, fs, path::PathBuf, sync::Arc, time::Instant};

use memmap2::{Advice, MmapOptions};
use residency::{Direct, FileIdentity, IoOptions, LoadRequest, RamTier, SourceFile, TensorRange, TierConfig};
use tokio_util::sync::CancellationToken;

/// Size of a large matrix of an SDXL UNet is about 13 MB; the default cuts files into such pieces.
const DEFAULT_TENSOR_MIB: u64 = 13;
const HITS: u32 = 1000;
/// Ticks of processor time a second, as `/proc` counts them on every common machine.
const TICKS: f64 = 100.0;

struct Args {
    files: Vec<PathBuf>,
    io: IoOptions,
    tensor_bytes: u64,
    passes: usize,
    back: bool,
}

fn parse() -> Result<Args, Box<dyn Error>> {
    let tensor_bytes = DEFAULT_TENSOR_MIB << 20;
    let mut args = Args { files: Vec::new(), io: IoOptions::default(), tensor_bytes, passes: 1, back: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("`{word}` needs a value"));
        match word.as_str() {
            "--threads" => args.io.threads = value()?.parse()?,
            "--chunk" => args.io.chunk_bytes = value()?.parse::<usize>()? << 20,
            "--tensor" => args.tensor_bytes = value()?.parse::<u64>()? << 20,
            "--passes" => args.passes = value()?.parse()?,
            "--back" => args.back = true,
            "--direct" => args.io.direct = direct(&value()?)?,
            _ => args.files.push(word.into()),
        }
    }
    Ok(args)
}

fn direct(word: &str) -> Result<Direct, String> {
    match word {
        "auto" => Ok(Direct::Auto),
        "on" => Ok(Direct::On),
        "off" => Ok(Direct::Off),
        other => Err(format!("`{other}` is none of auto, on, off")),
    }
}

fn request(args: &Args) -> Result<LoadRequest, Box<dyn Error>> {
    let (mut sources, mut tensors) = (Vec::new(), Vec::new());
    for (file_index, path) in args.files.iter().enumerate() {
        let expected = FileIdentity::of(path)?;
        for (number, begin) in (0..expected.size).step_by(args.tensor_bytes as usize).enumerate() {
            let end = expected.size.min(begin + args.tensor_bytes);
            let name = format!("{file_index}.{number}");
            tensors.push(TensorRange { name, dtype: "U8".into(), shape: vec![end - begin], file_index, begin, end });
        }
        sources.push(SourceFile { path: path.clone(), expected });
    }
    Ok(LoadRequest {
        key: "once".into(),
        sources,
        tensors,
        gathered: Vec::new(),
        expected_digest: None,
        wanted_by: None,
        io: args.io.clone(),
    })
}

/// Has so many bytes of memory backed, and free again.
fn back(bytes: u64) -> Result<(), Box<dyn Error>> {
    let mut memory = MmapOptions::new().len(usize::try_from(bytes)?).map_anon()?;
    // a hint; without it the same takes longer
    let _ = memory.advise(Advice::HugePage);
    memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    Ok(())
}

/// Processor seconds of this process so far.
fn processor_seconds() -> Result<f64, Box<dyn Error>> {
    let text = fs::read_to_string("/proc/self/stat")?;
    // after the name, which may hold anything: state is the first field, user and system time are the twelfth and thirteenth
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    let ticks: f64 = fields.map(str::parse::<f64>).sum::<Result<_, _>>()?;
    Ok(ticks / TICKS)
}

async fn pass(tier: &RamTier, request: &Arc<LoadRequest>) -> Result<(), Box<dyn Error>> {
    let cancel = CancellationToken::new();
    let (started, before) = (Instant::now(), processor_seconds()?);
    let lease = tier.acquire(request.clone(), &cancel).await?;
    let (seconds, processor) = (started.elapsed().as_secs_f64(), processor_seconds()? - before);
    let started = Instant::now();
    for _ in 0..HITS {
        tier.acquire(request.clone(), &cancel).await?;
    }
    let hit_us = started.elapsed().as_secs_f64() * 1e6 / f64::from(HITS);
    let gb = lease.tensor_bytes() as f64 / 1e9;
    let line = serde_json::json!({
        "bytes": lease.tensor_bytes(),
        "seconds": seconds,
        "gb_per_s": gb / seconds,
        "cpu_per_gb": processor / gb,
        "hit_us": hit_us,
        "digest": lease.digest(),
        "modes": lease.read_modes(),
        "audit": tier.accounted_vs_system()?,
    });
    println!("{line}");
    drop(lease);
    tier.evict(&request.key).await?;
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let args = parse()?;
    let tier = RamTier::new(TierConfig::new(u64::MAX));
    let request = Arc::new(request(&args)?);
    for _ in 0..args.passes {
        if args.back {
            back(request.tensor_bytes() / 4 * 5)?;
        }
        pass(&tier, &request).await?;
    }
    Ok(())
}
