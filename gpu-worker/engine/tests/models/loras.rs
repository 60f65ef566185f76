//! Models with LoRAs on them against diffusers: files in every trainer's names, stacks, weights by block; and without them
//! again.

use std::{collections::BTreeMap, num::NonZeroUsize, sync::Arc};

use engine::{
    Cancel, Control, ElementType, Runtime, Tensor, Weights,
    arch::{clip, unet2d},
    lora::{
        AdapterDocument, AdapterSettings, BaseTensor, BlockWeights, Entry, Lora, LoraIndex, LoraTensor, Module, Report,
        Stack,
        blend::{BlendControl, Blended, Form, OutTensor, Size, Source, Spelling, blend},
        match_base, merge,
    },
    models::{Added, Conditions, EncodeOptions, TextEncoder, Unet},
};
use safetensors::SafeTensors;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    made,
    support::{assert_close, golden_path, runtime},
};

/// Of the range of the outputs. Diffusers adds the LoRA's own product to every layer's, here the weight is changed.
const BOUND: f32 = 5e-6;
/// Components that have adapters.
const ADAPTED: [&str; 3] = ["unet", "text_encoder", "text_encoder_2"];

/// A LoRA's file: its tensors as names with the names of their values and shapes.
#[derive(Deserialize)]
struct File {
    tensors: Vec<(String, String, Vec<usize>)>,
    alphas: BTreeMap<String, f32>,
    settings: Map<String, Value>,
}

/// A LoRA of a stack.
#[derive(Deserialize)]
struct Use {
    file: String,
    weight: f64,
    text_encoder_weight: Option<f64>,
    #[serde(default)]
    blocks: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
struct Component {
    config: Value,
    tensors: Vec<(String, Vec<usize>)>,
}

struct Golden {
    bytes: Vec<u8>,
    components: BTreeMap<String, Component>,
    files: BTreeMap<String, Lora>,
    held: BTreeMap<String, Held>,
    cases: BTreeMap<String, Vec<Use>>,
    ids: Vec<i64>,
    positions: Vec<usize>,
}

impl Golden {
    fn open(base: &str) -> Self {
        let bytes = std::fs::read(golden_path(&format!("loras-{base}.safetensors"))).unwrap();
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = metadata.metadata().clone().unwrap();
        let files: BTreeMap<String, File> = serde_json::from_str(&metadata["files"]).unwrap();
        let held: BTreeMap<String, Held> = files.iter().map(|(name, file)| (name.clone(), Held::of(file))).collect();
        Self {
            components: serde_json::from_str(&metadata["components"]).unwrap(),
            files: held.iter().map(|(name, held)| (name.clone(), held.lora())).collect(),
            held,
            cases: serde_json::from_str(&metadata["cases"]).unwrap(),
            ids: serde_json::from_str(&metadata["ids"]).unwrap(),
            positions: serde_json::from_str(&metadata["positions"]).unwrap(),
            bytes,
        }
    }

    fn expected(&self, case: &str, component: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let view = file.tensor(&format!("{case}|{component}")).unwrap();
        view.data().as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect()
    }

    fn base(&self) -> Vec<BaseTensor> {
        let of = |(component, part): (&String, &Component)| {
            let component = component.clone();
            let tensor = move |(name, shape): &(String, Vec<usize>)| BaseTensor {
                component: component.clone(),
                name: name.clone(),
                shape: shape.clone(),
                bytes: shape.iter().product::<usize>() as u64 * 4,
            };
            part.tensors.iter().map(tensor).collect::<Vec<_>>()
        };
        self.components.iter().flat_map(of).collect()
    }

    fn weights(&self, component: &str) -> Weights {
        made::plain(&self.components[component].tensors)
    }

