//! Blends against numpy in 64 bits, and against merging the stack itself.

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    sync::atomic::{AtomicUsize, Ordering},
};

use safetensors::SafeTensors;

use super::{
    super::{
        file::{Lora, LoraTensor, Module},
        index::LoraIndex,
        merge::merge,
        stack::{BlockWeights, Entry},
        tests::{cases, golden},
    },
    *,
};

const THREADS: NonZeroUsize = NonZeroUsize::new(2).unwrap();

/// A case of numpy's file.
struct Sum {
    stack: BTreeMap<String, f64>,
    shape: Vec<usize>,
    delta: Vec<f64>,
    values: Vec<f64>,
    rank3: Vec<f64>,
}

fn sums() -> BTreeMap<String, Sum> {
    let path =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference/golden/lora-blends.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let metadata = SafeTensors::read_metadata(&bytes).unwrap().1.metadata().clone().unwrap();
    let cases: BTreeMap<String, BTreeMap<String, f64>> = serde_json::from_str(&metadata["cases"]).unwrap();
    let mut shapes: BTreeMap<String, Vec<usize>> = serde_json::from_str(&metadata["shapes"]).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let numbers = |name: String| -> Vec<f64> {
        file.tensor(&name).unwrap().data().as_chunks().0.iter().map(|value| f64::from_le_bytes(*value)).collect()
    };
    cases
        .into_iter()
        .map(|(name, stack)| {
            let of = |what: &str| numbers(format!("{name}|{what}"));
            let shape = shapes.remove(&name).unwrap();
            let sum = Sum { stack, shape, delta: of("delta"), values: of("values"), rank3: of("rank3") };
            (name, sum)
        })
        .collect()
}

fn entry(digest: &str, weight: f64) -> Entry {
    Entry { digest: digest.to_owned(), weight, text_encoder_weight: None, blocks: BlockWeights::default() }
}

fn base(shape: &[usize]) -> Vec<BaseTensor> {
    let tensor = |name: &str, shape: &[usize]| BaseTensor {
        component: "unet".into(),
        name: name.into(),
        shape: shape.to_vec(),
        bytes: shape.iter().product::<usize>() as u64 * 4,
    };
    vec![tensor("x.weight", shape), tensor("x.bias", &shape[..1])]
}

