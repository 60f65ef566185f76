//! Artifacts: committed with their job or not at all, sent as they are, kept for a while.
//! The worker of these stories is the test itself, through the functions that agents commit with.

use harness::{Farm, LONG, SHORT, wait_for};
use reqwest::Method;
use serde_json::json;
use shared::{
    db::{
        blobs::artifacts::{self, NewArtifact},
        jobs::{self, JobLease, Settlement},
    },
    ids::{Incarnation, JobId},
    job::{JobState, rules::Report},
    wire::{ArtifactView, JobView, UploadView},
};

use crate::command_line::modelyard;
use crate::support::{small_model, uploaded, varied_bytes, waiting_decode};

fn artifact(name: &str, bytes: Vec<u8>) -> NewArtifact {
    NewArtifact { name: name.into(), media_type: "image/png".into(), bytes }
}

/// Gives the job to a worker with a new fence, as a placement and a claim would. The scheduler must be away.
async fn leased(farm: &Farm, job: JobId) -> JobLease {
    let incarnation = Incarnation::generate();
    let fence: i64 = sqlx::query_scalar(
        "with given as (
             update jobs set state = 'running', fence = fence + 1, attempt = attempt + 1, incarnation = $2, host = 'a'
             where id = $1 returning fence, attempt)
         insert into job_attempts (job_id, fence, attempt, host, incarnation)
         select $1, fence, attempt, 'a', $2 from given returning fence",
    )
    .bind(job)
    .bind(incarnation)
    .fetch_one(farm.ledger.pool())
    .await
    .expect("a lease");
    JobLease { id: job, fence, incarnation }
}

/// Ends the job with these artifacts, as an agent does.
async fn commit(farm: &Farm, lease: JobLease, left: &[NewArtifact]) -> Settlement {
    let mut tx = farm.ledger.pool().begin().await.expect("a transaction");
    let blobs = artifacts::write_all(&mut tx, left).await.expect("bytes are written");
    if jobs::hold(&mut tx, lease).await.expect("a look").is_none() {
        return Settlement::Stale;
    }
    artifacts::name_all(&mut tx, lease.id, left, &blobs).await.expect("names are written");
    let report = Report::Succeeded { result: json!({}) };
    let settled = jobs::settle(&mut tx, lease, &report, 0.0).await.expect("an end");
    tx.commit().await.expect("a commit");
    settled
}

async fn listed(farm: &Farm, job: JobId) -> Vec<String> {
    let all: Vec<ArtifactView> = farm.api.list(&format!("/v1/jobs/{job}/artifacts")).await;
    all.into_iter().map(|artifact| artifact.name + if artifact.preview { " (preview)" } else { "" }).collect()
}

/// A farm with a decoding that waits, and no scheduler that would take leases of a test back.
async fn farm_with_job() -> (Farm, JobView) {
    let mut farm = Farm::start().await;
    small_model(&farm);
    let agent = farm.agent_with_library(farm.agent("a")).await;
    let upload = uploaded(&farm, varied_bytes(100)).await;
    let job = waiting_decode(&farm, json!({ "upload": upload.id })).await;
    drop(agent);
    farm.scheduler.process.kill().await;
    (farm, job)
}

/// The artifacts of a worker that lost its lease are nobody's: they are dropped with its result, and the bytes with them.
#[tokio::test]
async fn g3_a_zombies_artifacts_are_dropped() {
    let (farm, job) = farm_with_job().await;
    let zombie = leased(&farm, job.id).await;
    let pool = farm.ledger.pool();
    let preview = artifact("preview.png", vec![1; 10]);
    assert!(artifacts::show_preview(pool, zombie, &preview, json!({ "step": 1 })).await.expect("a preview"));
    assert_eq!(listed(&farm, job.id).await, ["preview.png (preview)"]);
    assert_eq!(farm.ledger.count(job.id, "preview").await, 1);

    let heir = leased(&farm, job.id).await;
    assert!(
        !artifacts::show_preview(pool, zombie, &preview, json!({})).await.expect("an answer"),
        "a zombie's preview"
    );
    let late = [artifact("image-0.png", varied_bytes(3 << 20))];
    assert_eq!(commit(&farm, zombie, &late).await, Settlement::Stale);
    assert_eq!(listed(&farm, job.id).await, ["preview.png (preview)"], "nothing changed");

    let left = [artifact("image-0.png", vec![2; 20]), artifact("image-1.png", vec![3; 30])];
    assert_eq!(commit(&farm, heir, &left).await, Settlement::Applied(JobState::Succeeded));
    assert_eq!(listed(&farm, job.id).await, ["image-0.png", "image-1.png"], "previews are replaced");
    assert_eq!(commit(&farm, heir, &late).await, Settlement::Stale, "once is enough");
    assert_eq!(commit(&farm, zombie, &late).await, Settlement::Stale);
    let answer = farm.api.ask(&format!("/v1/jobs/{}/artifacts/image-0.png", job.id)).await;
    assert_eq!(answer.text.as_bytes(), [2; 20]);
    // the upload and the two images
    assert_eq!(farm.ledger.number("select count(*) from blobs").await, 3);
}

