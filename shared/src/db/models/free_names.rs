//! Names for new models: the wanted ones where they are free, else numbered from 2.

use std::collections::HashSet;

use sqlx::PgConnection;

use crate::db::DbError;

/// Numbers that are asked about at first; each round that finds none asks about twice as many.
const FIRST_NUMBERS: u32 = 8;

/// A free name for each wanted one, in their order; no two are equal.
pub(super) async fn free_names(tx: &mut PgConnection, wanted: &[&str]) -> Result<Vec<String>, DbError> {
    let mut used = taken(tx, wanted.iter().map(|name| (*name).to_owned()).collect()).await?;
    let mut names: Vec<Option<String>> = wanted
        .iter()
        .map(|name| if used.insert((*name).to_owned()) { Some((*name).to_owned()) } else { None })
        .collect();
    let (mut first, mut count) = (2, FIRST_NUMBERS);
    while names.iter().any(Option::is_none) {
        let open: HashSet<&str> =
            wanted.iter().zip(&names).filter(|(_, name)| name.is_none()).map(|(wanted, _)| *wanted).collect();
        let candidates = open.iter().flat_map(|name| numbered(name, first, count)).collect();
        used.extend(taken(tx, candidates).await?);
        for (wanted, name) in wanted.iter().zip(&mut names).filter(|(_, name)| name.is_none()) {
            *name = numbered(wanted, first, count).find(|candidate| used.insert(candidate.clone()));
        }
        first = first.saturating_add(count);
        count = count.saturating_mul(2);
    }
    Ok(names.into_iter().flatten().collect())
}

fn numbered(name: &str, first: u32, count: u32) -> impl Iterator<Item = String> {
    (first..first.saturating_add(count)).map(move |number| format!("{name}-{number}"))
}

async fn taken(tx: &mut PgConnection, names: Vec<String>) -> Result<HashSet<String>, DbError> {
    let taken: Vec<String> =
        sqlx::query_scalar("select name from models where name = any($1)").bind(names).fetch_all(tx).await?;
    Ok(taken.into_iter().collect())
}
