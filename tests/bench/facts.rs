//! What machine the numbers are from: they compare only within one run, and only if one knows what it ran on.

use std::{fs, io::Write, path::Path, time::Instant};

use rustix::fs::fdatasync;
use serde::Serialize;

/// The facts that move these numbers.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Facts {
    /// Processor as the kernel names it.
    pub cpu: String,
    /// Logical processors.
    pub cores: usize,
    /// Memory in GiB.
    pub memory_gib: f64,
    /// Kernel release.
    pub kernel: String,
    /// File system of the bench folder.
    pub file_system: String,
    /// Median microseconds of a one-page write with `fdatasync` in the bench folder: what a commit waits for.
    pub fdatasync_us: f64,
    /// Load average of the last minute before the bench; above 0.5 somebody else was working.
    pub load_average: String,
}

/// Reads them; `dir` is the bench folder.
///
/// # Errors
/// When the bench folder cannot be written.
pub(crate) fn facts(dir: &Path) -> anyhow::Result<Facts> {
    let cpu = field(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default(), "model name");
    let memory = field(&fs::read_to_string("/proc/meminfo").unwrap_or_default(), "MemTotal");
    let memory_kib: f64 = memory.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0.0);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    Ok(Facts {
        cpu,
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory_gib: (memory_kib / 1024.0 / 1024.0 * 10.0).round() / 10.0,
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        file_system: file_system(dir),
        fdatasync_us: fdatasync_us(dir)?,
        load_average: load.split_whitespace().next().unwrap_or_default().to_owned(),
    })
}

impl std::fmt::Display for Facts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}, {} cores, {} GiB, Linux {}, {} (fdatasync {:.0} µs), load average before {}",
            self.cpu, self.cores, self.memory_gib, self.kernel, self.file_system, self.fdatasync_us, self.load_average
        )
    }
}

fn field(text: &str, name: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_once(':')).map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
}

/// Type of the mount that holds `dir`: the one with the longest matching path.
fn file_system(dir: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut best = (0, "unknown".to_owned());
    for line in mounts.lines() {
        let mut words = line.split(' ').skip(1);
        if let (Some(place), Some(kind)) = (words.next(), words.next())
            && dir.starts_with(place)
            && place.len() >= best.0
        {
            best = (place.len(), kind.to_owned());
        }
    }
    best.1
}

fn fdatasync_us(dir: &Path) -> anyhow::Result<f64> {
    let path = dir.join("fdatasync-probe");
    let mut file = fs::File::create(&path)?;
    file.write_all(&[0; 8192 * 128])?;
    file.sync_all()?;
    let mut took = Vec::new();
    for _ in 0..200 {
        rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
        let began = Instant::now();
        file.write_all(&[1; 8192])?;
        fdatasync(&file)?;
        took.push(began.elapsed().as_secs_f64() * 1e6);
    }
    fs::remove_file(&path)?;
    took.sort_by(f64::total_cmp);
    Ok(took.get(took.len() / 2).copied().unwrap_or(0.0))
}
