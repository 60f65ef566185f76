//! Sums, products, and what moves elements or only names their sides.

use crate::graph::{Attr, Graph, V};

/// `a + b`, broadcast.
pub fn add(g: &mut Graph<'_>, a: V, b: V) -> V {
    g.op("Add", "", &[a, b], &[])
}

/// `a − b`, broadcast.
pub fn sub(g: &mut Graph<'_>, a: V, b: V) -> V {
    g.op("Sub", "", &[a, b], &[])
}

/// `a · b`, element by element, broadcast.
pub fn mul(g: &mut Graph<'_>, a: V, b: V) -> V {
    g.op("Mul", "", &[a, b], &[])
}

/// All values behind each other along `axis`.
pub fn concat(g: &mut Graph<'_>, values: &[V], axis: i64) -> V {
    g.op("Concat", "", values, &[Attr::Int("axis", axis)])
}

/// `parts` equal parts along `axis`.
pub fn split(g: &mut Graph<'_>, x: V, axis: i64, parts: usize) -> Vec<V> {
    let count = i64::try_from(parts).unwrap_or(i64::MAX);
    g.op_n("Split", "", &[x], &[Attr::Int("axis", axis), Attr::Int("num_outputs", count)], parts)
}

/// The same elements under other sides: 0 keeps the side, −1 takes what is left.
pub fn reshape(g: &mut Graph<'_>, x: V, sides: &[i64]) -> V {
    let sides = g.const_i64(sides, &[sides.len()]);
    reshape_to(g, x, sides)
}

/// The same elements under the sides that a value of the graph says.
pub fn reshape_to(g: &mut Graph<'_>, x: V, sides: V) -> V {
    g.op("Reshape", "", &[x, sides], &[])
}

/// The same elements under the sides of `like`.
pub fn reshape_as(g: &mut Graph<'_>, x: V, like: V) -> V {
    let sides = g.op_once("Shape", like, &[]);
    reshape_to(g, x, sides)
}

/// The sides `start..end` of a value as a vector; a negative `end` counts from the last side.
pub fn shape_of(g: &mut Graph<'_>, x: V, start: i64, end: i64) -> V {
    g.op_once("Shape", x, &[Attr::Int("start", start), Attr::Int("end", end)])
}

/// Axes in another order.
pub fn transpose(g: &mut Graph<'_>, x: V, order: &[i64]) -> V {
    g.op("Transpose", "", &[x], &[Attr::Ints("perm", order.to_vec())])
}

/// New sides of 1 at `axes`.
pub fn unsqueeze(g: &mut Graph<'_>, x: V, axes: &[i64]) -> V {
    let axes = g.const_i64(axes, &[axes.len()]);
    g.op("Unsqueeze", "", &[x, axes], &[])
}
