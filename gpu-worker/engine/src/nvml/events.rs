//! The events thread: registers for critical errors and memory errors of every device, and waits for them.

use std::collections::BTreeSet;

use nvml_wrapper::{
    EventSet, Nvml, bitmasks::event::EventTypes, enums::event::XidError, error::NvmlError,
    struct_wrappers::event::EventData,
};

use super::{
    Incident,
    library::is_of_library,
    monitor::{Backoff, Calls, Shared, Thread},
};

/// What is waited for, where a device knows it.
const WANTED: EventTypes =
    EventTypes::CRITICAL_XID_ERROR.union(EventTypes::DOUBLE_BIT_ECC_ERROR).union(EventTypes::SINGLE_BIT_ECC_ERROR);

/// Waits until the monitor is gone; opens the library again after errors.
pub(super) fn watch(shared: &Shared) {
    let mut backoff = Backoff::new(&shared.options);
    loop {
        match wait_until_it_fails(shared, &mut backoff) {
            Ok(()) => return,
            Err(error) => shared.failed(Thread::Events, &error),
        }
        if !shared.rest(backoff.step()) {
            return;
        }
    }
}

fn wait_until_it_fails(shared: &Shared, backoff: &mut Backoff) -> Result<(), NvmlError> {
    let options = &shared.options;
    let opening = shared.calls(Thread::Events, options.opening);
    let nvml = shared.open(&opening)?;
    let set = register(&nvml, &opening)?;
    let wait_ms = u32::try_from(options.event_wait.as_millis()).unwrap_or(u32::MAX);
    loop {
        let calls = shared.calls(Thread::Events, options.event_wait + options.deadline);
        match calls.make("waiting for events", || set.wait(wait_ms)) {
            Ok(event) => note(shared, &calls, &event),
            Err(NvmlError::Timeout) => {}
            Err(error) => return Err(error),
        }
        shared.answered(Thread::Events);
        *backoff = Backoff::new(options);
        if shared.state().stop {
            return Ok(());
        }
    }
}

/// A set with every device that has such events. A device that refuses takes the set with it: then another is made
/// without that device.
fn register<'nvml>(nvml: &'nvml Nvml, calls: &Calls<'_>) -> Result<EventSet<'nvml>, NvmlError> {
    let mut refused = BTreeSet::new();
    loop {
        match try_to_register(nvml, calls, &refused)? {
            Ok(set) => return Ok(set),
            Err(index) => refused.insert(index),
        };
    }
}

/// The set, or the device that refused.
fn try_to_register<'nvml>(
    nvml: &'nvml Nvml,
    calls: &Calls<'_>,
    refused: &BTreeSet<u32>,
) -> Result<Result<EventSet<'nvml>, u32>, NvmlError> {
    let count = calls.make("device count", || nvml.device_count())?;
    let mut set = calls.make("creating an event set", || nvml.create_event_set())?;
    let mut registered = 0;
    for index in (0..count).filter(|index| !refused.contains(index)) {
        let Some((device, types)) = candidate(nvml, index, calls)? else { continue };
        let kept = calls
            .make("registering for events", || device.register_events(types, set).map_err(|refusal| refusal.error));
        let Ok(kept) = kept else { return Ok(Err(index)) };
        (set, registered) = (kept, registered + 1);
    }
    if registered == 0 { Err(NvmlError::NotSupported) } else { Ok(Ok(set)) }
}

/// A device with the events that it knows of those that are wanted; none when there are none or it does not answer.
fn candidate<'nvml>(
    nvml: &'nvml Nvml,
    index: u32,
    calls: &Calls<'_>,
) -> Result<Option<(nvml_wrapper::Device<'nvml>, EventTypes)>, NvmlError> {
    let device = match calls.make("device handle", || nvml.device_by_index(index)) {
        Ok(device) => device,
        Err(error) if is_of_library(&error) => return Err(error),
        // broken, or not for this process
        Err(_) => return Ok(None),
    };
    let known = calls.make("supported events", || device.supported_event_types());
    let types = known.map_or(EventTypes::empty(), |known| known & WANTED);
    Ok((!types.is_empty()).then_some((device, types)))
}

fn note(shared: &Shared, calls: &Calls<'_>, event: &EventData<'_>) {
    let incident = if let Some(number) = &event.event_data {
        Incident::Xid(match number {
            XidError::Value(number) => *number,
            XidError::Unknown => 999,
        })
    } else if event.event_type.contains(EventTypes::DOUBLE_BIT_ECC_ERROR) {
        Incident::UncorrectedMemory
    } else if event.event_type.contains(EventTypes::SINGLE_BIT_ECC_ERROR) {
        Incident::CorrectedMemory
    } else {
        return;
    };
    // a device that does not say which it is: the incident counts for each
    let uuid = calls.make("device uuid", || event.device.uuid()).ok();
    shared.state().incident(uuid, incident, std::time::Instant::now());
    shared.tell();
}
