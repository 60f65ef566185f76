//! Equal components are one: two files with the same tensors share a component row, its residency and its bytes.

use harness::{Farm, LONG, ModelFile, SHORT, mebibytes, wait_for};
use serde_json::json;
use shared::{
    db::jobs,
    error::ErrorCode,
    ids::{ComponentId, ModelId},
    job::{JobSpec, JobState, LoadArgs, NewJob, Target, enqueue, enqueue::Needs},
    wire::{CacheView, JobDetail, ModelStatus, Page, SharedComponent},
};

use crate::support::{bytes_move, device_is, load, load_with, loaded};

fn from(job: &JobDetail) -> String {
    let result = job.job.result.as_ref().expect("a load that succeeded has a result");
    result["components"][0]["from"].as_str().expect("every component says where it came from").to_owned()
}

#[tokio::test]
async fn files_with_equal_tensors_become_one_component_once_both_were_read() {
    let farm = Farm::start().await;
    ModelFile::vae(mebibytes(2)).write(&farm.library(), "first.safetensors");
    ModelFile::vae(mebibytes(2)).write(&farm.library(), "second.safetensors");
    ModelFile::vae(mebibytes(2)).seed(9).write(&farm.library(), "other.safetensors");
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let component = async |name: &str| farm.model(name).await.components[0].id;
    assert_ne!(component("first").await, component("second").await, "nothing is claimed before the bytes were read");

    for name in ["first", "other", "second"] {
        assert_eq!(from(&loaded(&farm, name).await), "disk");
    }
    let first = component("first").await;
    assert_eq!(component("second").await, first);
    assert_ne!(component("other").await, first);
    // the second copy goes back as soon as it is known to be one
    let each = farm.model("first").await.components[0].bytes;
    device_is(&farm, "a/cpu:0", "two different components", |view| view.resident.len() == 2).await;
    wait_for("one copy of each in RAM", SHORT, || async {
        let cache: CacheView = farm.api.get("/v1/cache").await;
        let held = cache.total.used_bytes;
        if held < 3 * each { Ok(()) } else { Err(format!("{held} bytes for two components of {each}")) }
    })
    .await;
    // what was loaded under the id of before is found under the one of now
    for name in ["first", "second"] {
        assert_eq!(from(&loaded(&farm, name).await), "device");
        let status: ModelStatus = farm.api.get(&format!("/v1/models/{name}/status")).await;
        assert!(status.absent.is_empty() && status.resident.iter().all(|there| there.component == first), "{status:?}");
    }

    let duplicates: Vec<SharedComponent> = farm.api.list("/v1/components?type=vae&duplicates=true").await;
    let [shared] = duplicates.as_slice() else { panic!("{duplicates:?}") };
    let names: Vec<&str> = shared.models.iter().map(|model| model.name.as_str()).collect();
    assert_eq!((shared.component.id, names.as_slice()), (first, ["first", "second"].as_slice()));
    assert_eq!(shared.spare_bytes, shared.component.bytes);
    assert!(shared.resident.iter().any(|there| there.device.as_deref() == Some("a/cpu:0")), "{shared:?}");
    let page: Page<SharedComponent> = farm.api.get("/v1/components?limit=1").await;
    let next = format!("/v1/components?limit=1&cursor={}", page.next_cursor.unwrap());
    let rest: Page<SharedComponent> = farm.api.get(&next).await;
    assert!(rest.next_cursor.is_none() && rest.items[0].component.id != page.items[0].component.id, "{rest:?}");
    let one: SharedComponent = farm.api.get(&format!("/v1/components/{first}")).await;
    assert_eq!(one.models.len(), 2);

    let unload = farm.api.submit("/v1/models/second/unload", json!({ "from_ram": true })).await;
    let left = farm.api.job_ended(unload.id, JobState::Succeeded, SHORT).await.job.result.unwrap();
    assert_eq!((&left["freed_bytes"], &left["stays"][0]["needed_by"]), (&json!(0), &json!(["first"])), "{left}");
    let unload = farm.api.submit("/v1/models/first/unload", json!({ "from_ram": true })).await;
    farm.api.job_ended(unload.id, JobState::Succeeded, SHORT).await;
    device_is(&farm, "a/cpu:0", "only the other one", |view| view.resident.len() == 1).await;
    let again = load(&farm, "first").await;
    assert_eq!(from(&farm.api.job_ended(again.id, JobState::Succeeded, SHORT).await), "disk");
    // a model without files takes no disk
    std::fs::remove_file(farm.library().join("second.safetensors")).unwrap();
    let scan = farm.api.submit("/v1/jobs", json!({ "kind": "scan", "target": "host:a" })).await;
    farm.api.job_ended(scan.id, JobState::Succeeded, SHORT).await;
    let duplicates: Vec<SharedComponent> = farm.api.list("/v1/components?duplicates=true").await;
    assert!(duplicates.is_empty(), "{duplicates:?}");
    farm.assert_ledger_is_clean().await;
}

