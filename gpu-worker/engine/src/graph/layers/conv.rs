//! Convolutions and sizes of images: values are [batch, channels, height, width].

use super::dense::side;
use crate::graph::{Attr, Graph, V};

/// A square convolution with bias; `pad` on all four edges.
#[expect(clippy::too_many_arguments, reason = "a convolution has these numbers; they read like torch's")]
pub fn conv2d(
    g: &mut Graph<'_>,
    x: V,
    prefix: &str,
    inputs: usize,
    outputs: usize,
    kernel: usize,
    stride: usize,
    pad: usize,
) -> V {
    conv2d_padded(g, x, prefix, (inputs, outputs), (kernel, stride), [side(pad); 4], true)
}

/// A square convolution with its own padding of each edge, top, left, bottom, right, and perhaps without bias.
pub fn conv2d_padded(
    g: &mut Graph<'_>,
    x: V,
    prefix: &str,
    (inputs, outputs): (usize, usize),
    (kernel, stride): (usize, usize),
    pads: [i64; 4],
    bias: bool,
) -> V {
    let weight = g.weight(&format!("{prefix}.weight"), &[outputs, inputs, kernel, kernel]);
    let bias = if bias { Some(g.weight(&format!("{prefix}.bias"), &[outputs])) } else { None };
    let given: Vec<V> = [x, weight].into_iter().chain(bias).collect();
    let attrs = [
        Attr::Ints("kernel_shape", vec![side(kernel); 2]),
        Attr::Ints("strides", vec![side(stride); 2]),
        Attr::Ints("pads", pads.to_vec()),
    ];
    g.op("Conv", "", &given, &attrs)
}

/// Twice the height and width, each pixel four times.
pub fn upsample2x(g: &mut Graph<'_>, x: V) -> V {
    let scales = g.const_f32(&[1.0, 1.0, 2.0, 2.0], &[4]);
    let attrs = [
        Attr::Text("mode", "nearest"),
        Attr::Text("coordinate_transformation_mode", "asymmetric"),
        Attr::Text("nearest_mode", "floor"),
    ];
    g.op("Resize", "", &[x, V::NONE, scales], &attrs)
}
