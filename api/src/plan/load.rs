//! Planning a load: refuses what fits nowhere, accepts what merely has to evict.

use shared::{
    bytes::ByteSize,
    db::farm::DeviceRow,
    error::ErrorCode,
    job::{JobSpec, Keep, LoadArgs, Target},
};

use super::{
    Decision, LeftOut, Spread, Subject,
    places::{devices_of, has_labels},
};
use crate::{merge::View, problem::ApiError};

/// Decides about a load.
///
/// # Errors
/// 404 for a place that is not there; 409 and 415 for a model that cannot be loaded; 507 when no candidate could ever
/// hold it; for `all` 409 when no device is suitable now.
pub(super) fn decide(
    view: &View,
    subject: &Subject,
    components: Option<Vec<String>>,
    keep: Keep,
    target: &Target,
    labels: &[String],
) -> Result<Decision, ApiError> {
    subject.must_be_loadable()?;
    let (spread, left_out) = placed(view, subject, target, labels)?;
    let spec = JobSpec::Load(LoadArgs {
        model: subject.model.id,
        components,
        keep_alive: keep.keep_alive,
        protect: keep.protect,
    });
    Ok(Decision { spec, target: target.clone(), spread, needs: subject.needs(), left_out })
}

/// Where work goes that has the subject's components on a device.
///
/// # Errors
/// 404 for a place that is not there; 507 when no candidate could ever hold them; for `all` 409 when no device is suitable now.
pub(super) fn placed(
    view: &View,
    subject: &Subject,
    target: &Target,
    labels: &[String],
) -> Result<(Spread, Vec<LeftOut>), ApiError> {
    let devices = devices_of(view, target)?;
    must_fit_somewhere(view, subject, &devices, labels)?;
    Ok(match target {
        Target::All => {
            let (places, left_out) = suitable(view, subject, &devices, labels)?;
            (Spread::Places(places), left_out)
        }
        _ => (Spread::One, Vec::new()),
    })
}

/// Refuses what exceeds the capacity of every candidate: devices with the labels, of hosts with the file where there are
/// any; lost ones count, because they come back.
///
/// # Errors
/// 507 with the bytes that are missing.
pub(super) fn must_fit_somewhere(
    view: &View,
    subject: &Subject,
    devices: &[&DeviceRow],
    labels: &[String],
) -> Result<(), ApiError> {
    let labelled = devices.iter().copied().filter(|device| has_labels(view, &device.host, &device.labels, labels));
    let (with_file, others): (Vec<_>, Vec<_>) = labelled
        .filter(|device| device.state != "quarantined")
        .partition(|device| subject.hosts.contains(&device.host));
    let candidates = if with_file.is_empty() { others } else { with_file };
    let Some(largest) = candidates.into_iter().max_by_key(|device| device.memory_total_bytes) else { return Ok(()) };
    if subject.bytes() <= capacity(largest) {
        return Ok(());
    }
    Err(too_large(subject, largest))
}

fn too_large(subject: &Subject, largest: &DeviceRow) -> ApiError {
    let (needed, there) = (subject.bytes(), capacity(largest));
    let detail = format!(
        "`{}` needs {} ({needed} bytes); the largest device that may take it, `{}`, has {} ({there} bytes): {} ({} bytes) too little",
        subject.model.name,
        ByteSize(needed),
        largest.id,
        ByteSize(there),
        ByteSize(needed - there),
        needed - there,
    );
    let parts: Vec<String> = subject
        .components
        .iter()
        .map(|row| format!("{} {}", row.kind, ByteSize(u64::try_from(row.bytes).unwrap_or(0))))
        .collect();
    ApiError::new(ErrorCode::InsufficientCapacity, detail).hint(format!(
        "unloading other models cannot free that much; load fewer components ({}), a smaller variant, or use a larger device",
        parts.join(", ")
    ))
}

