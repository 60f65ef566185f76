//! A second process attaches: the agent's memory is its memory, for as long as its connection lives.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Instant,
};

use harness::{Daemon, FakeLibrary, Farm, ModelFile, SHORT, mebibytes, wait_for};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use shared::{
    job::JobState,
    wire::{CacheView, JobView},
};
use tempfile::TempDir;

use crate::support::{device_is, small_model};

/// The first Python that has the library: the one that `MODELYARD_PYTHON` names, the one on the path, or the system's.
#[expect(clippy::print_stdout, reason = "tests/run counts what says that it was skipped")]
fn python(library: &str) -> Option<String> {
    let has = |python: &String| {
        let import = Command::new(python).args(["-c", &format!("import {library}")]).stderr(Stdio::null()).status();
        import.is_ok_and(|status| status.success())
    };
    let of_machine = ["python3", "/usr/bin/python3"].map(str::to_owned);
    let found = std::env::var_os("MODELYARD_PYTHON")
        .and_then(|name| name.into_string().ok())
        .into_iter()
        .chain(of_machine)
        .find(has);
    if found.is_none() {
        println!("skipped: attaching from Python: `{library}` is not installed");
    }
    found
}

/// A program that is attached, or was refused.
struct Program {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Program {
    fn start(python: &str, socket: &Path, model: &str, component: &str, framework: &str) -> Self {
        Self::start_at(python, socket, [model, component, framework, "ram", ""], None)
    }

    /// Model, component, framework, tier, device; and a folder whose libraries it finds.
    fn start_at(python: &str, socket: &Path, wanted: [&str; 5], libraries: Option<&Path>) -> Self {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut command = Command::new(python);
        command.arg(tests.join("integration/attach.py")).arg(socket).args(wanted);
        command.envs(libraries.map(|folder| ("LD_LIBRARY_PATH", folder)));
        Self::run(command.env("PYTHONPATH", tests.join("../gpu-worker/attach/python")))
    }

    fn run(command: &mut Command) -> Self {
        let mut child = command
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Python starts");
        let input = child.stdin.take().expect("an input");
        let output = BufReader::new(child.stdout.take().expect("an output"));
        Self { child, input, output }
    }

    /// The next thing that it says.
    fn says(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("its output can be read");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }

