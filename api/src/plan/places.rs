//! Hosts and devices as places for work: by name with near names, and which of them an order may go to.

use shared::{db::farm::DeviceRow, job::Target};

use crate::{
    merge::{HostNow, View},
    near,
    problem::ApiError,
};

/// A host by name.
///
/// # Errors
/// 404 with near names.
pub(crate) fn get_host<'v>(view: &'v View, name: &str) -> Result<&'v HostNow, ApiError> {
    view.host(name).ok_or_else(|| {
        let names = view.hosts.iter().map(|host| host.row.name.clone());
        ApiError::not_found(format!("there is no host `{name}`")).maybe_hint(near::hint(name, names))
    })
}

/// A device by id.
///
/// # Errors
/// 404 with near names.
pub(crate) fn get_device<'v>(view: &'v View, id: &str) -> Result<&'v DeviceRow, ApiError> {
    view.device(id).ok_or_else(|| {
        let ids = view.devices.iter().map(|device| device.id.clone());
        ApiError::not_found(format!("there is no device `{id}`")).maybe_hint(near::hint(id, ids))
    })
}

/// The devices that a target means, whatever their state.
///
/// # Errors
/// 404 for a host or device that is not there.
pub(super) fn devices_of<'v>(view: &'v View, target: &Target) -> Result<Vec<&'v DeviceRow>, ApiError> {
    match target {
        Target::Any | Target::All => Ok(view.devices.iter().collect()),
        Target::Device(id) => get_device(view, id).map(|device| vec![device]),
        Target::Host(name) => {
            get_host(view, name)?;
            Ok(view.devices.iter().filter(|device| device.host == *name).collect())
        }
    }
}

/// The hosts that the target of a host's job means, whatever their state.
///
/// # Errors
/// 404 for a host that is not there, 400 for a device.
pub(super) fn hosts_of<'v>(view: &'v View, target: &Target, kind: &str) -> Result<Vec<&'v HostNow>, ApiError> {
    match target {
        Target::Any | Target::All => Ok(view.hosts.iter().collect()),
        Target::Host(name) => get_host(view, name).map(|host| vec![host]),
        Target::Device(id) => {
            let host = id.split_once('/').map_or(id.as_str(), |(host, _)| host);
            Err(ApiError::field("/target", format!("a `{kind}` job runs on a host, not on a device"))
                .hint(format!("write `host:{host}`")))
        }
    }
}

/// The place has every label; a device has its host's labels too.
pub(super) fn has_labels(view: &View, host: &str, own: &[String], wanted: &[String]) -> bool {
    let of_host = view.host(host).map(|host| host.row.labels.as_slice()).unwrap_or_default();
    wanted.iter().all(|label| own.contains(label) || of_host.contains(label))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::merge::tests::host_row;

    /// A ready device.
    pub(crate) fn device(host: &str, name: &str, capacity: i64) -> DeviceRow {
        DeviceRow {
            id: format!("{host}/{name}"),
            host: host.into(),
            name: name.into(),
            kind: "cpu".into(),
            uuid: None,
            product: "p".into(),
            memory_total_bytes: capacity,
            memory_used_bytes: 0,
            slots: 1,
            labels: Vec::new(),
            state: "ready".into(),
            reason: None,
            runner_generation: 0,
        }
    }

    /// Living hosts with these devices: (host, capacity of its `cpu:0`).
    pub(crate) fn view(devices: &[(&str, i64)]) -> View {
        let hosts = devices.iter().map(|(host, _)| HostNow { row: host_row(host), live: None, why_stale: None });
        let hosts = hosts.collect();
        View::of(hosts, devices.iter().map(|(host, bytes)| device(host, "cpu:0", *bytes)).collect(), &[], None)
    }

    #[test]
    fn unknown_places_come_with_near_names() {
        let view = view(&[("gpu-1", 1), ("gpu-2", 1)]);
        let error = devices_of(&view, &Target::Device("gpu-1/cpu:1".into())).unwrap_err();
        assert!(error.body().hint.unwrap().contains("`gpu-1/cpu:0`"));
        assert!(hosts_of(&view, &Target::Host("gpu-9".into()), "scan").is_err());
        assert_eq!(devices_of(&view, &Target::Host("gpu-2".into())).unwrap().len(), 1);
    }
}
