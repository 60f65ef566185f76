//! One run: memory of ours bound to a session's inputs, and the outputs taken.

use ort::{
    session::{IoBinding, RunOptions, Session as Compiled, SessionOutputs},
    value::DynValue,
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
    pub(super) outputs: &'r [String],
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
    given.outputs.iter().map(|name| take(&outputs, name)).collect()
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
    for name in given.outputs {
        binding.bind_output_to_device(name, places.host()).map_err(EngineError::onnx("binding an output"))?;
    }
    Ok(())
}

fn bind_input(binding: &mut IoBinding, name: &str, value: &DynValue) -> Result<(), EngineError> {
    binding.bind_input(name, value).map_err(EngineError::onnx("binding an input"))
}

fn take(outputs: &SessionOutputs<'_>, name: &str) -> Result<Tensor, EngineError> {
    let missing = || EngineError::Onnx { what: "taking an output", answer: format!("`{name}` is not there") };
    let value = outputs.get(name).ok_or_else(missing)?;
    let failed = EngineError::onnx("taking an output");
    let side = |side: &i64| usize::try_from(*side).unwrap_or(0);
    if let Ok((shape, values)) = value.try_extract_tensor::<f32>() {
        return Ok(Tensor { shape: shape.iter().map(side).collect(), data: TensorData::F32(values.to_vec()) });
    }
    if let Ok((shape, values)) = value.try_extract_tensor::<i64>() {
        return Ok(Tensor { shape: shape.iter().map(side).collect(), data: TensorData::I64(values.to_vec()) });
    }
    let (shape, values) = value.try_extract_tensor::<half::f16>().map_err(failed)?;
    Ok(Tensor { shape: shape.iter().map(side).collect(), data: TensorData::F16(values.to_vec()) })
}
