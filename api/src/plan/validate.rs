//! Planning a validation: of the files of one host, or of every living host that has them; one that runs the model, on devices.

use shared::job::{JobSpec, Lane, Target, ValidateArgs, ValidateLevel, enqueue::Needs};

use super::{Decision, Spread, Subject, load, places::hosts_of};
use crate::{merge::View, problem::ApiError};

/// Decides about a validation. Any file can be validated, also one that is not recognised.
///
/// # Errors
/// 404 for a host that is not there, 400 for a device; 409 when no living host that is meant has the files. Where the model is
/// run, those of [`load::placed`].
pub(super) fn decide(
    view: &View,
    subject: &Subject,
    level: ValidateLevel,
    target: &Target,
    labels: &[String],
) -> Result<Decision, ApiError> {
    let spec = JobSpec::Validate(ValidateArgs { model: subject.model.id, level });
    if spec.lane() == Lane::Device {
        let subject = subject.clone().only_what_runs();
        let (spread, left_out) = load::placed(view, &subject, target, labels)?;
        return Ok(Decision { spec, target: target.clone(), spread, needs: subject.needs(), left_out });
    }
    let meant = hosts_of(view, target, "validate")?;
    let with_files = |host: &str| subject.hosts.iter().any(|name| name == host);
    let places: Vec<Target> = meant
        .iter()
        .filter(|host| host.row.alive && with_files(&host.row.name))
        .map(|host| Target::Host(host.row.name.clone()))
        .collect();
    if places.is_empty() {
        let where_ =
            if let Target::Host(name) = target { format!("host `{name}`") } else { "any living host".to_owned() };
        return Err(ApiError::conflict(format!("model `{}` is not on the disk of {where_}", subject.model.name))
            .hint("scan again, or start the host that has it"));
    }
    let spread = if *target == Target::All { Spread::Places(places) } else { Spread::One };
    Ok(Decision { spec, target: target.clone(), spread, needs: Needs::default(), left_out: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{places::tests::view, subject::tests::subject};

    #[test]
    fn only_living_hosts_with_the_files_are_asked() {
        let view = view(&[("a", 1), ("b", 1), ("c", 1)]);
        let subject = subject();
        let decided = |target| decide(&view, &subject, ValidateLevel::Structure, &target, &[]);
        assert_eq!(decided(Target::Any).unwrap().spread, Spread::One);
        let everywhere = Spread::Places(vec![Target::Host("a".into()), Target::Host("b".into())]);
        assert_eq!(decided(Target::All).unwrap().spread, everywhere);
        assert!(decided(Target::Host("c".into())).unwrap_err().body().detail.contains("host `c`"));
        assert!(decided(Target::Device("a/cpu:0".into())).is_err());
    }

    #[test]
    fn a_model_that_is_run_goes_to_a_device() {
        let view = view(&[("a", 100), ("b", 99)]);
        let mut subject = subject();
        let decided = |subject: &Subject, target| decide(&view, subject, ValidateLevel::Forward, &target, &[]);
        assert!(decided(&subject, Target::Device("a/cpu:0".into())).is_ok());
        assert!(decided(&subject, Target::Device("b/cpu:0".into())).is_err(), "it does not fit");
        let everywhere = decided(&subject, Target::All).unwrap();
        assert_eq!(everywhere.spread, Spread::Places(vec![Target::Device("a/cpu:0".into())]));
        assert_eq!(everywhere.needs.components.len(), 2);
        subject.components.iter_mut().for_each(|row| row.kind = "lora".into());
        assert_eq!(decided(&subject, Target::Any).unwrap().needs, Needs::default(), "nothing of it is run");
    }
}
