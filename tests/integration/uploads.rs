//! Uploads: what is taken, what is refused before or while it comes, and how long it stays.

use std::time::Duration;

use harness::{Farm, LONG, SHORT, wait_for};
use reqwest::{Body, Method};
use serde_json::json;
use shared::{error::ErrorCode, job::JobState, wire::UploadView};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{small_model, uploaded, varied_bytes, waiting_decode};

async fn nothing_is_stored(farm: &Farm) {
    wait_for("the bytes to be removed", SHORT, || async {
        let rows = farm.ledger.number("select count(*) from blobs").await;
        if rows == 0 { Ok(()) } else { Err(format!("{rows} blobs")) }
    })
    .await;
}

#[tokio::test]
async fn an_upload_is_described_and_stays_while_a_job_works_on_it() {
    let farm = Farm::start().await;
    small_model(&farm);
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    // rows of 1 MiB: two and a half
    let bytes = varied_bytes((5 << 20) / 2);
    let request = farm.api.request(Method::POST, "/v1/uploads?name=my%20latents.safetensors");
    let answer = farm.api.send(request.header("content-type", "application/vnd.safetensors").body(bytes.clone())).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let upload: UploadView = answer.json();
    let path = format!("/v1/uploads/{}", upload.id);
    assert_eq!(answer.header("location"), Some(path.as_str()));
    assert_eq!((upload.bytes, upload.media_type.as_str()), (bytes.len() as u64, "application/vnd.safetensors"));
    assert_eq!(upload.name.as_deref(), Some("my latents.safetensors"));
    assert_eq!(farm.ledger.number("select count(*) from blob_chunks").await, 3);

    let job = waiting_decode(&farm, json!({ "upload": upload.id })).await;
    let seen: UploadView = farm.api.get(&path).await;
    assert_eq!((seen.used_by, seen.blake3), (vec![job.id], upload.blake3));
    let refused = farm.api.delete(&path).await.problem(409);
    assert!(refused.detail.contains(&job.id.to_string()) && refused.hint.is_some(), "{refused:?}");

    farm.api.cancel(job.id).await;
    assert_eq!(farm.api.delete(&path).await.status, 204);
    farm.api.ask(&path).await.problem(404);
    let gone = json!({ "model": "small", "latents": { "upload": upload.id } });
    farm.api.post("/v1/vae/decode", &gone).await.problem(404);
    // what the cancelled job was asked to do cannot be done again
    farm.api.post(&format!("/v1/jobs/{}/retry", job.id), &json!({})).await.problem(404);
    nothing_is_stored(&farm).await;
}

/// Refusals come before the bytes where the client says how many there are, and leave nothing behind.
#[tokio::test]
async fn what_is_too_much_is_refused_and_leaves_nothing() {
    let limits = ["--upload-limit", "1MiB", "--uploads-total", "3MiB"].map(str::to_owned);
    let farm = Farm::builder().with(|settings| settings.api_arguments = limits.to_vec()).start().await;
    let post = |path: &str| farm.api.request(Method::POST, path);

    // announced: answered although not one byte of the body is sent
    let mut stream = TcpStream::connect(farm.api.url().trim_start_matches("http://")).await.expect("a connection");
    let head = "POST /v1/uploads HTTP/1.1\r\nhost: x\r\ncontent-length: 10737418240\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("a request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an answer, and the end of the connection");
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("connection: close"), "{answer}");
    assert!(answer.contains("1.0 MiB"), "{answer}");

    // not announced: refused once it is too much
    let pieces = (0..40).map(|_| Ok::<_, std::io::Error>(vec![1u8; 64 << 10]));
    let stream = Body::wrap_stream(futures::stream::iter(pieces));
    match farm.api.try_send(post("/v1/uploads").body(stream)).await {
        Ok(answer) => drop(answer.problem(413)),
        // the server ends the connection, which a client that still writes may see first
        Err(error) => assert!(error.is_request() || error.is_body(), "{error:?}"),
    }
    nothing_is_stored(&farm).await;

    let problem = farm.api.send(post("/v1/uploads").body(Vec::new())).await.problem(400);
    assert!(problem.detail.contains("empty"), "{problem:?}");
    for path in ["/v1/uploads?name=a%00b", "/v1/uploads?name=..%2Fa", "/v1/uploads?blake3=abc", "/v1/uploads?nam=a"] {
        farm.api.send(post(path).body("x")).await.problem(400);
    }
    let hash = "0".repeat(64);
    let problem = farm.api.send(post(&format!("/v1/uploads?blake3={hash}")).body("x")).await.problem(400);
    assert!(problem.errors.iter().any(|fault| fault.pointer == "blake3"), "{problem:?}");
    nothing_is_stored(&farm).await;

    for _ in 0..3 {
        uploaded(&farm, varied_bytes(1 << 20)).await;
    }
    let problem = farm.api.send(post("/v1/uploads").body("one more")).await.problem(507);
    assert_eq!(problem.code, ErrorCode::InsufficientCapacity);
    assert!(problem.hint.is_some(), "{problem:?}");
    wait_for("the gauge", SHORT, || async {
        let bytes = farm.scheduler.metric("modelyard_stored_bytes", "what=\"upload\"").await;
        if bytes == f64::from(3 << 20) { Ok(()) } else { Err(format!("{bytes}")) }
    })
    .await;
}

/// An upload whose client goes away in the middle is removed.
#[tokio::test]
async fn a_broken_upload_leaves_nothing() {
    let farm = Farm::start().await;
    let mut stream = TcpStream::connect(farm.api.url().trim_start_matches("http://")).await.expect("a connection");
    let head = "POST /v1/uploads HTTP/1.1\r\nhost: x\r\ncontent-length: 3145728\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("a request");
    stream.write_all(&varied_bytes(2 << 20)).await.expect("two thirds of a body");
    wait_for("a row to be there", SHORT, || async {
        let rows = farm.ledger.number("select count(*) from blob_chunks").await;
        if rows > 0 { Ok(()) } else { Err("none".into()) }
    })
    .await;
    drop(stream);
    nothing_is_stored(&farm).await;
}

/// Expiry is the scheduler's duty; what an active job works on outlives it.
#[tokio::test]
async fn expired_uploads_go_and_used_ones_stay_until_their_jobs_end() {
    let keep = ["--keep-uploads", "1"].map(str::to_owned);
    let farm = Farm::builder().with(|settings| settings.api_arguments = keep.to_vec()).start().await;
    small_model(&farm);
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let used = uploaded(&farm, varied_bytes(1000)).await;
    let job = waiting_decode(&farm, json!({ "upload": used.id })).await;
    let unused = uploaded(&farm, varied_bytes(2000)).await;
    let gone = |id| {
        let path = format!("/v1/uploads/{id}");
        let farm = &farm;
        wait_for("an upload to go", LONG, move || {
            let path = path.clone();
            async move {
                match farm.api.ask(&path).await.status {
                    404 => Ok(()),
                    status => Err(format!("{status}")),
                }
            }
        })
    };
    gone(unused.id).await;
    let there: UploadView = farm.api.get(&format!("/v1/uploads/{}", used.id)).await;
    assert!(
        there.expires_at < chrono::Utc::now() + chrono::TimeDelta::from_std(Duration::from_secs(1)).expect("a second")
    );
    farm.api.cancel(job.id).await;
    farm.api.job_ended(job.id, JobState::Cancelled, SHORT).await;
    gone(used.id).await;
    assert!(farm.scheduler.metric("modelyard_stored_removed_total", "what=\"upload\"").await >= 2.0);
    nothing_is_stored(&farm).await;
}
