//! Folders are watched: what changes on disk is in the catalogue without a scan being asked for.

use std::fs;

use harness::{Daemon, Farm, ModelFile, SHORT, mebibytes, wait_for};
use shared::{
    ids::ModelId,
    wire::{HostView, ModelSummary},
};

/// Waits until the catalogue lists exactly these, as name and state.
async fn catalogue_is(farm: &Farm, wanted: &[(&str, &str)]) -> Vec<ModelSummary> {
    wait_for(&format!("the catalogue to be {wanted:?}"), SHORT, || async {
        let mut models: Vec<ModelSummary> = farm.api.list("/v1/models").await;
        models.sort_by(|a, b| a.name.cmp(&b.name));
        let seen: Vec<(&str, &str)> = models.iter().map(|model| (model.name.as_str(), model.state.as_str())).collect();
        if seen == wanted { Ok(models.clone()) } else { Err(format!("{seen:?}")) }
    })
    .await
}

/// Waits until host `a` says that its root is watched this way and has this state.
async fn root_is(farm: &Farm, way: &str, state: &str) -> HostView {
    wait_for(&format!("the root to be {state}, watched by {way}"), SHORT, || async {
        let host: HostView = farm.api.get("/v1/hosts/a").await;
        let root = &host.roots[0];
        let now = root.watch.as_ref().map(|watch| watch.way.as_str());
        if now == Some(way) && root.state == state { Ok(host.clone()) } else { Err(format!("{root:?}")) }
    })
    .await
}

/// Waits until no scan runs and none was asked for since three seconds: a watch that starts beside a scan asks for another one
/// after a second, and that one could find a file in the moment between its creation and its first write.
async fn scans_are_over(farm: &Farm) {
    let seen = std::cell::Cell::new((0, std::time::Instant::now()));
    wait_for("the scans of the start to be over", SHORT, || async {
        let jobs: Vec<shared::wire::JobView> = farm.api.list("/v1/jobs?kind=scan").await;
        let (count, since) = seen.get();
        if jobs.len() != count || jobs.iter().any(|job| !job.state.is_terminal()) {
            seen.set((jobs.len(), std::time::Instant::now()));
            return Err(format!("{} scans", jobs.len()));
        }
        if since.elapsed() >= std::time::Duration::from_secs(3) {
            Ok(())
        } else {
            Err("not quiet for long enough".to_owned())
        }
    })
    .await;
}

async fn watched(farm: &Farm, way: &str) -> Daemon {
    ModelFile::vae(mebibytes(1)).seed(1).write(&farm.library(), "one.safetensors");
    let agent = farm.start_agent(farm.agent("a").watch(way)).await;
    catalogue_is(farm, &[("one", "available")]).await;
    root_is(farm, way, "ready").await;
    agent
}

/// Comes, moves into a new folder, goes; the same for both ways.
async fn follows_the_disk(way: &str) {
    let farm = Farm::start().await;
    let agent = watched(&farm, way).await;
    ModelFile::vae(mebibytes(1)).seed(2).write(&farm.library(), "two.safetensors");
    let models = catalogue_is(&farm, &[("one", "available"), ("two", "available")]).await;
    let id: ModelId = models[1].id;

    fs::create_dir(farm.library().join("sub")).expect("a folder");
    fs::rename(farm.library().join("two.safetensors"), farm.library().join("sub/moved.safetensors")).expect("a move");
    let moved = || async {
        let model = farm.model("two").await;
        if model.rel_path == "sub/moved.safetensors" { Ok(model) } else { Err(model.rel_path) }
    };
    let model = wait_for("the model to follow its file", SHORT, moved).await;
    assert_eq!((model.summary.id, model.summary.state.as_str()), (id, "available"));

    // the new folder is watched as well
    ModelFile::vae(mebibytes(1)).seed(3).write(&farm.library().join("sub"), "three.safetensors");
    catalogue_is(&farm, &[("one", "available"), ("three", "available"), ("two", "available")]).await;
    fs::remove_file(farm.library().join("one.safetensors")).expect("a removal");
    catalogue_is(&farm, &[("one", "missing"), ("three", "available"), ("two", "available")]).await;

    let host = root_is(&farm, way, "ready").await;
    let watch = host.roots[0].watch.clone().expect("a watched root says so");
    assert!(watch.folders == 2 && watch.scans_total > 0 && watch.changed_at.is_some(), "{watch:?}");
    assert_eq!(agent.metric("modelyard_watched_roots", &format!("way=\"{way}\"")).await, 1.0);
    farm.assert_ledger_is_clean().await;
}

#[tokio::test]
async fn what_comes_moves_and_goes_is_followed_by_events() {
    follows_the_disk("inotify").await;
}

#[tokio::test]
async fn what_comes_moves_and_goes_is_followed_by_walking() {
    follows_the_disk("poll").await;
}

/// A root that goes keeps its models as last seen and says so; what is there when it comes back is found.
#[tokio::test]
async fn a_root_that_goes_and_comes_back_is_watched_again() {
    let farm = Farm::start().await;
    let _agent = watched(&farm, "inotify").await;
    let aside = farm.path("aside");
    fs::rename(farm.library(), &aside).expect("a move");
    root_is(&farm, "missing", "missing").await;
    catalogue_is(&farm, &[("one", "available")]).await;
    ModelFile::vae(mebibytes(1)).seed(2).write(&aside, "two.safetensors");
    fs::rename(&aside, farm.library()).expect("a move back");
    catalogue_is(&farm, &[("one", "available"), ("two", "available")]).await;
    root_is(&farm, "inotify", "ready").await;
}

