//! Which models hold the words of a text, as queries of documents.

use sqlx::{PgConnection, Postgres, QueryBuilder};

use super::{
    shelves::push_share,
    text::{RANKED_MOST, Reading},
    way::{Way, through_indexes},
    words,
};
use crate::{db::DbError, ids::ModelId};

/// Full pages of the table whose texts are looked at first: about two hundred models.
const SAMPLED_PAGES: i64 = 16;
/// A text that so many of them hold is frequent, where they stand in so many pages: models that were found together are alike.
const SAMPLED_HOLD: i64 = 6;
const SAMPLED_STAND: i64 = 4;
/// And so many models in all, as far as the sample tells, six times as many as are ranked: of a text that few hold a sample says so once in
/// some thousand times.
const FREQUENT: f64 = 3_000.0;
/// A beginning of fewer models than these is collected soon.
const COLLECTED: f64 = 5_000.0;
/// Models whose texts are compared one by one, rather than looking up more words for them.
const COMPARED: i64 = 1_000;
/// Words that an index is asked for together: it takes the longer for each model the more words it has to look for.
const ASKED_TOGETHER: usize = 5;

impl Reading {
    /// The models that hold the words, if they are so few that their fit can be compared.
    pub(super) async fn found_among_few(&mut self, conn: &mut PgConnection) -> Result<Option<Vec<ModelId>>, DbError> {
        let sample = self.sample(conn).await?;
        self.share = Some(sample.held.max(1) as f64 / sample.seen.max(1) as f64);
        // an index takes long to find that out
        if sample.is_of_a_frequent_text() {
            return Ok(None);
        }
        if let [meant] = self.words.as_slice()
            && words::begin_many(conn, meant).await?
        {
            return Ok(None);
        }
        let terms = self.terms(conn).await?;
        let found = match self.found_by_rare_words(conn, &terms, &sample).await? {
            Some(found) => found,
            None => holding(conn, &together(&terms), RANKED_MOST + 1).await?,
        };
        Ok(Some(found).filter(|found| !is_more(found, RANKED_MOST)))
    }

    /// How frequent the words are in some pages of the table, taken at random.
    async fn sample(&self, conn: &mut PgConnection) -> Result<Sample, DbError> {
        // put together with nothing, so that each document is read once and not for each word
        let mut query = QueryBuilder::<Postgres>::new("with pages as (");
        push_share(&mut query, SAMPLED_PAGES);
        query.push(
            "), sampled as materialized (select m.document || ''::tsvector as document, m.page from pages cross join lateral
                (select document, (ctid::text::point)[0] as page from model_search tablesample system (pages.share)) as m)
             select (select share from pages) as share, count(*) as seen, count(*) filter (where document @@ ",
        );
        query
            .push_bind(self.query_of_rows())
            .push("::text::tsquery) as held, count(distinct page) filter (where document @@ ");
        query.push_bind(self.query_of_rows()).push("::text::tsquery) as stand, array[");
        let mut separator = "";
        for meant in &self.words {
            query
                .push(separator)
                .push("count(*) filter (where document @@ ")
                .push_bind(any_begun(meant))
                .push("::text::tsquery)");
            separator = ", ";
        }
        query.push("] as each from sampled");
        Ok(query.build_query_as().persistent(false).fetch_one(conn).await?)
    }

    /// The models that hold the words, found by the rarest of them; none where these do not leave few models.
    async fn found_by_rare_words(
        &self,
        conn: &mut PgConnection,
        terms: &[Term],
        sample: &Sample,
    ) -> Result<Option<Vec<ModelId>>, DbError> {
        let rare: Vec<Term> = rarest(terms, sample).into_iter().filter_map(|at| terms.get(at).cloned()).collect();
        if rare.is_empty() || rare.len() == terms.len() {
            return Ok(None);
        }
        let some = holding(conn, &together(&rare), COMPARED + 1).await?;
        if is_more(&some, COMPARED) {
            return Ok(None);
        }
        let found = sqlx::query_scalar(
            // the fence keeps the planner from asking the index of documents for all words after all
            "select model_id from (select model_id, document from model_search where model_id = any($1) offset 0) as some_models
             where document @@ $2::text::tsquery limit $3",
        )
        .bind(some)
        .bind(self.query_of_rows())
        .bind(RANKED_MOST + 1)
        .fetch_all(conn)
        .await?;
        Ok(Some(found))
    }

    /// The words as a query that an index of documents answers.
    pub(super) async fn query(&self, conn: &mut PgConnection) -> Result<String, DbError> {
        Ok(together(&self.terms(conn).await?))
    }

    /// Each word for an index. Of several words, a beginning of few is asked for as these: the index then skips through their lists of
    /// models, while all that a beginning begins is collected before anything else is looked at.
    async fn terms(&self, conn: &mut PgConnection) -> Result<Vec<Term>, DbError> {
        if self.words.len() == 1 {
            return Ok(vec![Term { asked: self.query_of_rows(), is_narrow: false }]);
        }
        let beginnings: Vec<&str> =
            self.words.iter().flatten().map(String::as_str).filter(|word| begins(word)).collect();
        let mut begun = words::begun(conn, &beginnings).await?.into_iter();
        let term = |meant: &Vec<String>| {
            let each =
                meant.iter().map(|word| narrowed(word, if begins(word) { begun.next().flatten() } else { None }));
            let (each, is_narrow): (Vec<String>, Vec<bool>) = each.unzip();
            Term { asked: any_of(each.into_iter()), is_narrow: is_narrow.into_iter().all(|narrow| narrow) }
        };
        Ok(self.words.iter().map(term).collect())
    }

