//! Cutting a model's tensors into the components that are loaded on their own.

use std::collections::BTreeSet;

use crate::{
    canonical,
    detect::DENOISER_PREFIX,
    dtype::Dtype,
    inspection::{Component, TensorFacts},
    vocab::{Base, ComponentKind, ModelType},
};

/// Prefixes of the VAE in a single file.
pub(crate) const VAE_PREFIXES: &[&str] = &["first_stage_model.", "vae."];
/// Prefixes of text and image encoders in a single file.
pub(crate) const ENCODER_PREFIXES: &[&str] = &[
    "cond_stage_model.",
    "conditioner.embedders.0.",
    "conditioner.embedders.1.",
    "text_encoders.clip_l.",
    "text_encoders.clip_g.",
    "text_encoders.t5xxl.",
    "embedder.model.visual.",
];
/// The refiner's only encoder is OpenCLIP-G, which everywhere else is the second one.
const REFINER_ENCODER: &str = "conditioner.embedders.0.model.";

/// The loadable components and how many tensors belong to none.
#[derive(Debug, Default)]
pub(crate) struct Split {
    pub(crate) components: Vec<Component>,
    pub(crate) ignored_tensors: usize,
    pub(crate) ignored_bytes: u64,
}

impl Split {
    /// Takes tensors that are no weights of their component out of it.
    fn leave_out(&mut self, names: BTreeSet<String>, tensors: &mut Vec<TensorFacts>) {
        tensors.retain(|tensor| {
            let keep = !names.contains(&tensor.name);
            if !keep {
                self.ignored_tensors = self.ignored_tensors.saturating_add(1);
                self.ignored_bytes = self.ignored_bytes.saturating_add(tensor.bytes());
            }
            keep
        });
    }
}

/// Cuts `tensors` by what the model is. An unknown model has no components: nobody could use them.
pub(crate) fn split(model_type: ModelType, base: Base, tensors: Vec<TensorFacts>) -> Split {
    let assign = |name: &str| match (bare_kind(model_type), model_type) {
        (Some(kind), _) => bare(kind, name),
        (None, ModelType::Checkpoint) => by_prefix(base, name),
        (None, _) => None,
    };
    let mut parts: Vec<(ComponentKind, &'static str, Vec<TensorFacts>)> = Vec::new();
    let mut split = Split::default();
    for tensor in tensors {
        let part = assign(&tensor.name).filter(|_| !is_buffer(&tensor.name));
        let slot = part.and_then(|(kind, prefix)| slot(&mut parts, kind, prefix));
        match slot {
            Some(part) => part.push(tensor),
            None => {
                split.ignored_tensors = split.ignored_tensors.saturating_add(1);
                split.ignored_bytes = split.ignored_bytes.saturating_add(tensor.bytes());
            }
        }
    }
    parts.sort_by_key(|(kind, _, _)| *kind);
    for (kind, _, tensors) in &mut parts {
        split.leave_out(canonical::ignored(*kind, base, tensors).into_iter().collect(), tensors);
    }
    split.components = parts.into_iter().map(|(kind, _, tensors)| component(kind, tensors)).collect();
    split
}

/// The tensors of a part; none when another prefix already fills this kind.
fn slot<'p>(
    parts: &'p mut Vec<(ComponentKind, &'static str, Vec<TensorFacts>)>,
    kind: ComponentKind,
    prefix: &'static str,
) -> Option<&'p mut Vec<TensorFacts>> {
    if !parts.iter().any(|(have, _, _)| *have == kind) {
        parts.push((kind, prefix, Vec::new()));
    }
    let part = parts.iter_mut().find(|(have, from, _)| *have == kind && *from == prefix)?;
    Some(&mut part.2)
}

/// The one component of a model that is not a checkpoint.
const fn bare_kind(model_type: ModelType) -> Option<ComponentKind> {
    Some(match model_type {
        ModelType::Unet => ComponentKind::Unet,
        ModelType::Transformer => ComponentKind::Transformer,
        ModelType::Vae | ModelType::Taesd => ComponentKind::Vae,
        ModelType::TextEncoder => ComponentKind::TextEncoder,
        ModelType::ImageEncoder => ComponentKind::ImageEncoder,
        ModelType::Lora => ComponentKind::Lora,
        ModelType::ControlNet => ComponentKind::ControlNet,
        ModelType::T2iAdapter => ComponentKind::T2iAdapter,
        ModelType::IpAdapter => ComponentKind::IpAdapter,
        ModelType::Embedding => ComponentKind::Embedding,
        ModelType::Upscaler => ComponentKind::Upscaler,
        ModelType::MotionModule => ComponentKind::MotionModule,
        ModelType::Onnx => ComponentKind::Onnx,
        ModelType::Checkpoint | ModelType::Tokenizer | ModelType::Unknown => return None,
    })
}

