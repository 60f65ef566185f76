//! What the words of a search mean: each is the beginning of a word that some model has, or near to one.

use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, Postgres, QueryBuilder};

use crate::db::DbError;

/// Most words of a text; the API refuses more.
pub const MOST_WORDS: usize = 16;
/// Most models whose fit is compared. A text that more models hold says little, and ranking all of them would take long.
pub const RANKED_MOST: i64 = 500;
/// How much of a word's trigrams another word must have to count as meant.
const NEAR: &str = "0.5";
/// Shorter words are near to half of all others.
const NEAR_CHARS: usize = 3;

/// A text as it was understood when its first page was made; later pages follow the same reading.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// The text.
    pub text: String,
    /// Words that begin words of the catalogue.
    pub exact: Vec<String>,
    /// Words that begin none: near ones count.
    pub near: Vec<String>,
    /// No more than [`RANKED_MOST`] models hold them.
    pub ranked: bool,
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

/// A word as the beginning of words; a single letter begins too many, so it is a word of its own.
fn term(word: &str) -> String {
    if word.chars().count() > 1 { format!("'{word}':*") } else { format!("'{word}'") }
}

/// Finds out what a text means to this catalogue; none when it holds no words.
///
/// # Errors
/// Database errors.
pub async fn understand(conn: &mut PgConnection, text: &str) -> Result<Option<Reading>, DbError> {
    let words = words_of(text);
    if words.is_empty() {
        return Ok(None);
    }
    let held = held(conn, &words).await?;
    let mut reading = Reading { text: text.to_owned(), exact: Vec::new(), near: Vec::new(), ranked: true };
    for (word, held) in words.into_iter().zip(held) {
        if held || word.chars().count() < NEAR_CHARS { reading.exact.push(word) } else { reading.near.push(word) }
    }
    reading.prepare(conn).await?;
    let mut query = QueryBuilder::new("select count(*) from (select 1 from model_search s where true");
    reading.push_condition(&mut query);
    query.push(" limit ").push_bind(RANKED_MOST + 1).push(") as held");
    let some: i64 = query.build_query_scalar().persistent(false).fetch_one(conn).await?;
    reading.ranked = some <= RANKED_MOST;
    Ok(Some(reading))
}

/// Which words begin some word of the catalogue. Each is a constant of the statement: frequent words are then met by looking at
/// a few rows, rare ones by the index; a plan that suits any word would collect all models of the frequent ones.
async fn held(conn: &mut PgConnection, words: &[String]) -> Result<Vec<bool>, DbError> {
    let mut query = QueryBuilder::new("select array[");
    let mut separator = "";
    for word in words {
        query.push(separator).push("exists (select 1 from model_search where document @@ to_tsquery('simple', ");
        query.push_bind(term(word)).push("))");
        separator = ", ";
    }
    query.push("]");
    Ok(query.build_query_scalar().persistent(false).fetch_one(conn).await?)
}

impl Reading {
    /// Sets this session up for [`Reading::push_condition`].
    pub(super) async fn prepare(&self, conn: &mut PgConnection) -> Result<(), DbError> {
        if !self.near.is_empty() {
            sqlx::query("select set_config('pg_trgm.word_similarity_threshold', $1, false)")
                .bind(NEAR)
                .execute(conn)
                .await?;
        }
        Ok(())
    }

    fn query(&self) -> String {
        self.exact.iter().map(|word| term(word)).collect::<Vec<_>>().join(" & ")
    }

    /// Adds that a row of `model_search s` holds every word.
    pub(super) fn push_condition(&self, query: &mut QueryBuilder<Postgres>) {
        if !self.exact.is_empty() {
            query.push(" and s.document @@ to_tsquery('simple', ").push_bind(self.query()).push(")");
        }
        for word in &self.near {
            query.push(" and s.words %> ").push_bind(word.clone());
        }
    }

    /// Adds the fit of a row of `model_search s`: what words weigh where they stand, how near the near ones are, and one more
    /// for a model of just this name.
    pub(super) fn push_rank(&self, query: &mut QueryBuilder<Postgres>) {
        if !self.ranked {
            query.push("null::float8");
            return;
        }
        query.push("(case when lower(s.name) = lower(").push_bind(self.text.clone()).push(") then 1 else 0 end");
        if !self.exact.is_empty() {
            query.push(" + ts_rank(s.document, to_tsquery('simple', ").push_bind(self.query()).push("))::float8");
        }
        for word in &self.near {
            query.push(" + word_similarity(").push_bind(word.clone()).push(", s.words)::float8");
        }
        query.push(")::float8");
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

    #[test]
    fn nothing_in_a_word_is_an_operator() {
        let reading = |words: &[&str]| Reading {
            text: String::new(),
            exact: words.iter().map(|word| (*word).to_owned()).collect(),
            near: Vec::new(),
            ranked: true,
        };
        assert_eq!(reading(&["dream", "8"]).query(), "'dream':* & '8'");
    }
}
