//! Planning to give memory back: on one device, one host, or every living host.

use shared::job::{JobSpec, OptimizeArgs, Target, enqueue::Needs};

use super::{
    Decision, Spread,
    places::{get_device, hosts_of},
};
use crate::{merge::View, problem::ApiError};

/// Decides about freeing memory. What is on a device is freed by a job of its host, beside the device's own work.
///
/// # Errors
/// 400 for two goals, a device without one, or no place; 404 for a place that is not there.
pub(super) fn decide(view: &View, args: &OptimizeArgs, target: &Target) -> Result<Decision, ApiError> {
    if args.free_bytes.is_some() && args.headroom_bytes.is_some() {
        return Err(ApiError::field("/headroom_bytes", "say `free_bytes` or `headroom_bytes`, not both"));
    }
    let one = |device: Option<String>, host: String| {
        let spec = JobSpec::Optimize(OptimizeArgs { device, ..args.clone() });
        Decision {
            spec,
            target: Target::Host(host),
            spread: Spread::One,
            needs: Needs::default(),
            left_out: Vec::new(),
        }
    };
    match target {
        Target::Any => Err(ApiError::field("/target", "an `optimize` job needs a host, a device, or `all` hosts")),
        Target::Device(id) => {
            let device = get_device(view, id)?;
            if args.free_bytes.is_none() && args.headroom_bytes.is_none() {
                let detail = "a device has no configured headroom: say `free_bytes` or `headroom_bytes`";
                return Err(ApiError::field("/free_bytes", detail));
            }
            Ok(one(Some(device.id.clone()), device.host.clone()))
        }
        Target::Host(_) | Target::All => {
            let hosts = hosts_of(view, target, "optimize")?;
            if let (Target::Host(name), [_]) = (target, hosts.as_slice()) {
                return Ok(one(None, name.clone()));
            }
            let alive = hosts.iter().filter(|host| host.row.alive);
            let places: Vec<Target> = alive.map(|host| Target::Host(host.row.name.clone())).collect();
            if places.is_empty() {
                return Err(ApiError::conflict("no host is alive"));
            }
            Ok(Decision { target: Target::All, spread: Spread::Places(places), ..one(None, String::new()) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::places::tests::view, *};

    #[test]
    fn a_device_is_served_by_its_host_and_needs_a_goal() {
        let farm = view(&[("a", 100), ("b", 100)]);
        let device = Target::Device("b/cpu:0".into());
        assert!(decide(&farm, &OptimizeArgs::default(), &device).is_err());
        let args = OptimizeArgs { free_bytes: Some(5), ..OptimizeArgs::default() };
        let decision = decide(&farm, &args, &device).unwrap();
        assert_eq!(decision.target, Target::Host("b".into()));
        assert!(matches!(decision.spec, JobSpec::Optimize(args) if args.device.as_deref() == Some("b/cpu:0")));
        assert!(decide(&farm, &OptimizeArgs { headroom_bytes: Some(5), ..args.clone() }, &device).is_err());
        assert!(decide(&farm, &args, &Target::Any).is_err());
        assert!(
            matches!(decide(&farm, &args, &Target::All).unwrap().spread, Spread::Places(places) if places.len() == 2)
        );
    }
}
