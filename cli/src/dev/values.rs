//! Values of weights: a function of the seed, the weight's key and the element's number only, so that
//! neither order nor threads matter and the same weight is equal in every file.

use half::{bf16, f16};

use super::{options::Dtype, schedule::Series, tensor::Part};

/// What a weight is filled with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fill {
    /// Normal numbers.
    Spread { mean: f32, deviation: f32 },
    /// One number.
    Exact(f32),
    /// One number in single precision, whatever the file's type.
    Single(f32),
    /// 0, 1, 2, … as long integers.
    Positions,
    /// One short integer.
    Count(i32),
    /// A series of the noise schedule in single precision, whatever the file's type.
    Schedule(Series),
}

impl Fill {
    /// Biases.
    pub(super) const BIAS: Self = Self::Spread { mean: 0.0, deviation: 0.01 };
    /// Scales of normalisations: nearly one, yet different, so that a swapped pair shows.
    pub(super) const SCALE: Self = Self::Spread { mean: 1.0, deviation: 0.02 };
    /// Embeddings.
    pub(super) const EMBEDDING: Self = Self::Spread { mean: 0.0, deviation: 0.02 };
    /// The outer matrices of LoRAs.
    pub(super) const SMALL: Self = Self::Spread { mean: 0.0, deviation: 0.005 };

    /// A matrix that keeps the size of what flows through it.
    pub(super) fn by_inputs(inputs: u64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a deviation needs no more digits")]
        let deviation = 1.0 / (inputs.max(1) as f32).sqrt();
        Self::Spread { mean: 0.0, deviation }
    }

    /// The element type in a file of `dtype`.
    pub(super) const fn dtype(self, dtype: Dtype) -> Dtype {
        match self {
            Self::Positions => Dtype::I64,
            Self::Count(_) => Dtype::I32,
            Self::Single(_) | Self::Schedule(_) => Dtype::F32,
            Self::Spread { .. } | Self::Exact(_) => dtype,
        }
    }
}

/// Number of different normal numbers; a power of two.
const QUANTILES: usize = 4096;
/// exp(−h²/2) of the step h = 1/1024 below, to f64's last digit.
const FIRST_RATIO: f64 = 0.999_999_523_162_955_6;
/// √(π/2): half the area below exp(−x²/2).
const HALF_AREA: f64 = 1.253_314_137_315_500_3;

/// Random elements of one 64-bit word.
const LANES: u64 = 4;
/// The golden ratio's bits: the step of splitmix64.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Makes values. Built once: it holds the quantiles of the normal distribution.
#[derive(Debug)]
pub(super) struct Generator {
    seed: u64,
    quantiles: Vec<f32>,
}

impl Generator {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, quantiles: quantiles() }
    }

    /// Writes the elements from number `first` on into `out`, which holds whole elements of `dtype`.
    pub(super) fn write(&self, part: &Part, dtype: Dtype, first: u64, out: &mut [u8]) {
        match part.fill {
            Fill::Positions => each(out, dtype, first, |at, slot| slot.copy_from_slice(&at.to_le_bytes())),
            Fill::Count(count) => each(out, dtype, first, |_, slot| slot.copy_from_slice(&count.to_le_bytes())),
            Fill::Schedule(series) => series_from(&series.values(), dtype, first, out),
            Fill::Exact(value) | Fill::Single(value) => each(out, dtype, first, |_, slot| put(slot, dtype, value)),
            Fill::Spread { mean, deviation } => self.spread(part, dtype, first, out, (mean, deviation)),
        }
    }

    fn spread(&self, part: &Part, dtype: Dtype, first: u64, out: &mut [u8], (mean, deviation): (f32, f32)) {
        let key = self.key(part);
        if part.transposed_from_rows.is_some() || out.len() < QUANTILES {
            // a table would cost more than it saves
            let value = |at| self.quantile(random(key, source(part, at))) * deviation + mean;
            return each(out, dtype, first, |at, slot| put(slot, dtype, value(at)));
        }
        let width = usize::try_from(dtype.bytes()).unwrap_or(1);
        let mut table = vec![0; QUANTILES * width];
        for (slot, quantile) in table.chunks_exact_mut(width).zip(&self.quantiles) {
            put(slot, dtype, quantile * deviation + mean);
        }
        match dtype {
            Dtype::F32 => run::<4>(key, first, &table, out),
            _ => run::<2>(key, first, &table, out),
        }
    }

    fn key(&self, part: &Part) -> u64 {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.seed.to_le_bytes()).update(part.key.as_bytes());
        let mut bytes = [0; 8];
        hasher.finalize_xof().fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn quantile(&self, lane: usize) -> f32 {
        self.quantiles.get(lane).copied().unwrap_or_default()
    }
}

