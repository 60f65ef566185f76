//! Activations.

use super::{dense::linear, shape::mul, shape::split};
use crate::graph::{Attr, Graph, V, builder::MICROSOFT};

/// The slope of `QuickGelu` with which CLIP was trained.
const CLIP_SLOPE: f32 = 1.702;

/// `x · sigmoid(x)`, in one operator.
pub fn silu(g: &mut Graph<'_>, x: V) -> V {
    g.op("QuickGelu", MICROSOFT, &[x], &[Attr::Float("alpha", 1.0)])
}

/// `x · sigmoid(1.702 x)`.
pub fn quick_gelu(g: &mut Graph<'_>, x: V) -> V {
    g.op("QuickGelu", MICROSOFT, &[x], &[Attr::Float("alpha", CLIP_SLOPE)])
}

/// `x · Φ(x)`, exact.
pub fn gelu(g: &mut Graph<'_>, x: V) -> V {
    g.op("Gelu", "", &[x], &[])
}

/// A linear layer to twice `width`, the first half times the GELU of the second.
pub fn geglu(g: &mut Graph<'_>, x: V, prefix: &str, channels: usize, width: usize) -> V {
    let both = linear(g, x, prefix, channels, width.saturating_mul(2), true);
    match *split(g, both, -1, 2) {
        [value, gate] => {
            let gate = gelu(g, gate);
            mul(g, value, gate)
        }
        // `split` gives as many parts as it is asked for
        _ => both,
    }
}
