//! Loads whole files into a RAM tier once, cut into tensor-sized ranges, and prints what it took as one JSON line.
//!
//! ```text
//! load_once FILE... [--threads N] [--chunk MIB] [--direct auto|on|off] [--tensor MIB]
//! ```
//!
//! `seconds` and `gb_per_s` (10⁹ bytes) are of the whole acquisition: room, reading, hashing, sealing.
//! `hit_us` is the mean of a thousand acquisitions of what is then ready.
//! For a cold figure drop the page cache first and compare with `dd iflag=direct bs=8M` of the file.
#![expect(clippy::print_stdout, reason = "printing its result is what this example does")]

use std::{error::Error, path::PathBuf, sync::Arc, time::Instant};

use residency::{Direct, FileIdentity, IoOptions, LoadRequest, RamTier, SourceFile, TensorRange, TierConfig};
use tokio_util::sync::CancellationToken;

/// Size of a large matrix of an SDXL UNet is about 13 MB; the default cuts files into such pieces.
const DEFAULT_TENSOR_MIB: u64 = 13;
const HITS: u32 = 1000;

struct Args {
    files: Vec<PathBuf>,
    io: IoOptions,
    tensor_bytes: u64,
}

fn parse() -> Result<Args, Box<dyn Error>> {
    let mut args = Args { files: Vec::new(), io: IoOptions::default(), tensor_bytes: DEFAULT_TENSOR_MIB << 20 };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("`{word}` needs a value"));
        match word.as_str() {
            "--threads" => args.io.threads = value()?.parse()?,
            "--chunk" => args.io.chunk_bytes = value()?.parse::<usize>()? << 20,
            "--tensor" => args.tensor_bytes = value()?.parse::<u64>()? << 20,
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
        io: args.io.clone(),
    })
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let args = parse()?;
    let tier = RamTier::new(TierConfig::new(u64::MAX));
    let request = Arc::new(request(&args)?);
    let cancel = CancellationToken::new();
    let started = Instant::now();
    let lease = tier.acquire(request.clone(), &cancel).await?;
    let seconds = started.elapsed().as_secs_f64();
    let started = Instant::now();
    for _ in 0..HITS {
        tier.acquire(request.clone(), &cancel).await?;
    }
    let hit_us = started.elapsed().as_secs_f64() * 1e6 / f64::from(HITS);
    let line = serde_json::json!({
        "bytes": lease.tensor_bytes(),
        "seconds": seconds,
        "gb_per_s": lease.tensor_bytes() as f64 / seconds / 1e9,
        "hit_us": hit_us,
        "digest": lease.digest(),
        "modes": lease.read_modes(),
        "audit": tier.accounted_vs_system()?,
    });
    println!("{line}");
    Ok(())
}
