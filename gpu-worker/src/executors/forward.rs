//! The part of `validate` that runs models: each component once, as small as it can be, on the device of the job.

use std::sync::Arc;

use model_formats::validate::{Finding, Severity};
use serde_json::{Value, json};
use shared::{
    error::{Classify, ErrorCode, chain},
    ids::{ComponentId, ModelId},
    job::engine::Role,
};

use super::{
    engine::{Runs, Subject},
    load::device_of,
    model,
};
use crate::{
    context::Agent,
    error::WorkError,
    runner::{PartFacts, Work},
    running::Attempt,
};

/// What the runs said.
pub(super) struct Ran {
    pub(super) findings: Vec<Finding>,
    /// What loads computed, for the catalogue.
    pub(super) digests: Vec<(ComponentId, String)>,
}

/// Runs every component of a model that can be run alone.
///
/// # Errors
/// What keeps the device from running anything; weights that cannot be run are findings.
pub(super) async fn run(agent: &Arc<Agent>, id: ModelId, attempt: &Attempt) -> Result<Ran, WorkError> {
    let device = device_of(agent, attempt)?;
    let mut wanted = model::wanted(agent, id, None).await?;
    let (runs, others): (Vec<_>, Vec<_>) =
        std::mem::take(&mut wanted.components).into_iter().partition(|row| Role::any_means(&row.kind));
    let alone = "it cannot be run alone";
    let mut findings: Vec<Finding> = others.iter().map(|row| unsupported(&row.kind, alone)).collect();
    if runs.is_empty() {
        return Ok(Ran { findings, digests: Vec::new() });
    }
    wanted.components = runs;
    let subject = Subject::ensure_all(agent, attempt, device, wanted).await?;
    let parts = subject.parts();
    attempt.progress.enter("running", parts.len() as u64);
    for (done, part) in parts.into_iter().enumerate() {
        attempt.progress.detail(&part.kind);
        findings.push(one(&Runs { agent, attempt, device }, &subject, part).await?);
        attempt.progress.set(done as u64 + 1);
    }
    Ok(Ran { findings, digests: subject.digests() })
}

async fn one(runs: &Runs<'_>, subject: &Subject, part: PartFacts) -> Result<Finding, WorkError> {
    let kind = part.kind.clone();
    match runs.run(&Work::Forward { part }, &subject.run_parts(runs.agent), Vec::new()).await {
        Ok(ran) => Ok(judged(&kind, &ran.facts)),
        Err(error) => match error.code() {
            ErrorCode::Unsupported => Ok(unsupported(&kind, &chain(&error))),
            ErrorCode::Corrupt | ErrorCode::InvalidArgument => {
                Ok(of(&kind, Severity::Error, "forward_failed", format!("it does not run: {}", chain(&error))))
            }
            _ => Err(error),
        },
    }
}

/// The finding of the engine's report: what ran and what the results look like.
fn judged(kind: &str, report: &Value) -> Finding {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if report["outcome"] == "unsupported" {
        return unsupported(kind, &text(&report["reason"]));
    }
    let outputs: Vec<String> = report["outputs"].as_array().into_iter().flatten().map(described).collect();
    let message = format!("{} ran: {}", text(&report["architecture"]), outputs.join("; "));
    let (severity, code) = match report["is_finite"] == true {
        true => (Severity::Info, "forward_ran"),
        false => (Severity::Error, "forward_not_finite"),
    };
    let facts = Some(json!({ "architecture": report["architecture"], "outputs": report["outputs"] }));
    Finding { facts, ..of(kind, severity, code, message) }
}

/// `sample [1, 3, 64, 64]: mean 0.013, deviation 0.41, -1.2 to 1.3`, and what of it is no number.
fn described(output: &Value) -> String {
    let statistics = &output["statistics"];
    let number = |name: &str| statistics[name].as_f64().unwrap_or(f64::NAN);
    let (nan, infinite) = (statistics["nan"].as_u64().unwrap_or(0), statistics["infinite"].as_u64().unwrap_or(0));
    let wrong = match nan.saturating_add(infinite) {
        0 => String::new(),
        _ => format!(", {nan} NaN and {infinite} infinite of {}", statistics["elements"]),
    };
    format!(
        "{} {}: mean {}, deviation {}, {} to {}{wrong}",
        output["name"].as_str().unwrap_or_default(),
        output["shape"],
        short(number("mean")),
        short(number("std")),
        short(number("min")),
        short(number("max")),
    )
}

/// Four decimals; a number that these would leave nothing of, with its power of ten.
fn short(number: f64) -> String {
    if number != 0.0 && number.abs() < 1e-3 { format!("{number:.3e}") } else { format!("{number:.4}") }
}

fn unsupported(kind: &str, reason: &str) -> Finding {
    of(kind, Severity::Info, "forward_unsupported", format!("it was not run: {reason}"))
}

fn of(kind: &str, severity: Severity, code: &'static str, message: String) -> Finding {
    Finding { component: Some(kind.to_owned()), ..Finding::new(severity, code, message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(nan: u64) -> Value {
        json!({
            "outcome": "ran", "architecture": "AutoencoderKL", "is_finite": nan == 0,
            "outputs": [{ "name": "sample", "shape": [1, 3, 8, 8], "statistics": {
                "elements": 192, "nan": nan, "infinite": 0, "min": -1.0, "max": 1.0, "mean": 0.25, "std": 0.5 } }],
        })
    }

    #[test]
    fn numbers_are_recorded_and_what_is_none_is_an_error() {
        let fine = judged("vae", &report(0));
        assert_eq!((fine.severity, fine.code.as_str()), (Severity::Info, "forward_ran"));
        let expected = "AutoencoderKL ran: sample [1,3,8,8]: mean 0.2500, deviation 0.5000, -1.0000 to 1.0000";
        assert_eq!(fine.message, expected);
        let facts = fine.facts.expect("figures");
        assert_eq!(facts["outputs"][0]["statistics"]["std"], 0.5, "{facts}");
        assert_eq!([short(0.0), short(-0.000_012_34), short(0.5)], ["0.0000", "-1.234e-5", "0.5000"]);
        let broken = judged("vae", &report(3));
        assert_eq!((broken.severity, broken.code.as_str()), (Severity::Error, "forward_not_finite"));
        assert!(broken.message.ends_with("3 NaN and 0 infinite of 192"), "{}", broken.message);
        let other = judged("unet", &json!({ "outcome": "unsupported", "reason": "no engine" }));
        assert_eq!((other.severity, other.code.as_str()), (Severity::Info, "forward_unsupported"));
    }
}
