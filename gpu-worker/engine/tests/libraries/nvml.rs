//! The management library: what is read, and what becomes of hangs, errors, lost devices and events (F30, F31, F32).

use std::time::Duration;

use engine::nvml::{
    Condition, DeviceFault, EccErrors, Incident, Monitor, MonitorOptions, NvmlDevice, NvmlView, Standing, Verdict,
    condition,
};

use crate::support::{Library, until};

const FIRST: &str = "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f";
const SECOND: &str = "GPU-ffffffff-0405-0607-0809-0a0b0c0d0e0f";

const TWO_DEVICES: &str = "\
driver 570.10
count 2
0.uuid GPU-00010203-0405-0607-0809-0a0b0c0d0e0f
0.name Scripted One
0.pci 00000000:65:00.0
0.capability 8.9
0.total 25757220864
0.used 1073741824
0.reserved 4096
0.utilization 37
0.temperature 54
0.power 120500
0.limit 300000
0.energy 4500
0.corrected 3
0.uncorrected 0
0.throttle 36
0.process 4711 943718400
1.uuid GPU-ffffffff-0405-0607-0809-0a0b0c0d0e0f
1.name Scripted Two
";

fn library() -> Library {
    Library::compile("nvml.c", "libnvidia-ml.so.1", TWO_DEVICES)
}

fn options(library: &Library) -> MonitorOptions {
    MonitorOptions {
        library: Some(library.file().to_owned()),
        period: Duration::from_millis(20),
        deadline: Duration::from_secs(1),
        event_wait: Duration::from_millis(20),
        backoff: Duration::from_millis(10),
        backoff_longest: Duration::from_millis(50),
        ..MonitorOptions::default()
    }
}

fn monitor(library: &Library) -> Monitor {
    Monitor::start(options(library), || {}).unwrap()
}

fn answers(view: &NvmlView) -> Option<Vec<NvmlDevice>> {
    (view.standing == Standing::Answering).then(|| view.figures.clone().unwrap().devices)
}

fn first_figures(monitor: &Monitor) -> Vec<NvmlDevice> {
    until("an answer", || monitor.view(), answers)
}

#[test]
fn figures_come_in_base_units_and_what_is_not_supported_is_absent() {
    let library = library();
    let monitor = monitor(&library);
    let devices = first_figures(&monitor);
    let (one, two) = (&devices[0], &devices[1]);
    assert_eq!((one.identity.uuid.as_str(), one.identity.product.as_str()), (FIRST, "Scripted One"));
    assert_eq!(one.identity.pci_bus_id.as_deref(), Some("00000000:65:00.0"));
    assert_eq!(one.identity.compute_capability.as_deref(), Some("8.9"));
    let memory = one.memory.unwrap();
    assert_eq!((memory.total_bytes, memory.used_bytes, memory.reserved_bytes), (25_757_220_864, 1 << 30, 4096));
    assert_eq!((one.utilization_ratio, one.temperature_celsius), (Some(0.37), Some(54.0)));
    assert_eq!((one.power_watts, one.power_limit_watts, one.energy_joules), (Some(120.5), Some(300.0), Some(4.5)));
    assert_eq!(one.ecc, Some(EccErrors { corrected: 3, uncorrected: 0 }));
    assert_eq!(one.throttled, ["power_cap", "thermal"]);
    assert_eq!((one.bytes_of(4711), one.bytes_of(1)), (Some(943_718_400), None));
    assert_eq!((two.memory, two.temperature_celsius, two.ecc, two.fault), (None, None, None, None));
    assert_eq!(monitor.view().figures.unwrap().driver.as_deref(), Some("570.10"));
}

#[test]
fn a_divided_device_names_its_parts() {
    let mut library = library();
    library.say("0.mig 2\n0.0.uuid MIG-a\n0.0.name 1g.5gb\n0.0.total 5000\n0.1.uuid MIG-b\n0.1.name 2g.10gb");
    let devices = first_figures(&monitor(&library));
    let parts: Vec<_> = devices[0].parts.iter().map(|part| (part.uuid.as_str(), part.total_bytes)).collect();
    assert_eq!(parts, [("MIG-a", Some(5000)), ("MIG-b", None)]);
    assert!(devices[1].parts.is_empty());
}