/// Bytes come as they were left: whole, in parts across rows, or not at all to a client that has them.
#[tokio::test]
async fn artifacts_are_sent_whole_and_in_parts() {
    let (farm, job) = farm_with_job().await;
    let lease = leased(&farm, job.id).await;
    let bytes = varied_bytes((5 << 20) / 2);
    let left = [artifact("image-0.png", bytes.clone()), artifact("empty.png", Vec::new())];
    commit(&farm, lease, &left).await;
    let path = format!("/v1/jobs/{}/artifacts/image-0.png", job.id);
    let get = |headers: &[(&str, &str)]| {
        let mut request = farm.api.request(Method::GET, &path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        async move {
            let response = request.send().await.expect("an answer");
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            (status, headers, response.bytes().await.expect("a body"))
        }
    };
    let (status, headers, body) = get(&[]).await;
    assert_eq!(status, 200);
    assert!(body == bytes, "{} bytes came of {}", body.len(), bytes.len());
    let header = |name: &str| headers[name].to_str().expect("text");
    assert_eq!(header("content-type"), "image/png");
    assert_eq!(header("content-length"), bytes.len().to_string());
    assert_eq!(header("content-disposition"), "inline; filename=\"image-0.png\"");
    assert_eq!(header("x-content-type-options"), "nosniff");
    let tag = header("etag").to_owned();

    let (status, _, body) = get(&[("if-none-match", &tag)]).await;
    assert_eq!((status, body.len()), (304, 0));
    let (from, to) = ((1 << 20) - 7, (2 << 20) + 9);
    let (status, headers, body) = get(&[("range", &format!("bytes={from}-{to}"))]).await;
    assert_eq!(status, 206);
    assert_eq!(headers["content-range"], format!("bytes {from}-{to}/{}", bytes.len()));
    assert!(body == bytes[from..=to], "another part came");
    let (status, _, body) = get(&[("range", "bytes=-5"), ("if-range", &tag)]).await;
    assert!(status == 206 && body == bytes[bytes.len() - 5..]);
    let (status, _, body) = get(&[("range", "bytes=0-4"), ("if-range", "\"other\"")]).await;
    assert_eq!((status, body.len()), (200, bytes.len()));
    let (status, headers, _) = get(&[("range", "bytes=99999999-")]).await;
    assert_eq!(status, 416);
    assert_eq!(headers["content-range"], format!("bytes */{}", bytes.len()));

    let sibling = |name: &str| format!("/v1/jobs/{}/artifacts/{name}", job.id);
    let empty = farm.api.ask(&sibling("empty.png")).await;
    assert_eq!((empty.status, empty.text.len()), (200, 0));
    for name in ["none.png", "a%00b", "..%2F..%2Fetc%2Fpasswd", "%2e%2e"] {
        let problem = farm.api.ask(&sibling(name)).await.problem(404);
        assert!(name == "%2e%2e" || problem.hint.is_some_and(|hint| hint.contains("`image-0.png`")), "{name}");
    }
    farm.api.ask("/v1/jobs/01JD9Z8M3V6Q2X4K7T5R1W0YBC/artifacts").await.problem(404);
}

/// What one job left, another works on; by age and by all bytes together the oldest go, but not what is worked on.
#[tokio::test]
async fn artifacts_feed_other_jobs_and_go_when_they_are_too_many() {
    let (farm, job) = farm_with_job().await;
    let lease = leased(&farm, job.id).await;
    let latents = |name: &str| json!({ "artifact": { "job": job.id, "name": name } });
    let request = |name: &str| json!({ "model": "small", "latents": latents(name), "labels": ["nowhere"] });
    let problem = farm.api.post("/v1/vae/decode", &request("old.bin")).await.problem(409);
    assert!(problem.detail.contains("only a job that succeeded"), "{problem:?}");
    let left: Vec<NewArtifact> =
        ["used.bin", "old.bin", "new.bin"].map(|name| artifact(name, varied_bytes(1 << 20))).into();
    commit(&farm, lease, &left).await;
    farm.api.post("/v1/vae/decode", &request("none.bin")).await.problem(404);
    farm.api.post("/v1/vae/decode", &request("../old.bin")).await.problem(400);
    let follower = waiting_decode(&farm, latents("used.bin")).await;
    // within one transaction they are of one age
    for (name, hours) in [("used.bin", 3), ("old.bin", 2), ("new.bin", 1)] {
        sqlx::query("update artifacts set created_at = now() - make_interval(hours => $2) where name = $1")
            .bind(name)
            .bind(hours)
            .execute(farm.ledger.pool())
            .await
            .expect("ages");
    }
    let mut settings = farm.settings().clone();
    settings.scheduler_arguments = ["--artifacts-total", "1MiB"].map(str::to_owned).to_vec();
    let _scheduler = farm.scheduler_with(&settings).await;
    wait_for("the oldest that nobody uses to go", LONG, || async {
        let names = listed(&farm, job.id).await;
        if names == ["used.bin", "new.bin"] { Ok(()) } else { Err(format!("{names:?}")) }
    })
    .await;
    farm.api.cancel(follower.id).await;
    wait_for("what is used no more to go", LONG, || async {
        let names = listed(&farm, job.id).await;
        if names == ["new.bin"] { Ok(()) } else { Err(format!("{names:?}")) }
    })
    .await;
}

/// The command uploads local files, lists what a job left and saves it whole.
#[tokio::test]
async fn files_go_up_and_come_down_through_the_command() {
    let mut farm = Farm::start().await;
    small_model(&farm);
    let agent = farm.agent_with_library(farm.agent("a")).await;
    let folder = farm.path("cli");
    std::fs::create_dir(&folder).expect("a folder");
    let (latents, image) = (folder.join("my latents.safetensors"), folder.join("image.png"));
    std::fs::write(&latents, varied_bytes(3 << 20)).expect("a file");
    let (latents, image) = (latents.to_str().expect("text"), image.to_str().expect("text"));
    let run = |arguments: &[&str]| {
        let arguments =
            [&["--api", farm.api.url()], arguments].concat().into_iter().map(str::to_owned).collect::<Vec<_>>();
        let folder = folder.clone();
        async move {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            modelyard(&folder, &arguments, SHORT).await
        }
    };
    let decode = ["--json", "vae", "decode", "small", latents, "-o", image, "--label", "nowhere", "--no-wait"];
    let job: JobView = serde_json::from_value(run(&decode).await.json()).expect("a job");
    let upload = job.args["latents"]["upload"].as_str().expect("an upload").to_owned();
    let taken: UploadView = farm.api.get(&format!("/v1/uploads/{upload}")).await;
    assert_eq!((taken.bytes, taken.name.as_deref()), (3 << 20, Some("my latents.safetensors")));
    run(&["vae", "decode", "small", "missing.safetensors"]).await.with(3);
    run(&["vae", "decode", "small", &format!("upload:{upload}"), "--tiling", "100", "--no-wait"]).await.with(2);
    run(&["generate", "small", "a cat", "--no-wait"]).await.with(8);

    drop(agent);
    farm.scheduler.process.kill().await;
    let lease = leased(&farm, job.id).await;
    commit(&farm, lease, &[artifact("image-0.png", varied_bytes(2 << 20)), artifact("image-1.png", vec![7; 9])]).await;
    let id = job.id.to_string();
    let said = run(&["jobs", "artifacts", &id]).await.with(0);
    assert!(said.contains("image-0.png") && said.contains("2.0 MiB"), "{said}");
    run(&["jobs", "artifacts", &id, "--get", "image-0.png", "-o", image]).await.with(0);
    assert!(std::fs::read(image).expect("a saved file") == varied_bytes(2 << 20));
    let said = run(&["jobs", "artifacts", &id, "--get", "image-7.png"]).await.with(3);
    assert!(said.contains("image-0.png, image-1.png"), "{said}");
    let raw = run(&["--quiet", "jobs", "artifacts", &id, "--get", "image-1.png", "-o", "-"]).await.with(0);
    assert_eq!(raw.as_bytes(), [7; 9]);
}
