//! Values that follow from a name alone: inputs of a check that are the same on every host and in every run.

/// Mixed as murmur3 ends, from a Weyl sequence that begins at the name's FNV-1a hash: `count` values in [-1, 1).
#[must_use]
pub fn uniform(name: &str, count: usize) -> Vec<f64> {
    let seed = name.bytes().fold(0x811C_9DC5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let word = |index: usize| {
        // the low 32 bits are all that the sequence takes of an index
        let mut word = (index as u32).wrapping_mul(2_654_435_761).wrapping_add(seed);
        word = (word ^ (word >> 16)).wrapping_mul(0x85EB_CA6B);
        word = (word ^ (word >> 13)).wrapping_mul(0xC2B2_AE35);
        f64::from(word ^ (word >> 16)) / 2_147_483_648.0 - 1.0
    };
    (0..count).map(word).collect()
}

/// The same with variance 1.
#[must_use]
pub fn spread(name: &str, count: usize) -> Vec<f32> {
    uniform(name, count).into_iter().map(|value| (value * 3.0_f64.sqrt()) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_the_reference_script() {
        // `uniform("sample", 3)` of tests/reference/make_denoisers.py
        assert_eq!(
            uniform("sample", 3),
            [-0.802_060_612_011_700_9, -0.932_815_487_496_554_9, -0.437_635_911_162_942_65]
        );
        let values = spread("sample", 10_000);
        let variance = values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>() / 10_000.0;
        assert!((variance - 1.0).abs() < 0.05, "{variance}");
    }
}
