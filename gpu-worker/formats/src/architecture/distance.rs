//! The nearest of many names, with bounded work.

/// Names are compared up to this many bytes, and only those at most this far apart count as near.
const NAME_LIMIT_BYTES: usize = 256;
const FAR: usize = 12;

/// The nearest candidate, the first of equals; none if all are far.
pub(super) fn nearest<'c>(name: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    let mut best: Option<(usize, &'c str)> = None;
    for candidate in candidates {
        let limit = best.map_or(FAR, |(distance, _)| distance.saturating_sub(1));
        if let Some(distance) = within(name, candidate, limit) {
            best = Some((distance, candidate));
            if distance == 0 {
                break;
            }
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// The edit distance (insert, delete, replace one byte), if it is at most `limit`.
fn within(a: &str, b: &str, limit: usize) -> Option<usize> {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len().abs_diff(b.len()) > limit || a.len().max(b.len()) > NAME_LIMIT_BYTES {
        return None;
    }
    // what both begin and end with costs nothing
    let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let (a, b) = (a.get(same..)?, b.get(same..)?);
    let same = a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count();
    let (a, b) = (a.get(..a.len().checked_sub(same)?)?, b.get(..b.len().checked_sub(same)?)?);
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (index, left) in a.iter().enumerate() {
        let mut diagonal = index;
        let mut previous = index.saturating_add(1);
        let mut least = previous;
        if let Some(first) = row.first_mut() {
            *first = previous;
        }
        for (right, cell) in b.iter().zip(row.iter_mut().skip(1)) {
            let replaced = diagonal.saturating_add(usize::from(left != right));
            diagonal = *cell;
            previous = replaced.min(previous.saturating_add(1)).min(cell.saturating_add(1));
            *cell = previous;
            least = least.min(previous);
        }
        if least > limit {
            return None;
        }
    }
    row.last().copied().filter(|distance| *distance <= limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_edits() {
        for (a, b, distance) in
            [("", "", 0), ("abc", "abc", 0), ("abc", "axc", 1), ("kitten", "sitting", 3), ("", "ab", 2)]
        {
            assert_eq!(within(a, b, 5), Some(distance), "{a} {b}");
            assert_eq!(within(b, a, 5), Some(distance), "{b} {a}");
        }
        assert_eq!(within("kitten", "sitting", 2), None);
    }

    #[test]
    fn the_nearest_wins_and_far_names_do_not() {
        let names = ["down_blocks.0.resnets.0.conv1.weight", "down_blocks.0.resnets.0.conv2.weight"];
        assert_eq!(nearest("down_blocks.0.resnet.0.conv2.weight", names.into_iter()), Some(names[1]));
        assert_eq!(nearest("something.else.entirely.bias", names.into_iter()), None);
    }
}
