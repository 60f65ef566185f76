//! Modules described once: every weight with its shape, its values and its name in both layouts.

mod clip;
mod controlnet;
mod embedding;
mod lora;
mod taesd;
mod training;
mod unet;
mod vae;

pub(super) use clip::{Naming, clip};
pub(super) use controlnet::controlnet;
pub(super) use embedding::{embedding_sd15, embedding_sdxl};
pub(super) use lora::{Target, lora};
pub(super) use taesd::taesd;
pub(super) use training::training;
pub(super) use unet::unet;
pub(super) use vae::vae;

use super::{
    options::Dtype,
    tensor::{Part, Tensor},
    values::Fill,
};

/// Where a module sits: its path in the diffusers layout and in the original one.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    diffusers: Option<String>,
    original: Option<String>,
}

impl Place {
    /// The top of a component.
    pub(super) fn root() -> Self {
        Self { diffusers: Some(String::new()), original: Some(String::new()) }
    }

    /// A part of it, with its two names.
    pub(super) fn at(&self, diffusers: impl AsRef<str>, original: impl AsRef<str>) -> Self {
        Self {
            diffusers: self.diffusers.as_ref().map(|path| join(path, diffusers.as_ref())),
            original: self.original.as_ref().map(|path| join(path, original.as_ref())),
        }
    }

    /// A part with the same name in both.
    pub(super) fn both(&self, name: impl AsRef<str>) -> Self {
        self.at(name.as_ref(), name.as_ref())
    }

    /// The same place, which the diffusers layout leaves out.
    pub(super) fn only_original(&self) -> Self {
        Self { diffusers: None, original: self.original.clone() }
    }
}

fn join(path: &str, name: &str) -> String {
    match (path, name) {
        ("", name) => name.to_owned(),
        (path, "") => path.to_owned(),
        (path, name) => format!("{path}.{name}"),
    }
}

/// How the original layout stores a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    /// With the same shape.
    Same,
    /// A linear weight as a 1×1 convolution.
    OneByOne,
    /// A matrix transposed.
    Transposed,
    /// The next rows of a tensor that several weights share.
    Rows,
}

/// One weight.
#[derive(Debug, Clone)]
pub(super) struct Weight {
    pub(super) place: Place,
    pub(super) shape: Vec<u64>,
    pub(super) stored: Stored,
    pub(super) fill: Fill,
}

impl Weight {
    /// The name in the diffusers layout.
    pub(super) fn diffusers(&self) -> Option<&str> {
        self.place.diffusers.as_deref()
    }

    /// The name in the original layout.
    pub(super) fn original(&self) -> Option<&str> {
        self.place.original.as_deref()
    }
}

/// The weights of a component.
#[derive(Debug)]
pub(super) struct Weights {
    /// Names the component's values: equal keys give equal values in every file.
    key: String,
    list: Vec<Weight>,
}

impl Weights {
    /// No weights yet.
    pub(super) fn new(key: impl Into<String>) -> Self {
        Self { key: key.into(), list: Vec::new() }
    }

    /// All weights.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Weight> {
        self.list.iter()
    }

    /// Adds a weight.
    pub(super) fn push(&mut self, place: Place, shape: &[u64], stored: Stored, fill: Fill) {
        self.list.push(Weight { place, shape: shape.to_vec(), stored, fill });
    }

    /// A weight of this shape with the spread of its inputs.
    pub(super) fn matrix(&mut self, place: &Place, shape: &[u64], stored: Stored) {
        let inputs: u64 = shape.iter().skip(1).product();
        self.push(place.both("weight"), shape, stored, Fill::by_inputs(inputs));
    }

    fn bias(&mut self, place: &Place, width: u64) {
        self.push(place.both("bias"), &[width], Stored::Same, Fill::BIAS);
    }

    /// A linear layer [outputs, inputs].
    pub(super) fn linear(&mut self, place: &Place, inputs: u64, outputs: u64) {
        self.linear_no_bias(place, inputs, outputs);
        self.bias(place, outputs);
    }

    /// A linear layer [outputs, inputs] without bias.
    pub(super) fn linear_no_bias(&mut self, place: &Place, inputs: u64, outputs: u64) {
        self.matrix(place, &[outputs, inputs], Stored::Same);
    }

    /// A linear layer that the original layout stores as a 1×1 convolution.
    pub(super) fn pointwise(&mut self, place: &Place, inputs: u64, outputs: u64) {
        self.matrix(place, &[outputs, inputs], Stored::OneByOne);
        self.bias(place, outputs);
    }

    /// A square convolution [outputs, inputs, side, side].
    pub(super) fn conv(&mut self, place: &Place, inputs: u64, outputs: u64, side: u64) {
        self.conv_no_bias(place, inputs, outputs, side);
        self.bias(place, outputs);
    }

    /// A square convolution without bias.
    pub(super) fn conv_no_bias(&mut self, place: &Place, inputs: u64, outputs: u64, side: u64) {
        self.matrix(place, &[outputs, inputs, side, side], Stored::Same);
    }

    /// Scale and offset of a normalisation.
    pub(super) fn norm(&mut self, place: &Place, width: u64) {
        self.push(place.both("weight"), &[width], Stored::Same, Fill::SCALE);
        self.bias(place, width);
    }

    fn part(&self, weight: &Weight, transposed: bool) -> Part {
        let name = weight.diffusers().or(weight.original()).unwrap_or_default();
        let columns = if transposed { weight.shape.first().copied() } else { None };
        let elements = weight.shape.iter().product();
        Part { key: format!("{}/{name}", self.key), elements, transposed_from_rows: columns, fill: weight.fill }
    }

    /// The tensors of the diffusers layout, names below `prefix`.
    pub(super) fn in_diffusers(&self, prefix: &str, dtype: Dtype) -> Vec<Tensor> {
        let tensor = |weight: &Weight| {
            let name = format!("{prefix}{}", weight.diffusers()?);
            let parts = vec![self.part(weight, false)];
            Some(Tensor { name, dtype: weight.fill.dtype(dtype), shape: weight.shape.clone(), parts })
        };
        self.list.iter().filter_map(tensor).collect()
    }

    /// The tensors of the original layout, names below `prefix`.
    pub(super) fn in_original(&self, prefix: &str, dtype: Dtype) -> Vec<Tensor> {
        let mut tensors: Vec<Tensor> = Vec::new();
        for weight in &self.list {
            let Some(name) = weight.original() else { continue };
            let (name, part) = (format!("{prefix}{name}"), self.part(weight, weight.stored == Stored::Transposed));
            // the rows of one tensor follow each other here, matrix and bias by turns
            let open = tensors.iter_mut().rev().take(2).find(|tensor| tensor.name == name);
            match (weight.stored, open) {
                (Stored::Rows, Some(tensor)) => tensor.append_rows(&weight.shape, part),
                _ => {
                    let shape = original_shape(weight);
                    tensors.push(Tensor { name, dtype: weight.fill.dtype(dtype), shape, parts: vec![part] });
                }
            }
        }
        tensors
    }
}

fn original_shape(weight: &Weight) -> Vec<u64> {
    let shape = weight.shape.iter().copied();
    match weight.stored {
        Stored::Same | Stored::Rows => shape.collect(),
        Stored::OneByOne => shape.chain([1, 1]).collect(),
        Stored::Transposed => shape.rev().collect(),
    }
}
