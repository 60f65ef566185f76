//! Weights on states.

/// Multiplies the state of each token with its weight and restores the mean, as AUTOMATIC1111's web UI does it: the emphasis moves
/// between tokens while the whole keeps its level.
///
/// `states` is one chunk, `[tokens, width]`; pooled states are never weighed. A mean of zero after weighing cannot be restored; the
/// states stay as weighed then.
pub fn apply_weights(states: &mut [f32], weights: &[f32]) {
    if weights.is_empty() || weights.iter().all(|weight| *weight == 1.0) {
        return;
    }
    let before = mean(states);
    let width = states.len() / weights.len();
    for (state, weight) in states.chunks_mut(width.max(1)).zip(weights) {
        state.iter_mut().for_each(|value| *value *= weight);
    }
    let ratio = (before / mean(states)) as f32;
    if ratio.is_finite() {
        states.iter_mut().for_each(|value| *value *= ratio);
    }
}

fn mean(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value)).sum::<f64>() / values.len() as f64
}

#[test]
fn weights_move_emphasis_and_keep_the_mean() {
    let mut states = vec![1.0, 3.0, 2.0, 2.0];
    apply_weights(&mut states, &[1.0, 3.0]);
    // 1 3 6 6 has mean 4, before it was 2
    assert_eq!(states, [0.5, 1.5, 3.0, 3.0]);
    let mut plain = vec![0.1, 0.2];
    apply_weights(&mut plain, &[1.0, 1.0]);
    assert_eq!(plain, [0.1, 0.2]);
    let mut balanced = vec![1.0, -1.0, 0.0, 0.0];
    apply_weights(&mut balanced, &[2.0, 1.0]);
    assert_eq!(balanced, [2.0, -2.0, 0.0, 0.0]);
}
