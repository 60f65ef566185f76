//! Properties of stacks over a model of two components with LoRAs of every flavour in every storage type: a variant that came
//! out of any chain of changes has the bytes of a fresh one, whatever the order of the stack and the number of threads, and the
//! base keeps its own.

use std::{collections::BTreeMap, fs, num::NonZeroUsize, path::Path};

use engine::{
    Cancel, CpuDevice, Device, ElementType, SlabId, SlabView,
    lora::{
        AdapterDocument, AdapterSettings, BaseTensor, BlockWeights, Change, Entry, Lora, LoraIndex, LoraTensor, Made,
        MergeControl, Place, Stack, VariantTensor, match_base, merge,
    },
};
use half::{bf16, f16};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestRunner},
};
use safetensors::SafeTensors;

const CASES: u32 = 1000;
/// Where tensors of a slab begin.
const ALIGN: u64 = 64;
/// The model: component, module, the golden case whose weight it has.
const MODULES: [(&str, &str, &str); 7] = [
    ("unet", "down.a", "lora"),
    ("unet", "down.conv", "conv3"),
    ("unet", "mid.b", "loha"),
    ("unet", "up.wide", "lokr-conv3"),
    ("unet", "up.square", "lokr-both"),
    ("unet", "up.idle", "lora"),
    ("text_encoder", "layer", "dora-rows"),
];
/// Files: module and the golden case whose factors change it.
const FILES: [&[(&str, &str)]; 7] = [
    &[("down.a", "lora"), ("down.conv", "conv3"), ("layer", "lora-alpha-is-rank")],
    &[("down.a", "loha"), ("down.conv", "loha-conv3-cp"), ("layer", "lokr")],
    &[("mid.b", "lokr-whole"), ("up.wide", "lokr-conv3-cp"), ("up.square", "lokr-both")],
    &[("down.a", "dora-rows"), ("mid.b", "dora-columns"), ("down.conv", "dora-conv3"), ("layer", "dora-loha")],
    &[("down.a", "peft"), ("down.conv", "peft-conv3"), ("layer", "peft-dora")],
    &[("down.conv", "conv3-cp"), ("mid.b", "peft-rs")],
    &[("down.conv", "loha-conv3"), ("up.wide", "lokr-conv3"), ("down.a", "lora")],
];

/// A tensor in memory.
#[derive(Clone)]
struct Held {
    component: &'static str,
    name: String,
    element: ElementType,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// A LoRA's tensors and settings.
struct File {
    tensors: Vec<(String, Vec<usize>, Vec<u8>)>,
    settings: BTreeMap<String, AdapterSettings>,
}

impl File {
    fn tensors(&self) -> Vec<LoraTensor<'_>> {
        let tensor = |(name, shape, bytes)| LoraTensor { name, element: ElementType::F32, shape, bytes };
        self.tensors.iter().map(|(name, shape, bytes)| tensor((name, shape, bytes))).collect()
    }
}

struct World {
    files: Vec<File>,
    /// The weight of every module, and a bias for those of linear ones.
    weights: Vec<(&'static str, String, Vec<usize>, Vec<f32>)>,
}

impl World {
    fn read() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference/golden/loras.safetensors");
        let bytes = fs::read(path).unwrap();
        let told = SafeTensors::read_metadata(&bytes).unwrap().1.metadata().clone().unwrap_or_default();
        let golden = SafeTensors::deserialize(&bytes).unwrap();
        let of = |name: &str| {
            let view = golden.tensor(name).unwrap();
            let values = view.data().as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect();
            (view.shape().to_vec(), values)
        };
        let mut weights: Vec<_> = MODULES
            .iter()
            .map(|(component, module, case)| {
                let (shape, values) = of(&format!("{case}|base"));
                (*component, format!("{module}.weight"), shape, values)
            })
            .collect();
        weights.push(("unet", "mid.b.bias".to_owned(), vec![40], vec![0.25; 40]));
        let mut files: Vec<File> = FILES.iter().map(|modules| file(&golden, &told, modules)).collect();
        let bias: Vec<u8> = (0..40_u8).flat_map(|at| (f32::from(at) / 64.0).to_le_bytes()).collect();
        files[5].tensors.push(("lora_unet_mid_b.diff_b".to_owned(), vec![40], bias));
        Self { files, weights }
    }

