//! Layers: what the modules of torch and diffusers do, as operators of the graph. Weights are found by `prefix`, the
//! module's path: `{prefix}.weight`, `{prefix}.bias`.

mod activation;
mod attention;
mod conv;
mod dense;
mod norm;
mod shape;

pub use activation::{geglu, gelu, quick_gelu, silu};
pub use attention::{attention_with, multi_head_attention};
pub use conv::{conv2d, conv2d_padded, upsample2x};
pub(crate) use dense::linear_operator;
pub use dense::{gemm, gemm_as, linear};
pub use norm::{group_norm, layer_norm};
pub use shape::{add, concat, mul, reshape, reshape_as, reshape_to, shape_of, split, sub, transpose, unsqueeze};