/// What was loaded under an id of before is cleared, and refused, under the id that the catalogue has now.
#[tokio::test]
async fn what_leaves_ram_is_told_by_its_present_id() {
    let farm = Farm::start().await;
    ModelFile::vae(mebibytes(2)).write(&farm.library(), "first.safetensors");
    ModelFile::vae(mebibytes(2)).write(&farm.library(), "second.safetensors");
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let cached = async |name: &str| {
        let job = farm.api.submit("/v1/cache", json!({ "model": name })).await;
        farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
    };
    let cleared = async || {
        let job = farm.api.delete("/v1/cache").await.accepted();
        farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await.job.result.expect("a result")
    };
    cached("first").await;
    let first = farm.model("first").await.components[0].id;
    assert_eq!(cleared().await["evicted"], json!([first]));
    // read under an id of its own, and known to be the other one at the end of the read
    cached("second").await;
    assert_eq!(farm.model("second").await.components[0].id, first);
    let keep = |protect: bool| json!({ "kind": "cache_keep", "target": "host:a", "args": { "model": "second", "protect": protect } });
    for (protect, list) in [(true, "kept"), (false, "evicted")] {
        let job = farm.api.submit("/v1/jobs", keep(protect)).await;
        farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
        let told = cleared().await;
        let id = if protect { &told[list][0]["component"] } else { &told[list][0] };
        assert_eq!((id, told[list].as_array().map(Vec::len)), (&json!(first), Some(1)), "{told}");
        let reason = told[list][0]["reason"].as_str();
        assert!(!protect || reason.is_some_and(|reason| reason.contains(&first.to_string())), "{told}");
    }
    farm.assert_ledger_is_clean().await;
}

/// A checkpoint and a diffusers folder with the same weights hold the same components: names, fused projections and
/// transposed matrices differ in the files, the canonical bytes do not.
#[tokio::test]
async fn a_single_file_and_a_folder_of_the_same_weights_share_every_component() {
    let farm = Farm::start().await;
    let made = std::process::Command::new(harness::binary("modelyard"))
        .args(["dev", "make-models", "--arch", "sd15,sd21,sdxl,sdxl-refiner", "--layout", "both", "--out"])
        .arg(farm.library())
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    for name in ["sd15-tiny", "sd21-tiny", "sdxl-tiny", "sdxl-refiner-tiny"] {
        let folder = format!("{name}-diffusers");
        loaded(&farm, name).await;
        loaded(&farm, &folder).await;
        let parts = async |name: &str| {
            let components = farm.model(name).await.components;
            components.into_iter().map(|component| (component.kind, component.id)).collect::<Vec<_>>()
        };
        assert_eq!(parts(name).await, parts(&folder).await, "{name}");
    }
}

/// Two hosts with other bytes under one path, of which none has a digest yet: the second to end learns that its bytes are not
/// the component's, fails, and keeps nothing (G7).
#[tokio::test]
async fn bytes_that_lose_the_race_for_a_digest_do_not_stay() {
    let farm = Farm::start().await;
    let other = farm.library().with_file_name("other");
    ModelFile::vae(mebibytes(16)).write(&farm.library(), "m.safetensors");
    ModelFile::vae(mebibytes(16)).seed(9).write(&other, "m.safetensors");
    let _fast = farm.agent_with_library(farm.agent("fast")).await;
    let _slow = farm.agent_with_library(farm.agent("slow").library(&other).read_limit("4MB")).await;
    let late = load_with(&farm, "m", json!({ "target": "device:slow/cpu:0" })).await;
    bytes_move(&farm, &late).await;
    let won = load_with(&farm, "m", json!({ "target": "device:fast/cpu:0" })).await;
    farm.api.job_ended(won.id, JobState::Succeeded, SHORT).await;
    let lost = farm.api.job_ended(late.id, JobState::Failed, LONG).await;
    assert_eq!(lost.job.error.expect("an error").code, ErrorCode::Corrupt);
    device_is(&farm, "slow/cpu:0", "empty", |view| view.resident.is_empty()).await;
    device_is(&farm, "fast/cpu:0", "holds it", |view| view.resident.len() == 1).await;
    wait_for("nothing of it in RAM", SHORT, || async {
        let cache: CacheView = farm.api.get("/v1/cache").await;
        let held =
            cache.hosts.iter().filter(|host| host.host == "slow").map(|host| host.components.len()).sum::<usize>();
        if held == 0 { Ok(()) } else { Err(format!("{held} components")) }
    })
    .await;
}