    fn base(&self, element: ElementType) -> Vec<Held> {
        let store = |value: &f32| match element {
            ElementType::F16 => f16::from_f32(*value).to_le_bytes().to_vec(),
            ElementType::Bf16 => bf16::from_f32(*value).to_le_bytes().to_vec(),
            _ => value.to_le_bytes().to_vec(),
        };
        let held = |(component, name, shape, values): &(&'static str, String, Vec<usize>, Vec<f32>)| Held {
            component,
            name: name.clone(),
            element,
            shape: shape.clone(),
            bytes: values.iter().flat_map(store).collect(),
        };
        self.weights.iter().map(held).collect()
    }
}

/// The tensors of golden cases under the names of the model's modules.
fn file(golden: &SafeTensors<'_>, told: &std::collections::HashMap<String, String>, modules: &[(&str, &str)]) -> File {
    let (mut tensors, mut alphas) = (Vec::new(), None::<AdapterSettings>);
    for (module, case) in modules {
        let component = if *module == "layer" { "te" } else { "unet" };
        let stem = format!("lora_{component}_{}", module.replace('.', "_"));
        for (name, view) in golden.tensors() {
            let Some(part) = name.strip_prefix(&format!("{case}|file|")) else { continue };
            let part = part.strip_prefix("lora_unet_x.").or_else(|| part.strip_prefix("base_model.model.x."));
            tensors.push((format!("{stem}.{}", part.unwrap()), view.shape().to_vec(), view.data().to_vec()));
        }
        // a file has one way to scale; alphas are told apart by module
        if let Some(text) = told.get(*case) {
            let settings = AdapterDocument::parse(text).unwrap().of("").unwrap().unwrap();
            let rank_stabilised = alphas.is_some_and(|earlier| earlier.rank_stabilised) || settings.rank_stabilised;
            alphas = Some(AdapterSettings { rank_stabilised, ..settings });
        }
    }
    let settings = alphas.map(|alphas| (String::new(), alphas)).into_iter().collect();
    File { tensors, settings }
}

/// Component and name of a tensor: which modules of which files change it, how strongly, in the order of sums.
type Changes = BTreeMap<(String, String), Vec<(usize, String, f64)>>;

/// A LoRA of a stack: file, weight in eighths, weight for encoders, a factor for `down`.
type Used = (usize, i8, Option<i8>, Option<i8>);

/// What the files' modules change.
type Fits = Vec<Vec<(String, String, String)>>;

fn fits(world: &World, base: &[Held]) -> Fits {
    let base: Vec<BaseTensor> = base
        .iter()
        .map(|held| BaseTensor {
            component: held.component.to_owned(),
            name: held.name.clone(),
            shape: held.shape.clone(),
            bytes: held.bytes.len() as u64,
        })
        .collect();
    let of = |file: &File| {
        let lora = Lora::read(&file.tensors(), &file.settings).unwrap();
        let report = match_base(&lora, &base);
        assert_eq!((report.refusal(), report.unmatched.len()), (None, 0), "{report:?}");
        let touched = report.matched.into_iter().flat_map(|fit| {
            let module = lora.modules.iter().find(|module| module.stem == fit.stem).unwrap();
            let has_bias = file.tensors.iter().any(|(name, ..)| *name == format!("{}.diff_b", fit.stem));
            assert!(has_bias || module.flavour() != "bias");
            let weight = (fit.component.clone(), format!("{}.weight", fit.path), fit.stem.clone());
            let bias = has_bias.then(|| (fit.component, format!("{}.bias", fit.path), fit.stem));
            [Some(weight), bias].into_iter().flatten()
        });
        touched.collect()
    };
    world.files.iter().map(of).collect()
}

