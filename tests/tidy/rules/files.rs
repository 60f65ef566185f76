//! Rules about single files: the header, the length, nothing unfinished.

use crate::{Finding, source::Source};

/// Longest file.
const MAX_LINES: usize = 600;

/// Every file begins by saying what it owns.
pub(crate) fn headers(sources: &[Source]) -> Vec<Finding> {
    let bare = |file: &&Source| {
        file.text.lines().next().is_none_or(|line| line.trim_end().len() < 10 || !line.starts_with("//! "))
    };
    let finding = |file: &Source| Finding::at(file, 0, "begin the file with `//! ` and what it owns");
    sources.iter().filter(bare).map(finding).collect()
}

/// No file is too long to be read at once.
pub(crate) fn lengths(sources: &[Source]) -> Vec<Finding> {
    let long = sources.iter().map(|file| (file, file.text.lines().count())).filter(|(_, lines)| *lines > MAX_LINES);
    long.map(|(file, lines)| Finding::at(file, 0, format!("{lines} lines: split it by role ({MAX_LINES} at most)")))
        .collect()
}

/// Neither code nor comments put something off.
pub(crate) fn unfinished(sources: &[Source]) -> Vec<Finding> {
    let macros = ["todo", "unimplemented", "dbg"].map(|name| format!("{name}!"));
    let words = [["TO", "DO"], ["FIX", "ME"], ["XX", "X:"], ["HA", "CK"]].map(|parts| parts.concat());
    let phrases = [["for ", "now"], ["place", "holder"], ["not yet ", "implemented"]].map(|parts| parts.concat());
    let mut findings = Vec::new();
    for file in sources {
        for (number, line) in file.code().iter().enumerate() {
            if let Some(name) = macros.iter().find(|name| holds_word(line, name)) {
                findings.push(Finding::at(file, number, format!("`{name}`: finish it or return an error")));
            }
        }
        for (number, line) in file.text.lines().enumerate() {
            let Some(comment) = comment_of(line) else { continue };
            let lower = comment.to_lowercase();
            let word = words.iter().find(|word| holds_word(comment, word));
            if let Some(word) = word.or_else(|| phrases.iter().find(|phrase| holds_word(&lower, phrase))) {
                findings.push(Finding::at(file, number, format!("`{word}`: do it, or say what holds and why")));
            }
        }
    }
    findings
}

fn comment_of(line: &str) -> Option<&str> {
    let at = line.find("//")?;
    let before = line.get(..at)?;
    // an address in a string is no comment
    (!before.ends_with(':') && before.matches('"').count().is_multiple_of(2)).then(|| line.get(at..))?
}

/// True when `text` holds `word` with no letters around it.
fn holds_word(text: &str, word: &str) -> bool {
    let letter = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    text.match_indices(word).any(|(at, _)| {
        let (before, after) = (text.get(..at).unwrap_or_default(), text.get(at + word.len()..).unwrap_or_default());
        !letter(before.chars().next_back()) && !letter(after.chars().next())
    })
}

#[test]
fn words_are_found_whole_and_addresses_are_no_comments() {
    assert!(holds_word("// HACK: x", "HACK") && !holds_word("SHACKLE", "HACK"));
    assert_eq!(comment_of("let a = \"http://x\";"), None);
    assert_eq!(comment_of("f(); // why"), Some("// why"));
}
