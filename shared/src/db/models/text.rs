//! What the words of a search mean: each is the beginning of a word that some model has, or a mistake for one.

use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, Postgres, QueryBuilder};

use super::{
    near, way,
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// The text.
    pub text: String,
    /// For each word the beginnings that it means: itself, or what it is a mistake for.
    pub words: Vec<Vec<String>>,
    /// No more than [`RANKED_MOST`] models hold them.
    pub ranked: bool,
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
    let mut reading = Reading { text: text.to_owned(), words, ranked: true, found: None };
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
    /// The models that hold the words, if they are so few that their fit can be compared.
    async fn found_among_few(&self, conn: &mut PgConnection) -> Result<Option<Vec<ModelId>>, DbError> {
        if let [meant] = self.words.as_slice()
            && words::begin_many(conn, meant).await?
        {
            return Ok(None);
        }
        let asked = self.query(conn).await?;
        let mut tx = way::through_indexes(conn).await?;
        let found: Vec<ModelId> =
            sqlx::query_scalar("select model_id from model_search where document @@ $1::text::tsquery limit $2")
                .bind(asked)
                .bind(RANKED_MOST + 1)
                .persistent(false)
                .fetch_all(&mut *tx)
                .await?;
        tx.commit().await?;
        Ok(Some(found).filter(|found| i64::try_from(found.len()).is_ok_and(|count| count <= RANKED_MOST)))
    }

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

    /// The words as a query that an index of documents answers. Of several words, a beginning of few is asked for as these: the index
    /// then skips through their lists of models, while all that a beginning begins is collected before anything else is looked at.
    pub(super) async fn query(&self, conn: &mut PgConnection) -> Result<String, DbError> {
        if self.words.len() == 1 {
            return Ok(self.query_of_rows());
        }
        let beginnings: Vec<&str> =
            self.words.iter().flatten().map(String::as_str).filter(|word| begins(word)).collect();
        let mut begun = words::begun(conn, &beginnings).await?.into_iter();
        Ok(all_of(&self.words, |word| match if begins(word) { begun.next().flatten() } else { None } {
            Some(words) if !words.is_empty() => any_of(words.iter().map(|word| quoted(word))),
            _ => term(word),
        }))
    }

    /// The words as a query that rows are compared with one by one.
    pub(super) fn query_of_rows(&self) -> String {
        all_of(&self.words, term)
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

/// A single letter begins too many words, so it is a word of its own.
fn begins(word: &str) -> bool {
    word.chars().count() > 1
}

/// A word as what texts have words that begin so.
pub(super) fn term(word: &str) -> String {
    if begins(word) { format!("{}:*", quoted(word)) } else { quoted(word) }
}

fn all_of(words: &[Vec<String>], mut term: impl FnMut(&str) -> String) -> String {
    let all: Vec<String> = words.iter().map(|meant| any_of(meant.iter().map(|word| term(word)))).collect();
    all.join(" & ")
}

fn any_of(terms: impl Iterator<Item = String>) -> String {
    let terms: Vec<String> = terms.collect();
    if terms.len() == 1 { terms.concat() } else { format!("({})", terms.join(" | ")) }
}

/// A word in which nothing is an operator.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\\', "\\\\").replace('\'', "''"))
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
        assert_eq!(quoted(r"a'b\c:*"), r"'a''b\\c:*'");
        assert_eq!(any_of(["'a'", "'b'"].map(str::to_owned).into_iter()), "('a' | 'b')");
    }
}
