//! The kinds of questions, each made anew from values of the library.

use rand::{Rng, rngs::SmallRng, seq::IndexedRandom};
use shared::db::models::{ModelFilter, ModelSort};

use crate::library::{Known, Sample};

/// A kind of question.
#[derive(Debug)]
pub(crate) struct Kind {
    /// What is asked.
    pub name: &'static str,
    /// Makes one.
    pub ask: fn(&Sample, &mut SmallRng) -> Question,
}

/// A page that is asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Question {
    /// Everything but the text.
    pub filter: ModelFilter,
    /// The text.
    pub text: Option<String>,
    /// The page after the first, which is not measured.
    pub second_page: bool,
}

macro_rules! kinds {
    ($($name:literal => |$sample:pat_param, $rng:pat_param| $question:expr),* $(,)?) => {
        [$(Kind { name: $name, ask: |$sample, $rng| Question::from($question) }),*]
    };
}

/// All kinds.
pub(crate) const KINDS: &[Kind] = &kinds![
    "all, by name" => |_, _| ModelFilter::default(),
    "all, by size" => |_, r| sorted(r, ModelSort::Size),
    "all, by creation" => |_, r| sorted(r, ModelSort::Created),
    "all, by change" => |_, r| sorted(r, ModelSort::Updated),
    "deep page by name" => |s, r| deep(s, r, ModelSort::Name),
    "deep page by size" => |s, r| deep(s, r, ModelSort::Size),
    "deep page by creation" => |s, r| deep(s, r, ModelSort::Created),
    "deep page by change" => |s, r| deep(s, r, ModelSort::Updated),
    "type" => |s, r| ModelFilter { types: one(&any(s, r).model_type), ..any_order(r) },
    "two types" => |_, r| ModelFilter { types: Some(vec!["vae".into(), "controlnet".into()]), ..any_order(r) },
    "base" => |s, r| ModelFilter { bases: one(&any(s, r).base), ..any_order(r) },
    "format" => |s, r| ModelFilter { formats: one(&any(s, r).format), ..any_order(r) },
    "dtype" => |s, r| ModelFilter { variants: any(s, r).variant.clone().map(|one| vec![one]), ..any_order(r) },
    "prediction" => |_, r| ModelFilter { predictions: one("v_prediction"), ..any_order(r) },
    "state" => |_, r| ModelFilter { states: one(pick(r, &["available", "missing", "unreadable"])), ..any_order(r) },
    "verdict" => |_, r| ModelFilter { verdicts: one(pick(r, &["ok", "degraded", "invalid", "unsafe", "stale", "none"])), ..any_order(r) },
    "host" => |_, r| ModelFilter { host: Some(format!("host-{}", r.random_range(1..=9))), ..any_order(r) },
    "component" => |_, r| ModelFilter { components: one(pick(r, &["unet", "vae", "text_encoder", "controlnet", "lora", "absent"])), ..any_order(r) },
    "tier" => |_, r| ModelFilter { resident: Some((*pick(r, &["ram", "vram"])).to_owned()), ..any_order(r) },
    "size" => |s, r| sizes(s, r),
    "tag" => |s, r| ModelFilter { tags: tags(s, r, 1), ..any_order(r) },
    "two tags" => |s, r| ModelFilter { tags: tags(s, r, 2), ..any_order(r) },
    "part of a name" => |s, r| ModelFilter { name_contains: Some(part(&any(s, r).name, 5, r)), ..any_order(r) },
    "two letters of a name" => |s, r| ModelFilter { name_contains: Some(part(&any(s, r).name, 2, r)), ..any_order(r) },
    "part of no name" => |_, r| ModelFilter { name_contains: Some(letters(r, 5)), ..any_order(r) },
    "two letters of few names" => |_, r| ModelFilter { name_contains: Some(letters(r, 2)), ..any_order(r) },
    "hash, 8 digits" => |s, r| ModelFilter { hash: hash(s, r, 8), ..any_order(r) },
    "hash, whole" => |s, r| ModelFilter { hash: hash(s, r, 64), ..any_order(r) },
    "type, base, dtype" => |s, r| alike(s, r),
    "type, base, dtype, deep page" => |s, r| ModelFilter { after: deep(s, r, ModelSort::Name).after, sort: ModelSort::Name, descending: false, ..alike(s, r) },
    "any filters of one model" => |s, r| filters(s, r, true),
    "any filters, mixed" => |s, r| filters(s, r, false),
    "text: a word of very many" => |s, r| text(word(s, r, 0, 20)),
    "text: a word of many" => |s, r| text(word(s, r, 20, 400)),
    "text: a rare word" => |s, r| text(word(s, r, 4_000, 20_000)),
    "text: two words of many" => |s, r| text(format!("{} {}", word(s, r, 0, 300), word(s, r, 0, 300))),
    "text: a rare and a frequent word" => |s, r| text(format!("{} {}", word(s, r, 0, 100), word(s, r, 4_000, 20_000))),
    "text: three letters that begin words" => |s, r| text(begin(&word(s, r, 0, 20_000), 3)),
    "text: two letters that begin words" => |s, r| text(begin(&word(s, r, 0, 20_000), 2)),
    "text: one letter" => |_, r| text(letters(r, 1)),
    "text: a name" => |s, r| text(any(s, r).name.clone()),
    "text: a name with a mistake" => |s, r| text(mistaken(&any(s, r).name, r)),
    "text: a rare word with a mistake" => |s, r| text(mistaken(&word(s, r, 400, 20_000), r)),
    "text: a frequent word with a mistake" => |s, r| text(mistaken(&long_word(s, r), r)),
    "text: two words with mistakes" => |s, r| text(format!("{} {}", mistaken(&long_word(s, r), r), mistaken(&long_word(s, r), r))),
    "text: nothing like it" => |_, r| text(letters(r, 9)),
    "text: sixteen words" => |s, r| text((0..16).map(|_| word(s, r, 0, 150)).collect::<Vec<_>>().join(" ")),
    "text, by name" => |s, r| Question { filter: sorted(r, ModelSort::Name), ..text(word(s, r, 0, 2_000)) },
    "text, by change" => |s, r| Question { filter: sorted(r, ModelSort::Updated), ..text(word(s, r, 0, 2_000)) },
    "text and filters" => |s, r| Question { filter: ModelFilter { sort: ModelSort::Rank, descending: true, ..alike(s, r) }, ..text(word(s, r, 0, 2_000)) },
    "text, second page" => |s, r| Question { second_page: true, ..text(word(s, r, 0, 2_000)) },
    "text with a mistake, second page" => |s, r| Question { second_page: true, ..text(mistaken(&long_word(s, r), r)) },
];

