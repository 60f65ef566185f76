//! Keys of PEFT's `alpha_pattern`: which modules one names. PEFT takes a key for a regular expression that the end of a module's path
//! must match, `(.*\.)?(key)$`; what trainers write of that language is understood here, the rest is refused by name.

use serde::{Deserialize, Serialize};

/// A key of a pattern.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PathPattern {
    /// As it was written.
    text: String,
    /// `^`: the whole path, not its last parts.
    whole: bool,
    /// One for each character; none for any.
    characters: Vec<Option<char>>,
}

/// A key that is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{key}`: {what} is not understood in the name of modules; plain paths, `^`, `$` and `\\.` are")]
pub struct BadPattern {
    /// The key.
    pub key: String,
    /// What of it.
    pub what: String,
}

impl PathPattern {
    /// Understands a key.
    ///
    /// # Errors
    /// [`BadPattern`] for any other part of regular expressions than `^` at the front, `$` at the end, `.` and escaped punctuation.
    pub fn parse(key: &str) -> Result<Self, BadPattern> {
        let bad = |what: String| BadPattern { key: key.to_owned(), what };
        let (whole, rest) = key.strip_prefix('^').map_or((false, key), |rest| (true, rest));
        let mut characters = Vec::new();
        let mut rest = rest.chars().peekable();
        while let Some(character) = rest.next() {
            match character {
                '\\' => match rest.next() {
                    Some(escaped) if escaped.is_ascii_punctuation() => characters.push(Some(escaped)),
                    Some(class) => return Err(bad(format!("`\\{class}`"))),
                    None => return Err(bad("a lone `\\`".to_owned())),
                },
                '$' if rest.peek().is_none() => {}
                '.' => characters.push(None),
                '^' | '$' | '*' | '+' | '?' | '(' | ')' | '[' | ']' | '{' | '}' | '|' => {
                    return Err(bad(format!("`{character}`")));
                }
                plain => characters.push(Some(plain)),
            }
        }
        Ok(Self { text: key.to_owned(), whole, characters })
    }

    /// Whether it names the module at this dotted path.
    #[must_use]
    pub fn names(&self, path: &str) -> bool {
        let is = |(wanted, found): (&Option<char>, char)| wanted.is_none_or(|wanted| wanted == found);
        let mut last = path.chars().rev();
        let ends = self.characters.iter().rev().all(|wanted| last.next().is_some_and(|found| is((wanted, found))));
        let before = last.next();
        ends && (before.is_none() || before == Some('.') && !self.whole)
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl TryFrom<String> for PathPattern {
    type Error = BadPattern;

    fn try_from(key: String) -> Result<Self, BadPattern> {
        Self::parse(&key)
    }
}

impl From<PathPattern> for String {
    fn from(pattern: PathPattern) -> Self {
        pattern.text
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, path::Path};

    use super::*;

    /// `[keys, path, the key that PEFT's get_pattern_key takes, or null]`, see `tests/reference/make_lora_patterns.py`.
    type Case = (Vec<String>, String, Option<String>);

    #[test]
    fn the_key_that_peft_takes_is_the_first_that_names_the_path() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference/golden/lora-patterns.json");
        let cases: Vec<Case> = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        let mut chosen = BTreeMap::<bool, usize>::new();
        for (keys, path, wanted) in cases {
            let found = keys.iter().find(|key| PathPattern::parse(key).unwrap().names(&path));
            assert_eq!(found, wanted.as_ref(), "{keys:?} {path}");
            *chosen.entry(wanted.is_some()).or_default() += 1;
        }
        assert!(chosen.values().all(|count| *count > 20), "{chosen:?}");
    }

    #[test]
    fn other_parts_of_regular_expressions_are_refused_by_name() {
        for (key, what) in [
            ("a.*", "`*`"),
            ("to_(q|k)", "`(`"),
            ("layers\\.\\d", "`\\d`"),
            ("a[01]", "`[`"),
            ("a$b", "`$`"),
            ("a^", "`^`"),
            ("a\\", "a lone `\\`"),
        ] {
            let refused = PathPattern::parse(key).unwrap_err();
            assert_eq!((refused.key.as_str(), refused.what.as_str()), (key, what));
            assert!(refused.to_string().contains(key), "{refused}");
        }
    }
}
