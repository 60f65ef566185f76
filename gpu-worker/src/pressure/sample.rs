//! What the system says about memory at one moment: free memory, the limits of the control groups that this process is
//! in, and how long work stands still for want of memory. All below one root, so that another tree can stand in for it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Limits from here on are the kernel's way to say that there is none.
const UNLIMITED: u64 = 1 << 60;

/// Memory at one moment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sample {
    /// Memory of the machine.
    pub total_bytes: u64,
    /// What programs may still take without swapping.
    pub available_bytes: u64,
    /// The control group that leaves the least room, of this process's group and those above it.
    pub group: Option<Group>,
    /// Percent of the last ten seconds in which some work stood still for want of memory.
    pub stalled_some_percent: f64,
    /// Percent of the last ten seconds in which all work did.
    pub stalled_full_percent: f64,
}

/// A control group with a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its folder, below the root of the hierarchy.
    pub name: String,
    /// Its lowest limit, hard or soft.
    pub limit_bytes: u64,
    /// What it uses and the kernel cannot simply drop.
    pub used_bytes: u64,
}

impl Group {
    /// Bytes to its limit.
    pub fn room_bytes(&self) -> u64 {
        self.limit_bytes.saturating_sub(self.used_bytes)
    }
}

impl Sample {
    /// Bytes that may still be taken by either measure.
    pub fn room_bytes(&self) -> u64 {
        let group = self.group.as_ref().map_or(u64::MAX, Group::room_bytes);
        self.available_bytes.min(group)
    }

    /// Bytes by which the group is over its limit: a limit that was cut, or a soft one.
    pub fn over_bytes(&self) -> u64 {
        self.group.as_ref().map_or(0, |group| group.used_bytes.saturating_sub(group.limit_bytes))
    }

    /// Memory that there is in all for this process.
    pub fn limit_bytes(&self) -> u64 {
        let group = self.group.as_ref().map_or(u64::MAX, |group| group.limit_bytes);
        self.total_bytes.min(group)
    }
}

/// Reads samples.
#[derive(Debug, Clone)]
pub struct Sampler {
    root: PathBuf,
    folders: Vec<Folder>,
}

