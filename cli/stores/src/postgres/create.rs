//! Makes an instance: identity, password, `initdb`, the database. Done aside and put in place by the record, so that an
//! interrupted first start leaves nothing that looks finished.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    process::{Command, Stdio},
};

use super::{NAME, Record};
use crate::{
    Options, StoresError,
    binaries::{Found, find_postgres},
    files,
    identity::{Life, RunAs},
};

const RECORD: &str = "instance.json";

/// The record of the instance in `home`, once it is complete.
pub(super) fn read(home: &Path) -> Result<Option<Record>, StoresError> {
    let Some(record) = files::read_record::<Record>(&home.join(RECORD))? else { return Ok(None) };
    let path = home.join("data/PG_VERSION");
    let text = fs::read_to_string(&path).map_err(|source| StoresError::file("read", &path, source))?;
    let major = text.trim().parse().unwrap_or(record.major);
    Ok(Some(Record { major, ..record }))
}

/// Makes the instance.
pub(super) fn create(home: &Path, options: Options) -> Result<(Record, Found), StoresError> {
    let server = find_postgres()?;
    files::folder(home, 0o711)?;
    let record = Record {
        major: server.major,
        port: random_port()?,
        password: files::random_hex(24)?,
        run_as: RunAs::choose(home, &["postgres"])?,
        sockets: files::socket_folder(home, ".s.PGSQL.65535")?,
        durable: options.durable,
    };
    let data = home.join("data");
    // without a record, data here is the rest of a first start that was interrupted
    if data.exists() {
        fs::remove_dir_all(&data).map_err(|source| StoresError::file("remove", &data, source))?;
    }
    files::folder(&data, 0o700)?;
    record.run_as.own(&data)?;
    initdb(home, &data, &server, &record)?;
    make_database(&data, &server, &record)?;
    files::write_record(&home.join(RECORD), &record)?;
    Ok((record, server))
}

fn initdb(home: &Path, data: &Path, server: &Found, record: &Record) -> Result<(), StoresError> {
    // a pipe cannot be opened again after the change of user; a file of that user can
    let password_file = home.join("password");
    files::write_private(&password_file, record.password.as_bytes())?;
    record.run_as.own(&password_file)?;
    let mut command = record.run_as.command(&server.sibling("initdb"), Life::Work);
    command.arg("--pgdata").arg(data).arg("--pwfile").arg(&password_file).arg(format!("--username={NAME}")).args([
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C.UTF-8",
        "--data-checksums",
    ]);
    if !record.durable {
        command.arg("--no-sync");
    }
    let outcome = run(&mut command, "initdb", "");
    fs::remove_file(&password_file).map_err(|source| StoresError::file("remove", &password_file, source))?;
    outcome
}

/// Single-user mode needs neither a running server nor a client program.
fn make_database(data: &Path, server: &Found, record: &Record) -> Result<(), StoresError> {
    let mut command = record.run_as.command(&server.program, Life::Work);
    command.arg("--single").arg("-D").arg(data);
    if !record.durable {
        command.arg("-F");
    }
    command.arg("postgres");
    run(&mut command, "postgres --single", &format!("create database {NAME}\n"))
}

/// Runs a program to its end with this input; its last words go into the error.
fn run(command: &mut Command, name: &str, input: &str) -> Result<(), StoresError> {
    let failed =
        |tail: String, source: Option<io::Error>| StoresError::Program { program: name.to_owned(), tail, source };
    command.current_dir("/").env("LC_ALL", "C").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| failed(String::new(), Some(error)))?;
    if let Some(mut stdin) = child.stdin.take() {
        // a program that has ended already says why below
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| failed(String::new(), Some(error)))?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // single-user mode exits 0 even when a statement failed
    if output.status.success() && !said.contains("ERROR:") {
        return Ok(());
    }
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    Err(failed(lines.get(lines.len().saturating_sub(8)..).unwrap_or_default().join("\n"), None))
}

fn random_port() -> Result<u16, StoresError> {
    let digits = files::random_hex(2)?;
    let number = u16::from_str_radix(&digits, 16).unwrap_or_default();
    Ok(10_000 + number % 50_000)
}