/// The number, in its weight, of the element that is stored at `at`.
fn source(part: &Part, at: u64) -> u64 {
    match part.transposed_from_rows {
        Some(rows) if rows > 0 => (at % rows) * (part.elements / rows) + at / rows,
        _ => at,
    }
}

/// Which quantile element `at` is.
fn random(key: u64, at: u64) -> usize {
    lane(word(key, at / LANES), at % LANES)
}

fn word(key: u64, number: u64) -> u64 {
    let mut mixed = key.wrapping_add(number.wrapping_add(1).wrapping_mul(GOLDEN));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn lane(word: u64, lane: u64) -> usize {
    #[expect(clippy::cast_possible_truncation, reason = "masked to the number of quantiles")]
    let lane = (word >> (lane * 16)) as usize & (QUANTILES - 1);
    lane
}

/// Fills `out` with entries of `WIDTH` bytes, four to a word; the ends may lie inside a word.
fn run<const WIDTH: usize>(key: u64, first: u64, table: &[u8], out: &mut [u8]) {
    let Ok(entries) = <&[[u8; WIDTH]; QUANTILES]>::try_from(table.as_chunks::<WIDTH>().0) else { return };
    let elements = u64::try_from(out.len() / WIDTH).unwrap_or_default();
    let head = ((LANES - first % LANES) % LANES).min(elements);
    let (front, rest) = out.split_at_mut(usize::try_from(head).unwrap_or_default() * WIDTH);
    singles(key, first, entries, front);
    let mut number = (first + head) / LANES;
    let mut groups = rest.chunks_exact_mut(WIDTH * 4);
    for group in groups.by_ref() {
        let bits = word(key, number);
        // every lane is below the number of quantiles
        let four = [entries[lane(bits, 0)], entries[lane(bits, 1)], entries[lane(bits, 2)], entries[lane(bits, 3)]];
        group.copy_from_slice(four.as_flattened());
        number += 1;
    }
    singles(key, number * LANES, entries, groups.into_remainder());
}

fn singles<const WIDTH: usize>(key: u64, first: u64, entries: &[[u8; WIDTH]; QUANTILES], out: &mut [u8]) {
    for (at, slot) in (first..).zip(out.as_chunks_mut::<WIDTH>().0) {
        *slot = entries[random(key, at)];
    }
}

fn each(out: &mut [u8], dtype: Dtype, first: u64, mut write: impl FnMut(u64, &mut [u8])) {
    let width = usize::try_from(dtype.bytes()).unwrap_or(1);
    for (at, slot) in (first..).zip(out.chunks_exact_mut(width)) {
        write(at, slot);
    }
}

fn put(slot: &mut [u8], dtype: Dtype, value: f32) {
    match dtype {
        Dtype::F16 => slot.copy_from_slice(&f16::from_f32(value).to_le_bytes()),
        Dtype::Bf16 => slot.copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
        // integers have fills of their own
        _ => slot.copy_from_slice(&value.to_le_bytes()),
    }
}

fn series_from(values: &[f32], dtype: Dtype, first: u64, out: &mut [u8]) {
    let begin = usize::try_from(first).unwrap_or(usize::MAX);
    let width = usize::try_from(dtype.bytes()).unwrap_or(1);
    for (slot, value) in out.chunks_exact_mut(width).zip(values.iter().skip(begin)) {
        put(slot, dtype, *value);
    }
}

/// The normal distribution cut into equal shares, the middle of each. Sums and products only: the
/// system's mathematical functions may differ in the last digit between machines, these cannot.
fn quantiles() -> Vec<f32> {
    const STEP: f64 = 1.0 / 1024.0;
    let (mut at, mut height, mut ratio, mut area) = (0.0, 1.0, FIRST_RATIO, 0.0);
    let mut half = Vec::with_capacity(QUANTILES / 2);
    for index in 0..QUANTILES / 2 {
        #[expect(clippy::cast_precision_loss, reason = "a few thousand shares")]
        let wanted = (index as f64 + 0.5) / (QUANTILES / 2) as f64 * HALF_AREA;
        let mut slice = (height + height * ratio) / 2.0 * STEP;
        while area + slice < wanted {
            area += slice;
            at += STEP;
            height *= ratio;
            ratio *= FIRST_RATIO * FIRST_RATIO;
            slice = (height + height * ratio) / 2.0 * STEP;
        }
        #[expect(clippy::cast_possible_truncation, reason = "the table holds single precision")]
        half.push((at + (wanted - area) / slice * STEP) as f32);
    }
    half.iter().rev().map(|value| -value).chain(half.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(fill: Fill, elements: u64) -> Part {
        Part { key: "unet/conv_in.weight".to_owned(), elements, transposed_from_rows: None, fill }
    }

    fn floats(bytes: &[u8]) -> Vec<f32> {
        bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }

    #[test]
    fn quantiles_are_those_of_the_normal_distribution() {
        let table = quantiles();
        let at = |share: f64| table[(share * 4096.0) as usize];
        for (share, expected) in [(0.841_35, 1.0), (0.977_25, 2.0), (0.998_65, 3.0), (0.158_65, -1.0)] {
            assert!((at(share) - expected).abs() < 0.02, "{share}: {}", at(share));
        }
        let square: f64 = table.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>() / 4096.0;
        assert!((square - 1.0).abs() < 0.01, "{square}");
        assert!((FIRST_RATIO - (-0.5f64 / 1024.0 / 1024.0).exp()).abs() < 1e-15);
    }

    #[test]
    fn any_cut_gives_the_same_values() {
        let (generator, part) = (Generator::new(7), part(Fill::by_inputs(36), 40_000));
        let mut whole = vec![0; 80_000];
        generator.write(&part, Dtype::F16, 0, &mut whole);
        for (first, count) in [(0, 3), (1, 9_001), (4_097, 20_000), (39_999, 1)] {
            let mut piece = vec![0; count * 2];
            generator.write(&part, Dtype::F16, first as u64, &mut piece);
            assert_eq!(piece, whole[first * 2..(first + count) * 2], "{count} from {first}");
        }
    }

    #[test]
    fn another_seed_or_key_gives_other_values() {
        let write = |seed, key: &str| {
            let mut out = vec![0; 64];
            let part = Part { key: key.to_owned(), ..part(Fill::EMBEDDING, 16) };
            Generator::new(seed).write(&part, Dtype::F32, 0, &mut out);
            out
        };
        assert_eq!(write(1, "a"), write(1, "a"));
        assert_ne!(write(1, "a"), write(2, "a"));
        assert_ne!(write(1, "a"), write(1, "b"));
    }

    #[test]
    fn a_transposed_weight_has_its_columns_as_rows() {
        let generator = Generator::new(3);
        let plain = part(Fill::by_inputs(3), 6);
        let turned = Part { transposed_from_rows: Some(2), ..plain.clone() };
        let (mut a, mut b) = (vec![0; 24], vec![0; 24]);
        generator.write(&plain, Dtype::F32, 0, &mut a);
        generator.write(&turned, Dtype::F32, 0, &mut b);
        let (a, b) = (floats(&a), floats(&b));
        // [2, 3] stored as [3, 2]
        assert_eq!(b, [a[0], a[3], a[1], a[4], a[2], a[5]]);
    }

    #[test]
    fn values_have_the_spread_of_their_inputs() {
        let mut out = vec![0; 400_000];
        Generator::new(0).write(&part(Fill::by_inputs(100), 100_000), Dtype::F32, 0, &mut out);
        let values = floats(&out);
        let mean = values.iter().sum::<f32>() / 100_000.0;
        let square = values.iter().map(|value| value * value).sum::<f32>() / 100_000.0;
        assert!(mean.abs() < 0.002 && (square.sqrt() - 0.1).abs() < 0.002, "{mean} {square}");
    }
}