/// Every device that could take it now, and the others with what keeps it from them.
fn suitable(
    view: &View,
    subject: &Subject,
    devices: &[&DeviceRow],
    labels: &[String],
) -> Result<(Vec<Target>, Vec<LeftOut>), ApiError> {
    let mut places = Vec::new();
    let mut left_out = Vec::new();
    for device in devices {
        match unsuitable(view, subject, device, labels) {
            None => places.push(Target::Device(device.id.clone())),
            Some(reason) => left_out.push(LeftOut { place: device.id.clone(), reason }),
        }
    }
    if !places.is_empty() {
        return Ok((places, left_out));
    }
    let reasons: Vec<String> = left_out.iter().map(|out| format!("`{}` {}", out.place, out.reason)).collect();
    let why = if reasons.is_empty() { "the farm has no devices".to_owned() } else { reasons.join("; ") };
    Err(ApiError::conflict(format!("no device can take `{}` now: {why}", subject.model.name))
        .hint("target `any` waits until one can"))
}

fn unsuitable(view: &View, subject: &Subject, device: &DeviceRow, labels: &[String]) -> Option<String> {
    let host = view.host(&device.host)?;
    if !host.takes_work() {
        return Some(format!("is on a host that is {}", host.state()));
    }
    if device.state != "ready" {
        return Some(format!("is {}", device.state));
    }
    if !has_labels(view, &device.host, &device.labels, labels) {
        return Some("lacks a label".to_owned());
    }
    if !subject.hosts.contains(&device.host) {
        return Some("is on a host without the file".to_owned());
    }
    let there = capacity(device);
    (subject.bytes() > there).then(|| format!("has only {}", ByteSize(there)))
}

fn capacity(device: &DeviceRow) -> u64 {
    u64::try_from(device.memory_total_bytes).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{places::tests::view, subject::tests::subject},
        *,
    };

    fn decide_for(view: &View, target: Target) -> Result<Decision, ApiError> {
        decide(view, &subject(), None, Keep::default(), &target, &[])
    }

    #[test]
    fn what_fits_no_device_is_refused_with_the_missing_bytes() {
        let error = decide_for(&view(&[("a", 99), ("b", 40)]), Target::Any).unwrap_err();
        let body = error.body();
        assert_eq!((body.status, error.code()), (507, ErrorCode::InsufficientCapacity));
        assert!(body.detail.contains("`a/cpu:0`") && body.detail.contains("(1 bytes) too little"), "{}", body.detail);
        assert!(decide_for(&view(&[("a", 99), ("b", 100)]), Target::Any).is_ok());
        assert!(decide_for(&view(&[("a", 99), ("b", 100)]), Target::Device("a/cpu:0".into())).is_err());
    }

    #[test]
    fn a_lost_device_still_counts_as_a_candidate() {
        let mut lost = view(&[("a", 200)]);
        lost.devices[0].state = "lost".into();
        assert_eq!(decide_for(&lost, Target::Any).unwrap().spread, Spread::One);
    }

    #[test]
    fn all_goes_to_every_suitable_device_and_explains_when_there_is_none() {
        let farm = view(&[("a", 200), ("b", 50), ("c", 500)]);
        let decision = decide_for(&farm, Target::All).unwrap();
        assert_eq!(decision.spread, Spread::Places(vec![Target::Device("a/cpu:0".into())]), "c has no file");
        let left_out: Vec<&str> = decision.left_out.iter().map(|out| out.place.as_str()).collect();
        assert_eq!(left_out, ["b/cpu:0", "c/cpu:0"]);
        assert!(decision.left_out[0].reason.contains("has only 50 B"), "{:?}", decision.left_out);
        let mut draining = view(&[("a", 200)]);
        draining.hosts[0].row.draining = true;
        let error = decide_for(&draining, Target::All).unwrap_err();
        assert!(error.code() == ErrorCode::Conflict && error.body().detail.contains("draining"));
    }
}
