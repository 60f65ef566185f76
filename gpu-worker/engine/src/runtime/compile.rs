//! Compiling a graph, and what a compiled one says of its inputs and outputs.

use ort::{
    environment::Environment,
    session::{Session as Built, builder::GraphOptimizationLevel},
    value::{Outlet, TensorElementType, ValueType},
};

use super::{RuntimeOptions, operators, provider, value::Places};
use crate::{
    error::EngineError,
    graph::{Port, Provider, Side},
    tensor::ElementType,
};

/// Where the graph is.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// Emitted: weights are inputs.
    Emitted(Vec<u8>),
    /// A user's: weights are inputs as well, operators as an exporter left them.
    Users(Vec<u8>),
}

/// What only one thread may use at a time.
pub(super) struct Compiled {
    pub(super) session: Built,
    pub(super) places: Places,
}

/// Compiles a graph.
pub(super) fn compile(
    environment: &Environment,
    options: &RuntimeOptions,
    source: &Source,
) -> Result<Compiled, EngineError> {
    fn prepared<T, E: std::fmt::Display>(step: Result<T, E>) -> Result<T, EngineError> {
        step.map_err(EngineError::onnx("preparing a session"))
    }
    let level = match source {
        // there is nothing to fold or to pack, and fused operators are emitted as such
        Source::Emitted(_) => GraphOptimizationLevel::Level1,
        Source::Users(_) => GraphOptimizationLevel::All,
    };
    let builder = prepared(Built::builder(environment))?;
    let builder = prepared(builder.with_optimization_level(level))?;
    let builder = prepared(builder.with_intra_threads(options.threads))?;
    // a service with many sessions must not burn cores while it waits
    let builder = prepared(builder.with_intra_op_spinning(false))?;
    // shapes change from run to run: a pattern would hold the largest of each
    let mut builder = prepared(builder.with_memory_pattern(false))?;
    if options.provider == Provider::Cuda {
        builder = prepared(builder.with_execution_providers([provider::cuda(options.device)]))?;
    }
    if options.provider == Provider::Cpu && matches!(source, Source::Emitted(_)) {
        builder = prepared(builder.with_operators(operators::domain(options.threads)?))?;
    }
    let (Source::Emitted(model) | Source::Users(model)) = source;
    let session = builder.commit_from_memory(model).map_err(EngineError::onnx("compiling the graph"))?;
    Ok(Compiled { session, places: Places::new(options.device)? })
}

/// Inputs or outputs as the library describes them.
pub(super) fn ports(outlets: &[Outlet]) -> Result<Vec<Port>, EngineError> {
    outlets.iter().map(port).collect()
}

fn port(outlet: &Outlet) -> Result<Port, EngineError> {
    let unknown = |found: String| EngineError::Config {
        architecture: "ONNX graph",
        field: outlet.name().to_owned(),
        found,
        expected: "a tensor of numbers".to_owned(),
    };
    let ValueType::Tensor { ty, shape, dimension_symbols } = outlet.dtype() else {
        return Err(unknown(outlet.dtype().to_string()));
    };
    let dtype = element(*ty).ok_or_else(|| unknown(ty.to_string()))?;
    let symbol = |at: usize| dimension_symbols.get(at).cloned().unwrap_or_default();
    let side = |(at, side): (usize, &i64)| usize::try_from(*side).map_or_else(|_| Side::Free(symbol(at)), Side::Fixed);
    Ok(Port { name: outlet.name().to_owned(), dtype, dims: shape.iter().enumerate().map(side).collect() })
}

fn element(ty: TensorElementType) -> Option<ElementType> {
    ElementType::ALL.into_iter().find(|element| super::value::element(*element) == ty)
}
