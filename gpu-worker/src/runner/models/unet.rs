//! One prediction of a UNet, alone or as the pair of classifier-free guidance.

use engine::{
    EngineError, Tensor,
    models::{Added, Conditions, Unet},
    runtime::Part,
};
use serde_json::{Value, json};

use super::{
    Bench,
    parts::component,
    tensors::{Tensors, file},
};
use crate::runner::{
    PartFacts,
    engine_thread::{Outcome, RunFailure},
    protocol::RunPhase,
};

/// The UNet of these facts over its weights.
pub(super) fn open(bench: &Bench<'_>, facts: &PartFacts) -> Result<Unet, RunFailure> {
    let graph = bench.graph(facts)?;
    Ok(Unet::open(bench.runtime, &component(facts, graph.as_deref()), bench.weights(facts)?)?)
}

pub(super) fn step(bench: &Bench<'_>, facts: &PartFacts, guidance_scale: Option<f64>) -> Result<Outcome, RunFailure> {
    bench.at(RunPhase::Preparing, 0, 1);
    let given = Tensors::read(bench)?;
    let unet = open(bench, facts)?;
    let sample = given.get("sample")?;
    let timestep = given.number("timestep")?;
    let conditions = conditions(&given)?;
    let tokens = conditions.encoder_hidden_states.shape.get(1).copied().unwrap_or_default();
    if sample.shape.len() != 4 {
        return Err(wrong("sample", format!("{:?}", sample.shape), "four sides").into());
    }
    let needed_bytes = unet.estimate(&sample.shape, tokens);
    bench.must_fit(needed_bytes)?;
    bench.at(RunPhase::Denoising, 0, 1);
    let control = bench.control(RunPhase::Denoising);
    let prediction = unet.predict(sample, timestep, &conditions, &control)?;
    let prediction = match guidance_scale {
        Some(scale) => guided(&prediction, scale)?,
        None => prediction,
    };
    bench.at(RunPhase::Denoising, 1, 1);
    let mut facts = json!({ "shape": prediction.shape });
    if let (Some(facts), Value::Object(took)) = (facts.as_object_mut(), bench.meter.of(Part::Unet)) {
        facts.extend(took);
    }
    Ok(Outcome { facts, blobs: vec![file("prediction.safetensors", &[("prediction", &prediction)])?] })
}

fn conditions(given: &Tensors) -> Result<Conditions<'_>, RunFailure> {
    let added = match (given.find("text_embeds"), given.find("time_ids")) {
        (None, None) => None,
        (Some(text_embeds), Some(time_ids)) => Some(Added { text_embeds, time_ids }),
        (Some(_), None) => return Err(wrong("time_ids", "nothing".to_owned(), "a tensor beside text_embeds").into()),
        (None, Some(_)) => return Err(wrong("text_embeds", "nothing".to_owned(), "a tensor beside time_ids").into()),
    };
    Ok(Conditions { encoder_hidden_states: given.get("encoder_hidden_states")?, added })
}

/// Half of the batch without the prompt and half with it: `u + scale · (c − u)`.
fn guided(both: &Tensor, scale: f64) -> Result<Tensor, EngineError> {
    let rows = both.shape.first().copied().unwrap_or_default();
    let (Some(values), true) = (both.as_f32(), rows > 0 && rows.is_multiple_of(2)) else {
        return Err(wrong("sample", format!("a batch of {rows}"), "pairs: an even number of rows"));
    };
    let (without, with) = values.split_at(values.len() / 2);
    #[expect(clippy::cast_possible_truncation, reason = "the graph computes in 32-bit floats")]
    let scale = scale as f32;
    let values = without.iter().zip(with).map(|(without, with)| without + scale * (with - without)).collect();
    let mut shape = both.shape.clone();
    if let Some(first) = shape.first_mut() {
        *first = rows / 2;
    }
    Tensor::f32(&shape, values)
}

fn wrong(name: &str, found: String, expected: &str) -> EngineError {
    EngineError::Input { name: name.to_owned(), found, expected: expected.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guidance_goes_from_the_first_half_towards_the_second() {
        let both = Tensor::f32(&[2, 1, 1, 2], vec![1.0, 2.0, 3.0, 0.0]).unwrap();
        let guided_by = |scale| guided(&both, scale).unwrap();
        assert_eq!(guided_by(2.0), Tensor::f32(&[1, 1, 1, 2], vec![5.0, -2.0]).unwrap());
        assert_eq!(guided_by(0.0).as_f32().unwrap(), [1.0, 2.0]);
        assert!(guided(&Tensor::zeros(&[3, 1, 1, 1]), 1.0).is_err());
        assert!(guided(&Tensor::zeros(&[0, 1, 1, 1]), 1.0).is_err());
    }
}