/// A file that is still being written is not listed, whoever scans; its last write leads to the scan that lists it.
#[tokio::test]
async fn a_file_is_listed_once_it_is_whole() {
    use std::io::Write;
    let farm = Farm::start().await;
    let agent = watched(&farm, "inotify").await;
    scans_are_over(&farm).await;
    let whole = ModelFile::vae(mebibytes(1)).seed(2).write(&farm.path("elsewhere"), "slow.safetensors");
    let bytes = fs::read(whole).expect("what was written");
    let mut slow = fs::File::create(farm.library().join("slow.safetensors")).expect("a new file");
    slow.write_all(&bytes[..bytes.len() / 2]).expect("its first half");
    let scans = agent.metric("modelyard_watch_scans_total", "").await;
    // a scan of what is there now
    let passed_over = || async {
        let job: shared::wire::JobView =
            farm.api.submit("/v1/jobs", serde_json::json!({ "kind": "scan", "target": "host:a" })).await;
        let done = farm.api.job_ended(job.id, shared::job::JobState::Succeeded, SHORT).await;
        let result = done.job.result.expect("a scan has a result");
        if result["unfinished"] == 1 { Ok(()) } else { Err(result.to_string()) }
    };
    wait_for("a scan to pass it over", SHORT, passed_over).await;
    catalogue_is(&farm, &[("one", "available")]).await;
    slow.write_all(&bytes[bytes.len() / 2..]).expect("its second half");
    drop(slow);
    let models = catalogue_is(&farm, &[("one", "available"), ("slow", "available")]).await;
    assert_eq!(models[1].model_type, "vae");
    assert!(agent.metric("modelyard_watch_scans_total", "").await > scans);
}

/// More happens than the kernel keeps for an agent that does not listen: the root is scanned as a whole, and nothing is missed.
#[tokio::test]
async fn events_that_the_kernel_dropped_are_made_up_for_by_a_scan() {
    let farm = Farm::start().await;
    let agent = watched(&farm, "inotify").await;
    scans_are_over(&farm).await;
    let kept = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").expect("the kernel's limit");
    let kept: usize = kept.trim().parse().expect("a number");
    let restless = farm.library().join("restless.tmp");
    // neither a signal's way nor a lease's end is waited for: the folder is filled with events faster than both
    agent.process.signal(rustix::process::Signal::STOP);
    for _ in 0..=kept / 2 {
        fs::write(&restless, b"").expect("a file");
        fs::remove_file(&restless).expect("a removal");
    }
    ModelFile::vae(mebibytes(1)).seed(2).write(&farm.library(), "two.safetensors");
    agent.process.signal(rustix::process::Signal::CONT);
    catalogue_is(&farm, &[("one", "available"), ("two", "available")]).await;
    assert!(agent.metric("modelyard_watch_overflows_total", "").await >= 1.0);
    // and what comes afterwards is followed as before
    ModelFile::vae(mebibytes(1)).seed(3).write(&farm.library(), "three.safetensors");
    catalogue_is(&farm, &[("one", "available"), ("three", "available"), ("two", "available")]).await;
    root_is(&farm, "inotify", "ready").await;
}

/// Where the kernel watches no more folders, the root is walked instead, which is said with the limit's name.
#[tokio::test]
async fn a_root_with_more_folders_than_the_kernel_watches_is_walked() {
    const LIMIT: &str = "echo 2 > /proc/sys/user/max_inotify_watches";
    let may = std::process::Command::new("unshare").args(["-Ur", "sh", "-c", LIMIT]).status();
    if !rustix::process::geteuid().is_root() || !may.is_ok_and(|status| status.success()) {
        eprintln!("skipped: this process may not make user namespaces, or is not root");
        return;
    }
    let farm = Farm::start().await;
    for (seed, folder) in ["a", "b", "c"].into_iter().enumerate() {
        let file = ModelFile::vae(mebibytes(1)).seed(seed as u64 + 1);
        file.write(&farm.library().join(folder), &format!("in-{folder}.safetensors"));
    }
    let mut settings = farm.agent("a").watch("auto");
    settings.limits = Some(LIMIT.to_owned());
    let agent = farm.start_agent(settings).await;
    let there = [("in-a", "available"), ("in-b", "available"), ("in-c", "available")];
    catalogue_is(&farm, &there).await;
    let host = root_is(&farm, "poll", "ready").await;
    let reason = host.roots[0].watch.as_ref().and_then(|watch| watch.reason.clone()).unwrap_or_default();
    assert!(reason.contains("fs.inotify.max_user_watches"), "{reason}");
    assert_eq!(agent.metric("modelyard_watched_roots", "way=\"poll\"").await, 1.0);
    fs::remove_file(farm.library().join("b/in-b.safetensors")).expect("a removal");
    catalogue_is(&farm, &[there[0], ("in-b", "missing"), there[2]]).await;
}
