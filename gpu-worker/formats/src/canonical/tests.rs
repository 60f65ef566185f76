//! Held against what diffusers' own conversions give (`tests/reference/golden`), and the odd cases.

use std::{collections::BTreeMap, fs, path::PathBuf};

use sha2::{Digest, Sha256};

use super::*;
use crate::dtype::Dtype;

fn golden(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference/golden").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn shape(text: &str) -> Vec<u64> {
    text.split('x').filter(|side| !side.is_empty()).map(|side| side.parse().unwrap()).collect()
}

/// Float tensors one after the other.
fn laid_out<N: AsRef<str>>(list: &[(N, Vec<u64>)]) -> Vec<TensorFacts> {
    let mut at = 1000;
    let mut facts = |(name, shape): &(N, Vec<u64>)| {
        let begin = at;
        at += 4 * shape.iter().product::<u64>();
        tensor(name.as_ref(), shape, begin, at)
    };
    list.iter().map(&mut facts).collect()
}

fn tensor(name: &str, shape: &[u64], begin: u64, end: u64) -> TensorFacts {
    TensorFacts { name: name.to_owned(), dtype: Dtype::F32, shape: shape.to_vec(), file: 0, begin, end, strides: None }
}

fn kind(name: &str) -> ComponentKind {
    match name {
        "unet" => ComponentKind::Unet,
        "vae" => ComponentKind::Vae,
        "text_encoder" => ComponentKind::TextEncoder,
        "text_encoder_2" => ComponentKind::TextEncoder2,
        "transformer" => ComponentKind::Transformer,
        "controlnet" => ComponentKind::ControlNet,
        other => panic!("no kind {other}"),
    }
}

fn base(name: &str) -> Base {
    let all = [Base::Sd15, Base::Sd21, Base::Sdxl, Base::SdxlRefiner, Base::Sd3, Base::Flux];
    all.into_iter().find(|base| base.as_str() == name).unwrap()
}

/// A map of the script: the file's tensors, and diffusers' with their digests.
struct Map {
    kind: ComponentKind,
    base: Base,
    tensors: Vec<TensorFacts>,
    wanted: BTreeMap<String, (Vec<u64>, Option<String>)>,
}

fn map(name: &str) -> Map {
    let text = golden(&format!("maps/{name}.tsv"));
    let (head, body) = text.split_once('\n').unwrap();
    let head: Vec<&str> = head.trim_start_matches("# ").split('\t').collect();
    let (mut sources, mut wanted) = (Vec::new(), BTreeMap::new());
    for line in body.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        if fields[0] == "<" {
            sources.push((fields[1], shape(fields[2])));
        } else {
            let digest = fields.get(3).map(|digest| (*digest).to_owned());
            wanted.insert(fields[1].to_owned(), (shape(fields[2]), digest));
        }
    }
    Map { kind: kind(head[0]), base: base(head[1]), tensors: laid_out(&sources), wanted }
}

