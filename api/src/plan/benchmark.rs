//! Planning a benchmark: on one device, or on every device that could take the model.

use shared::{
    db::{
        Session,
        benchmarks::{self, BenchmarkRow},
    },
    error::ErrorCode,
    ids::BenchmarkId,
    job::{Baseline, BenchmarkArgs, JobSpec, Target, engine::Role},
};

use super::{Decision, Subject, load, parts};
use crate::{merge::View, problem::ApiError};

/// Decides about a benchmark of a model, reduced to the components that were asked for.
///
/// # Errors
/// As a load; 415 when nothing of it can be run, 404 when the benchmark that it is to be compared with is not there.
pub(super) async fn decide(
    conn: &mut Session,
    view: &View,
    subject: Subject,
    args: &BenchmarkArgs<String>,
    target: &Target,
    labels: &[String],
) -> Result<Decision, ApiError> {
    let subject = what_runs(subject)?;
    if let Some(Baseline::Of(id)) = args.baseline {
        get_benchmark(conn, id).await?;
    }
    let others = parts::look_up(conn, args.other_models(), &[]).await?;
    let mut ids = parts::ids(&others);
    let mut first = Some(subject.model.id);
    let named = args.clone().try_with_models(|model| first.take().map_or_else(|| ids(model), Ok))?;
    let mut subject = subject;
    let replaced: Vec<String> = args.text_encoders.keys().cloned().collect();
    parts::without_replaced(&mut subject.components, &replaced);
    subject.components.retain(|row| args.vae.is_none() || !Role::VaeDecoder.means(&row.kind));
    let subject = parts::with(subject, others)?;
    let (spread, left_out) = load::placed(view, &subject, target, labels)?;
    Ok(Decision { spec: JobSpec::Benchmark(named), target: target.clone(), spread, needs: subject.needs(), left_out })
}

/// A benchmark by id.
///
/// # Errors
/// 404 when there is none.
pub(crate) async fn get_benchmark(conn: &mut Session, id: BenchmarkId) -> Result<BenchmarkRow, ApiError> {
    benchmarks::find(conn, id).await?.ok_or_else(|| {
        ApiError::not_found(format!("there is no benchmark `{id}`"))
            .hint("the last two hundred of each model are kept; the list shows them")
    })
}

/// The model with the components that can be run.
fn what_runs(subject: Subject) -> Result<Subject, ApiError> {
    let there: Vec<String> = subject.components.iter().map(|row| row.kind.clone()).collect();
    subject.must_be_loadable()?;
    let subject = subject.only_what_runs();
    if subject.components.is_empty() {
        let detail = format!("nothing of `{}` can be run: it has {}", subject.model.name, there.join(", "));
        return Err(ApiError::new(ErrorCode::Unsupported, detail).hint("VAEs, text encoders and UNets are measured"));
    }
    Ok(subject)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::subject::tests::subject;

    #[test]
    fn what_cannot_be_run_is_not_measured() {
        assert_eq!(what_runs(subject()).unwrap().components.len(), 2);
        let mut lora = subject();
        lora.components.iter_mut().for_each(|row| row.kind = "lora".into());
        let error = what_runs(lora).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Unsupported);
        assert!(error.body().detail.contains("it has lora, lora"), "{}", error.body().detail);
    }
}
