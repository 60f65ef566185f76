//! Starts that must be refused: each says what is wrong and has its exit code.

use harness::{Clock, Farm, Process, SHORT, Server, binary};
use tempfile::TempDir;

/// Exit code and output of a program that is started with this environment and ends.
async fn run(program: &str, arguments: &[&str], environment: &[(&str, String)]) -> (Option<i32>, String) {
    let folder = TempDir::new().expect("a temporary folder");
    let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let log = folder.path().join("log");
    let mut process = Process::start(program, &binary(program), &arguments, environment, &Clock::True, &log);
    let status = process.ended(SHORT).await;
    (status.code(), process.output() + &process.log())
}

/// Every daemon with the arguments that it needs beside the stores.
const DAEMONS: [(&str, &[&str]); 3] = [
    ("modelyard-api", &["--listen", "127.0.0.1:0", "--store-wait", "0.3"]),
    ("modelyard-scheduler", &["--store-wait", "0.3"]),
    ("gpu-worker", &["agent", "--host", "a", "--device", "cpu:0", "--cpu-memory", "16MiB", "--store-wait", "0.3"]),
];

#[tokio::test]
async fn postgres_down_at_start_is_exit_7_and_says_which_store() {
    let folder = TempDir::new().expect("a temporary folder");
    let url = format!("postgres://someone:secret@localhost/db?host={}&port=5999", folder.path().display());
    for (program, arguments) in DAEMONS {
        let (code, said) = run(program, arguments, &[("DATABASE_URL", url.clone())]).await;
        assert_eq!(code, Some(7), "{program}: {said}");
        assert!(said.contains("Postgres") && !said.contains("secret"), "{program}: {said}");
    }
    let (code, said) = run("modelyard", &["migrate"], &[("DATABASE_URL", url)]).await;
    assert_eq!(code, Some(7), "{said}");
}

#[tokio::test]
async fn a_wrong_address_is_exit_2_or_7() {
    let farm = Farm::start().await;
    let wrong_password = farm.database_url().replacen("modelyard:", "modelyard:x", 1);
    let no_database = farm.database_url().replacen("/farm_", "/nofarm_", 1);
    for (program, arguments) in DAEMONS {
        for url in ["nonsense", "mysql://localhost/db"] {
            let (code, said) = run(program, arguments, &[("DATABASE_URL", url.to_owned())]).await;
            assert_eq!(code, Some(2), "{program} {url}: {said}");
            assert!(said.contains("postgres://"), "says what is expected: {said}");
        }
        for url in [&wrong_password, &no_database] {
            let (code, said) = run(program, arguments, &[("DATABASE_URL", url.clone())]).await;
            assert_eq!(code, Some(7), "{program}: {said}");
            assert!(said.contains("Postgres"), "{program}: {said}");
        }
        let (code, said) = run(program, arguments, &[]).await;
        assert_eq!(code, Some(2), "{program} without an address: {said}");
        // the scheduler does without Redis
        if program != "modelyard-scheduler" {
            let bad_redis = [("DATABASE_URL", farm.database_url().to_owned()), ("REDIS_URL", "nonsense".to_owned())];
            let (code, said) = run(program, arguments, &bad_redis).await;
            assert_eq!(code, Some(2), "{program}: {said}");
        }
    }
}