    /// A component's answer with these weights.
    fn answer(&self, runtime: &Arc<Runtime>, component: &str, weights: Weights) -> Vec<f32> {
        let config = &self.components[component].config;
        if component == "unet" {
            let config = unet2d::Config::from_json(config).unwrap();
            let states = made::input("encoder_hidden_states", &[1, 11, config.context]);
            let time_ids = Tensor::f32(&[1, 6], vec![512.0, 512.0, 16.0, 0.0, 512.0, 384.0]).unwrap();
            let text_embeds = made::input("text_embeds", &[1, 24]);
            let added = self.components.contains_key("text_encoder_2");
            let added = added.then_some(Added { text_embeds: &text_embeds, time_ids: &time_ids });
            let conditions = Conditions { encoder_hidden_states: &states, added };
            let unet = Unet::new(runtime, config, weights).unwrap();
            let sample = made::input("sample", &[1, 4, 8, 8]);
            let prediction = unet.predict(&sample, 981.0, &conditions, &Control::default()).unwrap();
            return prediction.as_f32().unwrap().to_vec();
        }
        let config = clip::Config::from_json(config, &weights.facts()).unwrap();
        let encoder = TextEncoder::new(runtime, config, weights).unwrap();
        let options = EncodeOptions { skip: 0, is_normed: false };
        let states = encoder.encode(std::slice::from_ref(&self.ids), options, &Control::default()).unwrap();
        let (width, values) = (states.hidden.shape[2], states.hidden.as_f32().unwrap());
        self.positions.iter().flat_map(|at| values[at * width..][..width].to_vec()).collect()
    }
}

/// A file's tensors in memory, whose values follow from their names.
struct Held {
    tensors: Vec<(String, Vec<usize>, Vec<u8>)>,
    settings: BTreeMap<String, AdapterSettings>,
}

impl Held {
    fn of(file: &File) -> Self {
        let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let factor = |(name, values, shape): &(String, String, Vec<usize>)| {
            (name.clone(), shape.clone(), bytes(&made::values(values, shape)))
        };
        let alphas = file.alphas.iter().map(|(name, alpha)| (name.clone(), Vec::new(), bytes(&[*alpha])));
        let said = AdapterDocument::parse(&Value::Object(file.settings.clone()).to_string()).unwrap();
        let of = |component: &str| Some((component.to_owned(), said.of(component).unwrap()?));
        Self {
            tensors: file.tensors.iter().map(factor).chain(alphas).collect(),
            settings: ADAPTED.iter().chain(&[""]).filter_map(|component| of(component)).collect(),
        }
    }

    fn tensors(&self) -> Vec<LoraTensor<'_>> {
        let tensor = |(name, shape, bytes)| LoraTensor { name, element: ElementType::F32, shape, bytes };
        self.tensors.iter().map(|(name, shape, bytes)| tensor((name, shape, bytes))).collect()
    }

    fn lora(&self) -> Lora {
        Lora::read(&self.tensors(), &self.settings).unwrap()
    }
}

fn entry(wanted: &Use) -> Entry {
    Entry {
        digest: wanted.file.clone(),
        weight: wanted.weight,
        text_encoder_weight: wanted.text_encoder_weight,
        blocks: BlockWeights(wanted.blocks.clone()),
    }
}

/// What a stack changes, by component and tensor: every change with its strength, in the canonical order.
type Changes<'a> = BTreeMap<(String, String), Vec<(&'a Module, f64)>>;

fn changes<'a>(golden: &'a Golden, uses: &[Use]) -> Changes<'a> {
    let stack = Stack(uses.iter().map(entry).collect()).canonical();
    let base = golden.base();
    let mut changes = Changes::new();
    for entry in &stack.0 {
        let lora = &golden.files[&entry.digest];
        let report: Report = match_base(lora, &base);
        assert_eq!((report.refusal(), report.unmatched.len()), (None, 0), "{}: {report:?}", entry.digest);
        for fit in &report.matched {
            let module = lora.modules.iter().find(|module| module.stem == fit.stem).unwrap();
            let tensor = (fit.component.clone(), format!("{}.weight", fit.path));
            changes.entry(tensor).or_default().push((module, entry.strength(&fit.component, &fit.path)));
        }
    }
    changes
}

/// A component's weights with the changed tensors in place of the base's, which stay as they are.
fn variant(base: &Weights, component: &str, changes: &Changes<'_>) -> Weights {
    let mut weights = base.clone();
    for ((_, tensor), modules) in changes.iter().filter(|((of, _), _)| of == component) {
        let weight = base.get(tensor).unwrap();
        let stored = (weight.dtype, weight.shape.as_slice(), weight.memory.as_host().unwrap());
        let merged = merge(stored, modules, NonZeroUsize::new(2).unwrap()).unwrap();
        let values: Vec<f32> = merged.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect();
        weights.insert(tensor.clone(), made::weight(&weight.shape, &values, ElementType::F32)).unwrap();
    }
    weights
}

fn digest(weights: &Weights) -> blake3::Hash {
    let mut hash = blake3::Hasher::new();
    weights.iter().for_each(|(name, weight)| {
        hash.update(name.as_bytes()).update(weight.memory.as_host().unwrap());
    });
    hash.finalize()
}

