//! What a person sees, as snapshots of whole screens.

use std::{collections::HashMap, time::Duration};

use ratatui::{Terminal, backend::TestBackend};
use serde_json::json;

use super::*;

/// Two hosts, one of them lost; a load that runs, one that waits, six residents and a variant.
fn sample() -> Sample {
    let at = "2026-01-02T03:04:05Z";
    let gib = 1u64 << 30;
    let ram = json!({
        "budget_bytes": 16 * gib, "used_bytes": 6 * gib, "reserved_bytes": 2 * gib, "system_bytes": 6 * gib, "hits": 9, "misses": 3,
        "joins": 0, "evictions": 2, "load_failures": 0, "loaded_bytes": 0
    });
    let host = |name: &str, state: &str| {
        json!({
            "name": name, "state": state, "agent_version": "0.1.0", "labels": [], "slots": 2, "ram": ram, "capabilities": {},
            "devices": [], "roots": [], "registered_at": at, "stale": false
        })
    };
    let resident = |model: &str, kind: &str, device: Option<&str>, bytes: u64, protected: bool| {
        json!({
            "component": format!("01JGJJGRVDCZYB61JNCVRKV6T{}", bytes / gib), "kind": kind, "model": "01JGJJGRVDCZYB61JNCVRKV6TR", "model_name": model,
            "tier": if device.is_some() { "vram" } else { "ram" }, "host": "gpu-01", "device": device, "state": "ready",
            "bytes": bytes, "leases": 1, "protected": protected, "since": at
        })
    };
    let device = json!({
        "id": "gpu-01/cuda:0", "host": "gpu-01", "name": "cuda:0", "kind": "cuda", "product": "H100", "state": "ready",
        "memory_total_bytes": 80 * gib, "memory_used_bytes": 78 * gib, "labels": [],
        "resident": [resident("sdxl-base", "unet", Some("gpu-01/cuda:0"), 5 * gib, false)], "stale": false,
        "variants": [{
            "id": "01JGJJGRVDCZYB61JNCVRKV6TV", "base": "01JGJJGRVDCZYB61JNCVRKV6T5", "kind": "unet", "key": "k", "bytes": gib,
            "whole": false, "loras": ["ink:0.8", "lines:-0.5"], "pipelines": ["anime"], "seconds": 0.5, "leases": 0,
            "protected": false, "since": at, "last_used": "2100-01-01T00:00:00Z", "hits": 1, "model_name": "sdxl-base",
        }]
    });
    let job = |kind: &str, state: &str, more: serde_json::Value| {
        let mut job = json!({
            "id": "01JGJJGRVDCZYB61JNCVRKV6TQ", "kind": kind, "state": state, "args": {"model": "flux-dev"}, "target": "any",
            "priority": 0, "attempt": 1, "max_attempts": 3, "cancel_requested": false, "created_at": "2100-01-01T00:00:00Z"
        });
        job.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        job
    };
    let progress = json!({"phase": "reading", "bytes_done": 3 * gib, "bytes_total": 12 * gib, "eta_seconds": 9.0, "detail": "transformer"});
    let mut residents: Vec<_> =
        (0..6u64).map(|n| resident(&format!("sdxl-{n}"), "unet", None, (n + 1) * gib, n == 2)).collect();
    residents.push(resident("a-twin", "unet", None, gib, false));
    let running = job("load", "running", json!({"device": "gpu-01/cuda:0", "progress": progress}));
    let read = |value: serde_json::Value| serde_json::from_value(value).unwrap();
    let mut sample = Sample {
        at: at.parse().unwrap(),
        hosts: serde_json::from_value(json!([host("gpu-01", "ready"), host("gpu-02", "lost")])).unwrap(),
        devices: serde_json::from_value(json!([device])).unwrap(),
        cache: serde_json::from_value(json!({ "total": ram, "hosts": [], "stale": false })).unwrap(),
        status: serde_json::from_value(json!({
            "models_total": 60, "stale": false,
            "models": [{"model": "01JGJJGRVDCZYB61JNCVRKV6TR", "name": "sdxl", "resident": residents, "absent": [], "jobs": [], "stale": false}]
        }))
        .unwrap(),
        running: vec![read(running)],
        waiting: vec![read(job("load", "pending", json!({"reason": {"message": "no device has 24.0 GiB free"}})))],
        running_cut: false,
        waiting_cut: false,
        rates: HashMap::new(),
    };
    sample.rates.insert(sample.running[0].id, (1u64 << 30) as f64);
    sample
}

fn drawn(width: u16, height: u16, view: &mut View) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, &sample(), view, "http://127.0.0.1:8080")).unwrap();
    plain(terminal.backend().buffer())
}

#[test]
fn a_wide_screen_shows_everything() {
    let mut view = View { interval: Duration::from_secs(1), ..View::default() };
    insta::assert_snapshot!(drawn(130, 30, &mut view));
}

#[test]
fn a_small_screen_cuts_the_lists_and_scrolls_the_last() {
    let mut view = View { interval: Duration::from_secs(1), offset: usize::MAX, ..View::default() };
    view.trouble = Some("cannot reach the API".into());
    insta::assert_snapshot!(drawn(80, 20, &mut view));
    assert_eq!(view.offset, 7 - view.page, "the last page is a whole one");
}

#[test]
fn text_has_every_row_and_no_keys() {
    insta::assert_snapshot!(text(&sample(), "http://127.0.0.1:8080"));
}

#[test]
fn a_screen_of_any_size_is_drawn() {
    for (width, height) in [(1, 1), (2, 3), (20, 5), (500, 200)] {
        drawn(width, height, &mut View { interval: Duration::from_secs(1), color: true, ..View::default() });
    }
}

#[test]
fn heights_never_exceed_the_screen_and_waste_nothing() {
    for height in 0..60 {
        for wanted in [[0; 5], [1, 1, 0, 0, 9], [9, 9, 9, 9, 99], [40, 0, 3, 0, 0]] {
            let given = heights(height, wanted);
            let used: usize = given.iter().filter(|rows| **rows > 0).map(|rows| rows + 2).sum();
            assert!(used <= height, "{given:?} of {height}");
            assert!(given.iter().zip(wanted).all(|(given, wanted)| *given <= wanted));
            let unmet = given.iter().zip(wanted).any(|(given, wanted)| *given > 0 && *given < wanted);
            assert!(!unmet || used == height, "{given:?} of {wanted:?} leaves lines of {height}");
        }
    }
}
