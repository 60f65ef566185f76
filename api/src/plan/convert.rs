//! Planning a conversion: of a model whose files are there, on a host that has every model that takes part and the root that is meant.

use shared::{
    db::{Session, farm},
    error::ErrorCode,
    job::{ConvertArgs, JobSpec, Target, enqueue::Needs},
};

use super::{Decision, Spread, Subject, parts, places::hosts_of};
use crate::{merge::View, near, problem::ApiError};

/// Stored formats that hold no tensors that can be written anew.
const NOT_CONVERTED: [&str; 3] = ["onnx", "gguf", "tokenizer"];

/// Decides about converting.
///
/// # Errors
/// 400 for a target or root that cannot be; 404 for models and hosts that are not there; 409 when no living host that is meant has
/// them all; 415 for formats that are not converted.
pub(super) async fn decide(
    conn: &mut Session,
    view: &View,
    args: &ConvertArgs<String>,
    target: &Target,
) -> Result<Decision, ApiError> {
    if *target == Target::All {
        return Err(ApiError::field("/target", "roots of one name hold the same library: it is written on one host"));
    }
    let subject = Subject::read(conn, &args.model, None).await?;
    let name = subject.model.name.clone();
    if subject.model.state != "available" {
        return Err(ApiError::conflict(format!("model `{name}` is {}", subject.model.state))
            .hint(super::subject::hint_of(&subject.model.state)));
    }
    if NOT_CONVERTED.contains(&subject.model.format.as_str()) {
        let detail = format!("model `{name}` is stored as {}, which is not converted", subject.model.format);
        return Err(ApiError::new(ErrorCode::Unsupported, detail));
    }
    let mut subjects = vec![subject];
    subjects.extend(parts::look_up(conn, args.others(), &[]).await?);
    let named = args.clone().try_with_models(parts::ids(&subjects))?;
    let together = parts::together(subjects)?.map(|subject| subject.hosts).unwrap_or_default();
    let meant = hosts_of(view, target, "convert")?;
    if !meant.iter().any(|host| host.row.alive && together.contains(&host.row.name)) {
        return Err(ApiError::conflict(format!(
            "no living host that is meant has model `{name}` and what goes into it"
        ))
        .hint("scan again, or start the host that has them"));
    }
    if let Some(root) = &args.output.root {
        let rows = farm::list_roots(conn).await?.into_iter();
        let mut there = rows.filter(|row| meant.iter().any(|host| host.row.name == row.host)).map(|row| row.name);
        if !there.any(|name| name == *root) {
            let problem = ApiError::field("/output/root", format!("no host that is meant has a root `{root}`"));
            return Err(problem.maybe_hint(near::hint(root, there)));
        }
    }
    let spec = JobSpec::Convert(named);
    Ok(Decision { spec, target: target.clone(), spread: Spread::One, needs: Needs::default(), left_out: Vec::new() })
}