/// One level of the hierarchy.
#[derive(Debug, Clone)]
struct Folder {
    name: String,
    path: PathBuf,
    version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Version {
    /// Files with limits, the file with the usage, and the lines of `memory.stat` that the kernel can drop.
    fn files(self) -> ([&'static str; 2], &'static str, [&'static str; 2]) {
        match self {
            Self::One => (
                ["memory.limit_in_bytes", "memory.soft_limit_in_bytes"],
                "memory.usage_in_bytes",
                ["total_inactive_file ", "total_active_file "],
            ),
            Self::Two => (["memory.max", "memory.high"], "memory.current", ["inactive_file ", "active_file "]),
        }
    }
}

impl Sampler {
    /// Finds this process's groups below `root`. Where there are none, free memory alone counts.
    pub fn new(root: &Path) -> Self {
        let text = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
        Self { root: root.to_owned(), folders: folders(root, &text) }
    }

    /// Memory now.
    ///
    /// # Errors
    /// When the machine's memory cannot be read. A group that went away is left out.
    pub fn sample(&self) -> io::Result<Sample> {
        let text = fs::read_to_string(self.root.join("proc/meminfo"))?;
        let bytes = |name: &str| {
            let missing = || io::Error::new(io::ErrorKind::InvalidData, format!("/proc/meminfo has no {name} line"));
            crate::memory::field_kib(&text, name).map(|kib| kib * 1024).ok_or_else(missing)
        };
        let groups = self.folders.iter().filter_map(Folder::read);
        let own_stalls = self.folders.first().map(|folder| folder.path.join("memory.pressure"));
        let stalls = [Some(self.root.join("proc/pressure/memory")), own_stalls].into_iter().flatten();
        let stalls: Vec<(f64, f64)> =
            stalls.filter_map(|path| Some(stalls_of(&fs::read_to_string(path).ok()?))).collect();
        Ok(Sample {
            total_bytes: bytes("MemTotal:")?,
            available_bytes: bytes("MemAvailable:")?,
            group: groups.min_by_key(Group::room_bytes),
            stalled_some_percent: stalls.iter().map(|(some, _)| *some).fold(0.0, f64::max),
            stalled_full_percent: stalls.iter().map(|(_, full)| *full).fold(0.0, f64::max),
        })
    }
}

/// The group that has a memory controller, and all above it. In a container the path that the kernel tells may be that of
/// the host, while the hierarchy begins at the container: then its own beginning is what counts.
fn folders(root: &Path, text: &str) -> Vec<Folder> {
    let first = text.lines().find_map(|line| of_line(root, line, Version::One));
    let Some((base, own, version)) = first.or_else(|| text.lines().find_map(|line| of_line(root, line, Version::Two)))
    else {
        return Vec::new();
    };
    let own = own.trim_matches('/');
    let own = if base.join(own).is_dir() { own } else { "" };
    let mut folders = Vec::new();
    let mut path = Path::new(own);
    loop {
        let name = format!("/{}", path.display());
        folders.push(Folder { name, path: base.join(path), version });
        match path.parent() {
            Some(above) => path = above,
            None => return folders,
        }
    }
}

/// Hierarchy and own group of a line of `/proc/self/cgroup`: `0::/path` or `4:memory:/path`.
fn of_line<'t>(root: &Path, line: &'t str, version: Version) -> Option<(PathBuf, &'t str, Version)> {
    let mut fields = line.splitn(3, ':');
    let (number, controllers, own) = (fields.next()?, fields.next()?, fields.next()?);
    let base = root.join("sys/fs/cgroup");
    match version {
        Version::One if controllers.split(',').any(|name| name == "memory") => {
            Some((base.join("memory"), own, version))
        }
        Version::Two if number == "0" && controllers.is_empty() => {
            // beside version one it has its own mount, and no memory controller
            base.join("cgroup.controllers").is_file().then_some((base, own, version))
        }
        _ => None,
    }
}

impl Folder {
    /// What the group says; none without a limit.
    fn read(&self) -> Option<Group> {
        let (limits, usage, droppable) = self.version.files();
        let limit_bytes = limits.iter().filter_map(|name| self.number(name)).min()?;
        let used = self.number(usage)?;
        let stat = fs::read_to_string(self.path.join("memory.stat")).unwrap_or_default();
        let line = |name: &str| stat.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        let dropped: u64 = droppable.iter().filter_map(|name| line(name)).sum();
        Some(Group { name: self.name.clone(), limit_bytes, used_bytes: used.saturating_sub(dropped) })
    }

    /// A file with one number; none for `max` and its like.
    fn number(&self, name: &str) -> Option<u64> {
        let number: u64 = fs::read_to_string(self.path.join(name)).ok()?.trim().parse().ok()?;
        (number < UNLIMITED).then_some(number)
    }
}

/// The averages over ten seconds of a pressure file: `some` and `full`.
fn stalls_of(text: &str) -> (f64, f64) {
    let average = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
        line.split_whitespace().find_map(|field| field.strip_prefix("avg10=")?.parse::<f64>().ok())
    };
    (average("some ").unwrap_or(0.0), average("full ").unwrap_or(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let meminfo = ("proc/meminfo", "MemTotal:  1048576 kB\nMemAvailable:  524288 kB\n");
        for (path, text) in files.iter().chain([&meminfo]) {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn version_two_counts_the_tightest_level_without_what_can_be_dropped() {
        let root = tree(&[
            ("proc/self/cgroup", "0::/farm/agent\n"),
            ("sys/fs/cgroup/cgroup.controllers", "memory\n"),
            ("sys/fs/cgroup/farm/agent/memory.max", "max\n"),
            ("sys/fs/cgroup/farm/agent/memory.high", "419430400\n"),
            ("sys/fs/cgroup/farm/agent/memory.current", "314572800\n"),
            ("sys/fs/cgroup/farm/agent/memory.stat", "anon 5\ninactive_file 52428800\nactive_file 52428800\n"),
            ("sys/fs/cgroup/farm/agent/memory.pressure", "some avg10=7.50 avg60=0\nfull avg10=2.25 avg60=0\n"),
            ("sys/fs/cgroup/farm/memory.max", "1048576000\n"),
            ("sys/fs/cgroup/farm/memory.current", "943718400\n"),
            ("proc/pressure/memory", "some avg10=1.00\nfull avg10=9.00\n"),
        ]);
        let sample = Sampler::new(root.path()).sample().unwrap();
        let group = sample.group.clone().unwrap();
        assert_eq!((group.name.as_str(), group.room_bytes()), ("/farm", 100 * MIB));
        assert_eq!((sample.room_bytes(), sample.limit_bytes()), (100 * MIB, 1000 * MIB));
        assert_eq!((sample.stalled_some_percent, sample.stalled_full_percent), (7.5, 9.0));
        fs::write(root.path().join("sys/fs/cgroup/farm/memory.max"), "max").unwrap();
        let group = Sampler::new(root.path()).sample().unwrap().group.unwrap();
        assert_eq!((group.name.as_str(), group.used_bytes, group.room_bytes()), ("/farm/agent", 200 * MIB, 200 * MIB));
    }

    #[test]
    fn version_one_is_read_and_a_path_of_the_host_means_the_containers_beginning() {
        let group = |limit: &str| {
            let root = tree(&[
                ("proc/self/cgroup", "5:cpu:/x\n4:memory:/docker/0123\n0::/\n"),
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", limit),
                ("sys/fs/cgroup/memory/memory.soft_limit_in_bytes", "9223372036854771712\n"),
                ("sys/fs/cgroup/memory/memory.usage_in_bytes", "104857600\n"),
                ("sys/fs/cgroup/memory/memory.stat", "inactive_file 1\ntotal_inactive_file 1048576\n"),
            ]);
            Sampler::new(root.path()).sample().unwrap().group
        };
        assert_eq!(group("9223372036854771712\n"), None);
        let expected = Group { name: "/".into(), limit_bytes: 200 * MIB, used_bytes: 99 * MIB };
        assert_eq!(group("209715200\n"), Some(expected));
    }

    #[test]
    fn without_groups_the_machine_counts_and_without_a_machine_there_is_an_error() {
        let root = tree(&[]);
        let sample = Sampler::new(root.path()).sample().unwrap();
        assert_eq!((sample.room_bytes(), sample.limit_bytes(), sample.group), (512 * MIB, 1024 * MIB, None));
        assert!(Sampler::new(&root.path().join("nowhere")).sample().is_err());
        assert!(Sampler::new(Path::new("/")).sample().unwrap().available_bytes > 0);
    }
}
