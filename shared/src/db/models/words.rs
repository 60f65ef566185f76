//! The vocabulary: which words the texts of models have, which of them begin so, and which are like a word that none has.

use sqlx::{PgConnection, Postgres, QueryBuilder};

use super::{
    holders::term,
    near,
    way::{Way, through_indexes},
};
use crate::db::DbError;

/// A beginning of more words than these is looked for as such, of fewer as those words: beside a frequent word an index takes 2 ms for
/// up to sixteen of them, and 70 for thirty-two, where all that the beginning begins is collected in 8.
const FEW: i64 = 16;
/// So many words are in more models than can be ranked: texts have dozens of words, but not with one beginning.
const MANY: i64 = 2_000;
/// How much of a word's trigrams another word must have to be compared with it.
const LIKE: &str = "0.4";
/// Words that are compared with a mistyped one, the most alike first.
const COMPARED: i64 = 64;
/// Models among which a frequent word is met.
const MET_AMONG: i64 = 50;
/// Sorts after every text that begins with what stands before it.
const END: char = char::MAX;

/// A word as the catalogue's texts would have it, and whether any has it.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub(super) struct Word {
    /// The word.
    pub(super) word: String,
    /// It is in a text: as the beginning of a word, or as a word of its own where it is a single letter.
    pub(super) held: bool,
}

/// These words as texts have them: in lower case, and where the database sees several words in one, those.
pub(super) async fn look_up(conn: &mut PgConnection, words: &[String]) -> Result<Vec<Word>, DbError> {
    Ok(sqlx::query_as(
        "select word, exists (select 1 from search_words known where known.word >= typed.word collate \"C\"
                and known.word < typed.word || case when length(typed.word) > 1 then $2 else chr(1) end collate \"C\") as held
         from (select w.word, min(t.nr) as nr from unnest($1::text[]) with ordinality as t (typed, nr),
                unnest(tsvector_to_array(to_tsvector('simple', t.typed))) as w (word) group by w.word) as typed
         order by nr, word",
    )
    .bind(words)
    .bind(END.to_string())
    .fetch_all(conn)
    .await?)
}

/// Words that are like one that no text has, in some way.
pub(super) async fn like(conn: &mut PgConnection, word: &str) -> Result<Vec<String>, DbError> {
    sqlx::query("select set_config('pg_trgm.word_similarity_threshold', $1, false)")
        .bind(LIKE)
        .execute(&mut *conn)
        .await?;
    Ok(sqlx::query_scalar(
        "(select word from (select distinct word from search_words where word %> $1 and word ~ '[^0-9]') as alike
          where not starts_with(word, $1) order by word_similarity($1, word) desc, word limit $2)
         union all (select distinct word from search_words where word = any($3))",
    )
    .bind(word)
    .bind(COMPARED)
    .bind(near::one_mistake_away(word))
    .fetch_all(conn)
    .await?)
}

/// Which of these words begin a word of some text: frequent words are met in a few models, the index has the rare ones.
pub(super) async fn alive(conn: &mut PgConnection, words: &[String]) -> Result<Vec<bool>, DbError> {
    // put together with nothing, so that each document is read once and not for each word
    let mut query =
        QueryBuilder::<Postgres>::new("with met as materialized (select document || ''::tsvector as document from ");
    query
        .push("(select document from model_search order by model_id limit ")
        .push_bind(MET_AMONG)
        .push(") as some_models)");
    query.push(" select array[");
    let mut separator = "";
    for word in words {
        query.push(separator);
        query.push("exists (select 1 from met where document @@ ");
        query.push_bind(term(word)).push("::text::tsquery) or exists (select 1 from model_search where document @@ ");
        query.push_bind(term(word)).push("::text::tsquery)");
        separator = ", ";
    }
    query.push("]::boolean[]");
    let mut tx = through_indexes(conn, Way::Collect).await?;
    let alive = query.build_query_scalar().persistent(false).fetch_one(&mut *tx).await?;
    tx.commit().await?;
    Ok(alive)
}

/// For each of these beginnings the words that begin so, where they are few.
pub(super) async fn begun(conn: &mut PgConnection, beginnings: &[&str]) -> Result<Vec<Option<Vec<String>>>, DbError> {
    let words: Vec<Vec<String>> = sqlx::query_scalar(
        "select array(select distinct word from search_words where word >= b.beginning and word < b.beginning || $2
                order by word limit $3)
         from unnest($1::text[]) with ordinality as b (beginning, nr) order by nr",
    )
    .bind(beginnings)
    .bind(END.to_string())
    .bind(FEW + 1)
    .fetch_all(conn)
    .await?;
    let few = |words: &Vec<String>| i64::try_from(words.len()).is_ok_and(|count| count <= FEW);
    Ok(words.into_iter().map(|words| Some(words).filter(few)).collect())
}

/// Whether one of these begins so many words that there is no need to look how many models hold them.
pub(super) async fn begin_many(conn: &mut PgConnection, beginnings: &[String]) -> Result<bool, DbError> {
    let many: Option<bool> = sqlx::query_scalar(
        "select bool_or((select count(*) from (select 1 from search_words where length(beginning) > 1 and word >= beginning
                and word < beginning || $2 limit $3) as begun) = $3)
         from unnest($1::text[]) as b (beginning)",
    )
    .bind(beginnings)
    .bind(END.to_string())
    .bind(MANY)
    .fetch_one(conn)
    .await?;
    Ok(many == Some(true))
}