fn blended(sources: &[Source<'_>], base: Option<&[BaseTensor]>, form: Form) -> Result<Blended, BlendError> {
    let cancel = Cancel::new();
    blend(sources, base, form, &BlendControl { threads: THREADS, done: &|_, _| {}, cancel: &cancel })
}

fn form(size: Size, element: ElementType) -> Form {
    Form { size, element, spelling: Spelling::Kohya }
}

fn read(blended: &Blended) -> Lora {
    let tensors: Vec<LoraTensor<'_>> = blended.tensors.iter().map(OutTensor::as_read).collect();
    Lora::read(&tensors, &BTreeMap::new()).unwrap()
}

/// What modules add to a weight of zeros.
fn added(modules: &[(&Module, f64)], shape: &[usize]) -> Vec<f64> {
    let zeros = vec![0_u8; shape.iter().product::<usize>() * 4];
    let merged = merge((ElementType::F32, shape, &zeros), modules, THREADS).unwrap();
    merged.as_chunks().0.iter().map(|value| f64::from(f32::from_le_bytes(*value))).collect()
}

fn distance(found: &[f64], wanted: &[f64]) -> f64 {
    assert_eq!(found.len(), wanted.len());
    found.iter().zip(wanted).map(|(found, wanted)| (found - wanted).powi(2)).sum::<f64>().sqrt()
}

fn length(values: &[f64]) -> f64 {
    values.iter().map(|value| value * value).sum::<f64>().sqrt()
}

fn each(mut check: impl FnMut(&str, &Sum, &[Source<'_>], &[BaseTensor])) {
    let bytes = golden();
    let files = cases(&bytes);
    for (name, sum) in sums() {
        let tensors: Vec<Vec<LoraTensor<'_>>> = sum.stack.keys().map(|file| files[file.as_str()].tensors()).collect();
        let indexes: Vec<LoraIndex<'_>> = sum
            .stack
            .keys()
            .zip(&tensors)
            .map(|(file, tensors)| LoraIndex::read(tensors, &files[file.as_str()].settings).unwrap())
            .collect();
        let sources: Vec<Source<'_>> = sum
            .stack
            .iter()
            .zip(&indexes)
            .map(|((file, weight), index)| Source { name: file.clone(), index, entry: entry(file, *weight) })
            .collect();
        check(&name, &sum, &sources, &base(&sum.shape));
    }
}

/// The sum is numpy's, and merging the blended file is merging the stack: within the rounding of the factors, which is 2⁻¹¹
/// of each in 16 bits and 2⁻⁸ in bfloat16. The reported error is the one that is found.
#[test]
fn an_exact_blend_is_the_stack() {
    each(|name, sum, sources, base| {
        for (element, bound) in [(ElementType::F32, 1e-6), (ElementType::F16, 1e-3), (ElementType::Bf16, 8e-3)] {
            let blended = blended(sources, Some(base), form(Size::Exact, element)).unwrap();
            let lora = read(&blended);
            let found = added(&[(&lora.modules[0], 1.0)], &sum.shape);
            let modules: Vec<(Module, f64)> = sources
                .iter()
                .map(|source| {
                    let stem = source.index.stems().next().unwrap();
                    (source.index.module(stem).unwrap(), source.entry.weight)
                })
                .collect();
            let stack: Vec<(&Module, f64)> = modules.iter().map(|(module, weight)| (module, *weight)).collect();
            let norm = length(&sum.delta);
            assert!(distance(&added(&stack, &sum.shape), &sum.delta) < 1e-6 * norm, "{name}");
            let off = distance(&found, &sum.delta) / norm;
            assert!(off < bound, "{name} {element}: {off:e}");
            assert!((off - blended.error).abs() < 1e-6, "{name} {element}: {off:e}, reported {:e}", blended.error);
            assert_eq!((lora.modules.len(), lora.modules[0].scale), (1, 1.0));
            // whole changes are written whole, in place of factors larger than they are
            let is_whole = ["whole", "conv-factored", "lokr-conv"].contains(&name);
            assert_eq!(lora.modules[0].flavour(), if is_whole { "full" } else { "lora" }, "{name}");
        }
    });
}

/// Cut to a rank it is numpy's best approximation, and the error is the singular values that were cut.
#[test]
fn a_cut_blend_is_the_nearest_of_its_rank_and_says_how_near() {
    each(|name, sum, sources, base| {
        let cut = blended(sources, Some(base), form(Size::Rank(3), ElementType::F32)).unwrap();
        let lora = read(&cut);
        assert_eq!((lora.modules[0].rank, cut.modules[0].rank), (3, 3), "{name}");
        let norm = length(&sum.delta);
        let found = added(&[(&lora.modules[0], 1.0)], &sum.shape);
        assert!(distance(&found, &sum.rank3) < 2e-6 * norm, "{name}: {:e}", distance(&found, &sum.rank3) / norm);
        let lost = length(&sum.values[3..]) / norm;
        assert!((cut.error - lost).abs() < 1e-6, "{name}: {} {lost}", cut.error);
        // a share of the energy takes as many directions as have it
        let share = 0.95;
        let wanted = (1..).find(|rank| length(&sum.values[..*rank]).powi(2) >= share * norm * norm).unwrap();
        let cut = blended(sources, Some(base), form(Size::Energy(share), ElementType::F32)).unwrap();
        assert_eq!(cut.modules[0].rank, wanted, "{name}");
        // a rank beyond what there is keeps what there is
        let all = blended(sources, Some(base), form(Size::Rank(1000), ElementType::F32)).unwrap();
        assert!(all.error < 1e-6 && all.modules[0].rank <= 40, "{name}: {} {}", all.error, all.modules[0].rank);
    });
}

#[test]
fn ranks_add_and_the_same_file_again_adds_to_its_weight() {
    let bytes = golden();
    let files = cases(&bytes);
    let (one, other) = (files["lora"].tensors(), files["lora-alpha-is-rank"].tensors());
    let none = BTreeMap::new();
    let (one, other) = (LoraIndex::read(&one, &none).unwrap(), LoraIndex::read(&other, &none).unwrap());
    let source = |name: &str, index, weight| Source { name: name.to_owned(), index, entry: entry(name, weight) };
    let exact = form(Size::Exact, ElementType::F32);
    let both = blended(&[source("a", &one, 0.5), source("b", &other, 0.5)], None, exact).unwrap();
    assert_eq!(both.modules[0].rank, 8);
    let twice = blended(&[source("a", &one, 0.5), source("a", &one, -0.2)], None, exact).unwrap();
    assert_eq!(twice.modules[0].rank, 4);
    let nothing = blended(&[source("a", &one, 0.5), source("a", &one, -0.5)], None, exact).unwrap_err();
    assert_eq!(nothing, BlendError::Nothing);
    // weights far from 1 leave no factor among the numbers that 16 bits hold badly
    let faint = blended(&[source("a", &one, 1e-4)], None, form(Size::Exact, ElementType::F16)).unwrap();
    assert!(faint.error < 1e-3, "{}", faint.error);
    let huge = blended(&[source("a", &one, 1e12)], None, form(Size::Exact, ElementType::F16)).unwrap_err();
    assert!(matches!(huge, BlendError::Overflow { values: 1.., .. }), "{huge}");
}

/// What of each LoRA is in the result and what is not, and why: the base lacks it, its weight is 0, its own scale is.
#[test]
fn every_module_of_every_lora_is_accounted_for() {
    let bytes = golden();
    let files = cases(&bytes);
    let plain = files["lora"].tensors();
    let stem = plain.iter().find_map(|tensor| tensor.name.strip_suffix(".lora_up.weight")).unwrap();
    let renamed = |to: &str| plain.iter().map(|tensor| tensor.name.replace(stem, to)).collect::<Vec<_>>();
    let (elsewhere, again) = (renamed("lora_unet_nowhere"), renamed("lora_unet_x"));
    let zero = 0_f32.to_le_bytes();
    let mut more: Vec<LoraTensor<'_>> = plain.to_vec();
    let (alpha, embedding) = ("lora_unet_nowhere.alpha", "bundle_emb.a");
    more.extend(plain.iter().zip(&elsewhere).map(|(tensor, name)| LoraTensor { name, ..*tensor }));
    more.retain(|tensor| tensor.name != alpha);
    more.push(LoraTensor { name: embedding, element: ElementType::F32, shape: &[1], bytes: &zero });
    let mut silent: Vec<LoraTensor<'_>> =
        plain.iter().zip(&again).map(|(tensor, name)| LoraTensor { name, ..*tensor }).collect();
    silent.retain(|tensor| !tensor.name.ends_with(".alpha"));
    silent.push(LoraTensor { name: "lora_unet_x.alpha", element: ElementType::F32, shape: &[], bytes: &zero });
    let none = BTreeMap::new();
    let [plain, more, silent] = [plain, more, silent].map(|tensors| LoraIndex::read(&tensors, &none).unwrap());
    let source = |name: &str, index, weight| Source { name: name.to_owned(), index, entry: entry(name, weight) };
    let stack = [source("more", &more, 0.5), source("silent", &silent, 1.0), source("off", &plain, 0.0)];
    let made = blended(&stack, Some(&base(&[40, 24])), form(Size::Exact, ElementType::F32)).unwrap();
    let expected = [
        BlendedSource {
            blended: 1,
            unmatched: vec!["lora_unet_nowhere".to_owned()],
            others: vec![embedding.to_owned()],
            ..BlendedSource::default()
        },
        BlendedSource { scaleless: 1, ..BlendedSource::default() },
        BlendedSource { weightless: 1, ..BlendedSource::default() },
    ];
    assert_eq!((made.sources.as_slice(), made.modules.len()), (expected.as_slice(), 1));
    // alone by name, and the same file twice: both are in the sum
    let twice = [source("a", &plain, 0.5), source("a", &plain, 0.25)];
    let made = blended(&twice, None, form(Size::Exact, ElementType::F32)).unwrap();
    assert_eq!(
        made.sources,
        [
            BlendedSource { blended: 1, ..BlendedSource::default() },
            BlendedSource { blended: 1, ..BlendedSource::default() }
        ]
    );
}

#[test]
fn what_cannot_be_blended_is_refused_by_name() {
    let bytes = golden();
    let files = cases(&bytes);
    let of = |names: &[&str], base: Option<&[BaseTensor]>, form: Form| {
        let tensors: Vec<Vec<LoraTensor<'_>>> = names.iter().map(|name| files[*name].tensors()).collect();
        let indexes: Vec<LoraIndex<'_>> = names
            .iter()
            .zip(&tensors)
            .map(|(name, tensors)| LoraIndex::read(tensors, &files[*name].settings).unwrap())
            .collect();
        let sources: Vec<Source<'_>> = names
            .iter()
            .zip(&indexes)
            .map(|(name, index)| Source { name: (*name).to_owned(), index, entry: entry(name, 1.0) })
            .collect();
        blended(&sources, base, form).unwrap_err()
    };
    let exact = form(Size::Exact, ElementType::F16);
    let base = base(&[40, 24]);
    let dora = of(&["lora", "dora-rows"], Some(&base), form(Size::Rank(4), ElementType::F16));
    assert!(matches!(&dora, BlendError::Magnitudes { lora, .. } if lora == "dora-rows"), "{dora}");
    let other = of(&["lora", "conv3"], None, exact);
    assert!(
        matches!(&other, BlendError::Shapes { lora, found: [12, 72], expected: [40, 24], .. } if lora == "conv3"),
        "{other}"
    );
    let other = of(&["conv3"], Some(&base), exact);
    assert!(matches!(&other, BlendError::NotForBase { lora, .. } if lora == "conv3"), "{other}");
    let peft = of(&["peft"], None, exact);
    assert!(matches!(&peft, BlendError::NeedsBase { reason } if reason.contains("of which component")), "{peft}");
    let dotted = Form { spelling: Spelling::Diffusers, ..exact };
    assert!(matches!(of(&["lora"], None, dotted), BlendError::NeedsBase { .. }));
    let whole = of(&["lokr-whole"], Some(&base), dotted);
    assert!(matches!(&whole, BlendError::Spelling { reason, .. } if reason.contains("give a rank")), "{whole}");
}

#[test]
fn a_stop_is_heeded_and_progress_told() {
    let bytes = golden();
    let (cases, none) = (cases(&bytes), BTreeMap::new());
    let tensors = cases["lora"].tensors();
    let index = LoraIndex::read(&tensors, &none).unwrap();
    let sources = [Source { name: "a".to_owned(), index: &index, entry: entry("a", 1.0) }];
    let (cancel, heard) = (Cancel::new(), AtomicUsize::new(0));
    let done = |done: usize, of: usize| {
        heard.store(done * 100 + of, Ordering::Relaxed);
    };
    let control = BlendControl { threads: THREADS, done: &done, cancel: &cancel };
    let form = form(Size::Exact, ElementType::F16);
    assert!(blend(&sources, None, form, &control).is_ok());
    assert_eq!(heard.load(Ordering::Relaxed), 101);
    cancel.cancel();
    assert_eq!(blend(&sources, None, form, &control).unwrap_err(), BlendError::Cancelled);
}