    /// The words as a query that rows are compared with one by one.
    pub(super) fn query_of_rows(&self) -> String {
        let all: Vec<String> = self.words.iter().map(|meant| any_begun(meant)).collect();
        all.join(" & ")
    }
}

/// How frequent words are in a part of the table.
#[derive(Debug, sqlx::FromRow)]
struct Sample {
    /// The part, in percent.
    share: f64,
    /// Models of it.
    seen: i64,
    /// Models that hold all words.
    held: i64,
    /// Pages that these stand in.
    stand: i64,
    /// Models that hold each word.
    each: Vec<i64>,
}

impl Sample {
    /// Models of the whole table that so many of the sample stand for.
    fn models(&self, of_these: i64) -> f64 {
        100.0 / self.share * of_these as f64
    }

    fn is_of_a_frequent_text(&self) -> bool {
        self.held >= SAMPLED_HOLD && self.stand >= SAMPLED_STAND && self.models(self.held) >= FREQUENT
    }
}

/// A word as an index is asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    asked: String,
    /// It is a few whole words.
    is_narrow: bool,
}

fn together(terms: &[Term]) -> String {
    let all: Vec<&str> = terms.iter().map(|term| term.asked.as_str()).collect();
    all.join(" & ")
}

/// The rarest words that an index finds soon, as many as are likely to leave few models if words do not go together: narrow ones, and
/// beginnings of few models.
fn rarest(terms: &[Term], sample: &Sample) -> Vec<usize> {
    let mut narrow: Vec<(i64, usize)> = sample
        .each
        .iter()
        .zip(terms)
        .enumerate()
        .filter(|(_, (held, term))| term.is_narrow || sample.models(**held) < COLLECTED)
        .map(|(at, (held, _))| (*held, at))
        .collect();
    narrow.sort_unstable();
    let mut models = sample.models(sample.seen);
    let mut chosen = Vec::new();
    for (held, at) in narrow.into_iter().take(ASKED_TOGETHER) {
        if models * 2.0 <= COMPARED as f64 {
            break;
        }
        models *= held.max(1) as f64 / sample.seen.max(1) as f64;
        chosen.push(at);
    }
    chosen
}

/// Models whose documents answer a query, `most` of them.
async fn holding(conn: &mut PgConnection, query: &str, most: i64) -> Result<Vec<ModelId>, DbError> {
    let mut tx = through_indexes(conn, Way::Collect).await?;
    let found = sqlx::query_scalar("select model_id from model_search where document @@ $1::text::tsquery limit $2")
        .bind(query)
        .bind(most)
        .persistent(false)
        .fetch_all(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(found)
}

fn is_more(found: &[ModelId], most: i64) -> bool {
    !i64::try_from(found.len()).is_ok_and(|found| found <= most)
}

/// A word as those that it begins, where these are few, and whether it is narrow so; a word of one letter is.
fn narrowed(word: &str, begun: Option<Vec<String>>) -> (String, bool) {
    match begun {
        Some(words) if !words.is_empty() => (any_of(words.iter().map(|word| quoted(word))), true),
        _ => (term(word), !begins(word)),
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

/// Any of these words as what begins so.
fn any_begun(meant: &[String]) -> String {
    any_of(meant.iter().map(|word| term(word)))
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
    fn nothing_in_a_word_is_an_operator() {
        assert_eq!(quoted(r"a'b\c:*"), r"'a''b\\c:*'");
        assert_eq!(any_of(["'a'", "'b'"].map(str::to_owned).into_iter()), "('a' | 'b')");
    }

    #[test]
    fn a_text_is_frequent_when_models_in_several_pages_hold_it() {
        let of = |held, stand, share| Sample { share, seen: 200, held, stand, each: vec![] }.is_of_a_frequent_text();
        assert!(of(6, 4, 0.2));
        assert!(!of(5, 5, 0.01) && !of(40, 3, 0.2) && !of(25, 9, 1.0), "luck, a series, a small catalogue");
    }

    #[test]
    fn a_word_is_narrow_when_it_begins_few_words() {
        assert_eq!(narrowed("dr", Some(vec!["drag".into(), "drum".into()])), ("('drag' | 'drum')".into(), true));
        assert_eq!(narrowed("dr", None), ("'dr':*".into(), false));
        assert_eq!(narrowed("d", None), ("'d'".into(), true));
    }

    #[test]
    fn the_rarest_words_are_looked_up_until_few_models_are_left() {
        let term = |is_narrow| Term { asked: "'x'".into(), is_narrow };
        let sample = |each: &[i64]| Sample { share: 0.1, seen: 100, held: 0, stand: 0, each: each.to_vec() };
        let narrow = [term(true), term(true), term(true), term(true)];
        assert_eq!(rarest(&narrow, &sample(&[50, 5, 40, 8])), [1, 3]);
        assert_eq!(rarest(&narrow, &sample(&[50, 0, 40, 90])), [1, 2]);
        assert_eq!(rarest(&[term(false), term(false)], &sample(&[5, 6])), [] as [usize; 0], "collecting takes long");
        let broad = [term(false), term(true), term(true)];
        assert_eq!(rarest(&broad, &sample(&[50, 90, 80])), [2, 1]);
        assert_eq!(rarest(&broad, &sample(&[1, 90, 80])), [0, 2, 1], "a beginning of few models");
    }
}
