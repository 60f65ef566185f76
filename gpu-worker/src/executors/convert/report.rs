//! The result of a conversion.

use std::time::Duration;

use model_formats::{
    ComponentKind,
    convert::{Found, Layout, Made, Plan},
};
use shared::{
    job::ConvertLayout,
    wire::{ConvertResult, DroppedTensors, KeptComponent, OverflowingTensor, WidenedTensors},
};

use super::{Kept, Work, bake::Bake};
use crate::context::Agent;

/// What the job shows; the commit adds which model it is.
pub(super) fn result(
    agent: &Agent,
    work: &Work,
    (plan, kept, made): (&Plan, &Kept, &Made),
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
        kept: kept_components(kept),
        dropped: plan.dropped.iter().map(dropped).collect(),
        widened: plan.widened.iter().map(widened).collect(),
        missing: plan.missing.clone(),
        baked: work.bake.as_deref().map_or(0, Bake::len),
        loras_without_effect: work.bake.as_deref().map(Bake::idle).unwrap_or_default(),
        lora_misfits: work.bake.as_deref().map(Bake::misfits).unwrap_or_default(),
        seconds: elapsed.as_secs_f64(),
    }
}

fn kept_components(kept: &Kept) -> Vec<KeptComponent> {
    let runs_over = kept.runs_over.then(|| KeptComponent {
        component: ComponentKind::Vae.to_string(),
        values: 0,
        tensors: 0,
        largest: 0.0,
        named: Vec::new(),
        runs_over: true,
    });
    kept.overflowing.iter().map(kept_component).chain(runs_over).collect()
}

fn kept_component((kind, found): (&ComponentKind, &Found)) -> KeptComponent {
    let named = found.named.iter().cloned();
    KeptComponent {
        component: kind.to_string(),
        values: found.values,
        tensors: found.tensors,
        largest: found.largest,
        named: named.map(|(tensor, values, largest)| OverflowingTensor { tensor, values, largest }).collect(),
        runs_over: false,
    }
}

fn dropped(group: &model_formats::convert::Dropped) -> DroppedTensors {
    let (what, examples) = (group.what.to_owned(), group.examples.clone());
    DroppedTensors { what, tensors: group.tensors, bytes: group.bytes, examples }
}

fn widened(group: &model_formats::convert::Widened) -> WidenedTensors {
    let from = group.from.iter().map(|dtype| dtype.as_str().to_owned()).collect();
    let (to, examples) = (group.to.as_str().to_owned(), group.examples.clone());
    WidenedTensors { from, to, tensors: group.tensors, examples }
}