#[test]
fn f32_a_library_that_is_not_there_is_said_and_costs_nothing() {
    let options = MonitorOptions { library: Some("/nowhere/libnvidia-ml.so.1".into()), ..MonitorOptions::default() };
    let monitor = Monitor::start(options, || {}).unwrap();
    let reason =
        until("a reason", || monitor.view(), |view| view.standing.reason().filter(|why| why.contains("nowhere")));
    assert!(reason.contains("libnvidia-ml.so.1"), "{reason}");
    let view = monitor.view();
    assert_eq!(view.standing.as_str(), "unmonitored");
    assert!(condition(&view, FIRST).takes_work());
    assert!(view.errors["library_not_found"] >= 1);
}

#[test]
fn f32_a_hung_call_is_seen_and_named_and_over_when_it_returns() {
    let mut library = library();
    let monitor = monitor(&library);
    first_figures(&monitor);
    library.say("hang.nvmlDeviceGetTemperature 1");
    let call = until(
        "the hang to be seen",
        || monitor.view(),
        |view| match view.standing {
            Standing::Unresponsive { call, .. } => Some(call),
            _ => None,
        },
    );
    assert_eq!(call, "temperature");
    let view = monitor.view();
    assert!(matches!(condition(&view, FIRST), Condition::Unknown { .. }), "{view:#?}");
    library.unsay("hang.nvmlDeviceGetTemperature");
    until("the library to answer again", || monitor.view(), answers);
    assert_eq!(condition(&monitor.view(), FIRST), Condition::Good);
}

#[test]
fn f32_a_hung_wait_for_events_is_seen_too() {
    let mut library = library();
    let monitor = monitor(&library);
    first_figures(&monitor);
    library.say("hang.nvmlEventSetWait_v2 1");
    let hung = |view: &NvmlView| matches!(view.standing, Standing::Unresponsive { call: "waiting for events", .. });
    until("the hang to be seen", || monitor.view(), |view| hung(view).then_some(()));
}

/// A wait that answers an error says that something is wrong with every device; it is made anew, with a set of its own, until
/// it works.
#[test]
fn f32_an_error_of_the_wait_for_events_costs_every_device_until_it_works_again() {
    let mut library = library();
    library.say("event 1 0 8 31");
    let monitor = monitor(&library);
    first_figures(&monitor);
    let seen =
        |number: u64| move |view: &NvmlView| view.events.iter().any(|event| event.incident == Incident::Xid(number));
    until("the wait to work", || monitor.view(), |view| seen(31)(view).then_some(()));
    library.say("code.nvmlEventSetWait_v2 999");
    let failing = |view: &NvmlView| match &view.standing {
        Standing::Failing { reason } => Some(reason.clone()),
        _ => None,
    };
    let reason = until("the error to be seen", || monitor.view(), failing);
    assert!(reason.starts_with("waiting for events") && reason.contains("internal driver error"), "{reason}");
    let view = monitor.view();
    assert!(!condition(&view, FIRST).takes_work() && !condition(&view, SECOND).takes_work(), "{view:#?}");
    // it is tried again, from the beginning: what a new set meets is met
    until("more tries", || monitor.view(), |view| (view.errors["unknown"] >= 3).then_some(()));
    library.say("code.nvmlEventSetCreate 13");
    library.unsay("code.nvmlEventSetWait_v2");
    let other = |view: &NvmlView| failing(view).filter(|reason| !reason.contains("internal driver error"));
    until("the refusal of a new set", || monitor.view(), other);
    library.say("event 2 1 8 43");
    library.unsay("code.nvmlEventSetCreate");
    until("the wait to work again", || monitor.view(), answers);
    until("the event", || monitor.view(), |view| seen(43)(view).then_some(()));
    let view = monitor.view();
    assert_eq!((condition(&view, FIRST), condition(&view, SECOND)), (Condition::Good, Condition::Good));
}

