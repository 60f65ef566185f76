//! What the models are: counts and totals of the releases, files that parse, bytes that do not depend on threads.

use std::{collections::BTreeMap, fs, path::Path};

use clap::ValueEnum;
use safetensors::SafeTensors;

use super::{
    make::{self, Existing},
    options::{Arch, Layout, Precision, Scale},
    plan::{Content, Output, Request, plan},
    values::Generator,
    write::Writer,
};

fn request(scale: Scale, layout: Layout) -> Request {
    Request { scale, layout, precision: Precision::Fp16, seed: 0, fine_tune: 0 }
}

fn planned(arch: Arch, scale: Scale, layout: Layout) -> Vec<Output> {
    plan(arch, &request(scale, layout)).unwrap()
}

/// Elements of all weights, and tensors, of the single file at the release's scale.
fn totals(arch: Arch) -> (u64, usize) {
    let outputs = planned(arch, Scale::Real, Layout::Single);
    let file = outputs[0].tensor_files().next().unwrap();
    let weights = file.tensors.iter().filter(|tensor| tensor.dtype.name() == "F16");
    (weights.map(super::tensor::Tensor::elements).sum(), file.tensors.len())
}

#[test]
fn single_files_have_the_counts_of_the_releases() {
    // the trainer's twelve series and two numbers beside the weights
    assert_eq!(totals(Arch::Sd15), (859_520_964 + 83_653_863 + 123_060_480, 1131 + 14));
    assert_eq!(totals(Arch::Sd21).1, 686 + 248 + 294 + 14);
    assert_eq!(totals(Arch::Sdxl), (2_567_463_684 + 83_653_863 + 123_060_480 + 694_659_841, 2515));
    assert_eq!(totals(Arch::SdxlRefiner), (2_259_526_660 + 83_653_863 + 694_659_841, 1220 + 248 + 390));
    assert_eq!(totals(Arch::Vae), (83_653_863, 248));
    assert_eq!(totals(Arch::Vae16), (83_819_683, 244));
    assert_eq!(totals(Arch::ClipL), (123_060_480, 196));
    assert_eq!(totals(Arch::ClipG), (694_659_840, 517));
    assert_eq!(totals(Arch::ControlnetSd15), (361_279_120, 340));
    assert_eq!(totals(Arch::LoraSd15).1, 792);
    assert_eq!(totals(Arch::LoraSdxl).1, 2166 + 216 + 576);
}

#[test]
fn sd15_in_single_precision_has_the_size_of_the_release() {
    let request = Request { precision: Precision::Fp32, ..request(Scale::Real, Layout::Single) };
    let output = plan(Arch::Sd15, &request).unwrap().remove(0);
    let mut file = output.tensor_files().next().unwrap().clone();
    file.metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    // the release's header is sorted by name alone and not padded
    let padding = file.bytes().unwrap().abs_diff(4_265_146_304);
    assert!(padding < 16, "{padding} bytes beside the release");
}

/// `name<TAB>shape` lines.
fn golden(name: &str) -> BTreeMap<String, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/reference/golden/{name}.txt"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let line = |line: &str| line.split_once('\t').map(|(name, shape)| (name.to_owned(), shape.to_owned()));
    text.lines().filter(|line| !line.starts_with('#')).filter_map(line).collect()
}

/// Names and shapes of the file `path` of the diffusers folder at the release's scale.
fn described(arch: Arch, path: &str) -> BTreeMap<String, String> {
    let output = planned(arch, Scale::Real, Layout::Diffusers).remove(0);
    let file = output.files.into_iter().find(|file| file.path == Path::new(path)).unwrap();
    let Content::Tensors(file) = file.content else { panic!("{path} holds no tensors") };
    file.tensors.iter().map(|tensor| (tensor.name.clone(), super::shape_text(&tensor.shape))).collect()
}

#[test]
fn diffusers_names_and_shapes_are_those_of_the_python_libraries() {
    let (unet, vae) = ("unet/diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors");
    let cases = [
        ("unet-sd15", Arch::Sd15, unet),
        ("unet-sd21", Arch::Sd21, unet),
        ("unet-sdxl", Arch::Sdxl, unet),
        ("unet-sdxl-refiner", Arch::SdxlRefiner, unet),
        ("vae", Arch::Vae, vae),
        ("vae16", Arch::Vae16, vae),
        ("taesd", Arch::Taesd, vae),
        ("controlnet-sd15", Arch::ControlnetSd15, vae),
        ("clip-l", Arch::ClipL, "model.safetensors"),
        ("clip-g", Arch::ClipG, "model.safetensors"),
        ("clip-h", Arch::Sd21, "text_encoder/model.safetensors"),
    ];
    for (name, arch, path) in cases {
        let (theirs, ours) = (golden(name), described(arch, path));
        for (tensor, shape) in &theirs {
            assert_eq!(ours.get(tensor), Some(shape), "{name}: {tensor}");
        }
        let extra: Vec<_> = ours.keys().filter(|tensor| !theirs.contains_key(*tensor)).collect();
        assert!(extra.is_empty(), "{name}: not in the release: {extra:?}");
    }
}

fn write(file: &super::write::TensorFile, threads: usize, seed: u64, path: &Path) -> Vec<u8> {
    let writer = Writer { generator: Generator::new(seed), threads, progress: &|_| {} };
    writer.write(file, path).unwrap();
    fs::read(path).unwrap()
}