fn changes(fits: &Fits, stack: &[Used]) -> Changes {
    let eighths = |weight: i8| f64::from(weight) / 8.0;
    let entry = |(file, weight, encoders, down): &Used| Entry {
        digest: file.to_string(),
        weight: eighths(*weight),
        text_encoder_weight: encoders.map(eighths),
        blocks: BlockWeights(down.map(|factor| ("down".to_owned(), eighths(factor))).into_iter().collect()),
    };
    let mut changes = Changes::new();
    for entry in Stack(stack.iter().map(entry).collect()).canonical().0 {
        let file: usize = entry.digest.parse().unwrap();
        for (component, tensor, stem) in &fits[file] {
            let path = tensor.rsplit_once('.').unwrap().0;
            let strength = entry.strength(component, path);
            if strength != 0.0 {
                let terms = changes.entry((component.clone(), tensor.clone())).or_default();
                terms.push((file, stem.clone(), strength));
            }
        }
    }
    changes
}

/// Tensors in a slab: where each begins.
struct Placed {
    slab: SlabId,
    at: BTreeMap<(String, String), u64>,
}

fn place<'a>(device: &mut CpuDevice, tensors: impl Iterator<Item = &'a Held>) -> Placed {
    let (mut at, mut end) = (BTreeMap::new(), 0_u64);
    for held in tensors {
        at.insert((held.component.to_owned(), held.name.clone()), end);
        end = (end + held.bytes.len() as u64).next_multiple_of(ALIGN);
    }
    Placed { slab: device.allocate(end.max(ALIGN)).unwrap(), at }
}

/// How a variant is made.
#[derive(Clone, Copy)]
enum How<'a> {
    /// Every tensor from the base.
    Fresh(&'a SlabView, &'a Placed),
    /// Those whose changes are the same from an earlier variant.
    From(&'a SlabView, &'a Placed, (&'a SlabView, &'a Placed, &'a Changes)),
    /// Over the base's own bytes, which stand in the slab already.
    InPlace,
}

struct Maker<'a> {
    world: &'a World,
    base: &'a [Held],
    changes: &'a Changes,
    threads: NonZeroUsize,
}

impl Maker<'_> {
    /// Makes the changed tensors at their places; how many were taken from an earlier variant.
    fn make(&self, device: &mut CpuDevice, to: &Placed, how: How<'_>) -> usize {
        let tensors: Vec<Vec<LoraTensor<'_>>> = self.world.files.iter().map(File::tensors).collect();
        let indexes: Vec<LoraIndex<'_>> = tensors
            .iter()
            .zip(&self.world.files)
            .map(|(tensors, file)| LoraIndex::read(tensors, &file.settings).unwrap())
            .collect();
        let mut taken = 0;
        let made = self.changes.iter().map(|(key, terms)| {
            let held = self.base.iter().find(|held| (held.component, &held.name) == (&key.0, &key.1)).unwrap();
            let changes = || {
                let terms = terms.iter();
                terms
                    .map(|(file, stem, strength)| Change { lora: &indexes[*file], stem, strength: *strength })
                    .collect()
            };
            let made = match how {
                How::From(_, _, (view, placed, before)) if before.get(key) == Some(terms) => {
                    taken += 1;
                    Made::Taken(Place::Slab(view, placed.at[key]))
                }
                How::Fresh(view, placed) | How::From(view, placed, _) => {
                    Made::Changed(Place::Slab(view, placed.at[key]), changes())
                }
                How::InPlace => Made::Changed(Place::Here, changes()),
            };
            let begin = to.at[key];
            let to = begin..begin + held.bytes.len() as u64;
            VariantTensor { name: &held.name, element: held.element, shape: &held.shape, to, made }
        });
        let made: Vec<VariantTensor<'_>> = made.collect();
        let control = MergeControl { threads: self.threads, done: &|_| {}, cancel: &Cancel::new() };
        device.writer(to.slab).unwrap().merge(made, &control).unwrap();
        taken
    }

    fn changed(&self) -> impl Iterator<Item = &Held> {
        let changed = |held: &&Held| self.changes.contains_key(&(held.component.to_owned(), held.name.clone()));
        self.base.iter().filter(changed)
    }

    /// The changed tensors as they stand at their places.
    fn read(&self, device: &mut CpuDevice, placed: &Placed) -> Vec<Vec<u8>> {
        let read = |held: &Held| {
            let mut bytes = vec![0; held.bytes.len()];
            let at = placed.at[&(held.component.to_owned(), held.name.clone())];
            device.read(placed.slab, at, &mut bytes).unwrap();
            bytes
        };
        self.changed().map(read).collect()
    }
}

