//! Memory pressure from a control group of the kernel's: what is in it is counted by the kernel, and its limit is cut by 30 %
//! while the RAM tier is full. Left out, with the reason, where no such group can be made.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::Instant,
};

use harness::{Farm, ModelFile, SHORT, mebibytes, wait_for};
use serde_json::json;
use shared::{job::JobState, wire::CacheView};

/// A control group of its own below this process's; goes when it is dropped and nobody is in it.
struct Group {
    folder: PathBuf,
    /// Its line in `/proc/<pid>/cgroup`.
    line: String,
    /// The limit that can be cut below what is used: the hard one of version 1 refuses that, the one of version 2 kills.
    limit: &'static str,
    usage: &'static str,
    droppable: [&'static str; 2],
}

impl Drop for Group {
    fn drop(&mut self) {
        // of a story that failed somebody may still be in it
        let _ = fs::remove_dir(&self.folder);
    }
}

impl Group {
    /// The reason where the system does not have it so.
    fn make() -> Result<Self, String> {
        let own = fs::read_to_string("/proc/self/cgroup").map_err(|error| error.to_string())?;
        let field = |line: &str, at: usize| line.splitn(3, ':').nth(at).unwrap_or_default().to_owned();
        let name = format!("modelyard-story-{}", std::process::id());
        let of_memory = own.lines().find(|line| field(line, 1).split(',').any(|one| one == "memory"));
        let unified = || own.lines().find(|line| line.starts_with("0::"));
        let line = of_memory.or_else(unified).ok_or("this process is in no control group")?;
        let inside = format!("{}/{name}", field(line, 2).trim_end_matches('/'));
        let base = if of_memory.is_some() { "/sys/fs/cgroup/memory" } else { "/sys/fs/cgroup" };
        let (limit, usage, droppable) = if of_memory.is_some() {
            let droppable = ["total_inactive_file ", "total_active_file "];
            ("memory.soft_limit_in_bytes", "memory.usage_in_bytes", droppable)
        } else {
            ("memory.high", "memory.current", ["inactive_file ", "active_file "])
        };
        let folder = PathBuf::from(format!("{base}{inside}"));
        let refused = |error: io::Error| format!("{} cannot be made: {error}", folder.display());
        fs::create_dir(&folder).map_err(refused)?;
        let line = format!("{}:{}:{inside}\n", field(line, 0), field(line, 1));
        let group = Self { folder, line, limit, usage, droppable };
        group.set_limit(mebibytes(4096)).map_err(|error| format!("it has no limit of memory: {error}"))?;
        Ok(group)
    }

    fn set_limit(&self, bytes: u64) -> io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).open(self.folder.join(self.limit))?;
        file.write_all(bytes.to_string().as_bytes())
    }

    /// What the kernel counts and cannot simply drop.
    fn used(&self) -> u64 {
        let read = |name: &str| fs::read_to_string(self.folder.join(name)).unwrap_or_default();
        let stat = read("memory.stat");
        let line = |name: &str| stat.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        let dropped: u64 = self.droppable.iter().filter_map(|name| line(name)).sum();
        read(self.usage).trim().parse::<u64>().unwrap_or_default().saturating_sub(dropped)
    }

    /// A root below which the system is as it is, but the agent is in this group.
    fn system(&self, root: &Path) -> io::Result<()> {
        fs::create_dir_all(root.join("proc/self"))?;
        fs::create_dir_all(root.join("sys/fs"))?;
        std::os::unix::fs::symlink("/proc/meminfo", root.join("proc/meminfo"))?;
        std::os::unix::fs::symlink("/sys/fs/cgroup", root.join("sys/fs/cgroup"))?;
        fs::write(root.join("proc/self/cgroup"), &self.line)
    }

    fn admit(&self, process: u32) -> io::Result<()> {
        fs::write(self.folder.join("cgroup.procs"), process.to_string())
    }
}

#[tokio::test]
async fn a_group_of_the_kernel_that_is_cut_while_full_shrinks_the_tier_in_order() {
    let group = match Group::make() {
        Ok(group) => group,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    let farm = Farm::start().await;
    let root = farm.path("system");
    group.system(&root).expect("the system of the story can be written");
    for number in 0..8 {
        let name = format!("m{number}.safetensors");
        ModelFile::vae(mebibytes(19)).seed(130 + number).write(&farm.library(), &name);
    }
    let settings = farm.agent("a").ram_budget("170MiB").system_root(&root);
    let mut agent = farm.agent_with_library(settings.option("--memory-headroom", "20MiB")).await;
    group.admit(agent.process.pid()).expect("the agent can be put into the group");
    for number in 0..8 {
        let job = farm.api.submit("/v1/cache", json!({ "model": format!("m{number}"), "protect": number == 0 })).await;
        farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
    }
    let full: CacheView = farm.api.get("/v1/cache").await;
    assert!(full.total.used_bytes >= mebibytes(150), "{full:?}");
    let used = group.used();
    assert!(used >= full.total.used_bytes, "the kernel counts {used} bytes");

    let limit = (used + mebibytes(24)) / 10 * 7;
    group.set_limit(limit).expect("the limit can be cut");
    let cut = Instant::now();
    wait_for("the kernel to count less", SHORT, || async {
        let used = group.used();
        if used <= limit { Ok(()) } else { Err(format!("the kernel counts {used} bytes, {limit} are allowed")) }
    })
    .await;
    println!("shrunk within {:?}", cut.elapsed());
    assert!(agent.process.exited().is_none(), "it was killed");
    // the picture of the tier is published after the bytes came back
    let shrunk: CacheView = wait_for("the tier to say so", SHORT, || async {
        let view: CacheView = farm.api.get("/v1/cache").await;
        let cause = view.hosts[0].pressure.as_ref().and_then(|pressure| pressure.cause.clone());
        let told = cause.is_some_and(|cause| cause.contains("control group"));
        let fewer = view.total.used_bytes < full.total.used_bytes - mebibytes(38);
        if told && fewer { Ok(view) } else { Err(format!("{view:?}")) }
    })
    .await;
    let names: Vec<_> = shrunk.hosts[0].components.iter().map(|one| one.model_name.as_str()).collect();
    assert!(names.contains(&"m0"), "the protected one stays: {names:?}");
    farm.assert_ledger_is_clean().await;
    agent.process.kill().await;
    wait_for("the group to be empty", SHORT, || async {
        fs::remove_dir(&group.folder).map_err(|error| error.to_string())
    })
    .await;
}
