//! "Did you mean": the closest existing names for one that does not exist.

use shared::config::edit_distance;

/// Most names offered.
const OFFERED: usize = 3;

/// A hint that offers up to three close names, if any is close enough to be a slip.
pub(crate) fn hint(wanted: &str, names: impl IntoIterator<Item = String>) -> Option<String> {
    let quoted: Vec<String> = nearest(wanted, names).into_iter().map(|name| format!("`{name}`")).collect();
    let (last, others) = quoted.split_last()?;
    if others.is_empty() {
        return Some(format!("did you mean {last}?"));
    }
    Some(format!("did you mean {} or {last}?", others.join(", ")))
}

fn nearest(wanted: &str, names: impl IntoIterator<Item = String>) -> Vec<String> {
    let lower = wanted.to_lowercase();
    let mut ranked: Vec<(usize, String)> = names
        .into_iter()
        .filter_map(|name| {
            let candidate = name.to_lowercase();
            let distance = edit_distance(&lower, &candidate);
            let part = lower.len() >= 3 && (candidate.contains(&lower) || lower.contains(&candidate));
            (part || distance <= lower.len().max(candidate.len()).div_ceil(2)).then_some((distance, name))
        })
        .collect();
    ranked.sort();
    ranked.into_iter().take(OFFERED).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_the_closest_names_and_nothing_far_off() {
        let names = ["dreamshaper", "dreamshaper-xl", "realistic", "vae-ft"].map(String::from);
        assert_eq!(
            hint("dreamshapr", names.clone()).as_deref(),
            Some("did you mean `dreamshaper` or `dreamshaper-xl`?")
        );
        assert_eq!(hint("zzzzzzzz", names), None);
        assert_eq!(hint("vea", ["vae".to_owned()]).as_deref(), Some("did you mean `vae`?"));
    }
}
