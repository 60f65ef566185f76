//! One run: memory of ours bound to a session's inputs, and the outputs taken.

use ort::{
    session::{IoBinding, RunOptions, Session as Compiled, SessionOutputs},
    value::{DynValue, PrimitiveTensorElementType, TensorElementType, ValueType},
};

use super::value::Places;
use crate::{
    error::EngineError,
    graph::{Port, Slot},
    tensor::{Tensor, TensorData},
    weights::Weight,
};

/// What a run reads: checked weights and inputs, each with its place in the graph.
pub(super) struct Given<'r> {
    pub(super) slots: &'r [Slot],
    pub(super) weights: Vec<&'r Weight>,
    pub(super) ports: &'r [Port],
    pub(super) inputs: Vec<&'r Tensor>,
    pub(super) outputs: &'r [Port],
}

/// Binds, runs, and copies the outputs out of the session's memory.
pub(super) fn run(
    session: &mut Compiled,
    places: &Places,
    given: &Given<'_>,
    options: &RunOptions,
) -> Result<Vec<Tensor>, EngineError> {
    let mut binding = session.create_binding().map_err(EngineError::onnx("binding"))?;
    bind(&mut binding, places, given)?;
    // the binding, with every value over our memory, ends with this function, before what `given` borrows
    let outputs =
        session.run_binding_with_options(&binding, options).map_err(EngineError::onnx("running the graph"))?;
    given.outputs.iter().map(|port| take(&outputs, &port.name)).collect()
}

#[expect(unsafe_code, reason = "values over memory that `given` borrows")]
fn bind(binding: &mut IoBinding, places: &Places, given: &Given<'_>) -> Result<(), EngineError> {
    for (slot, weight) in given.slots.iter().zip(&given.weights) {
        // SAFETY: the binding that holds the value is dropped by `run`, while `given` still borrows the weights.
        let value = unsafe { places.weight(weight, &slot.shape) }?;
        bind_input(binding, &slot.input, &value)?;
    }
    for (port, tensor) in given.ports.iter().zip(&given.inputs) {
        // SAFETY: as above, for the inputs.
        let value = unsafe { places.tensor(tensor) }?;
        bind_input(binding, &port.name, &value)?;
    }
    for port in given.outputs {
        binding.bind_output_to_device(&port.name, places.host()).map_err(EngineError::onnx("binding an output"))?;
    }
    Ok(())
}

fn bind_input(binding: &mut IoBinding, name: &str, value: &DynValue) -> Result<(), EngineError> {
    binding.bind_input(name, value).map_err(EngineError::onnx("binding an input"))
}

fn take(outputs: &SessionOutputs<'_>, name: &str) -> Result<Tensor, EngineError> {
    let missing = || EngineError::Onnx { what: "taking an output", answer: format!("`{name}` is not there") };
    let value = outputs.get(name).ok_or_else(missing)?;
    let ValueType::Tensor { ty, .. } = value.dtype() else { return Err(missing()) };
    match ty {
        TensorElementType::Float32 => copied(value, TensorData::F32),
        TensorElementType::Float16 => copied(value, TensorData::F16),
        TensorElementType::Bfloat16 => copied(value, TensorData::Bf16),
        TensorElementType::Float64 => copied(value, TensorData::F64),
        TensorElementType::Int64 => copied(value, TensorData::I64),
        TensorElementType::Int32 => copied(value, TensorData::I32),
        TensorElementType::Uint8 => copied(value, TensorData::U8),
        TensorElementType::Bool => copied(value, TensorData::Bool),
        other => Err(EngineError::Onnx { what: "taking an output", answer: format!("`{name}` is of type {other}") }),
    }
}

fn copied<T>(value: &DynValue, data: impl Fn(Vec<T>) -> TensorData) -> Result<Tensor, EngineError>
where
    T: PrimitiveTensorElementType + Clone,
{
    let (shape, values) = value.try_extract_tensor::<T>().map_err(EngineError::onnx("taking an output"))?;
    let shape = shape.iter().map(|side| usize::try_from(*side).unwrap_or(0)).collect();
    Ok(Tensor { shape, data: data(values.to_vec()) })
}
