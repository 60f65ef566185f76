//! The notation of weights: a text to fragments. One pass, bounded depth, no text is lost.

use super::{DEPTH_LIMIT, PromptError, WEIGHT_LIMIT};

/// What a pair of parentheses without a number weighs; brackets divide by it.
const STEP: f32 = 1.1;
const BREAK: &str = "BREAK";

/// A part of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub enum Fragment {
    /// Text of one weight.
    Text {
        /// Without brackets and escapes.
        text: String,
        /// 1 is plain.
        weight: f32,
    },
    /// What follows starts a new chunk.
    Break,
}

/// Fragments of `text`, neighbours of one weight joined; none for an empty text.
///
/// # Errors
/// [`PromptError`] when brackets are nested too deep or a weight is beyond the limit.
pub fn parse(text: &str) -> Result<Vec<Fragment>, PromptError> {
    let mut parser = Parser::default();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        rest = match first {
            '\\' => parser.escape(rest),
            '(' | '[' => parser.open(first, rest)?,
            ')' => parser.close('(', ')', STEP, rest),
            ']' => parser.close('[', ']', 1.0 / STEP, rest),
            ':' => parser.number(rest),
            _ => parser.text(rest),
        };
    }
    // what nobody closed counts to the end
    while let Some((bracket, from)) = parser.open.pop() {
        parser.multiply(from, if bracket == '(' { STEP } else { 1.0 / STEP });
    }
    parser.finish()
}

#[derive(Default)]
struct Parser {
    fragments: Vec<Fragment>,
    /// Brackets that are open, and the fragment that each of them precedes.
    open: Vec<(char, usize)>,
}

impl Parser {
    fn push(&mut self, text: &str) {
        self.fragments.push(Fragment::Text { text: text.to_owned(), weight: 1.0 });
    }

    /// A backslash takes the special meaning of what follows, or is itself.
    fn escape<'a>(&mut self, rest: &'a str) -> &'a str {
        let length = if rest[1..].starts_with(['(', ')', '[', ']', '\\']) { 2 } else { 1 };
        self.push(if length == 2 { &rest[1..2] } else { "\\" });
        &rest[length..]
    }

    fn open<'a>(&mut self, bracket: char, rest: &'a str) -> Result<&'a str, PromptError> {
        if self.open.len() == DEPTH_LIMIT {
            return Err(PromptError::TooDeep { limit: DEPTH_LIMIT });
        }
        self.open.push((bracket, self.fragments.len()));
        Ok(&rest[1..])
    }

    /// Closes the innermost bracket of this kind; text when there is none.
    fn close<'a>(&mut self, opening: char, closing: char, factor: f32, rest: &'a str) -> &'a str {
        match self.open.iter().rposition(|(bracket, _)| *bracket == opening) {
            Some(at) => {
                let (_, from) = self.open.remove(at);
                self.multiply(from, factor);
            }
            None => self.push(closing.encode_utf8(&mut [0; 4])),
        }
        &rest[1..]
    }

    /// `:1.3)` weighs the innermost parentheses; text when it is anything else.
    fn number<'a>(&mut self, rest: &'a str) -> &'a str {
        let open = self.open.iter().rposition(|(bracket, _)| *bracket == '(');
        if let (Some(at), Some((weight, length))) = (open, weight(rest)) {
            let (_, from) = self.open.remove(at);
            self.multiply(from, weight);
            return &rest[length..];
        }
        self.push(":");
        &rest[1..]
    }

    fn text<'a>(&mut self, rest: &'a str) -> &'a str {
        let (mut text, rest) = rest.split_at(rest.find(['\\', '(', ')', '[', ']', ':']).unwrap_or(rest.len()));
        while let Some(at) = find_break(text) {
            if at > 0 {
                self.push(text[..at].trim_end());
            }
            self.fragments.push(Fragment::Break);
            text = text[at + BREAK.len()..].trim_start();
        }
        if !text.is_empty() {
            self.push(text);
        }
        rest
    }

    fn multiply(&mut self, from: usize, factor: f32) {
        for fragment in self.fragments.iter_mut().skip(from) {
            if let Fragment::Text { weight, .. } = fragment {
                *weight *= factor;
            }
        }
    }

    /// Joins neighbours of one weight and checks all weights.
    fn finish(self) -> Result<Vec<Fragment>, PromptError> {
        let mut joined: Vec<Fragment> = Vec::new();
        for fragment in self.fragments {
            if let Fragment::Text { text, weight } = &fragment {
                if text.is_empty() {
                    continue;
                }
                if !(-WEIGHT_LIMIT..=WEIGHT_LIMIT).contains(weight) {
                    let text = text.chars().take(40).collect();
                    return Err(PromptError::Weight { weight: *weight, text, limit: WEIGHT_LIMIT });
                }
                if let Some(Fragment::Text { text: last, weight: same }) = joined.last_mut()
                    && *same == *weight
                {
                    last.push_str(text);
                    continue;
                }
            }
            joined.push(fragment);
        }
        Ok(joined)
    }
}

/// The number between a colon and a closing parenthesis, and the bytes of all three.
fn weight(rest: &str) -> Option<(f32, usize)> {
    let end = rest.find(')')?;
    let number = rest.get(1..end)?.trim();
    let plain = number.trim_start_matches(['+', '-']);
    // no exponents, no words that a float may be
    if plain.is_empty() || !plain.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return None;
    }
    Some((number.parse().ok()?, end + 1))
}

/// Where `BREAK` stands as a word of its own.
fn find_break(text: &str) -> Option<usize> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let mut places = text.match_indices(BREAK).map(|(at, _)| at);
    places.find(|&at| {
        let (before, after) = (text[..at].chars().next_back(), text[at + BREAK.len()..].chars().next());
        !before.is_some_and(word) && !after.is_some_and(word)
    })
}
