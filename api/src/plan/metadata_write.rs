//! Planning to write what is known of a model: on a host that has its files, to a path that may be written.

use shared::{
    error::ErrorCode,
    job::{JobSpec, MetadataWriteArgs, Target, WriteForm, enqueue::Needs},
    wire::MetadataWriteRequest,
};

use super::{Decision, Spread, Subject, places::hosts_of};
use crate::{merge::View, problem::ApiError};

/// Decides about writing.
///
/// # Errors
/// 400 for a path or target that cannot be; 404 for a host that is not there; 409 when no living host that is meant has the
/// files; 415 for a copy of what is no single safetensors file.
pub(super) fn decide(
    view: &View,
    subject: &Subject,
    wanted: &MetadataWriteRequest,
    version: Option<i64>,
    target: &Target,
) -> Result<Decision, ApiError> {
    let name = &subject.model.name;
    if let Some(to) = &wanted.to {
        wanted.form.check_path(to).map_err(|why| ApiError::field("/to", why))?;
    }
    if *target == Target::All {
        return Err(ApiError::field("/target", "roots of one name hold the same library: it is written on one host"));
    }
    let plain = subject.model.format == "safetensors" && subject.model.rel_path.ends_with(".safetensors");
    if wanted.form == WriteForm::Copy && !plain {
        let detail = format!("model `{name}` is no single safetensors file, so it has no header to write anew");
        return Err(ApiError::new(ErrorCode::Unsupported, detail).hint("write a side-car"));
    }
    let meant = hosts_of(view, target, "metadata_write")?;
    if !meant.iter().any(|host| host.row.alive && subject.hosts.contains(&host.row.name)) {
        return Err(ApiError::conflict(format!("no living host that is meant has model `{name}`"))
            .hint("scan again, or start the host that has it"));
    }
    let spec = JobSpec::MetadataWrite(MetadataWriteArgs {
        model: subject.model.id,
        form: wanted.form,
        to: wanted.to.clone(),
        overwrite: wanted.overwrite,
        include: wanted.include.clone(),
        version,
    });
    Ok(Decision { spec, target: target.clone(), spread: Spread::One, needs: Needs::default(), left_out: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{places::tests::view, subject::tests::subject};

    #[test]
    fn what_cannot_be_written_is_refused_before_there_is_a_job() {
        let (view, subject) = (view(&[("a", 1), ("c", 1)]), subject());
        let wanted = |form, to: Option<&str>| MetadataWriteRequest {
            form,
            to: to.map(str::to_owned),
            ..MetadataWriteRequest::default()
        };
        let code = |wanted: &MetadataWriteRequest, target| {
            decide(&view, &subject, wanted, None, &target).map(|_| ()).map_err(|error| error.code())
        };
        assert_eq!(code(&wanted(WriteForm::Sidecar, None), Target::Any), Ok(()));
        let outside = wanted(WriteForm::Sidecar, Some("../x.json"));
        assert_eq!(code(&outside, Target::Any), Err(ErrorCode::InvalidArgument));
        assert_eq!(code(&wanted(WriteForm::Copy, None), Target::All), Err(ErrorCode::InvalidArgument));
        assert_eq!(code(&wanted(WriteForm::Copy, None), Target::Host("c".into())), Err(ErrorCode::Conflict));
        let mut folder = subject.clone();
        folder.model.format = "diffusers".into();
        let refused = decide(&view, &folder, &wanted(WriteForm::Copy, None), None, &Target::Any).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::Unsupported);
    }
}