impl From<ModelFilter> for Question {
    fn from(filter: ModelFilter) -> Self {
        Self { filter, ..Self::default() }
    }
}

fn text(text: String) -> Question {
    let filter = ModelFilter { sort: ModelSort::Rank, descending: true, ..ModelFilter::default() };
    Question { filter, text: Some(text), second_page: false }
}

fn any<'s>(sample: &'s Sample, rng: &mut SmallRng) -> &'s Known {
    let number = rng.random_range(0..sample.rows.len());
    &sample.rows[number]
}

fn pick<'a>(rng: &mut SmallRng, of: &'a [&'a str]) -> &'a str {
    of.choose(rng).copied().unwrap_or_default()
}

fn one(value: &str) -> Option<Vec<String>> {
    Some(vec![value.to_owned()])
}

fn sorted(rng: &mut SmallRng, sort: ModelSort) -> ModelFilter {
    ModelFilter { sort, descending: rng.random(), ..ModelFilter::default() }
}

/// Half of all by name, as most people ask.
fn any_order(rng: &mut SmallRng) -> ModelFilter {
    let orders = [ModelSort::Name, ModelSort::Size, ModelSort::Created, ModelSort::Updated];
    let sort = if rng.random() { ModelSort::Name } else { *orders.choose(rng).unwrap_or(&ModelSort::Name) };
    sorted(rng, sort)
}

/// The page after a model somewhere.
fn deep(sample: &Sample, rng: &mut SmallRng, sort: ModelSort) -> ModelFilter {
    let row = any(sample, rng);
    let value = match sort {
        ModelSort::Name | ModelSort::Rank => row.name.clone(),
        ModelSort::Size => row.size_bytes.to_string(),
        ModelSort::Created => row.created_at.to_rfc3339(),
        ModelSort::Updated => row.updated_at.to_rfc3339(),
    };
    ModelFilter { after: Some((value, row.model_id)), ..sorted(rng, sort) }
}

fn sizes(sample: &Sample, rng: &mut SmallRng) -> ModelFilter {
    let least = any(sample, rng).size_bytes;
    ModelFilter { size_min: Some(least), size_max: Some(least + least / 10), ..any_order(rng) }
}

fn tags(sample: &Sample, rng: &mut SmallRng, count: usize) -> Vec<String> {
    any(sample, rng).tags.iter().take(count).cloned().collect()
}

fn hash(sample: &Sample, rng: &mut SmallRng, digits: usize) -> Option<String> {
    let row = any(sample, rng);
    let hashes = [&row.sha256, &row.payload_sha256, &row.content_digest];
    hashes.choose(rng)?.as_ref().map(|hash| hash.chars().take(digits).collect())
}

/// Type, base and dtype of one model.
fn alike(sample: &Sample, rng: &mut SmallRng) -> ModelFilter {
    let row = any(sample, rng);
    let variants = row.variant.clone().map(|one| vec![one]);
    ModelFilter { types: one(&row.model_type), bases: one(&row.base), variants, ..any_order(rng) }
}

/// Each filter with one chance in three; of one model, so that something is found, or of several.
fn filters(sample: &Sample, rng: &mut SmallRng, same: bool) -> ModelFilter {
    let mut filter = any_order(rng);
    let first = any(sample, rng);
    for number in 0..8 {
        if !rng.random_ratio(1, 3) {
            continue;
        }
        let row = if same { first } else { any(sample, rng) };
        match number {
            0 => filter.types = one(&row.model_type),
            1 => filter.bases = one(&row.base),
            2 => filter.formats = one(&row.format),
            3 => filter.variants = row.variant.clone().map(|one| vec![one]),
            4 => filter.tags = row.tags.iter().take(1).cloned().collect(),
            5 => filter.size_min = Some(row.size_bytes),
            6 => filter.name_contains = Some(part(&row.name, 4, rng)),
            _ => filter.host = Some(format!("host-{}", rng.random_range(1..=8))),
        }
    }
    filter
}

fn part(name: &str, length: usize, rng: &mut SmallRng) -> String {
    let letters: Vec<char> = name.chars().collect();
    let from = rng.random_range(0..=letters.len().saturating_sub(length));
    letters.iter().skip(from).take(length).collect()
}

fn begin(word: &str, length: usize) -> String {
    word.chars().take(length).collect()
}

fn letters(rng: &mut SmallRng, count: usize) -> String {
    (0..count).map(|_| char::from(rng.random_range(b'a'..=b'z'))).collect()
}

/// A word by its place in the order of frequency.
fn word(sample: &Sample, rng: &mut SmallRng, from: usize, to: usize) -> String {
    let to = to.min(sample.words.len());
    sample.words[rng.random_range(from.min(to - 1)..to)].clone()
}

/// A frequent word of six letters or more.
fn long_word(sample: &Sample, rng: &mut SmallRng) -> String {
    loop {
        let word = word(sample, rng, 0, 1_000);
        if word.chars().count() >= 6 {
            return word;
        }
    }
}

/// The text with two letters changed places.
fn mistaken(text: &str, rng: &mut SmallRng) -> String {
    let mut letters: Vec<char> = text.chars().collect();
    if letters.len() > 2 {
        let at = rng.random_range(1..letters.len() - 1);
        letters.swap(at, at + 1);
    }
    letters.into_iter().collect()
}
