//! What people read in `--help`, and that `deploy/run` knows the options it hands over.
#![expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]

use std::collections::BTreeSet;

use clap::{Command, CommandFactory};
use modelyard::args::Cli;

/// The help of a command and of everything below it; what is the same for all commands is kept once.
fn helps(command: &mut Command, path: &str, texts: &mut Vec<String>) {
    let name = format!("{path} {}", command.get_name()).trim().to_owned();
    let text = command.clone().bin_name(&name).term_width(100).render_long_help().to_string();
    let own = if path.is_empty() { text.as_str() } else { text.split("Global options:").next().unwrap_or_default() };
    let lines: Vec<&str> = own.trim_end().lines().map(str::trim_end).collect();
    texts.push(format!("$ {name} --help\n\n{}", lines.join("\n")));
    for below in command.get_subcommands_mut() {
        // the tools of `dev` are described where they are written
        if !matches!(below.get_name(), "help" | "dev") {
            helps(below, &name, texts);
        }
    }
}

#[test]
fn help_says_what_it_said() {
    let mut command = Cli::command();
    command.build();
    let mut texts = Vec::new();
    helps(&mut command, "", &mut texts);
    insta::assert_snapshot!("help", texts.join("\n\n"));
}

/// `flags='…'` or `options='…'` of the script.
fn listed(script: &str, list: &str) -> BTreeSet<String> {
    let line = script.lines().find_map(|line| line.strip_prefix(&format!("{list}='"))).unwrap();
    line.trim_end_matches('\'').split(' ').filter(|word| word.starts_with("--")).map(str::to_owned).collect()
}

#[test]
fn deploy_run_knows_the_options_of_up() {
    let script = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/run")).unwrap();
    let mut command = Cli::command();
    command.build();
    let up = command.find_subcommand("up").unwrap();
    let (mut flags, mut options) = (BTreeSet::new(), BTreeSet::new());
    for argument in up.get_arguments().filter(|argument| !argument.is_hide_set()) {
        let Some(name) = argument.get_long().filter(|name| !matches!(*name, "help" | "version")) else { continue };
        let list = if argument.get_action().takes_values() { &mut options } else { &mut flags };
        list.insert(format!("--{name}"));
    }
    assert_eq!(listed(&script, "flags"), flags);
    assert_eq!(listed(&script, "options"), options);
}
