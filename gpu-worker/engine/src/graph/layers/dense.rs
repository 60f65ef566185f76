//! Linear layers. A matrix of torch is [out, in], which `Gemm` takes as it is.

use super::shape::{concat, reshape, reshape_to, shape_of};
use crate::graph::{Attr, Graph, V};

/// `x · Wᵀ + b` over the last axis of a value of any rank; `Wᵀ` costs nothing.
pub fn linear(g: &mut Graph<'_>, x: V, prefix: &str, inputs: usize, outputs: usize, bias: bool) -> V {
    let rows = reshape(g, x, &[-1, side(inputs)]);
    let rows = gemm(g, rows, prefix, inputs, outputs, bias);
    let leading = shape_of(g, x, 0, -1);
    let last = g.const_i64(&[side(outputs)], &[1]);
    let sides = concat(g, &[leading, last], 0);
    reshape_to(g, rows, sides)
}

/// `x · Wᵀ + b` over rows: x [rows, inputs] → [rows, outputs].
pub fn gemm(g: &mut Graph<'_>, x: V, prefix: &str, inputs: usize, outputs: usize, bias: bool) -> V {
    let weight = g.weight(&format!("{prefix}.weight"), &[outputs, inputs]);
    let bias = if bias { g.weight(&format!("{prefix}.bias"), &[outputs]) } else { V::NONE };
    let given = if bias == V::NONE { vec![x, weight] } else { vec![x, weight, bias] };
    g.op("Gemm", "", &given, &[Attr::Int("transB", 1)])
}

/// A side as ONNX writes it.
pub(super) fn side(side: usize) -> i64 {
    i64::try_from(side).unwrap_or(i64::MAX)
}