/// What a component is depends on what its model is recognised as; with other rules an old digest says nothing.
#[tokio::test]
async fn a_model_that_is_recognised_as_something_else_loses_its_digests() {
    let farm = Farm::start().await;
    ModelFile::vae(mebibytes(2)).write(&farm.library(), "small.safetensors");
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    loaded(&farm, "small").await;
    let before = farm.model("small").await.components.remove(0);
    assert!(before.digest.is_some());

    // as an earlier release recorded it
    for change in ["update models set base = 'flux'", "update model_locations set stamp = null"] {
        sqlx::query(change).execute(farm.ledger.pool()).await.unwrap();
    }
    let scan = farm.api.submit("/v1/jobs", json!({ "kind": "scan", "target": "host:a" })).await;
    farm.api.job_ended(scan.id, JobState::Succeeded, SHORT).await;
    let after = farm.model("small").await.components.remove(0);
    assert!(after.id != before.id && after.digest.is_none(), "{after:?}");
    loaded(&farm, "small").await;
    assert_eq!(
        farm.model("small").await.components[0].id,
        before.id,
        "the same bytes in the same form are the same component"
    );
}

/// What an unload asks before it takes a component away: whose work has it, whatever model that work is about.
#[tokio::test]
async fn work_that_needs_a_component_is_found_beside_that_of_its_model() {
    let farm = Farm::start().await;
    let [model, other] = std::array::from_fn(|_| ModelId::generate());
    let [own, shared, foreign] = std::array::from_fn(|_| ComponentId::generate());
    // nobody else sees it: the scheduler would place what is pending
    let mut tx = farm.ledger.pool().begin().await.expect("a transaction");
    let mut made = Vec::new();
    for (of, components, state) in [
        (model, vec![], "placed"),
        (other, vec![foreign, shared], "running"),
        (other, vec![foreign], "running"),
        (other, vec![own], "pending"),
        (other, vec![own], "placed"),
    ] {
        // each about other parts, so that none joins another
        let kinds = Some(vec![format!("part-{}", made.len())]);
        let spec = JobSpec::Load(LoadArgs { model: of, components: kinds, keep_alive: None, protect: false });
        let needs = Needs { components: components.into_iter().map(|component| (component, 1)).collect() };
        let job = NewJob { needs, ..NewJob::new(spec, Target::Device("a/cpu:0".to_owned())) };
        let id = enqueue(&mut tx, job).await.expect("a job").id;
        let place = "update jobs set state = $2, device = 'a/cpu:0', host = 'a' where id = $1";
        sqlx::query(place).bind(id).bind(state).execute(&mut *tx).await.expect("a place");
        made.push(id);
    }
    let found = jobs::active_that_need(&mut *tx, model, &[own, shared]).await.expect("the jobs");
    let told: Vec<_> = found.iter().map(|(id, _, state, device)| (*id, state.as_str(), device.as_deref())).collect();
    let there = Some("a/cpu:0");
    assert_eq!(told, [(made[0], "placed", there), (made[1], "running", there), (made[4], "placed", there)]);
    assert!(found.iter().all(|(_, kind, ..)| kind == "load"), "{found:?}");
    let alone = jobs::active_that_need(&mut *tx, model, &[]).await.expect("the jobs");
    assert_eq!(alone.iter().map(|(id, ..)| *id).collect::<Vec<_>>(), [made[0]], "the model's own");
    tx.rollback().await.expect("nothing of it stays");
}
