//! ONNX graphs, emitted: an architecture asks the builder for inputs, weights and operators and gets the bytes of a model
//! with the list of weights that it takes.
//!
//! Every weight is an input of the graph, named after its canonical tensor, so that the session holds none. What an
//! execution provider does differently stands in [`layers`]; architectures do not see it.

mod builder;
mod emitted;
pub mod layers;
mod proto;
mod user;

pub(crate) use builder::OURS;
pub use builder::{Attr, Graph, StorageTypes, V};
pub use emitted::{Dim, Emitted, Port, Provider, Side, Slot};
pub(crate) use layers::linear_operator;
#[cfg(test)]
pub(crate) use user::tests::graph as test_graph;
pub use user::{UserGraph, UserWeight};
pub(crate) use user::{fixed, wrong as wrong_graph};
