//! What a mistyped word may mean: which beginnings of known words are the fewest mistakes away. Pure.

/// Most meanings of one word; a cursor carries them.
const MOST_MEANINGS: usize = 8;
/// Longer words have trigrams enough to be found by them, so their single mistakes are not tried out.
const TRIED_CHARS: usize = 8;

/// Mistakes that are forgiven in a word of so many letters.
fn forgiven(chars: usize) -> usize {
    match chars {
        0..3 => 0,
        3..5 => 1,
        5..9 => 2,
        _ => 3,
    }
}

/// The beginnings of these words that are the fewest mistakes away from `word`, if those are few enough to forgive.
pub(super) fn meanings(word: &str, known: &[String]) -> Vec<String> {
    let typed: Vec<char> = word.chars().collect();
    let mut best = forgiven(typed.len());
    let mut meant: Vec<String> = Vec::new();
    for candidate in known {
        let letters: Vec<char> = candidate.chars().collect();
        let (mistakes, length) = nearest_beginning(&typed, &letters);
        if mistakes > best {
            continue;
        }
        if mistakes < best {
            best = mistakes;
            meant.clear();
        }
        let beginning: String = letters.into_iter().take(length).collect();
        if meant.len() < MOST_MEANINGS && !meant.contains(&beginning) {
            meant.push(beginning);
        }
    }
    meant
}

/// Mistakes between what was typed and the beginning of `known` that is nearest, and the letters of that; of equally near ones
/// the longest, because it says the most. Letters that are missing, too many, wrong, or changed places with the next are mistakes.
fn nearest_beginning(typed: &[char], known: &[char]) -> (usize, usize) {
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=known.len()).collect();
    let mut above_letter = None;
    for (at, letter) in typed.iter().enumerate() {
        let next = next_row(at, (letter, above_letter), known, &row, &before);
        before = std::mem::replace(&mut row, next);
        above_letter = Some(letter);
    }
    let nearest = row.iter().enumerate().min_by_key(|(length, mistakes)| (**mistakes, usize::MAX - length));
    nearest.map_or((typed.len(), 0), |(length, mistakes)| (*mistakes, length))
}

/// Mistakes between one more typed letter and each beginning of `known`, from those of one and of two letters less.
fn next_row(
    at: usize,
    (letter, above_letter): (&char, Option<&char>),
    known: &[char],
    above: &[usize],
    twice_above: &[usize],
) -> Vec<usize> {
    let mut row = vec![at + 1];
    let mut left_letter = None;
    for (column, other) in known.iter().enumerate() {
        let cost = |of: &[usize], at: usize| of.get(at).copied().unwrap_or(usize::MAX - 1);
        let mut least = (cost(above, column) + usize::from(letter != other))
            .min(cost(above, column + 1) + 1)
            .min(cost(&row, column) + 1);
        if column > 0 && above_letter == Some(other) && left_letter == Some(letter) {
            least = least.min(cost(twice_above, column - 1) + 1);
        }
        row.push(least);
        left_letter = Some(other);
    }
    row
}

/// Every word that is one mistake away from a short one, but for letters that are neither Latin nor digits.
pub(super) fn one_mistake_away(word: &str) -> Vec<String> {
    let letters: Vec<char> = word.chars().collect();
    if letters.len() > TRIED_CHARS {
        return Vec::new();
    }
    let mut words = Vec::new();
    for at in 0..=letters.len() {
        let (begin, rest) = letters.split_at(at);
        let mut put = |between: &[char], end: &[char]| words.push([begin, between, end].concat().into_iter().collect());
        for letter in ('a'..='z').chain('0'..='9') {
            put(&[letter], rest);
            if let [_, end @ ..] = rest {
                put(&[letter], end);
            }
        }
        if let [_, end @ ..] = rest {
            put(&[], end);
        }
        if let [first, second, end @ ..] = rest {
            put(&[*second, *first], end);
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn known(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn the_fewest_mistakes_win_and_too_many_mean_nothing() {
        let words = known(&["dreamshaper", "dreamy", "shaper", "drum", "comic", "common"]);
        assert_eq!(meanings("draemshaper", &words), ["dreamshaper"]);
        assert_eq!(meanings("dreamshapre", &words), ["dreamshaper"]);
        // the beginning of two words, once
        assert_eq!(meanings("draem", &words), ["dream"]);
        assert_eq!(meanings("comon", &words), ["common"]);
        assert!(meanings("qqqqq", &words).is_empty());
        assert!(meanings("xy", &words).is_empty(), "nothing is forgiven in two letters");
    }

    proptest! {
        #[test]
        fn what_is_one_mistake_away_is_found_so_and_means_the_word(word in "[a-z]{3,8}", at in 0_usize..1_000) {
            let typed = one_mistake_away(&word);
            let typed = &typed[at % typed.len()];
            let (mistakes, _) = nearest_beginning(&typed.chars().collect::<Vec<_>>(), &word.chars().collect::<Vec<_>>());
            prop_assert!(mistakes <= 1, "{typed}: {mistakes}");
            // a word is one mistake away from each of those
            if typed.chars().count() <= TRIED_CHARS {
                prop_assert!(typed == &word || one_mistake_away(typed).contains(&word));
            }
        }

        #[test]
        fn a_beginning_is_no_mistake(word in "\\PC{1,12}", more in "\\PC{0,12}") {
            let letters: Vec<char> = word.chars().collect();
            let longer: Vec<char> = word.chars().chain(more.chars()).collect();
            prop_assert_eq!(nearest_beginning(&letters, &longer), (0, letters.len()));
        }
    }
}