#[tokio::test]
async fn a_database_without_the_schema_is_exit_7_and_names_the_command() {
    let farm = Farm::start().await;
    let url = farm.server.empty_database().await;
    for (program, arguments) in DAEMONS {
        let (code, said) = run(program, arguments, &[("DATABASE_URL", url.clone())]).await;
        assert_eq!(code, Some(7), "{program}: {said}");
        assert!(said.contains("modelyard migrate"), "{program}: {said}");
    }
    for _ in 0..2 {
        let (code, said) = run("modelyard", &["migrate"], &[("DATABASE_URL", url.clone())]).await;
        assert_eq!(code, Some(0), "{said}");
    }
    let mut process = {
        let folder = farm.path("migrated");
        let log = folder.with_extension("log");
        let ready = farm.path("migrated.json");
        let arguments = ["--ready-file".to_owned(), ready.display().to_string()];
        let environment = [("DATABASE_URL", url)];
        let process =
            Process::start("scheduler", &binary("modelyard-scheduler"), &arguments, &environment, &Clock::True, &log);
        harness::wait_for("the scheduler to serve", SHORT, || async {
            if ready.exists() { Ok(()) } else { Err("no ready file".into()) }
        })
        .await;
        process
    };
    process.signal(rustix::process::Signal::TERM);
    assert_eq!(process.ended(SHORT).await.code(), Some(0));
}

#[tokio::test]
async fn a_public_address_without_a_token_is_refused() {
    let farm = Farm::start().await;
    let environment = [("DATABASE_URL", farm.database_url().to_owned())];
    let (code, said) = run("modelyard-api", &["--listen", "0.0.0.0:0"], &environment).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("--auth-token-file") && said.contains("--insecure-no-auth"), "{said}");
}

#[tokio::test]
async fn a_token_guards_everything_but_health() {
    let folder = TempDir::new().expect("a temporary folder");
    let file = folder.path().join("token");
    std::fs::write(&file, "correct-horse-battery-staple\n").expect("a write");
    let arguments = vec!["--auth-token-file".to_owned(), file.display().to_string()];
    let farm = Farm::builder().with(|settings| settings.api_arguments = arguments).start().await;
    let answer = farm.api.ask("/v1/models").await;
    assert!(answer.header("www-authenticate").is_some());
    answer.problem(401);
    let with = |token: &'static str| farm.api.request(reqwest::Method::GET, "/v1/models").bearer_auth(token);
    farm.api.send(with("wrong")).await.problem(401);
    assert_eq!(farm.api.send(with("correct-horse-battery-staple")).await.status, 200);
    assert_eq!(farm.api.ask("/livez").await.status, 200);
}

#[tokio::test]
async fn configuration_files_are_read_and_unknown_keys_refused() {
    let folder = TempDir::new().expect("a temporary folder");
    let file = folder.path().join("c.toml");
    let path = file.display().to_string();
    for (program, arguments) in DAEMONS {
        std::fs::write(&file, "databse-url = \"postgres://x/y\"\n").expect("a write");
        let (code, said) = run(
            program,
            &[arguments, &["--config", &path]].concat(),
            &[("DATABASE_URL", "postgres://localhost/x".into())],
        )
        .await;
        assert_eq!(code, Some(2), "{program}: {said}");
        assert!(said.contains("databse-url") && said.contains("database-url"), "{program}: {said}");
    }
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let farm = Farm::start().await;
    let taken = farm.api.url().trim_start_matches("http://").to_owned();
    let environment = [("DATABASE_URL", farm.database_url().to_owned())];
    let (code, said) = run("modelyard-api", &["--listen", &taken], &environment).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&taken), "{said}");
}

/// The shared server of the tests really is made for them alone.
#[tokio::test]
async fn private_stores_listen_on_no_network() {
    let farm = Farm::start().await;
    let server: &Server = &farm.server;
    let pids = [server.with(|postgres| postgres.pid()), farm.redis.pid()];
    for pid in pids.into_iter().flatten() {
        let sockets: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
            .expect("its descriptors can be read")
            .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
            .map(|link| link.to_string_lossy().into_owned())
            .filter_map(|link| Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
            .collect();
        for table in ["tcp", "tcp6"] {
            let text = std::fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
            let listens = text.lines().any(|line| {
                let fields: Vec<&str> = line.split_whitespace().collect();
                fields.get(3) == Some(&"0A")
                    && fields.get(9).is_some_and(|inode| sockets.iter().any(|socket| socket == inode))
            });
            assert!(!listens, "pid {pid} listens on {table}");
        }
    }
}