fn fnv1a32(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |value, byte| (value ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// The bytes of element `index` of a source, as the script makes them.
fn element(seed: u32, index: u64) -> [u8; 4] {
    let index = u32::try_from(index).unwrap();
    (seed.wrapping_add(index.wrapping_mul(2_654_435_761)) & 0x3fff_ffff).to_le_bytes()
}

/// The elements of a piece in canonical order, as numbers of elements from the source's begin.
fn walk(piece: &Piece, source: &TensorFacts) -> Vec<u64> {
    let (first, count) = ((piece.begin - source.begin) / 4, (piece.end - piece.begin) / 4);
    match &piece.order {
        Order::RowMajor => (first..first + count).collect(),
        Order::Transposed { rows, cols } => {
            assert_eq!(rows * cols, count);
            (0..*cols).flat_map(|col| (0..*rows).map(move |row| first + row * cols + col)).collect()
        }
        Order::Strided { shape, strides } => {
            let step = |seen: Vec<u64>, (side, stride): (&u64, &u64)| {
                seen.iter().flat_map(|at| (0..*side).map(move |index| at + index * stride)).collect()
            };
            shape.iter().zip(strides).fold(vec![first], step)
        }
    }
}

fn digest(tensor: &CanonicalTensor, sources: &[TensorFacts]) -> String {
    let mut hasher = Sha256::new();
    for piece in &tensor.pieces {
        let source = &sources[piece.tensor];
        assert!(piece.begin >= source.begin && piece.end <= source.end && piece.file == source.file);
        let seed = fnv1a32(&source.name);
        let bytes: Vec<u8> = walk(piece, source).into_iter().flat_map(|index| element(seed, index)).collect();
        hasher.update(&bytes);
    }
    hasher.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Every tensor that diffusers gives, with its shape and bytes, and nothing else.
fn check(name: &str) {
    let map = map(name);
    let canonical = canonicalise(map.kind, map.base, &map.tensors);
    assert_eq!(canonical.unmapped, Vec::<String>::new(), "{name}");
    let ours: Vec<&str> = canonical.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    let theirs: Vec<&str> = map.wanted.keys().map(String::as_str).collect();
    assert_eq!(ours, theirs, "{name}");
    for tensor in &canonical.tensors {
        let (shape, wanted) = &map.wanted[&tensor.name];
        assert_eq!(&tensor.shape, shape, "{name}: {}", tensor.name);
        if let Some(wanted) = wanted {
            assert_eq!(&digest(tensor, &map.tensors), wanted, "{name}: {}", tensor.name);
        }
    }
}

#[test]
fn unets_map_as_diffusers_does() {
    for family in ["sd15", "sd21", "sdxl", "sdxl-refiner"] {
        check(&format!("unet-{family}"));
        check(&format!("unet-{family}-real"));
    }
}

#[test]
fn autoencoders_map_as_diffusers_does() {
    ["vae", "vae-real", "vae16", "vae16-real"].into_iter().for_each(check);
}

#[test]
fn text_encoders_map_as_diffusers_does() {
    for encoder in ["clip-l", "clip-h", "clip-g", "clip-g-refiner"] {
        check(encoder);
        check(&format!("{encoder}-real"));
    }
}

#[test]
fn control_nets_map_as_diffusers_does() {
    ["controlnet-sd15", "controlnet-sdxl", "controlnet-sd15-real", "controlnet-sdxl-real"].into_iter().for_each(check);
}

/// The script has run both with the same weights and compared what they make.
#[test]
fn tiny_autoencoders_map_as_diffusers_numbers_them() {
    ["taesd-encoder", "taesd-decoder", "taesd-bundle"].into_iter().for_each(check);
}

#[test]
fn transformers_map_as_diffusers_does() {
    ["mmdit-sd3", "mmdit-sd35", "flux"].into_iter().for_each(check);
}

/// Names and shapes of a list of diffusers.
fn list(name: &str) -> Vec<(String, Vec<u64>)> {
    let line = |line: &str| line.split_once('\t').map(|(name, sides)| (name.to_owned(), shape(sides)));
    golden(&format!("{name}.txt")).lines().filter(|line| !line.starts_with('#')).filter_map(line).collect()
}

#[test]
fn canonical_names_map_to_themselves() {
    let lists = [
        ("unet-sd15", ComponentKind::Unet),
        ("unet-sdxl-refiner", ComponentKind::Unet),
        ("vae", ComponentKind::Vae),
        ("vae16", ComponentKind::Vae),
        ("taesd", ComponentKind::Vae),
        ("clip-l", ComponentKind::TextEncoder),
        ("clip-g", ComponentKind::TextEncoder2),
        ("controlnet-sd15", ComponentKind::ControlNet),
    ];
    for (name, kind) in lists {
        let list = list(name);
        let canonical = canonicalise(kind, Base::Unknown, &laid_out(&list));
        let ours: Vec<(String, Vec<u64>)> =
            canonical.tensors.iter().map(|tensor| (tensor.name.clone(), tensor.shape.clone())).collect();
        assert_eq!(ours, list, "{name}");
        assert!(canonical.unmapped.is_empty() && canonical.ignored.is_empty(), "{name}");
    }
}

#[test]
fn real_lists_of_files_lead_to_the_lists_of_diffusers() {
    for name in
        ["unet-sd15", "unet-sd21", "unet-sdxl", "unet-sdxl-refiner", "vae", "vae16", "clip-l", "clip-h", "clip-g"]
    {
        let map = map(&format!("{name}-real"));
        let canonical = canonicalise(map.kind, map.base, &map.tensors);
        let ours: Vec<(String, Vec<u64>)> =
            canonical.tensors.into_iter().map(|tensor| (tensor.name, tensor.shape)).collect();
        assert_eq!(ours, list(name), "{name}");
    }
}

/// One name in, its canonical names out.
fn names(kind: ComponentKind, base: Base, list: &[(&str, &[u64])]) -> Vec<String> {
    let list: Vec<(&str, Vec<u64>)> = list.iter().map(|(name, shape)| (*name, shape.to_vec())).collect();
    canonicalise(kind, base, &laid_out(&list)).tensors.into_iter().map(|tensor| tensor.name).collect()
}

#[test]
fn old_attention_names_become_todays() {
    let old = "decoder.mid_block.attentions.0.";
    let list: Vec<(String, Vec<u64>)> = ["query", "key", "value", "proj_attn"]
        .iter()
        .map(|part| (format!("{old}{part}.weight"), vec![8, 8, 1, 1]))
        .collect();
    let canonical = canonicalise(ComponentKind::Vae, Base::Unknown, &laid_out(&list));
    let ours: Vec<&str> = canonical.tensors.iter().map(|tensor| tensor.name.trim_start_matches(old)).collect();
    assert_eq!(ours, ["to_k.weight", "to_out.0.weight", "to_q.weight", "to_v.weight"]);
    assert!(canonical.tensors.iter().all(|tensor| tensor.shape == [8, 8]));
}

#[test]
fn tiny_autoencoders_map_from_bundles_and_halves() {
    let wanted: Vec<String> = list("taesd").into_iter().map(|(name, _)| name).collect();
    let original = |bundle: bool, name: &str| {
        let (half, rest) = name.split_once(".layers.").unwrap();
        let (number, rest) = rest.split_once('.').unwrap();
        let number: u64 = number.parse::<u64>().unwrap() + u64::from(half == "decoder");
        if bundle { format!("taesd_{half}.{number}.{rest}") } else { format!("{number}.{rest}") }
    };
    let ours = |names: Vec<String>| {
        let list: Vec<(String, Vec<u64>)> = names.into_iter().map(|name| (name, vec![2])).collect();
        let canonical = canonicalise(ComponentKind::Vae, Base::Unknown, &laid_out(&list));
        assert!(canonical.unmapped.is_empty());
        canonical.tensors.into_iter().map(|tensor| tensor.name).collect::<Vec<_>>()
    };
    let bundle = wanted.iter().map(|name| original(true, name)).chain(["vae_scale".to_owned(), "vae_shift".to_owned()]);
    assert_eq!(ours(bundle.collect()), wanted);
    for half in ["encoder", "decoder"] {
        let wanted: Vec<String> = wanted.iter().filter(|name| name.starts_with(half)).cloned().collect();
        assert_eq!(ours(wanted.iter().map(|name| original(false, name)).collect()), wanted);
    }
}

#[test]
fn encoders_get_their_prefix_and_t5_keeps_its_names() {
    let bare = names(
        ComponentKind::TextEncoder,
        Base::Sd15,
        &[("final_layer_norm.bias", &[8]), ("embeddings.position_ids", &[1, 8])],
    );
    assert_eq!(bare, ["text_model.final_layer_norm.bias"]);
    let t5 = "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.layer_norm.weight";
    assert_eq!(
        names(ComponentKind::TextEncoder3, Base::Sd3, &[(t5, &[8])]),
        ["encoder.block.0.layer.0.layer_norm.weight"]
    );
}

#[test]
fn the_embedding_of_t5_has_one_name() {
    let list = |both: bool| {
        let mut list: Vec<(&str, &[u64])> = vec![("encoder.embed_tokens.weight", &[9, 8])];
        if both {
            list.push(("shared.weight", &[9, 8]));
        }
        names(ComponentKind::TextEncoder3, Base::Sd3, &list)
    };
    assert_eq!(list(true), ["shared.weight"]);
    assert_eq!(list(false), ["shared.weight"]);
}

#[test]
fn scales_follow_their_weights() {
    let unet: &[(&str, &[u64])] = &[
        ("model.diffusion_model.input_blocks.0.0.weight", &[8, 4, 3, 3]),
        ("model.diffusion_model.input_blocks.1.0.in_layers.2.weight", &[8, 8, 3, 3]),
        ("model.diffusion_model.input_blocks.1.0.in_layers.2.scale_weight", &[1]),
        ("model.diffusion_model.input_blocks.1.0.in_layers.2.scale_input", &[]),
        ("model.diffusion_model.scaled_fp8", &[0]),
    ];
    let path = "down_blocks.0.resnets.0.conv1";
    let wanted = ["scale_input", "scale_weight", "weight"].map(|leaf| format!("{path}.{leaf}"));
    assert_eq!(names(ComponentKind::Unet, Base::Sd15, unet)[1..], wanted);
    // one scale of a fused matrix is that of each of its parts, a scale by row is cut with the rows
    let fused = |scale: &[u64]| -> Vec<(String, Vec<u64>, u64)> {
        let list = vec![
            ("double_blocks.0.img_attn.qkv.weight", vec![24, 8]),
            ("double_blocks.0.img_attn.qkv.scale_weight", scale.to_vec()),
        ];
        let canonical = canonicalise(ComponentKind::Transformer, Base::Flux, &laid_out(&list));
        assert!(canonical.unmapped.is_empty());
        let scales = canonical.tensors.into_iter().filter(|tensor| tensor.name.ends_with(".scale_weight"));
        scales.map(|tensor| (tensor.name, tensor.shape, tensor.pieces[0].begin)).collect()
    };
    let path = "transformer_blocks.0.attn";
    let of = |part: &str, shape: &[u64], begin| (format!("{path}.to_{part}.scale_weight"), shape.to_vec(), begin);
    let begin = 1000 + 4 * 24 * 8;
    assert_eq!(fused(&[]), [of("k", &[], begin), of("q", &[], begin), of("v", &[], begin)]);
    assert_eq!(fused(&[24, 1]), [of("k", &[8, 1], begin + 32), of("q", &[8, 1], begin), of("v", &[8, 1], begin + 64)]);
}

#[test]
fn distilled_middles_and_image_embeddings_are_told_apart() {
    let list: &[(&str, &[u64])] = &[
        ("input_blocks.0.0.weight", &[8, 4, 3, 3]),
        ("middle_block.0.in_layers.0.weight", &[8]),
        ("label_emb.0.0.weight", &[32, 16]),
    ];
    let sd2 = names(ComponentKind::Unet, Base::Sd21, list);
    assert_eq!(sd2, ["class_embedding.linear_1.weight", "conv_in.weight", "mid_block.resnets.0.norm1.weight"]);
    assert_eq!(names(ComponentKind::Unet, Base::Sdxl, list)[0], "add_embedding.linear_1.weight");
}

#[test]
fn what_cannot_be_mapped_is_named() {
    let layer = "transformer.resblocks.0.attn.in_proj_weight";
    let list = vec![
        (layer, vec![7, 2]),
        ("transformer.resblocks.0.unheard_of", vec![1]),
        ("transformer.resblocks.99999999999999999999.ln_1.bias", vec![1]),
        ("text_projection", vec![4]),
        ("ln_final.weight", vec![2]),
        ("ln_final.weight", vec![2]),
    ];
    let canonical = canonicalise(ComponentKind::TextEncoder2, Base::Sdxl, &laid_out(&list));
    let given: Vec<&str> = list.iter().map(|(name, _)| *name).collect();
    assert_eq!(canonical.tensors.len(), 1);
    assert_eq!(canonical.unmapped, [given[0], given[1], given[2], given[3], given[5]]);
}

#[test]
fn transposes_and_halves_have_the_right_bytes() {
    let list = vec![
        ("text_projection", vec![2, 3]),
        ("token_embedding.weight", vec![5, 2]),
        ("transformer.resblocks.0.ln_1.bias", vec![2]),
    ];
    let canonical = canonicalise(ComponentKind::TextEncoder2, Base::Sdxl, &laid_out(&list));
    let projection = canonical.get("text_projection.weight").unwrap();
    assert_eq!(projection.shape, [3, 2]);
    assert_eq!(projection.pieces[0].order, Order::Transposed { rows: 2, cols: 3 });
    let list = vec![("single_blocks.0.linear2.weight", vec![2, 4]), ("final_layer.adaLN_modulation.1.bias", vec![6])];
    let canonical = canonicalise(ComponentKind::Transformer, Base::Flux, &laid_out(&list));
    let swapped = canonical.get("norm_out.linear.bias").unwrap();
    let ranges: Vec<(u64, u64)> = swapped.pieces.iter().map(|piece| (piece.begin, piece.end)).collect();
    assert_eq!((ranges, swapped.shape.as_slice()), (vec![(1044, 1056), (1032, 1044)], [6].as_slice()));
}

/// A view as pickles have them: rows of four, of which three are used, every second column.
#[test]
fn strided_views_keep_their_strides() {
    let strided = |name: &str, shape: &[u64], strides: &[u64], end: u64| TensorFacts {
        strides: Some(strides.to_vec()),
        ..tensor(name, shape, 1000, end)
    };
    let tensors = [
        strided("text_projection", &[2, 3], &[8, 2], 1000 + 4 * 13),
        strided("transformer.resblocks.0.attn.in_proj_weight", &[6, 2], &[1, 6], 1000 + 4 * 12),
    ];
    let canonical = canonicalise(ComponentKind::TextEncoder2, Base::Sdxl, &tensors);
    let projection = canonical.get("text_projection.weight").unwrap();
    assert_eq!(projection.pieces[0].order, Order::Strided { shape: vec![3, 2], strides: vec![2, 8] });
    let keys = canonical.get("text_model.encoder.layers.0.self_attn.k_proj.weight").unwrap();
    assert_eq!(keys.pieces[0].order, Order::Strided { shape: vec![2, 2], strides: vec![1, 6] });
    assert_eq!((keys.pieces[0].begin, keys.pieces[0].end), (1008, 1008 + 4 * 8));
    assert_eq!(walk(&keys.pieces[0], &tensors[1]), [2, 8, 3, 9]);
}