    fn go_on(&mut self) {
        self.input.write_all(b"\n").expect("it listens");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // it may have ended by itself
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn attachable(farm: &Farm) -> (Daemon, PathBuf) {
    let socket = farm.library().join("../attach.sock");
    let agent = farm.agent_with_library(farm.agent("a").attach_socket(&socket)).await;
    (agent, socket)
}

/// Shape and SHA-256 by name, as the file has them.
fn in_file(path: &Path) -> BTreeMap<String, (Value, String)> {
    let bytes = fs::read(path).expect("the file");
    let header = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"))).expect("a size");
    let entries: BTreeMap<String, Value> = serde_json::from_slice(&bytes[8..8 + header]).expect("a header");
    let data = &bytes[8 + header..];
    let of = |(name, entry): (String, Value)| {
        let at =
            |index: usize| usize::try_from(entry["data_offsets"][index].as_u64().expect("an offset")).expect("fits");
        let digest = Sha256::digest(&data[at(0)..at(1)]);
        let hex = digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        (name, (entry["shape"].clone(), hex))
    };
    entries.into_iter().filter(|(name, _)| name != "__metadata__").map(of).collect()
}

async fn leases(farm: &Farm, wanted: u32) {
    wait_for(&format!("{wanted} leases"), SHORT, || async {
        let cache: CacheView = farm.api.get("/v1/cache").await;
        let held: Vec<u32> =
            cache.hosts.iter().flat_map(|host| host.components.iter().map(|entry| entry.leases)).collect();
        if held == [wanted] { Ok(()) } else { Err(format!("{held:?}")) }
    })
    .await;
}

async fn clear(farm: &Farm) -> u64 {
    let job = farm.api.submit("/v1/jobs", json!({ "kind": "cache_remove", "target": "host:a" })).await;
    let ended = farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
    ended.job.result.expect("a result")["evicted"].as_array().expect("a list").len() as u64
}

#[tokio::test]
async fn a_program_sees_the_bytes_of_the_file_and_holds_them_until_it_ends() {
    let Some(python) = python("numpy") else { return };
    let farm = Farm::start().await;
    small_model(&farm);
    let (agent, socket) = attachable(&farm).await;
    let mut first = Program::start(&python, &socket, "small", "vae", "numpy");
    let seen = first.says();
    assert_eq!(seen["was_resident"], false, "it was loaded for the program: {seen}");
    let tensors = seen["tensors"].as_object().expect("tensors");
    assert_eq!(shapes_and_hashes(&seen), of_file(&farm));
    assert!(tensors.contains_key("decoder.mid_block.attentions.0.to_q.weight"), "canonical names: {tensors:?}");
    assert_eq!(farm.model("small").await.components[0].digest, seen["digest"].as_str().map(str::to_owned));

    // the same memory for a second one; both leases count and nothing evicts it
    let mut second = Program::start(&python, &socket, "small", "", "numpy");
    assert_eq!(second.says()["was_resident"], true);
    leases(&farm, 2).await;
    names_are(&farm, "copies", named(&[&first, &second])).await;
    assert_eq!(agent.metric("modelyard_attach_leases", "").await, 2.0);
    assert_eq!(clear(&farm).await, 0);

    // one gives it back, the other dies
    second.go_on();
    assert_eq!(second.says(), json!({ "closed": true }));
    leases(&farm, 1).await;
    names_are(&farm, "copies", named(&[&first])).await;
    first.child.kill().expect("it can be killed");
    let killed = Instant::now();
    leases(&farm, 0).await;
    println!("what a killed program held was free within {:?}", killed.elapsed());
    assert_eq!(clear(&farm).await, 1);
    farm.assert_ledger_is_clean().await;
}

/// A program that keeps one array when it has closed its attachment, or has forgotten it, still has the memory: the lease goes
/// with the array.
async fn the_lease_outlives_the_attachment(python: &str, ways: &[&str]) {
    let farm = Farm::start().await;
    small_model(&farm);
    let (agent, socket) = attachable(&farm).await;
    for (tier, way) in ways.iter().flat_map(|way| [("ram", way), ("vram", way)]) {
        let mut program = Program::start_at(python, &socket, ["small", "vae", way, tier, ""], None);
        program.says();
        program.go_on();
        assert_eq!(program.says(), json!({ "closed": true }), "{way} {tier}");
        let held = async || agent.metric("modelyard_attach_leases", "").await;
        // a job of the agent, which would have heard of the connection's end long before it begins that
        let cleared = clear(&farm).await;
        if tier == "ram" {
            assert_eq!(cleared, 0, "{way}");
        } else {
            let refused = farm.api.post("/v1/models/small/unload", &json!({})).await.problem(409);
            assert!(refused.detail.contains("in use on `a/cpu:0` (1 lease)"), "{way}: {refused:?}");
        }
        assert_eq!(held().await, 1.0, "{way} {tier}");
        program.go_on();
        assert_eq!(program.says(), json!({ "let_go": true }), "{way} {tier}");
        wait_for("the lease to end", SHORT, || async {
            let leases = held().await;
            if leases == 0.0 { Ok(()) } else { Err(format!("{leases}")) }
        })
        .await;
        if tier == "ram" {
            assert_eq!(clear(&farm).await, 1, "{way}");
        } else {
            device_leases(&farm, "a/cpu:0", 0).await;
            let unload = farm.api.submit("/v1/models/small/unload", json!({})).await;
            farm.api.job_ended(unload.id, JobState::Succeeded, SHORT).await;
        }
    }
    farm.assert_ledger_is_clean().await;
}

#[tokio::test]
async fn an_array_that_outlives_its_attachment_keeps_the_lease() {
    let Some(python) = python("numpy") else { return };
    the_lease_outlives_the_attachment(&python, &["kept", "forgotten"]).await;
}

#[tokio::test]
async fn a_torch_tensor_that_outlives_its_attachment_keeps_the_lease() {
    let Some(python) = python("torch") else { return };
    the_lease_outlives_the_attachment(&python, &["kept-torch"]).await;
}

fn shapes_and_hashes(seen: &Value) -> Vec<(Value, String)> {
    let tensors = seen["tensors"].as_object().expect("tensors").values();
    let mut found: Vec<(Value, String)> =
        tensors.map(|tensor| (tensor[1].clone(), tensor[2].as_str().expect("a hash").to_owned())).collect();
    found.sort_by_key(|entry| entry.1.clone());
    found
}

fn of_file(farm: &Farm) -> Vec<(Value, String)> {
    let mut wanted: Vec<(Value, String)> = in_file(&farm.library().join("small.safetensors")).into_values().collect();
    wanted.sort_by_key(|entry| entry.1.clone());
    wanted
}

async fn device_leases(farm: &Farm, device: &str, wanted: u32) {
    device_is(farm, device, &format!("{wanted} leases"), |view| {
        view.resident.iter().map(|resident| resident.leases).collect::<Vec<_>>() == [wanted]
    })
    .await;
}

/// Waits for the names: a lease is counted a moment before it is named.
async fn names_are(farm: &Farm, copies: &str, wanted: Vec<String>) {
    wait_for("the holders by name", SHORT, || async {
        let seen = holders(farm, copies).await;
        if seen == wanted { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
}

/// Who holds the one component of `small`, as its page says: in RAM, or on devices.
async fn holders(farm: &Farm, copies: &str) -> Vec<String> {
    let component = farm.model("small").await.components[0].id;
    let seen: Value = farm.api.get(&format!("/v1/cache/components/{component}")).await;
    let named = seen[copies].as_array().expect("copies").iter().flat_map(|copy| copy["holders"].as_array());
    let mut named: Vec<String> = named.flatten().map(|name| name.as_str().expect("a name").to_owned()).collect();
    named.sort();
    named
}

fn named(programs: &[&Program]) -> Vec<String> {
    let user = rustix::process::geteuid().as_raw();
    let name = |program: &&Program| format!("attached program (pid {}, user {user})", program.child.id());
    let mut names: Vec<String> = programs.iter().map(name).collect();
    names.sort();
    names
}

/// Weights on `cpu:0`: loaded for the program, the bytes of the file, not taken away while it holds them, gone with the
/// process that holds them.
#[tokio::test]
async fn a_program_holds_weights_on_a_device() {
    let Some(python) = python("numpy") else { return };
    let farm = Farm::start().await;
    small_model(&farm);
    let (agent, socket) = attachable(&farm).await;
    let start = |device| Program::start_at(&python, &socket, ["small", "vae", "numpy", "vram", device], None);
    let mut first = start("");
    let seen = first.says();
    assert_eq!((&seen["was_resident"], &seen["device"]), (&json!(false), &json!("cpu:0")), "{seen}");
    assert_eq!(shapes_and_hashes(&seen), of_file(&farm));
    let mut second = start("cpu:0");
    assert_eq!(second.says()["was_resident"], true);
    device_leases(&farm, "a/cpu:0", 2).await;
    names_are(&farm, "on_devices", named(&[&first, &second])).await;

    // it stays while programs hold it
    let refused = farm.api.post("/v1/models/small/unload", &json!({})).await.problem(409);
    assert!(refused.detail.contains("in use on `a/cpu:0` (2 leases)"), "{refused:?}");
    second.go_on();
    assert_eq!(second.says(), json!({ "closed": true }));
    first.child.kill().expect("it can be killed");
    device_leases(&farm, "a/cpu:0", 0).await;
    let unload = farm.api.submit("/v1/models/small/unload", json!({})).await;
    farm.api.job_ended(unload.id, JobState::Succeeded, SHORT).await;

    // the device's process takes the lease with it
    let mut third = start("");
    third.says();
    device_leases(&farm, "a/cpu:0", 1).await;
    agent.kill_runner().await;
    wait_for("the lease to end", SHORT, || async {
        let leases = agent.metric("modelyard_attach_leases", "").await;
        if leases == 0.0 { Ok(()) } else { Err(format!("{leases}")) }
    })
    .await;
    let unknown = Program::start_at(&python, &socket, ["small", "", "numpy", "vram", "cuda:9"], None).says();
    assert_eq!(unknown["error"], "not_found", "{unknown}");
    farm.assert_ledger_is_clean().await;
}

/// The same over handles of the CUDA driver; the driver is the scripted one.
#[tokio::test]
async fn a_program_holds_weights_on_a_cuda_device() {
    let Some(python) = python("numpy") else { return };
    let farm = Farm::start().await;
    small_model(&farm);
    let libraries = farm.path("libraries");
    let _cuda = FakeLibrary::cuda(&libraries, "total 268435456\n");
    let socket = farm.path("attach.sock");
    let agent = farm
        .agent("a")
        .option("--device", "cuda:0")
        .environment("LD_LIBRARY_PATH", &libraries.display().to_string())
        .attach_socket(&socket);
    let _agent = farm.agent_with_library(agent).await;
    let wanted = ["small", "", "pointer", "vram", "cuda:0"];
    let mut program = Program::start_at(&python, &socket, wanted, Some(&libraries));
    let seen = program.says();
    assert_eq!(seen["device"], "cuda:0", "{seen}");
    assert_eq!(shapes_and_hashes(&seen), of_file(&farm));
    device_leases(&farm, "a/cuda:0", 1).await;
    program.go_on();
    assert_eq!(program.says(), json!({ "closed": true }));
    device_leases(&farm, "a/cuda:0", 0).await;
    // a program that cannot open the handle is told so, and holds nothing
    let blind = Program::start_at(&python, &socket, wanted, None).says();
    assert!(blind["message"].as_str().is_some_and(|message| message.contains("CUDA driver library")), "{blind}");
    device_leases(&farm, "a/cuda:0", 0).await;
}

/// A program that leaves while its load is under way holds its place at the socket no longer than that.
#[tokio::test]
async fn a_program_that_leaves_while_it_waits_is_forgotten_at_once() {
    let Some(python) = python("numpy") else { return };
    let farm = Farm::start().await;
    ModelFile::checkpoint(mebibytes(32), mebibytes(1), mebibytes(1)).write(&farm.library(), "all.safetensors");
    let socket = farm.path("attach.sock");
    let agent = farm.agent_with_library(farm.agent("a").attach_socket(&socket).read_limit("1MiB")).await;
    let connections = async |wanted: f64| {
        wait_for(&format!("{wanted} connections"), SHORT, || async {
            let seen = agent.metric("modelyard_attach_connections", "").await;
            if seen == wanted { Ok(()) } else { Err(format!("{seen}")) }
        })
        .await;
    };
    let mut program = Program::start(&python, &socket, "all", "unet", "numpy");
    let load = wait_for("the load", SHORT, || async {
        let jobs: Vec<JobView> = farm.api.list("/v1/jobs?kind=cache_add&state=running").await;
        jobs.into_iter().next().ok_or_else(|| "none runs".to_owned())
    })
    .await;
    connections(1.0).await;
    program.child.kill().expect("it can be killed");
    connections(0.0).await;
    // others may have joined the load: it goes on
    assert_eq!(farm.api.job(load.id).await.job.state, JobState::Running);
    farm.api.cancel(load.id).await;
    farm.api.job_ended(load.id, JobState::Cancelled, SHORT).await;
    farm.assert_ledger_is_clean().await;
}

#[tokio::test]
async fn torch_tensors_are_the_same_bytes() {
    let Some(python) = python("torch") else { return };
    let farm = Farm::start().await;
    ModelFile::checkpoint(mebibytes(2), mebibytes(1), mebibytes(1)).write(&farm.library(), "all.safetensors");
    let (_agent, socket) = attachable(&farm).await;
    let mut numpy = Program::start(&python, &socket, "all", "unet", "numpy");
    let mut torch = Program::start(&python, &socket, "all", "unet", "torch");
    let hashes = |seen: Value| -> BTreeMap<String, Value> {
        let tensors = seen["tensors"].as_object().expect("tensors").clone();
        tensors.into_iter().map(|(name, tensor)| (name, json!([tensor[1], tensor[2]]))).collect()
    };
    assert_eq!(hashes(torch.says()), hashes(numpy.says()));
}

#[tokio::test]
async fn what_cannot_be_attached_says_why() {
    let Some(python) = python("numpy") else { return };
    let farm = Farm::start().await;
    ModelFile::checkpoint(mebibytes(1), mebibytes(1), mebibytes(1)).write(&farm.library(), "all.safetensors");
    let (agent, socket) = attachable(&farm).await;
    for (model, component, code, said) in [
        ("none", "", "not_found", "no model `none`"),
        ("all", "", "invalid_argument", "text_encoder"),
        ("all", "lora", "not_found", "it has"),
    ] {
        let answer = Program::start(&python, &socket, model, component, "numpy").says();
        assert_eq!(answer["error"], code, "{answer}");
        assert!(answer["message"].as_str().is_some_and(|message| message.contains(said)), "{answer}");
    }
    assert_eq!(agent.metric("modelyard_attach_requests_total", "answer=\"refused\"").await, 3.0);
    drop(agent);
    let gone = Program::start(&python, &socket, "all", "unet", "numpy").says();
    assert_eq!(gone["error"], "unavailable", "{gone}");
}

/// A user that is neither root nor the agent's.
const NOBODY: &str = "65534";

/// A program of this user, which has nothing of root's but what is open to all.
fn as_user(user: &str, program: &str) -> Command {
    let mut setpriv = Command::new("setpriv");
    setpriv.args(["--reuid", user, "--regid", user, "--clear-groups", "--", program]).current_dir("/");
    setpriv
}

/// A Python that another user may run and that has the library; none where that cannot be.
#[expect(clippy::print_stdout, reason = "tests/run counts what says that it was skipped")]
fn python_of_others(library: &str) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: attaching as another user: only root can become one");
        return None;
    }
    let has = |python: &&str| {
        let import = as_user(NOBODY, python).args(["-c", &format!("import {library}")]).stderr(Stdio::null()).status();
        import.is_ok_and(|status| status.success())
    };
    let found = ["python3", "/usr/bin/python3"].into_iter().find(has);
    if found.is_none() {
        println!(
            "skipped: attaching as another user: no Python runs through `setpriv` as user {NOBODY} and has `{library}`"
        );
    }
    found.map(str::to_owned)
}

/// A folder that others may enter: the farm's own is closed to them.
fn open_folder() -> TempDir {
    let open = tempfile::Builder::new().prefix("modelyard-attach-").tempdir().expect("a folder");
    fs::set_permissions(open.path(), fs::Permissions::from_mode(0o755)).expect("a folder that others may enter");
    open
}

/// What a program of this user says that only connects.
fn refused(python: &str, user: &str, socket: &Path) -> String {
    let program = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); \
                   sys.stdout.buffer.write(s.makefile('rb').read())";
    let output = as_user(user, python).args(["-c", program]).arg(socket).output().expect("it runs");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test]
async fn programs_of_other_users_are_refused() {
    let Some(python) = python_of_others("socket") else { return };
    let (farm, open) = (Farm::start().await, open_folder());
    let socket = open.path().join("attach.sock");
    let _agent = farm.start_agent(farm.agent("a").attach_socket(&socket)).await;
    let said = refused(&python, NOBODY, &socket);
    assert!(said.contains("forbidden") && said.contains(NOBODY), "{said}");
}

/// The program and the client that it uses, where others may read them; the program's path.
fn client_for_others(folder: &Path) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let package = folder.join("modelyard");
    fs::create_dir(&package).expect("a folder");
    fs::set_permissions(&package, fs::Permissions::from_mode(0o755)).expect("a folder that others may enter");
    let copied = |from: &Path, to: PathBuf| {
        fs::copy(from, &to).expect("a copy");
        fs::set_permissions(&to, fs::Permissions::from_mode(0o644)).expect("a file that others may read");
        to
    };
    for file in fs::read_dir(tests.join("../gpu-worker/attach/python/modelyard")).expect("the client").flatten() {
        if file.path().extension().is_some_and(|extension| extension == "py") {
            copied(&file.path(), package.join(file.file_name()));
        }
    }
    copied(&tests.join("integration/attach.py"), folder.join("attach.py"))
}

/// A user that the agent was told of attaches as its own do, and is named as who it is; another one is refused all the same.
#[tokio::test]
async fn programs_of_a_named_user_attach() {
    let Some(python) = python_of_others("numpy") else { return };
    let (farm, open) = (Farm::start().await, open_folder());
    small_model(&farm);
    let socket = open.path().join("attach.sock");
    let settings = farm.agent("a").attach_socket(&socket).option("--attach-user", NOBODY);
    let _agent = farm.agent_with_library(settings).await;
    let mut command = as_user(NOBODY, &python);
    command.arg(client_for_others(open.path())).arg(&socket).args(["small", "vae", "numpy", "ram", ""]);
    let mut program = Program::run(&mut command);
    assert_eq!(shapes_and_hashes(&program.says()), of_file(&farm));
    leases(&farm, 1).await;
    names_are(&farm, "copies", vec![format!("attached program (pid {}, user {NOBODY})", program.child.id())]).await;
    let said = refused(&python, "65533", &socket);
    assert!(said.contains("forbidden") && said.contains("65533"), "{said}");
    program.go_on();
    assert_eq!(program.says(), json!({ "closed": true }));
    leases(&farm, 0).await;
}
