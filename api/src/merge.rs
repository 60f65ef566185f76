//! The farm as it is now: rows of Postgres merged with the snapshots that hosts publish to Redis.
//!
//! A host's snapshot counts when it is in Redis, was written by the agent that Postgres knows, and that agent's lease is
//! valid. For any other living host its last report in Postgres stands in and the answer says `stale` and why.
//! An agent without a lease holds nothing: its runners die with it. No clocks are compared.

use std::collections::HashMap;

use crate::{problem::ApiError, state::AppState};
use chrono::{DateTime, Utc};
use shared::{
    db::{
        Session,
        farm::{self, DeviceRow, HostRow},
        models,
        residency::{self, ResidencyRow},
    },
    ids::{ComponentId, ModelId},
    status::{CacheStats, DeviceSnapshot, Entry, EvictionStanding, HostSnapshot, LiveProgress},
    wire::Staleness,
};

/// One component in one tier of one place.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    /// Host.
    pub(crate) host: String,
    /// Device; none for RAM.
    pub(crate) device: Option<String>,
    /// Component.
    pub(crate) component: ComponentId,
    /// `loading`, `ready`, `evicting`, `failed`.
    pub(crate) state: String,
    /// Bytes held.
    pub(crate) bytes: u64,
    /// Leases held.
    pub(crate) leases: u32,
    /// The operator's "keep".
    pub(crate) protected: bool,
    /// In this tier since.
    pub(crate) since: DateTime<Utc>,
    /// Last use, live only.
    pub(crate) last_used: Option<DateTime<Utc>>,
    /// Uses, live only.
    pub(crate) hits: Option<u64>,
    /// Who leases it, live only.
    pub(crate) holders: Vec<String>,
    /// On a device: the models that were loaded there and need it.
    pub(crate) models: Vec<ModelId>,
    /// When its keep-alive ends, live only.
    pub(crate) expires_at: Option<DateTime<Utc>>,
    /// Where it stands with the eviction policy, live only.
    pub(crate) eviction: Option<EvictionStanding>,
    /// Progress of a running load, live only.
    pub(crate) progress: Option<LiveProgress>,
    /// Why its last load failed, live only.
    pub(crate) failure: Option<String>,
}

impl Held {
    /// `ram` or `vram`.
    pub(crate) fn tier(&self) -> &'static str {
        if self.device.is_some() { "vram" } else { "ram" }
    }

    fn live(host: &str, device: Option<&str>, entry: Entry) -> Self {
        Self {
            host: host.to_owned(),
            device: device.map(str::to_owned),
            component: entry.component,
            state: entry.state,
            bytes: entry.bytes,
            leases: entry.leases,
            protected: entry.protected,
            since: entry.since,
            last_used: Some(entry.last_used),
            hits: Some(entry.hits),
            holders: entry.holders,
            models: entry.models,
            expires_at: entry.expires_at,
            eviction: entry.eviction,
            progress: entry.progress,
            failure: entry.failure,
        }
    }

    fn reported(row: &ResidencyRow) -> Self {
        Self {
            host: row.host.clone(),
            device: (!row.device.is_empty()).then(|| row.device.clone()),
            component: row.component_id,
            state: row.state.clone(),
            bytes: u64::try_from(row.bytes).unwrap_or(0),
            leases: u32::try_from(row.leases).unwrap_or(0),
            protected: row.protected,
            since: row.since,
            last_used: None,
            hits: None,
            holders: Vec::new(),
            models: row.models.clone(),
            expires_at: None,
            eviction: None,
            progress: None,
            failure: None,
        }
    }
}

/// A host with what is known of it now.
#[derive(Debug, Clone)]
pub(crate) struct HostNow {
    /// As registered.
    pub(crate) row: HostRow,
    /// Its snapshot, if it counts.
    pub(crate) live: Option<HostSnapshot>,
    /// Why it does not.
    pub(crate) why_stale: Option<String>,
}

impl HostNow {
    /// `ready`, `draining` or `lost`.
    pub(crate) fn state(&self) -> &'static str {
        match (self.row.alive, self.row.draining) {
            (false, _) => "lost",
            (true, true) => "draining",
            (true, false) => "ready",
        }
    }

    /// May get new work.
    pub(crate) fn takes_work(&self) -> bool {
        self.state() == "ready"
    }

    /// Trust in what is said about this host alone.
    pub(crate) fn staleness(&self) -> Staleness {
        Staleness { stale: self.why_stale.is_some(), reason: self.why_stale.clone() }
    }
}

/// The farm at one moment.
#[derive(Debug, Clone)]
pub(crate) struct View {
    /// Hosts by name.
    pub(crate) hosts: Vec<HostNow>,
    /// Devices by id.
    pub(crate) devices: Vec<DeviceRow>,
    /// All that is resident.
    pub(crate) held: Vec<Held>,
    /// Trust in the whole.
    pub(crate) staleness: Staleness,
}

impl View {
    /// Whether a host of this name lives.
    pub(crate) fn is_alive(&self, host: &str) -> bool {
        self.hosts.iter().any(|known| known.row.alive && known.row.name == host)
    }

