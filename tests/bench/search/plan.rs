//! What a plan reads.

/// Tables that grow with the library; each is to be read through an index.
const TABLES: [&str; 5] = ["model_search", "models", "model_locations", "model_components", "components"];

/// The tables that a plan reads as a whole.
pub(crate) fn whole_tables(plan: &[String]) -> Vec<String> {
    let scanned = plan.iter().filter_map(|line| line.split_once("Seq Scan on ")).filter_map(|(_, rest)| {
        let table = rest.split_whitespace().next()?;
        TABLES.contains(&table).then(|| table.to_owned())
    });
    scanned.collect()
}