#[track_caller]
fn assert_equals_diffusers(base: &str) {
    let Some(runtime) = runtime().map(Arc::new) else { return };
    let golden = Golden::open(base);
    assert!(golden.cases.len() >= 5);
    for component in golden.components.keys() {
        let weights = golden.weights(component);
        let before = digest(&weights);
        let plain = golden.answer(&runtime, component, weights.clone());
        assert_close(&plain, &golden.expected("before", component), BOUND);
        for (case, uses) in &golden.cases {
            let changed = variant(&weights, component, &changes(&golden, uses));
            let answer = golden.answer(&runtime, component, changed);
            assert_close(&answer, &golden.expected(case, component), BOUND);
        }
        // taken off, the base is what it was, to the bit
        assert_eq!(digest(&weights), before);
        assert_eq!(golden.answer(&runtime, component, weights), plain);
    }
}

#[test]
fn sd15_with_loras_answers_as_diffusers_does_and_without_them_as_before() {
    assert_equals_diffusers("sd15");
}

#[test]
fn sdxl_with_loras_answers_as_diffusers_does_and_without_them_as_before() {
    assert_equals_diffusers("sdxl");
}

/// The same factors in another trainer's names are the same bytes, but for the scale, which some write into a factor.
#[test]
fn every_spelling_changes_the_same_tensors_by_the_same_bytes() {
    for base in ["sd15", "sdxl"] {
        let golden = Golden::open(base);
        let use_of = |name: &str| {
            changes(
                &golden,
                &[Use { file: name.to_owned(), weight: 0.75, text_encoder_weight: None, blocks: BTreeMap::new() }],
            )
        };
        let kohya = use_of("style-kohya");
        for name in ["style-diffusers", "style-onetrainer", "style-comfy"] {
            for component in golden.components.keys() {
                let weights = golden.weights(component);
                let other = use_of(name);
                let shared: Changes<'_> = kohya
                    .iter()
                    .filter(|(tensor, _)| other.contains_key(*tensor))
                    .map(|(tensor, modules)| (tensor.clone(), modules.clone()))
                    .collect();
                assert_eq!(shared.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>(), "{name}");
                let (left, right) = (variant(&weights, component, &shared), variant(&weights, component, &other));
                assert_eq!(digest(&left), digest(&right), "{base} {name} {component}");
            }
        }
    }
}

fn blended(golden: &Golden, uses: &[Use], spelling: Spelling) -> Blended {
    let held: Vec<&Held> = uses.iter().map(|wanted| &golden.held[&wanted.file]).collect();
    let tensors: Vec<Vec<LoraTensor<'_>>> = held.iter().map(|held| held.tensors()).collect();
    let indexes: Vec<LoraIndex<'_>> =
        held.iter().zip(&tensors).map(|(held, tensors)| LoraIndex::read(tensors, &held.settings).unwrap()).collect();
    let source = |(wanted, index): (&Use, _)| Source { name: wanted.file.clone(), index, entry: entry(wanted) };
    let sources: Vec<Source<'_>> = uses.iter().zip(&indexes).map(source).collect();
    let control = BlendControl { threads: NonZeroUsize::new(2).unwrap(), done: &|_, _| {}, cancel: &Cancel::new() };
    let form = Form { size: Size::Exact, element: ElementType::F32, spelling };
    blend(&sources, Some(&golden.base()), form, &control).unwrap()
}

/// A blended file, read as any other, on the models again: what diffusers made of the stack, in both spellings of the result.
#[test]
fn a_blend_answers_as_its_stack_does() {
    let Some(runtime) = runtime().map(Arc::new) else { return };
    for (base, case, begins) in [
        ("sd15", "stack", ["lora_te_text_model_encoder_", "lora_unet_down_blocks_"]),
        ("sd15", "blocks", ["lora_te_text_model_encoder_", "lora_unet_down_blocks_"]),
        ("sdxl", "stack", ["lora_te2_text_model_encoder_", "lora_unet_input_blocks_"]),
    ] {
        let mut golden = Golden::open(base);
        for spelling in [Spelling::Kohya, Spelling::Diffusers] {
            let blended = blended(&golden, &golden.cases[case], spelling);
            let begins =
                if spelling == Spelling::Kohya { begins } else { ["text_encoder.text_model.", "unet.down_blocks."] };
            for begin in begins {
                assert!(blended.tensors.iter().any(|tensor| tensor.name.starts_with(begin)), "{base} {begin}");
            }
            let tensors: Vec<LoraTensor<'_>> = blended.tensors.iter().map(OutTensor::as_read).collect();
            golden.files.insert("blend".to_owned(), Lora::read(&tensors, &BTreeMap::new()).unwrap());
            let whole =
                [Use { file: "blend".to_owned(), weight: 1.0, text_encoder_weight: None, blocks: BTreeMap::new() }];
            for component in golden.components.keys() {
                let changed = variant(&golden.weights(component), component, &changes(&golden, &whole));
                let answer = golden.answer(&runtime, component, changed);
                assert_close(&answer, &golden.expected(case, component), BOUND);
            }
        }
    }
}
