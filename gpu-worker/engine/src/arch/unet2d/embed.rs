//! What a UNet's numbers go through: the timestep, and the sizes and pooled text of SDXL.

use super::config::{Added, Config};
use crate::{
    graph::{
        Dim, Graph, V,
        layers::{add, concat, gemm, mul, reshape, reshape_to, shape_of, silu},
    },
    tensor::ElementType,
};

/// Periods grow geometrically up to this.
const LONGEST_PERIOD: f64 = 10_000.0;

/// The embedded timestep: [1, `time_width`].
pub(super) fn time(g: &mut Graph<'_>, config: &Config) -> V {
    let timestep = g.input("timestep", ElementType::F32, &[Dim::Fixed(1)]);
    let width = config.first_channels();
    let waves = sinusoids(g, config, timestep, width);
    two_layers(g, waves, "time_embedding", width, config.time_width)
}

/// The time with pooled text and sizes added, where the UNet takes them: [batch, `time_width`].
pub(super) fn added(g: &mut Graph<'_>, config: &Config, time: V) -> V {
    let Some(Added { inputs, each }) = config.added else { return time };
    let text = g.input("text_embeds", ElementType::F32, &[Dim::Free("batch"), Dim::Free("text")]);
    let numbers = g.input("time_ids", ElementType::F32, &[Dim::Free("batch"), Dim::Free("numbers")]);
    let waves = sinusoids(g, config, numbers, each);
    let batch = shape_of(g, numbers, 0, 1);
    let rest = g.const_i64(&[-1], &[1]);
    let sides = concat(g, &[batch, rest], 0);
    let waves = reshape_to(g, waves, sides);
    let text = g.to_compute(text);
    let both = concat(g, &[text, waves], 1);
    let embedded = two_layers(g, both, "add_embedding", inputs, config.time_width);
    add(g, time, embedded)
}

fn two_layers(g: &mut Graph<'_>, x: V, path: &str, inputs: usize, width: usize) -> V {
    let inner = gemm(g, x, &format!("{path}.linear_1"), inputs, width, true);
    let inner = silu(g, inner);
    gemm(g, inner, &format!("{path}.linear_2"), width, width, true)
}

/// A row of `width` sines and cosines for each number: [numbers, width]. In 32-bit floats whatever the graph computes
/// in: the angles go up to a thousand.
fn sinusoids(g: &mut Graph<'_>, config: &Config, numbers: V, width: usize) -> V {
    let frequencies = frequencies(width / 2, config.freq_shift);
    let column = reshape(g, numbers, &[-1, 1]);
    let row = g.const_f32(&frequencies, &[1, frequencies.len()]);
    let angles = mul(g, column, row);
    let [sin, cos] = ["Sin", "Cos"].map(|op| g.op(op, "", &[angles], &[]));
    let order = if config.flip_sin_to_cos { [cos, sin] } else { [sin, cos] };
    let waves = concat(g, &order, 1);
    g.to_compute(waves)
}

/// Rounded where torch rounds: an angle of a thousand carries the error of its frequency a thousandfold.
fn frequencies(count: usize, shift: f32) -> Vec<f32> {
    let step = -(LONGEST_PERIOD.ln() as f32);
    let spread = count as f32 - shift;
    (0..count).map(|index| (step * index as f32 / spread).exp()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies_are_rounded_as_torch_rounds_them() {
        // `torch.exp(-math.log(10000) * torch.arange(4) / 4)`
        assert_eq!(frequencies(4, 0.0), [1.0, 0.099_999_994, 0.01, 0.000_999_999_9]);
        // with a shift of one the last is the longest period itself
        assert_eq!(frequencies(3, 1.0), [1.0, 0.01, 0.000_099_999_99]);
    }
}