fn bare(kind: ComponentKind, name: &str) -> Option<(ComponentKind, &'static str)> {
    if name.starts_with("model_ema.") {
        return None;
    }
    let is_vision = ["vision_model.", "visual_projection.", "visual."].iter().any(|part| name.starts_with(part));
    if kind == ComponentKind::TextEncoder && is_vision {
        return Some((ComponentKind::ImageEncoder, ""));
    }
    Some((kind, ""))
}

fn by_prefix(base: Base, name: &str) -> Option<(ComponentKind, &'static str)> {
    let denoiser = match base {
        Base::Sd3 | Base::Flux => ComponentKind::Transformer,
        _ => ComponentKind::Unet,
    };
    let table = [
        (DENOISER_PREFIX, denoiser),
        ("first_stage_model.", ComponentKind::Vae),
        ("vae.", ComponentKind::Vae),
        ("cond_stage_model.", ComponentKind::TextEncoder),
        (REFINER_ENCODER, ComponentKind::TextEncoder2),
        ("conditioner.embedders.0.", ComponentKind::TextEncoder),
        ("conditioner.embedders.1.", ComponentKind::TextEncoder2),
        ("text_encoders.clip_l.", ComponentKind::TextEncoder),
        ("text_encoders.clip_g.", ComponentKind::TextEncoder2),
        ("text_encoders.t5xxl.", ComponentKind::TextEncoder3),
        ("embedder.model.visual.", ComponentKind::ImageEncoder),
    ];
    table.into_iter().find(|(prefix, _)| name.starts_with(prefix)).map(|(prefix, kind)| (kind, prefix))
}

/// Constants that some writers store beside the weights.
fn is_buffer(name: &str) -> bool {
    name.ends_with(".position_ids") || name.ends_with(".logit_scale") || name == "logit_scale"
}

/// A component with its sums.
pub(crate) fn component(kind: ComponentKind, tensors: Vec<TensorFacts>) -> Component {
    let sum = |of: fn(&TensorFacts) -> u64| tensors.iter().map(of).fold(0, u64::saturating_add);
    let (bytes, param_count) = (sum(TensorFacts::bytes), sum(TensorFacts::elements));
    let dtype = dtype_name(&tensors);
    Component { kind, tensors, bytes, param_count, dtype }
}

/// The dtypes that weights are stored in: scalars (scales, counters) and integers are not weights,
/// unless there is nothing else.
fn weight_dtypes<'t>(tensors: impl Iterator<Item = &'t TensorFacts> + Clone) -> BTreeSet<Dtype> {
    let weights = tensors.clone().filter(|tensor| tensor.dtype.is_float() && tensor.elements() > 1);
    let dtypes: BTreeSet<Dtype> = weights.map(|tensor| tensor.dtype).collect();
    if dtypes.is_empty() { tensors.map(|tensor| tensor.dtype).collect() } else { dtypes }
}

/// The dtypes of weights by their names.
pub(crate) fn dtype_names(tensors: &[TensorFacts]) -> Vec<&'static str> {
    weight_dtypes(tensors.iter()).into_iter().map(Dtype::as_str).collect()
}

fn dtype_name(tensors: &[TensorFacts]) -> String {
    let dtypes = weight_dtypes(tensors.iter());
    match (dtypes.first(), dtypes.len()) {
        (Some(only), 1) => only.as_str().to_owned(),
        _ => "mixed".to_owned(),
    }
}

/// `fp16`, `bf16`, … if all components agree, else `mixed`.
pub(crate) fn variant(components: &[Component]) -> Option<String> {
    let dtypes = weight_dtypes(components.iter().flat_map(|component| component.tensors.iter()));
    let first = dtypes.first()?;
    Some(if dtypes.len() == 1 { first.variant_name() } else { "mixed".to_owned() })
}
