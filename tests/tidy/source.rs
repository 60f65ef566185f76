//! Rust sources of the workspace, and their code without comments and strings.

use std::{fs, path::Path};

/// One file.
pub(crate) struct Source {
    /// Path below the root, with `/`.
    pub(crate) path: String,
    /// As it is.
    pub(crate) text: String,
}

impl Source {
    /// Lines of code with comments and the contents of strings blanked out, numbered from 0.
    pub(crate) fn code(&self) -> Vec<String> {
        blank(&self.text).lines().map(str::to_owned).collect()
    }

    /// The package's folder that this file belongs to, given all package folders.
    pub(crate) fn below(&self, folder: &str) -> bool {
        self.path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
    }
}

/// All Rust sources but build outputs.
pub(crate) fn all() -> Vec<Source> {
    let root = crate::root();
    let mut sources = Vec::new();
    walk(&root, &root, &mut sources);
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(sources.len() > 50, "the walk must find the sources of the workspace; found {}", sources.len());
    sources
}

fn walk(root: &Path, folder: &Path, sources: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).expect("a folder of the workspace can be read").filter_map(Result::ok) {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if path.is_dir() {
            if !name.starts_with('.') && !["target", "node_modules"].contains(&name.as_str()) {
                walk(root, &path, sources);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            // an editor may save by renaming while we look
            let Ok(text) = fs::read_to_string(&path) else { continue };
            let path = path.strip_prefix(root).expect("below the root").to_string_lossy().replace('\\', "/");
            sources.push(Source { path, text });
        }
    }
}

/// Replaces comments and the contents of string literals by blanks; line breaks stay.
pub(crate) fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(&here) = chars.get(at) {
        let end = match (here, chars.get(at + 1)) {
            ('/', Some('/')) => line_end(&chars, at),
            ('/', Some('*')) => comment_end(&chars, at),
            ('r', Some('"' | '#')) if !after_word(&chars, at) => raw_string_end(&chars, at),
            ('"', _) => string_end(&chars, at),
            ('\'', _) => char_end(&chars, at),
            _ => None,
        };
        match end {
            Some(end) => {
                out.extend(chars[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
                at = end;
            }
            None => {
                out.push(here);
                at += 1;
            }
        }
    }
    out
}

fn after_word(chars: &[char], at: usize) -> bool {
    at > 0 && chars.get(at - 1).is_some_and(|c| c.is_alphanumeric() || *c == '_')
}

fn line_end(chars: &[char], at: usize) -> Option<usize> {
    Some(chars[at..].iter().position(|c| *c == '\n').map_or(chars.len(), |length| at + length))
}

fn comment_end(chars: &[char], at: usize) -> Option<usize> {
    let (mut depth, mut here) = (0, at);
    while here + 1 < chars.len() {
        match (chars[here], chars[here + 1]) {
            ('/', '*') => {
                depth += 1;
                here += 2;
            }
            ('*', '/') => {
                depth -= 1;
                here += 2;
                if depth == 0 {
                    return Some(here);
                }
            }
            _ => here += 1,
        }
    }
    Some(chars.len())
}

fn string_end(chars: &[char], at: usize) -> Option<usize> {
    let mut here = at + 1;
    while let Some(c) = chars.get(here) {
        match c {
            '\\' => here += 2,
            '"' => return Some(here + 1),
            _ => here += 1,
        }
    }
    Some(chars.len())
}

fn raw_string_end(chars: &[char], at: usize) -> Option<usize> {
    let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
    if chars.get(at + 1 + hashes) != Some(&'"') {
        return None;
    }
    let mut here = at + 2 + hashes;
    while here < chars.len() {
        if chars[here] == '"' && chars[here + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes {
            return Some(here + 1 + hashes);
        }
        here += 1;
    }
    Some(chars.len())
}

/// The end of a character literal; none for a lifetime.
fn char_end(chars: &[char], at: usize) -> Option<usize> {
    match chars.get(at + 1)? {
        '\\' => chars[at + 2..].iter().skip(1).position(|c| *c == '\'').map(|length| at + 4 + length),
        _ => (chars.get(at + 2) == Some(&'\'')).then_some(at + 3),
    }
}

#[test]
fn comments_and_strings_are_blanked_and_code_stays() {
    let text =
        "let a = \"unsafe // x\"; // unsafe\nlet b = r#\"un\"safe\"#; /* un /* safe */ */ let c = '\"'; fn f<'a>() {}";
    let code = blank(text);
    assert_eq!(code.lines().count(), 2);
    assert!(
        !code.contains("safe") && code.contains("let b =") && code.contains("let c =") && code.contains("fn f<'a>()")
    );
}
