//! Linear layers. A matrix of torch is [out, in], which `Gemm` takes as it is.
//!
//! On a CPU that has what it takes they are an operator of ours, which reads weights as they are stored: `Gemm` wants 32 bits,
//! and what widens them before it writes and reads every weight twice more than it has to.

use super::shape::{concat, reshape, reshape_to, shape_of};
use crate::{
    graph::{Attr, Graph, Provider, V, builder::OURS},
    tensor::ElementType,
};

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
    gemm_as(g, x, prefix, &[outputs, inputs], (inputs, outputs), bias)
}

/// The same with a matrix that is stored under other sides, a 1×1 convolution's.
pub fn gemm_as(
    g: &mut Graph<'_>,
    x: V,
    prefix: &str,
    stored: &[usize],
    (inputs, outputs): (usize, usize),
    bias: bool,
) -> V {
    let (name, sides) = (format!("{prefix}.weight"), [outputs, inputs]);
    let ours = ours(g, &name, stored, &sides);
    let weight = ours.map_or_else(|| g.weight_as(&name, stored, &sides), |(weight, _)| weight);
    let bias = bias.then(|| g.weight(&format!("{prefix}.bias"), &[outputs]));
    let given: Vec<V> = [x, weight].into_iter().chain(bias).collect();
    match ours {
        Some((_, operator)) => g.op(operator, OURS, &given, &[]),
        None => g.op("Gemm", "", &given, &[Attr::Int("transB", 1)]),
    }
}

/// The weight as it is stored and our operator for it, where the graph's runtime has one.
fn ours(g: &mut Graph<'_>, name: &str, stored: &[usize], sides: &[usize]) -> Option<(V, &'static str)> {
    if g.provider() != Provider::Cpu || g.compute() != ElementType::F32 || !linear_kernel::is_preferred() {
        return None;
    }
    let (weight, dtype) = g.weight_input(name, stored, sides);
    linear_operator(dtype).map(|operator| (weight, operator))
}

/// The operator of ours for weights of a type, if there is one.
pub(crate) fn linear_operator(weight: ElementType) -> Option<&'static str> {
    match weight {
        ElementType::F32 => Some("LinearF32"),
        ElementType::F16 => Some("LinearF16"),
        ElementType::Bf16 => Some("LinearBf16"),
        _ => None,
    }
}

/// A side as ONNX writes it.
pub(super) fn side(side: usize) -> i64 {
    i64::try_from(side).unwrap_or(i64::MAX)
}