#[test]
fn bytes_depend_on_the_seed_and_not_on_threads() {
    let dir = tempfile::tempdir().unwrap();
    let output = planned(Arch::Sdxl, Scale::Tiny, Layout::Single).remove(0);
    let file = output.tensor_files().next().unwrap();
    let one = write(file, 1, 5, &dir.path().join("one"));
    assert!(one == write(file, 2, 5, &dir.path().join("two")), "threads change the bytes");
    assert!(one == write(file, 7, 5, &dir.path().join("seven")), "threads change the bytes");
    assert!(one != write(file, 2, 6, &dir.path().join("other")), "the seed changes nothing");
    assert_eq!(one.len() as u64, file.bytes().unwrap());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4, "no unfinished file is left");
}

#[test]
fn every_tiny_file_parses_and_is_in_the_reference_writers_order() {
    let dir = tempfile::tempdir().unwrap();
    for &arch in Arch::value_variants() {
        for output in planned(arch, Scale::Tiny, Layout::Both) {
            for file in output.tensor_files() {
                let bytes = write(file, 2, 0, &dir.path().join("file"));
                assert_eq!(bytes.len() % 2, 0);
                let (length, header) = SafeTensors::read_metadata(&bytes).unwrap();
                assert_eq!(length % 8, 0, "the header is padded");
                assert_eq!(header.offset_keys(), file.tensors.iter().map(|t| t.name.clone()).collect::<Vec<_>>());
                let parsed = SafeTensors::deserialize(&bytes).unwrap();
                assert_eq!(parsed.len(), file.tensors.len(), "{}", arch.name());
                assert_finite(&parsed, arch);
            }
        }
    }
}

fn assert_finite(file: &SafeTensors<'_>, arch: Arch) {
    for (name, tensor) in file.iter() {
        if tensor.dtype() == safetensors::Dtype::F16 {
            let values = tensor.data().as_chunks::<2>().0.iter().map(|bytes| half::f16::from_le_bytes(*bytes));
            assert!(values.into_iter().all(half::f16::is_finite), "{}: {name}", arch.name());
        }
    }
}

#[test]
fn both_layouts_hold_the_same_values() {
    let dir = tempfile::tempdir().unwrap();
    let outputs = planned(Arch::Sdxl, Scale::Tiny, Layout::Both);
    make::make(dir.path(), &outputs, 0, Existing::Refuse, &|_| {}).unwrap();
    let single = fs::read(dir.path().join("sdxl-tiny.safetensors")).unwrap();
    let single = SafeTensors::deserialize(&single).unwrap();
    let read = |path: &str| fs::read(dir.path().join("sdxl-tiny-diffusers").join(path)).unwrap();
    let (unet, text) = (read("unet/diffusion_pytorch_model.safetensors"), read("text_encoder_2/model.safetensors"));
    let (unet, text) = (SafeTensors::deserialize(&unet).unwrap(), SafeTensors::deserialize(&text).unwrap());
    let data = |file: &SafeTensors<'_>, name: &str| file.tensor(name).unwrap().data().to_vec();
    let same = ("input_blocks.4.0.in_layers.2.weight", "down_blocks.1.resnets.0.conv1.weight");
    assert_eq!(data(&single, &format!("model.diffusion_model.{}", same.0)), data(&unet, same.1));
    let fused = data(&single, "conditioner.embedders.1.model.transformer.resblocks.1.attn.in_proj_weight");
    let apart = ["q_proj", "k_proj", "v_proj"]
        .map(|name| data(&text, &format!("text_model.encoder.layers.1.self_attn.{name}.weight")));
    assert_eq!(fused, apart.concat());
    let turned = data(&single, "conditioner.embedders.1.model.text_projection");
    let plain = data(&text, "text_projection.weight");
    assert_ne!(turned, plain);
    let at = |data: &[u8], row: usize, column: usize| [0, 1].map(|byte| data[(row * 64 + column) * 2 + byte]);
    assert!((0..64).all(|row| (0..64).all(|column| at(&turned, row, column) == at(&plain, column, row))));
}

#[test]
fn what_exists_is_refused_kept_or_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let outputs = planned(Arch::Embedding, Scale::Tiny, Layout::Both);
    let make = |existing| make::make(dir.path(), &outputs, 0, existing, &|_| {});
    assert_eq!(make(Existing::Refuse).unwrap().len(), 2);
    let error = make(Existing::Refuse).unwrap_err().to_string();
    assert!(error.contains("exists already; --force"), "{error}");
    assert!(make(Existing::Keep).unwrap().iter().all(|made| made.seconds.is_none()));
    assert!(make(Existing::Replace).unwrap().iter().all(|made| made.seconds.is_some()));
}

#[test]
fn the_tiny_library_is_made_once() {
    let dir = tempfile::tempdir().unwrap();
    let made = super::make_tiny_library(dir.path()).unwrap();
    assert_eq!(made.len(), 5);
    let stamp = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
    let before: Vec<_> = made.iter().map(|path| stamp(path)).collect();
    assert_eq!(super::make_tiny_library(dir.path()).unwrap(), made);
    assert_eq!(before, made.iter().map(|path| stamp(path)).collect::<Vec<_>>());
    let library = request(Scale::Tiny, Layout::Both);
    assert!(plan(Arch::Sdxl, &library).unwrap().iter().all(|output| output.bytes().unwrap() < 20 << 20));
}

#[test]
fn too_little_space_is_told_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut output = planned(Arch::Embedding, Scale::Tiny, Layout::Single).remove(0);
    if let Content::Tensors(file) = &mut output.files[0].content {
        file.tensors[0].shape = vec![1 << 58];
    }
    let error = make::make(dir.path(), &[output], 0, Existing::Refuse, &|_| {}).unwrap_err().to_string();
    assert!(error.contains("bytes are needed"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
