//! Planning a benchmark: on one device, or on every device that could take the model.

use shared::{
    error::ErrorCode,
    job::{BenchmarkArgs, JobSpec, Target},
};

use super::{Decision, Subject, load};
use crate::{merge::View, problem::ApiError};

/// Decides about a benchmark of a model, reduced to the components that were asked for.
///
/// # Errors
/// As a load; 415 when nothing of it can be run.
pub(super) fn decide(
    view: &View,
    subject: Subject,
    args: &BenchmarkArgs<String>,
    target: &Target,
    labels: &[String],
) -> Result<Decision, ApiError> {
    let there: Vec<String> = subject.components.iter().map(|row| row.kind.clone()).collect();
    subject.must_be_loadable()?;
    let subject = subject.only_what_runs();
    if subject.components.is_empty() {
        let detail = format!("nothing of `{}` can be run: it has {}", subject.model.name, there.join(", "));
        return Err(ApiError::new(ErrorCode::Unsupported, detail).hint("VAEs, text encoders and UNets are measured"));
    }
    let (spread, left_out) = load::placed(view, &subject, target, labels)?;
    let spec = JobSpec::Benchmark(args.clone().with_model(subject.model.id));
    Ok(Decision { spec, target: target.clone(), spread, needs: subject.needs(), left_out })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Spread, places::tests::view, subject::tests::subject};

    #[test]
    fn what_cannot_be_run_is_not_measured() {
        let view = view(&[("a", 200)]);
        let decided = |subject| decide(&view, subject, &BenchmarkArgs::of("m".to_owned()), &Target::All, &[]);
        let decision = decided(subject()).unwrap();
        assert_eq!(decision.spread, Spread::Places(vec![Target::Device("a/cpu:0".into())]));
        let mut lora = subject();
        lora.components.iter_mut().for_each(|row| row.kind = "lora".into());
        let error = decided(lora).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Unsupported);
        assert!(error.body().detail.contains("it has lora, lora"), "{}", error.body().detail);
    }
}