#[test]
fn f32_a_library_that_fails_is_opened_again() {
    let mut library = library();
    let monitor = monitor(&library);
    first_figures(&monitor);
    library.say("code.nvmlDeviceGetCount_v2 999\ncode.nvmlInit_v2 999");
    let reason = until(
        "the failure to be seen",
        || monitor.view(),
        |view| match &view.standing {
            Standing::Failing { reason } => Some(reason.clone()),
            _ => None,
        },
    );
    assert!(reason.contains("internal driver error"), "{reason}");
    assert!(!condition(&monitor.view(), SECOND).takes_work());
    assert!(monitor.view().errors["unknown"] >= 1);
    library.unsay("code.nvmlDeviceGetCount_v2");
    library.unsay("code.nvmlInit_v2");
    until("the library to answer again", || monitor.view(), answers);
}

#[test]
fn f30_a_lost_device_is_known_by_name_and_the_other_goes_on() {
    let mut library = library();
    let monitor = monitor(&library);
    first_figures(&monitor);
    library.say("0.handle 15");
    let lost =
        |devices: &[NvmlDevice]| devices[0].fault == Some(DeviceFault::Lost) && devices[0].identity.uuid == FIRST;
    until("the loss to be seen", || monitor.view(), |view| answers(view).filter(|devices| lost(devices)));
    let view = monitor.view();
    assert!(matches!(condition(&view, FIRST), Condition::Broken { .. }));
    assert_eq!(condition(&view, SECOND), Condition::Good);
}

#[test]
fn f30_a_device_that_is_not_listed_any_more_is_lost() {
    let mut library = library();
    let monitor = monitor(&library);
    first_figures(&monitor);
    library.say("count 1");
    let lost =
        |devices: &[NvmlDevice]| devices.iter().any(|device| device.identity.uuid == SECOND && device.fault.is_some());
    until("the loss to be seen", || monitor.view(), |view| answers(view).filter(|devices| lost(devices)));
}

#[test]
fn f30_a_device_that_must_be_reset_says_so_in_any_call() {
    let mut library = library();
    library.say("code.nvmlDeviceGetPowerUsage 16");
    let monitor = monitor(&library);
    let devices = first_figures(&monitor);
    assert_eq!(devices[0].fault, Some(DeviceFault::ResetRequired));
    assert_eq!(devices[1].fault, Some(DeviceFault::ResetRequired));
}

#[test]
fn f30_f31_events_are_told_with_their_device_and_judged() {
    let mut library = library();
    let monitor = monitor(&library);
    first_figures(&monitor);
    let mut seen = |line: &str, incident: Incident, uuid: &str| {
        library.say(line);
        until(
            line,
            || monitor.view(),
            |view| {
                view.events
                    .iter()
                    .find(|event| event.incident == incident && event.uuid.as_deref() == Some(uuid))
                    .cloned()
            },
        )
    };
    assert_eq!(seen("event 1 0 8 31", Incident::Xid(31), FIRST).verdict(), Verdict::Runner);
    assert_eq!(seen("event 2 1 1 0", Incident::CorrectedMemory, SECOND).verdict(), Verdict::Warning);
    assert_eq!(seen("event 3 1 8 79", Incident::Xid(79), SECOND).verdict(), Verdict::Device);
    let view = monitor.view();
    assert_eq!(condition(&view, FIRST), Condition::Good);
    let broken = condition(&view, SECOND);
    assert!(broken.reason().is_some_and(|reason| reason.contains("Xid 79")), "{broken:?}");
}

#[test]
fn a_device_that_refuses_events_does_not_take_them_from_the_others() {
    let mut library = library();
    library.say("1.code 4");
    let monitor = monitor(&library);
    library.say("event 1 0 8 43");
    until("the event", || monitor.view(), |view| view.events.first().map(|event| event.incident));
}
