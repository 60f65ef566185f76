//! The house rules as a test: reads sources and manifests, and says for each breach where it is and what to do.
//! A rule lives in one function of `rules/`; its exceptions are lists beside it, each entry with its reason.

mod manifest;
mod rules;
mod source;

use std::path::PathBuf;

/// One breach.
#[derive(Debug)]
struct Finding {
    place: String,
    what: String,
}

impl Finding {
    fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self { place: place.into(), what: what.into() }
    }

    fn at(file: &source::Source, line: usize, what: impl Into<String>) -> Self {
        Self::new(format!("{}:{}", file.path, line + 1), what)
    }
}

/// The repository's root.
fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lie below the root").to_path_buf()
}

#[track_caller]
fn assert_none(findings: Vec<Finding>) {
    let text: Vec<String> = findings.iter().map(|finding| format!("  {}: {}", finding.place, finding.what)).collect();
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), text.join("\n"));
}

#[test]
fn every_source_file_says_what_it_owns_and_stays_short() {
    assert_none(rules::files::headers(&source::all()));
    assert_none(rules::files::lengths(&source::all()));
}

#[test]
fn nothing_unfinished_is_left_in_the_sources() {
    assert_none(rules::files::unfinished(&source::all()));
}

#[test]
fn packages_depend_in_the_allowed_directions_only() {
    assert_none(rules::packages::directions(&manifest::members()));
}

#[test]
fn dependencies_are_named_once_used_and_present_in_one_version() {
    assert_none(rules::packages::inherited(&manifest::members()));
    assert_none(rules::packages::unused(&manifest::workspace(), &manifest::members()));
    assert_none(rules::packages::unnamed(&manifest::members(), &source::all()));
    assert_none(rules::packages::locked(&manifest::lock()));
}

#[test]
fn sql_redis_apalis_and_unsafe_stay_in_their_places() {
    assert_none(rules::places::crates(&source::all(), &manifest::members()));
    assert_none(rules::places::unsafe_blocks(&source::all()));
}

#[test]
fn what_lies_in_shared_has_two_users() {
    assert_none(rules::places::shared_users(&source::all()));
}

#[test]
fn migrations_are_numbered_without_gaps_and_never_edited() {
    assert_none(rules::folders::migrations());
}

#[test]
fn the_readme_names_every_top_level_folder() {
    assert_none(rules::folders::readme());
}
