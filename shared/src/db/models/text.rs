//! What the words of a search mean: each is the beginning of a word that some model has, or a mistake for one.

use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, Postgres, QueryBuilder};

use super::{
    near,
    words::{self, Word},
};
use crate::{db::DbError, ids::ModelId};

/// Most words of a text; the API refuses more.
pub const MOST_WORDS: usize = 16;
/// Shorter words are near to half of all others.
const MISTAKEN_CHARS: usize = 3;
/// Most models whose fit is compared. A text that more models hold says little, and ranking all of them would take long.
pub const RANKED_MOST: i64 = 500;

/// A text as it was understood when its first page was made; later pages follow the same reading.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// The text.
    pub text: String,
    /// For each word the beginnings that it means: itself, or what it is a mistake for.
    pub words: Vec<Vec<String>>,
    /// No more than [`RANKED_MOST`] models hold them.
    pub ranked: bool,
    /// The share of models that hold them, where a sample told it just now.
    #[serde(skip)]
    pub share: Option<f64>,
    /// The models that hold them, where they were looked for just now and are few.
    #[serde(skip)]
    pub found: Option<Vec<ModelId>>,
}

/// The words of a text, as the catalogue cuts them.
pub fn words_of(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for word in text.split(|c: char| c.is_whitespace() || (c.is_ascii() && !c.is_ascii_alphanumeric())) {
        if !word.is_empty() && !words.iter().any(|known| known == word) {
            words.push(word.to_owned());
        }
    }
    words
}

/// Finds out what a text means to this catalogue; none when it holds no words.
///
/// # Errors
/// Database errors.
pub async fn understand(conn: &mut PgConnection, text: &str) -> Result<Option<Reading>, DbError> {
    let typed = words_of(text);
    if typed.is_empty() {
        return Ok(None);
    }
    let known = words::look_up(conn, &typed).await?;
    let mut words = Vec::new();
    for (at, known) in known.iter().enumerate() {
        // the database may see many words in one; so many are not asked for their meaning
        let as_typed = known.held || at >= MOST_WORDS;
        words.push(if as_typed { vec![known.word.clone()] } else { meanings(conn, &known.word).await? });
    }
    // signs that are no words to the database are in no text either
    let words = if words.is_empty() { vec![typed] } else { words };
    let mut reading = Reading { text: text.to_owned(), words, ranked: true, share: None, found: None };
    reading.found = reading.found_among_few(conn).await?;
    if reading.found.as_ref().is_some_and(Vec::is_empty) && reading.doubt(conn, &known).await? {
        reading.found = reading.found_among_few(conn).await?;
    }
    reading.ranked = reading.found.is_some();
    Ok(Some(reading))
}

/// What a word that no text has may mean; itself if it is like none.
async fn meanings(conn: &mut PgConnection, word: &str) -> Result<Vec<String>, DbError> {
    let mut like = if word.chars().count() < MISTAKEN_CHARS { Vec::new() } else { words::like(conn, word).await? };
    loop {
        let meant = near::meanings(word, &like);
        if meant.is_empty() {
            return Ok(vec![word.to_owned()]);
        }
        let alive = words::alive(conn, &meant).await?;
        let living: Vec<String> =
            meant.iter().zip(alive).filter(|(_, alive)| *alive).map(|(word, _)| word.clone()).collect();
        if !living.is_empty() {
            return Ok(living);
        }
        like.retain(|word| !meant.iter().any(|meant| word.starts_with(meant)));
    }
}

impl Reading {
    /// The vocabulary keeps words that texts had once: where nothing is found, those are taken for mistakes. Whether there are any.
    async fn doubt(&mut self, conn: &mut PgConnection, known: &[Word]) -> Result<bool, DbError> {
        let held: Vec<String> = known.iter().filter(|known| known.held).map(|known| known.word.clone()).collect();
        let mut alive = words::alive(conn, &held).await?.into_iter();
        let mut any = false;
        for (known, meant) in known.iter().zip(&mut self.words).filter(|(known, _)| known.held) {
            if alive.next() == Some(false) {
                *meant = meanings(conn, &known.word).await?;
                any = true;
            }
        }
        Ok(any)
    }

    /// Adds the fit of a row of `model_search s`: what words weigh where they stand, and one more for a model of just this name.
    pub(super) fn push_rank(&self, query: &mut QueryBuilder<Postgres>) {
        if !self.ranked {
            query.push("null::float8");
            return;
        }
        query.push("(case when lower(s.name) = lower(").push_bind(self.text.clone()).push(") then 1 else 0 end");
        query.push(" + ts_rank(s.document, ").push_bind(self.query_of_rows()).push("::text::tsquery))::float8");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_at_separators_and_words_kept_once() {
        assert_eq!(words_of("sd_xl-base 1.0, base"), ["sd", "xl", "base", "1", "0"]);
        assert_eq!(words_of("größe ' & | ! :*"), ["größe"]);
        assert!(words_of(" -_. ").is_empty());
    }
}
