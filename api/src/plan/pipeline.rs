//! Planning what is done with pipelines: applied to a device, or its base as it is again.

use shared::{
    db::Session,
    job::{ApplyPipelineArgs, JobSpec, RestorePipelineArgs, Target, engine::Assembly, enqueue::Needs},
};

use super::{Decision, Spread, Subject, load::must_fit_somewhere, parts, places::devices_of};
use crate::{merge::View, problem::ApiError};

/// An assembly with its models looked up, and what of them takes part.
///
/// # Errors
/// As [`parts::look_up`] and [`parts::together`].
pub(crate) async fn look_up(
    conn: &mut Session,
    assembly: &Assembly<String>,
    at: &str,
) -> Result<(Assembly, Subject), ApiError> {
    let replaced: Vec<String> = assembly.text_encoders.keys().cloned().collect();
    let subjects = parts::look_up(conn, assembly.models(), &replaced, at).await?;
    let named = assembly.clone().try_with_models(parts::ids(&subjects))?;
    let subject = parts::together(subjects)?;
    subject.map(|subject| (named, subject)).ok_or_else(|| ApiError::field(format!("{at}/model"), "name a model"))
}

/// Decides about the application of a pipeline.
///
/// # Errors
/// 400 for `all`; 404, 409 and 415 for models that are not there or cannot take part; 507 when no candidate could hold them.
pub(super) async fn decide_apply(
    conn: &mut Session,
    view: &View,
    args: &ApplyPipelineArgs<String>,
    target: &Target,
    labels: &[String],
) -> Result<Decision, ApiError> {
    if *target == Target::All {
        return Err(ApiError::field("/target", "a pipeline is applied in one place: `any`, a host or a device"));
    }
    let (assembly, subject) = look_up(conn, &args.assembly, "").await?;
    must_fit_somewhere(view, &subject, &devices_of(view, target)?, labels)?;
    let ApplyPipelineArgs { pipeline, name, generation, keep_alive, protect, dry_run, verify, .. } = args.clone();
    let spec = JobSpec::ApplyPipeline(ApplyPipelineArgs {
        pipeline,
        name,
        generation,
        assembly,
        keep_alive,
        protect,
        dry_run,
        verify,
    });
    let needs = if dry_run { Needs::default() } else { subject.needs() };
    Ok(Decision { spec, target: target.clone(), spread: Spread::One, needs, left_out: Vec::new() })
}

/// Decides about the end of a pipeline on a device. Its models may have left the catalogue.
///
/// # Errors
/// 400 unless the target is a device; 404 for a device that is not there.
pub(super) async fn decide_restore(
    conn: &mut Session,
    view: &View,
    args: &RestorePipelineArgs<String>,
    target: &Target,
) -> Result<Decision, ApiError> {
    if !matches!(target, Target::Device(_)) {
        return Err(ApiError::field("/target", "a pipeline is restored on a device"));
    }
    devices_of(view, target)?;
    let (assembly, _) = look_up(conn, &args.assembly, "").await?;
    let RestorePipelineArgs { pipeline, name, generation, verify, .. } = args.clone();
    let spec = JobSpec::RestorePipeline(RestorePipelineArgs { pipeline, name, generation, assembly, verify });
    let spread = Spread::One;
    Ok(Decision { spec, target: target.clone(), spread, needs: Needs::default(), left_out: Vec::new() })
}