fn write(device: &mut CpuDevice, placed: &Placed, base: &[Held]) {
    for held in base {
        device.write(placed.slab, placed.at[&(held.component.to_owned(), held.name.clone())], &held.bytes).unwrap();
    }
    device.synchronize().unwrap();
}

fn digest(device: &mut CpuDevice, placed: &Placed) -> blake3::Hash {
    let view = device.view(placed.slab).unwrap();
    blake3::hash(view.as_slice().unwrap())
}

fn used() -> impl Strategy<Value = Used> {
    let weight = || -8_i8..=8;
    (0..FILES.len(), weight(), proptest::option::of(weight()), proptest::option::of(weight()))
}

#[test]
fn a_thousand_chains_of_changes_end_in_the_bytes_of_fresh_variants_and_leave_the_base_alone() {
    let world = World::read();
    let bases = [ElementType::F32, ElementType::F16, ElementType::Bf16].map(|element| world.base(element));
    let fits = fits(&world, &bases[0]);
    let loras: Vec<Lora> =
        world.files.iter().map(|file| Lora::read(&file.tensors(), &file.settings).unwrap()).collect();
    let mut runner = TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
    let strategy = (0..bases.len(), vec(vec(used(), 0..5), 1..4), 1_usize..4, 0_usize..4);
    let chain = |(kind, stacks, threads, turn): (usize, Vec<Vec<Used>>, usize, usize)| {
        let base = &bases[kind];
        let mut device = CpuDevice::new(16 << 20);
        let home = place(&mut device, base.iter());
        write(&mut device, &home, base);
        let before = digest(&mut device, &home);
        let mut earlier: Option<(Placed, Changes)> = None;
        for stack in &stacks {
            let changes = changes(&fits, stack);
            let mut turned = stack.clone();
            turned.rotate_left(turn.checked_rem(stack.len()).unwrap_or(0));
            prop_assert_eq!(&changes, &self::changes(&fits, &turned), "the order says nothing");
            let maker = |threads| Maker { world: &world, base, changes: &changes, threads };
            let (one, several) = (maker(NonZeroUsize::MIN), maker(NonZeroUsize::new(threads).unwrap()));
            let view = device.view(home.slab).unwrap();
            let fresh = place(&mut device, one.changed());
            one.make(&mut device, &fresh, How::Fresh(&view, &home));
            let wanted = one.read(&mut device, &fresh);
            // each weight as the whole file merged at once makes it
            for (held, bytes) in one.changed().zip(&wanted).filter(|(held, _)| held.name.ends_with(".weight")) {
                let terms = &changes[&(held.component.to_owned(), held.name.clone())];
                let module = |(file, stem, strength): &(usize, String, f64)| {
                    (loras[*file].modules.iter().find(|module| module.stem == *stem).unwrap(), *strength)
                };
                let modules: Vec<_> = terms.iter().map(module).collect();
                let merged = merge((held.element, &held.shape, &held.bytes), &modules, NonZeroUsize::MIN).unwrap();
                prop_assert_eq!(bytes, &merged, "{}", &held.name);
            }
            if let Some((placed, old)) = &earlier {
                let old_view = device.view(placed.slab).unwrap();
                let next = place(&mut device, several.changed());
                let same = changes.iter().filter(|(key, terms)| old.get(*key) == Some(terms)).count();
                let how = How::From(&view, &home, (&old_view, placed, old));
                prop_assert_eq!(several.make(&mut device, &next, how), same);
                prop_assert_eq!(&several.read(&mut device, &next), &wanted, "from an earlier one");
                drop(old_view);
                device.free(next.slab).unwrap();
            }
            let over = place(&mut device, base.iter());
            write(&mut device, &over, base);
            several.make(&mut device, &over, How::InPlace);
            prop_assert_eq!(&several.read(&mut device, &over), &wanted, "in place");
            drop(view);
            device.free(over.slab).unwrap();
            if let Some((placed, _)) = earlier.replace((fresh, changes.clone())) {
                device.free(placed.slab).unwrap();
            }
            prop_assert_eq!(digest(&mut device, &home), before, "the base");
        }
        Ok(())
    };
    runner.run(&strategy, chain).unwrap();
}