    /// Reads Postgres and Redis.
    ///
    /// # Errors
    /// Database errors; Redis only makes the answer stale.
    pub(crate) async fn read(state: &AppState, conn: &mut Session) -> Result<Self, ApiError> {
        let rows = farm::list_hosts(&mut *conn).await?;
        let devices = farm::list_devices(&mut *conn).await?;
        let names: Vec<String> = rows.iter().map(|row| row.name.clone()).collect();
        let snapshots = state.live.snapshots(&names).await;
        let redis_gone = snapshots.as_ref().err().cloned();
        let hosts = with_snapshots(rows, snapshots);
        let needs_rows = hosts.iter().any(|host| host.row.alive && host.live.is_none());
        let reported = if needs_rows { residency::list(&mut *conn).await? } else { Vec::new() };
        let mut view = Self::of(hosts, devices, &reported, redis_gone);
        view.follow_merges(conn).await?;
        Ok(view)
    }

    /// Agents hold bytes under the id that they loaded them under; the component may have been merged into another since.
    async fn follow_merges(&mut self, conn: &mut Session) -> Result<(), ApiError> {
        let ids: Vec<ComponentId> = self.held.iter().map(|held| held.component).collect();
        let merged: HashMap<ComponentId, ComponentId> = models::merged(conn, &ids).await?.into_iter().collect();
        for held in &mut self.held {
            held.component = merged.get(&held.component).copied().unwrap_or(held.component);
        }
        Ok(())
    }

    /// Joins the parts.
    pub(crate) fn of(
        hosts: Vec<HostNow>,
        devices: Vec<DeviceRow>,
        reported: &[ResidencyRow],
        redis_gone: Option<String>,
    ) -> Self {
        let mut held = Vec::new();
        for host in &hosts {
            match &host.live {
                Some(snapshot) => held.extend(of_snapshot(snapshot)),
                None => held.extend(reported.iter().filter(|row| row.host == host.row.name).map(Held::reported)),
            }
        }
        let staleness = whole(&hosts, redis_gone);
        Self { hosts, devices, held, staleness }
    }

    /// The host with this name.
    pub(crate) fn host(&self, name: &str) -> Option<&HostNow> {
        self.hosts.iter().find(|host| host.row.name == name)
    }

    /// The device with this id.
    pub(crate) fn device(&self, id: &str) -> Option<&DeviceRow> {
        self.devices.iter().find(|device| device.id == id)
    }

    /// The live part of a device.
    pub(crate) fn live_device(&self, device: &DeviceRow) -> Option<&DeviceSnapshot> {
        self.host(&device.host)?.live.as_ref()?.devices.iter().find(|live| live.id == device.id)
    }

    /// A host's RAM totals: live, or what its last report adds up to.
    pub(crate) fn ram(&self, host: &HostNow) -> CacheStats {
        if let Some(snapshot) = &host.live {
            return snapshot.ram.clone();
        }
        let of_host = self.held.iter().filter(|held| held.host == host.row.name && held.device.is_none());
        CacheStats {
            budget_bytes: u64::try_from(host.row.ram_budget_bytes).unwrap_or(0),
            configured_bytes: u64::try_from(host.row.ram_budget_bytes).unwrap_or(0),
            used_bytes: of_host.filter(|held| held.state == "ready").map(|held| held.bytes).sum(),
            ..CacheStats::default()
        }
    }
}

fn with_snapshots(rows: Vec<HostRow>, snapshots: Result<Vec<HostSnapshot>, String>) -> Vec<HostNow> {
    let (mut by_host, gone) = match snapshots {
        Ok(list) => (list.into_iter().map(|one| (one.host.clone(), one)).collect::<HashMap<_, _>>(), None),
        Err(why) => (HashMap::new(), Some(why)),
    };
    rows.into_iter()
        .map(|row| {
            let snapshot = by_host.remove(&row.name);
            let why_stale = why_stale(&row, snapshot.as_ref(), gone.as_deref());
            HostNow { live: snapshot.filter(|_| why_stale.is_none()), why_stale, row }
        })
        .collect()
}

fn why_stale(row: &HostRow, snapshot: Option<&HostSnapshot>, redis_gone: Option<&str>) -> Option<String> {
    let name = &row.name;
    if !row.alive {
        return Some(match row.lease_until {
            Some(_) => format!("the lease of the agent of `{name}` has expired"),
            None => format!("the agent of `{name}` has stopped"),
        });
    }
    match (snapshot, redis_gone) {
        (_, Some(why)) => Some(format!("no live status: {why}")),
        (None, None) => Some(format!("`{name}` has not published its status lately")),
        (Some(snapshot), None) if snapshot.incarnation != row.incarnation => {
            Some(format!("the live status of `{name}` is of an earlier agent"))
        }
        (Some(_), None) => None,
    }
}

fn of_snapshot(snapshot: &HostSnapshot) -> Vec<Held> {
    let ram = snapshot.entries.iter().map(|entry| Held::live(&snapshot.host, None, entry.clone()));
    let vram = snapshot.devices.iter().flat_map(|device| {
        device.entries.iter().map(|entry| Held::live(&snapshot.host, Some(&device.id), entry.clone()))
    });
    ram.chain(vram).collect()
}

/// A host that is gone makes nothing stale: what it held is gone with it.
fn whole(hosts: &[HostNow], redis_gone: Option<String>) -> Staleness {
    let of_host = hosts.iter().filter(|host| host.row.alive).find_map(|host| host.why_stale.clone());
    let reason = redis_gone.map(|why| format!("no live status: {why}")).or(of_host);
    Staleness { stale: reason.is_some(), reason }
}

#[cfg(test)]
pub(crate) mod tests;
