//! The result of a conversion.

use std::{collections::BTreeMap, time::Duration};

use model_formats::{
    ComponentKind,
    convert::{Found, Layout, Made, Plan},
};
use shared::{
    job::ConvertLayout,
    wire::{ConvertResult, DroppedTensors, KeptComponent, OverflowingTensor},
};

use super::{Work, bake::Bake};
use crate::context::Agent;

/// What the job shows; the commit adds which model it is.
pub(super) fn result(
    agent: &Agent,
    work: &Work,
    (plan, kept, made): (&Plan, &BTreeMap<ComponentKind, Found>, &Made),
    elapsed: Duration,
) -> ConvertResult {
    let tensors = plan.files.iter().map(|file| file.tensors.len()).sum();
    ConvertResult {
        from: work.base.wanted.model.name.clone(),
        model: None,
        name: None,
        host: agent.host.clone(),
        root: work.root.name.clone(),
        path: work.args.output.path.clone(),
        layout: match plan.layout {
            Layout::Same => ConvertLayout::Same,
            Layout::SingleFile => ConvertLayout::SingleFile,
            Layout::Diffusers => ConvertLayout::Diffusers,
        },
        bytes: made.bytes,
        resumed_bytes: made.resumed_bytes,
        tensors,
        payload_sha256: made.files.iter().map(|file| (file.path.clone(), file.payload_sha256.clone())).collect(),
        kept: kept.iter().map(kept_component).collect(),
        dropped: plan.dropped.iter().map(dropped).collect(),
        missing: plan.missing.clone(),
        baked: work.bake.as_deref().map_or(0, Bake::len),
        loras_without_effect: work.bake.as_deref().map(Bake::idle).unwrap_or_default(),
        lora_misfits: work.bake.as_deref().map(Bake::misfits).unwrap_or_default(),
        seconds: elapsed.as_secs_f64(),
    }
}

fn kept_component((kind, found): (&ComponentKind, &Found)) -> KeptComponent {
    let named = found.named.iter().cloned();
    KeptComponent {
        component: kind.to_string(),
        values: found.values,
        tensors: found.tensors,
        largest: found.largest,
        named: named.map(|(tensor, values, largest)| OverflowingTensor { tensor, values, largest }).collect(),
    }
}

fn dropped(group: &model_formats::convert::Dropped) -> DroppedTensors {
    let (what, examples) = (group.what.to_owned(), group.examples.clone());
    DroppedTensors { what, tensors: group.tensors, bytes: group.bytes, examples }
}
