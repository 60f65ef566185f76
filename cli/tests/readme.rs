//! The commands of the README are commands of the program, with options that they have.

use std::{fs, process::Command};

use clap::Parser;
use modelyard::args::Cli;
use tempfile::TempDir;

/// A shell reads the lines, so that quotes, comments, substitutions and `&&` mean what they mean to whoever copies them; in place of the
/// program it writes the arguments down, each command's closed by an empty line.
const WRITTEN: &str = r#"modelyard() { for word in "$@"; do printf '%s\n' "$word" >&3; done; echo >&3; }"#;

#[test]
fn every_command_of_the_readme_is_understood() {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    let blocks = readme.split("```").skip(1).step_by(2).filter_map(|block| block.strip_prefix("sh\n"));
    let lines: Vec<&str> = blocks.flat_map(str::lines).filter(|line| line.starts_with("modelyard ")).collect();
    let folder = TempDir::new().unwrap();
    let script = format!("exec 3>words\n{WRITTEN}\n{}\n", lines.join("\n"));
    let ran = Command::new("sh").args(["-eu", "-c", &script]).current_dir(folder.path()).status().unwrap();
    assert!(ran.success(), "{ran}");
    let written = fs::read_to_string(folder.path().join("words")).unwrap();
    // what stands for an id there
    let named = |word| if word == "JOB" { "01ARZ3NDEKTSV4RRFFQ69G5FAV" } else { word };
    let commands: Vec<Vec<&str>> =
        written.split_terminator("\n\n").map(|words| words.lines().map(named).collect()).collect();
    assert!(lines.len() > 30 && commands.len() >= lines.len(), "{commands:?}");
    for words in commands {
        let parsed = Cli::try_parse_from(std::iter::once("modelyard").chain(words.iter().copied()));
        assert!(parsed.is_ok(), "`modelyard {}`: {}", words.join(" "), parsed.err().unwrap());
    }
}
