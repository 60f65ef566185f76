//! Small models of real names from one layout into another and back: the same tensors byte for byte, and nothing left behind by
//! whatever ends early.

mod taken;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use super::*;
use crate::{
    canonical::canonicalise,
    inspect,
    tensor_bytes::read_tensor,
    vocab::{Base, ComponentKind},
    write::{JOB_KEY, Place, WriteError},
};

/// The original names and shapes of a reduced part, from `tests/reference/make_maps.py`.
fn names(map: &str) -> Vec<(String, Vec<u64>)> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference/golden/maps");
    let text = fs::read_to_string(path.join(format!("{map}.tsv"))).unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("<\t"));
    let read = |line: &str| {
        let (name, sides) = line.split_once('\t').unwrap();
        let sides = sides.split('\t').next().unwrap_or_default().split('x');
        (name.to_owned(), sides.filter(|side| !side.is_empty()).map(|side| side.parse().unwrap()).collect())
    };
    lines.map(read).collect()
}

/// Values of a tensor, told by its name.
type Values = dyn Fn(&str) -> Box<dyn Fn(usize) -> f32>;

/// Values that both half types hold.
fn plain(name: &str) -> Box<dyn Fn(usize) -> f32> {
    let seed = name.bytes().fold(7_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)));
    Box::new(move |at| ((seed.wrapping_add(at.wrapping_mul(2_654_435_761)) >> 7) % 255) as f32 / 64.0 - 2.0)
}

/// The same, but for the first values of one tensor.
fn but(end: &'static str, count: usize, value: f32) -> impl Fn(&str) -> Box<dyn Fn(usize) -> f32> {
    move |name| {
        let (plain, is_it) = (plain(name), name.ends_with(end));
        Box::new(move |at| if is_it && at < count { value } else { plain(at) })
    }
}

/// Writes a safetensors file of floats.
fn file(path: &Path, tensors: &[(String, Vec<u64>)], values: &Values) {
    let (mut entries, mut data) = (serde_json::Map::new(), Vec::new());
    entries.insert(
        "__metadata__".into(),
        serde_json::json!({ "modelspec.title": "made", "modelspec.hash_sha256": "0x00", "note": "n" }),
    );
    for (name, shape) in tensors {
        let begin = data.len();
        let count = usize::try_from(shape.iter().product::<u64>()).unwrap();
        let value = values(name);
        (0..count).for_each(|at| data.extend(value(at).to_le_bytes()));
        let entry = serde_json::json!({ "dtype": "F32", "shape": shape, "data_offsets": [begin, data.len()] });
        entries.insert(name.clone(), entry);
    }
    let text = serde_json::Value::Object(entries).to_string();
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes.extend(data);
    fs::write(path, bytes).unwrap();
}

fn checkpoint(dir: &Path, maps: &[&str], values: &Values) -> PathBuf {
    let tensors: Vec<_> = maps.iter().flat_map(|map| names(map)).collect();
    let path = dir.join("m.safetensors");
    file(&path, &tensors, values);
    path
}

const SD15: [&str; 3] = ["unet-sd15", "vae", "clip-l"];

fn open(path: &Path) -> Model {
    Model::open(path, inspect(path).unwrap()).unwrap()
}

fn request(layout: Layout, precision: Precision) -> Request {
    let metadata = BTreeMap::from([(JOB_KEY.to_owned(), "job".to_owned())]);
    Request {
        layout,
        precision,
        vae_precision: None,
        kept: BTreeSet::new(),
        prune: true,
        use_ema: false,
        changes: false,
        title: "t".into(),
        metadata,
        tokenizer: None,
    }
}

fn go(_: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn job<'a>(plan: &'a Plan, place: &'a Place, keep: &'a dyn Fn() -> bool) -> Job<'a> {
    Job {
        plan,
        place,
        job: "job".into(),
        change: None,
        changes: String::new(),
        overwrite: false,
        allow_nan: false,
        keep,
        stretch_bytes: Some(64 << 10),
    }
}

/// A config that nobody could tell from the tensors, and a way to predict.
#[test]
fn what_the_operator_says_of_a_single_file_goes_into_its_folder() {
    let dir = TempDir::new().unwrap();
    let path = checkpoint(dir.path(), &SD15, &|_| Box::new(|_| 0.5));
    let read = |folder: &Path, name: &str| -> serde_json::Value {
        serde_json::from_slice(&fs::read(folder.join(name)).unwrap()).unwrap()
    };
    let (folder, ..) = convert(&path, "plain", &request(Layout::Diffusers, Precision::Keep));
    let mut config = read(&folder, "unet/config.json");
    assert_eq!(read(&folder, "scheduler/scheduler_config.json")["prediction_type"], "epsilon");
    config["attention_head_dim"] = serde_json::json!(2);
    let said = Said {
        configs: serde_json::Map::from_iter([("unet".to_owned(), config.clone())]),
        prediction: Some("v_prediction".to_owned()),
    };
    let told = |from: &Path, to: &str, said: Said| {
        let plan = Plan::new(&open(from).with(said), None, &request(Layout::Diffusers, Precision::Keep)).unwrap();
        let place = Place::open(dir.path(), to).unwrap();
        write(&job(&plan, &place, &|| false), &mut go).unwrap();
        place.path()
    };
    let folder = told(&path, "told", said);
    assert_eq!(read(&folder, "unet/config.json")["attention_head_dim"], 2);
    assert_eq!(read(&folder, "scheduler/scheduler_config.json")["prediction_type"], "v_prediction");
    // a folder's own scheduler says what its operator says
    let said = Said { prediction: Some("epsilon".to_owned()), ..Said::default() };
    let folder = told(&folder, "again", said);
    assert_eq!(read(&folder, "scheduler/scheduler_config.json")["prediction_type"], "epsilon");
    assert_eq!(read(&folder, "unet/config.json")["attention_head_dim"], 2);
}

fn convert(from: &Path, to: &str, request: &Request) -> (PathBuf, Plan, Made) {
    let plan = Plan::new(&open(from), None, request).unwrap();
    let place = Place::open(from.parent().unwrap(), to).unwrap();
    let made = write(&job(&plan, &place, &|| false), &mut go).unwrap();
    (place.path(), plan, made)
}

/// Every canonical tensor of a model with its bytes.
fn content(path: &Path) -> BTreeMap<(ComponentKind, String), (Vec<u64>, Vec<u8>)> {
    let inspection = inspect(path).unwrap();
    let mut content = BTreeMap::new();
    for part in &inspection.components {
        let canonical = canonicalise(part.kind, inspection.base, &part.tensors);
        assert_eq!(canonical.unmapped, Vec::<String>::new());
        for tensor in &canonical.tensors {
            let whole = OutTensor {
                name: tensor.name.clone(),
                dtype: tensor.dtype,
                shape: tensor.shape.clone(),
                component: None,
                from: vec![tensor.clone()],
                is_transposed: false,
            };
            let mut pace = go;
            let mut emitter = emit::Emitter::new(Model::probes(&inspection.files).unwrap(), None, &mut pace);
            let mut bytes = Vec::new();
            emitter
                .tensor(&whole, &mut |chunk| {
                    bytes.extend_from_slice(chunk);
                    Ok(())
                })
                .unwrap();
            content.insert((part.kind, tensor.name.clone()), (tensor.shape.clone(), bytes));
        }
    }
    content
}

fn listing(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn every_family_goes_to_a_folder_and_back_byte_for_byte() {
    let families: [(&[&str], Base); 4] = [
        (&SD15, Base::Sd15),
        (&["unet-sd21", "vae", "clip-h"], Base::Sd21),
        (&["unet-sdxl", "vae", "clip-g"], Base::Sdxl),
        (&["unet-sdxl-refiner", "vae", "clip-g-refiner"], Base::SdxlRefiner),
    ];
    for (maps, base) in families {
        let dir = TempDir::new().unwrap();
        let mut tensors: Vec<_> = maps.iter().flat_map(|map| names(map)).collect();
        if base == Base::Sdxl {
            let first = names("clip-l").into_iter();
            let renamed = |(name, shape): (String, Vec<u64>)| {
                (name.replace("cond_stage_model.", "conditioner.embedders.0."), shape)
            };
            tensors.extend(first.map(renamed));
        }
        let path = dir.path().join("m.safetensors");
        file(&path, &tensors, &plain);
        let before = content(&path);
        let (folder, plan, _) = convert(&path, "folder", &request(Layout::Diffusers, Precision::Keep));
        let there = inspect(&folder).unwrap();
        assert_eq!((there.base, there.reason, there.format.as_str()), (base, None, "diffusers"), "{:?}", plan.missing);
        assert_eq!(content(&folder), before, "{base}");
        let (back, _, made) = convert(&folder, "back.safetensors", &request(Layout::SingleFile, Precision::Keep));
        assert_eq!(content(&back), before, "{base}");
        let [original, back] = [&path, &back].map(|path| crate::safetensors::read(path, "").unwrap());
        let named = |head: &crate::safetensors::Header| -> BTreeMap<String, Vec<u64>> {
            head.tensors.iter().map(|tensor| (tensor.name.clone(), tensor.shape.clone())).collect()
        };
        // all names but those of what is no weight, which the plan lists
        let (old, new) = (named(&original), named(&back));
        assert!(new.iter().all(|(name, shape)| old.get(name) == Some(shape)), "{base}");
        let dropped: usize = plan.dropped.iter().map(|dropped| dropped.tensors).sum();
        assert_eq!(old.len() - new.len(), dropped, "{base}");
        assert_eq!(back.metadata["modelspec.hash_sha256"], format!("0x{}", made.files[0].payload_sha256));
        // the other half of a round: the same single file written as it is has the same tensors
        let (same, ..) = convert(&path, "same.safetensors", &request(Layout::Same, Precision::Keep));
        assert_eq!(content(&same), before, "{base}");
        assert_eq!(crate::safetensors::read(&same, "").unwrap().metadata["note"], "n");
    }
}

#[test]
fn what_overflows_is_reported_and_stays_as_it_is() {
    let dir = TempDir::new().unwrap();
    let large = but("decoder.conv_in.bias", 3, 1e5);
    let path = checkpoint(dir.path(), &SD15, &large);
    let model = open(&path);
    let mut asked = request(Layout::SingleFile, Precision::Fp16);
    let plan = Plan::new(&model, None, &asked).unwrap();
    let found = look(&plan, None, false, &mut go).unwrap();
    let vae = &found[&ComponentKind::Vae];
    assert_eq!((found.len(), vae.values, vae.tensors, vae.largest), (1, 3, 1, 1e5));
    assert_eq!(vae.named, [("first_stage_model.decoder.conv_in.bias".to_owned(), 3, 1e5)]);
    asked.kept.insert(ComponentKind::Vae);
    let (half, _, made) = convert(&path, "half.safetensors", &asked);
    let variants: Vec<_> =
        inspect(&half).unwrap().components.iter().map(|part| (part.kind, part.dtype.clone())).collect();
    let wanted = [(ComponentKind::Unet, "F16"), (ComponentKind::Vae, "F32"), (ComponentKind::TextEncoder, "F16")];
    assert_eq!(variants, wanted.map(|(kind, dtype)| (kind, dtype.to_owned())));
    // the values are exact in half precision, so the way back gives the same bits
    let (wide, ..) = convert(&half, "wide.safetensors", &request(Layout::Same, Precision::Fp32));
    assert_eq!(content(&wide), content(&path));
    assert_eq!(made.resumed_bytes, 0);
    // a VAE may have a type of its own
    asked.kept.clear();
    asked.vae_precision = Some(Precision::Bf16);
    let (own, ..) = convert(&path, "own.safetensors", &asked);
    let types: Vec<_> = inspect(&own).unwrap().components.iter().map(|part| part.dtype.clone()).collect();
    assert_eq!(types, ["F16", "BF16", "F16"]);
    asked.vae_precision = None;
    asked.kept.insert(ComponentKind::Vae);
    let nothing = look(&Plan::new(&open(&half), None, &asked).unwrap(), None, false, &mut go).unwrap();
    assert_eq!(nothing, BTreeMap::new());
}

#[test]
fn what_leaves_the_range_of_32_bits_is_refused_by_name() {
    let dir = TempDir::new().unwrap();
    let huge = but("out.2.bias", 2, 3.4e38);
    let path = checkpoint(dir.path(), &SD15, &huge);
    let plan = Plan::new(&open(&path), None, &request(Layout::Same, Precision::Bf16)).unwrap();
    let place = Place::open(dir.path(), "out.safetensors").unwrap();
    let refused = write(&job(&plan, &place, &|| true), &mut go).unwrap_err();
    let ConvertError::Overflow { tensor, values: 2, largest, dtype: Dtype::Bf16 } = &refused else {
        panic!("{refused:?}")
    };
    assert_eq!((tensor.as_str(), *largest), ("model.diffusion_model.out.2.bias", f64::from(3.4e38_f32)));
    assert_eq!(listing(dir.path()), ["m.safetensors"], "nothing of it stays");
    // as it is it goes anywhere
    convert(&path, "kept.safetensors", &request(Layout::Same, Precision::Keep));
}

#[test]
fn values_that_are_no_numbers_are_refused_unless_allowed() {
    let dir = TempDir::new().unwrap();
    let broken = but("out.2.bias", 1, f32::NAN);
    let path = checkpoint(dir.path(), &SD15, &broken);
    let plan = Plan::new(&open(&path), None, &request(Layout::SingleFile, Precision::Keep)).unwrap();
    let place = Place::open(dir.path(), "out.safetensors").unwrap();
    let refused = write(&job(&plan, &place, &|| true), &mut go);
    assert!(matches!(refused, Err(ConvertError::NotNumbers { values: 1, .. })), "{refused:?}");
    assert_eq!(listing(dir.path()), ["m.safetensors"]);
    write(&Job { allow_nan: true, ..job(&plan, &place, &|| true) }, &mut go).unwrap();
    assert!(matches!(
        look(&Plan::new(&open(&path), None, &request(Layout::Same, Precision::Fp16)).unwrap(), None, false, &mut go),
        Err(ConvertError::NotNumbers { .. })
    ));
}

#[test]
fn averages_are_left_out_or_taken() {
    let dir = TempDir::new().unwrap();
    let mut tensors: Vec<_> = SD15.iter().flat_map(|map| names(map)).collect();
    let unet: Vec<_> = tensors.iter().filter(|(name, _)| name.starts_with("model.diffusion_model.")).cloned().collect();
    let average = |name: &str| format!("model_ema.{}", name["model.".len()..].replace('.', ""));
    tensors.extend(unet.iter().map(|(name, shape)| (average(name), shape.clone())));
    tensors.push(("betas".into(), vec![1000]));
    let path = dir.path().join("m.safetensors");
    file(&path, &tensors, &plain);
    let plan = Plan::new(&open(&path), None, &request(Layout::Same, Precision::Keep)).unwrap();
    let groups: Vec<_> = plan.dropped.iter().map(|dropped| (dropped.what, dropped.tensors)).collect();
    assert_eq!(groups, [("average", unet.len()), ("constants", 1), ("schedule", 1)]);
    let (ema, plan, _) =
        convert(&path, "ema.safetensors", &Request { use_ema: true, ..request(Layout::Same, Precision::Keep) });
    assert_eq!(
        plan.dropped.iter().map(|dropped| dropped.what).collect::<Vec<_>>(),
        ["constants", "replaced", "schedule"]
    );
    let (name, shape) = unet.iter().find(|(name, _)| name.ends_with("out.2.weight")).unwrap();
    let head = crate::safetensors::read(&ema, "").unwrap();
    let tensor = head.tensors.iter().find(|tensor| tensor.name == *name).unwrap();
    let mut bytes = Vec::new();
    read_tensor(&fs::File::open(&ema).unwrap(), tensor, &mut bytes).unwrap();
    let count = usize::try_from(shape.iter().product::<u64>()).unwrap();
    let value = plain(&average(name));
    let wanted: Vec<u8> = (0..count).flat_map(|at| value(at).to_le_bytes()).collect();
    assert!(bytes == wanted);
    let (all, plan, _) =
        convert(&path, "all.safetensors", &Request { prune: false, ..request(Layout::Same, Precision::Keep) });
    assert_eq!(plan.dropped, []);
    assert_eq!(crate::safetensors::read(&all, "").unwrap().tensors.len(), tensors.len());
    let none = Plan::new(&open(&ema), None, &Request { use_ema: true, ..request(Layout::Same, Precision::Keep) });
    assert!(matches!(none, Err(ConvertError::NoAverage)));
}

#[test]
fn an_interrupted_attempt_is_gone_on_with_and_a_changed_source_is_not() {
    let dir = TempDir::new().unwrap();
    let path = checkpoint(dir.path(), &SD15, &plain);
    for to in ["out.safetensors", "folder"] {
        let layout = if to == "folder" { Layout::Diffusers } else { Layout::SingleFile };
        let plan = Plan::new(&open(&path), None, &request(layout, Precision::Keep)).unwrap();
        let place = Place::open(dir.path(), to).unwrap();
        let mut left = plan.bytes() / 2;
        let mut stop = |bytes: u64| {
            left = left.saturating_sub(bytes);
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let stopped = write(&job(&plan, &place, &|| true), &mut stop);
        assert!(matches!(stopped, Err(ConvertError::Write(WriteError::Stopped))), "{stopped:?}");
        let mut read = 0;
        let mut count = |bytes: u64| {
            read += bytes;
            ControlFlow::Continue(())
        };
        let made = write(&job(&plan, &place, &|| true), &mut count).unwrap();
        assert!(made.resumed_bytes > plan.bytes() / 3, "{to}: {}", made.resumed_bytes);
        assert_eq!(read, plan.bytes() * 2 - made.resumed_bytes, "what was there is not read again");
        assert_eq!(content(&place.path()), content(&path));
        // the same job once more has nothing to do, and tells what is there; another one must be allowed to
        let again = write(&job(&plan, &place, &|| true), &mut go).unwrap();
        assert_eq!((&again.files, again.bytes, again.resumed_bytes), (&made.files, made.bytes, plan.bytes()));
        assert!(again.bytes > plan.bytes() && again.files.iter().all(|file| file.payload_sha256.len() == 64));
        let other = write(&Job { job: "other".into(), ..job(&plan, &place, &|| true) }, &mut go);
        assert!(matches!(other, Err(ConvertError::Write(WriteError::Exists { .. }))), "{other:?}");
        let over = Job { job: "other".into(), overwrite: true, ..job(&plan, &place, &|| true) };
        assert_eq!(write(&over, &mut go).unwrap().resumed_bytes, 0);
    }
    // bytes that were changed behind the journal's back do not count
    let plan = Plan::new(&open(&path), None, &request(Layout::Same, Precision::Keep)).unwrap();
    let place = Place::open(dir.path(), "again.safetensors").unwrap();
    let mut left = 40;
    let mut stop = |_| {
        left -= 1;
        if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    write(&job(&plan, &place, &|| true), &mut stop).unwrap_err();
    let partial = dir.path().join(".modelyard-again.safetensors.partial");
    let mut bytes = fs::read(&partial).unwrap();
    let last = bytes.len() / 2;
    bytes[last] ^= 1;
    fs::write(&partial, bytes).unwrap();
    let made = write(&job(&plan, &place, &|| true), &mut go).unwrap();
    assert_eq!((made.resumed_bytes, content(&place.path()) == content(&path)), (0, true));
    // without anybody to go on, nothing stays
    let place = Place::open(dir.path(), "none.safetensors").unwrap();
    write(&job(&plan, &place, &|| false), &mut |_| ControlFlow::Break(())).unwrap_err();
    assert_eq!(listing(dir.path()), ["again.safetensors", "folder", "m.safetensors", "out.safetensors"]);
}

/// Doubles a weight and a fused one.
struct Twice;

impl Change for Twice {
    fn touches(&self, component: ComponentKind, tensor: &str) -> bool {
        component == ComponentKind::TextEncoder && (tensor.ends_with("k_proj.weight") || tensor.ends_with("fc1.weight"))
    }

    fn apply(
        &self,
        _: ComponentKind,
        _: &str,
        (dtype, shape, bytes): (Dtype, &[u64], Vec<u8>),
    ) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
        assert_eq!((dtype, bytes.len() as u64), (Dtype::F32, shape.iter().product::<u64>() * 4));
        Ok(bytes.as_chunks().0.iter().flat_map(|value| (f32::from_le_bytes(*value) * 2.0).to_le_bytes()).collect())
    }
}

#[test]
fn changes_are_made_to_canonical_tensors_also_inside_of_fused_ones() {
    let dir = TempDir::new().unwrap();
    let path = checkpoint(dir.path(), &["unet-sd21", "vae", "clip-h"], &plain);
    let plan =
        Plan::new(&open(&path), None, &Request { changes: true, ..request(Layout::Same, Precision::Keep) }).unwrap();
    assert_eq!(plan.layout, Layout::SingleFile);
    let place = Place::open(dir.path(), "out.safetensors").unwrap();
    write(&Job { change: Some(&Twice), ..job(&plan, &place, &|| false) }, &mut go).unwrap();
    let (before, after) = (content(&path), content(&place.path()));
    for ((kind, name), (shape, bytes)) in &before {
        let now = &after[&(*kind, name.clone())];
        let wanted = if Twice.touches(*kind, name) {
            Twice.apply(*kind, name, (Dtype::F32, shape, bytes.clone())).unwrap()
        } else {
            bytes.clone()
        };
        assert!(now.1 == wanted, "{name}");
    }
}

/// Gives tensors of a safetensors file of 32-bit floats other types.
fn retyped(path: &Path, dtype: impl Fn(&str) -> Dtype) {
    let head = crate::safetensors::read(path, "").unwrap();
    let source = fs::File::open(path).unwrap();
    let (mut entries, mut data) = (serde_json::Map::new(), Vec::new());
    for tensor in &head.tensors {
        let (begin, to) = (data.len(), dtype(&tensor.name));
        let mut bytes = Vec::new();
        read_tensor(&source, tensor, &mut bytes).unwrap();
        let mut cast_bytes = Vec::new();
        cast::cast(tensor.dtype, to, &bytes, &mut cast_bytes);
        // what is of no type that is cast has its bytes cut to the length of its own
        let count = usize::try_from(tensor.shape.iter().product::<u64>() * to.bits() / 8).unwrap();
        cast_bytes.resize(count, 0);
        data.extend(cast_bytes);
        let offsets = [begin, data.len()];
        entries.insert(
            tensor.name.clone(),
            serde_json::json!({ "dtype": to.as_str(), "shape": tensor.shape, "data_offsets": offsets }),
        );
    }
    let text = serde_json::Value::Object(entries).to_string();
    let length = (text.len() as u64).to_le_bytes();
    fs::write(path, [&length[..], text.as_bytes(), &data].concat()).unwrap();
}

/// Query, key and value of an encoder in three types, one of which has what the others round or lose: as one tensor they keep every value.
#[test]
fn tensors_of_several_types_become_one_of_a_type_that_holds_all_of_them() {
    let dir = TempDir::new().unwrap();
    // of 16 bits only IEEE floats hold 1 + 2⁻¹⁰
    let values = |name: &str| -> Box<dyn Fn(usize) -> f32> {
        let plain = plain(name);
        match name.ends_with("in_proj_weight") {
            true => Box::new(move |at| if at < 64 { 1.0 + 1.0 / 1024.0 } else { plain(at) }),
            false => plain,
        }
    };
    let path = checkpoint(dir.path(), &["unet-sd21", "vae", "clip-h"], &values);
    let (folder, ..) = convert(&path, "folder", &request(Layout::Diffusers, Precision::Keep));
    let encoder = folder.join("text_encoder/model.safetensors");
    retyped(&encoder, |name| match name {
        _ if name.contains(".layers.0.self_attn.q_proj.weight") => Dtype::F16,
        _ if name.contains(".layers.0.self_attn.k_proj.weight") => Dtype::Bf16,
        _ if name.contains(".layers.1.") => Dtype::Bf16,
        _ if name.contains(".layers.0.self_attn.v_proj.weight") => Dtype::Bf16,
        _ => Dtype::F32,
    });
    let before = content(&folder);
    let (back, plan, _) = convert(&folder, "back.safetensors", &request(Layout::SingleFile, Precision::Keep));
    let name = |layer: u8| format!("cond_stage_model.model.transformer.resblocks.{layer}.attn.in_proj_weight");
    let head = crate::safetensors::read(&back, "").unwrap();
    let dtype = |name: &str| head.tensors.iter().find(|tensor| tensor.name == name).map(|tensor| tensor.dtype);
    assert_eq!((dtype(&name(0)), dtype(&name(1))), (Some(Dtype::F32), Some(Dtype::Bf16)));
    let wide = Widened { from: vec![Dtype::F16, Dtype::Bf16], to: Dtype::F32, tensors: 1, examples: vec![name(0)] };
    assert_eq!(plan.widened, [wide]);
    let after = content(&back);
    let parts = ["q", "k", "v"].map(|part| format!("text_model.encoder.layers.0.self_attn.{part}_proj.weight"));
    for (key, (shape, bytes)) in &before {
        let found = &after[key];
        let wanted = match parts.iter().position(|part| *part == key.1) {
            None => bytes.clone(),
            Some(part) => {
                let mut wide = Vec::new();
                cast::cast(if part == 0 { Dtype::F16 } else { Dtype::Bf16 }, Dtype::F32, bytes, &mut wide);
                wide
            }
        };
        assert!(found.0 == *shape && found.1 == wanted, "{key:?}");
    }
    // another type is as it was asked for, and nothing to tell
    let (half, plan, _) = convert(&folder, "half.safetensors", &request(Layout::SingleFile, Precision::Fp16));
    let head = crate::safetensors::read(&half, "").unwrap();
    assert!(plan.widened.is_empty() && head.tensors.iter().all(|tensor| tensor.dtype == Dtype::F16));
    // no float holds eight bits of one kind and whatever else
    retyped(
        &encoder,
        |name| if name.contains(".layers.0.self_attn.k_proj.weight") { Dtype::F8E4M3 } else { Dtype::F32 },
    );
    let refused = Plan::new(&open(&folder), None, &request(Layout::SingleFile, Precision::Keep));
    let Err(ConvertError::Types { tensor, parts }) = &refused else { panic!("{refused:?}") };
    assert!(*tensor == name(0) && parts.contains("F8_E4M3") && parts.contains("k_proj.weight"), "{parts}");
}

#[test]
fn what_does_not_go_into_a_layout_is_refused_with_its_reason() {
    let dir = TempDir::new().unwrap();
    let lora = dir.path().join("l.safetensors");
    let stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k";
    file(
        &lora,
        &[(format!("{stem}.lora_down.weight"), vec![4, 768]), (format!("{stem}.lora_up.weight"), vec![320, 4])],
        &plain,
    );
    let refused = Plan::new(&open(&lora), None, &request(Layout::Diffusers, Precision::Keep));
    assert!(matches!(&refused, Err(ConvertError::Layout { why, .. }) if why.contains("lora")), "{refused:?}");
    let (same, ..) = convert(&lora, "same.safetensors", &request(Layout::Same, Precision::Bf16));
    assert_eq!(inspect(&same).unwrap().variant.as_deref(), Some("bf16"));
    let dir = TempDir::new().unwrap();
    let path = checkpoint(dir.path(), &["unet-sd15", "clip-l"], &plain);
    let refused = Plan::new(&open(&path), None, &request(Layout::Diffusers, Precision::Keep));
    assert!(matches!(refused, Err(ConvertError::NoPart { component: ComponentKind::Vae, .. })), "{refused:?}");
    let mut tensors = names("unet-sd15");
    tensors.push(("model.diffusion_model.made.up".into(), vec![2]));
    tensors.extend(names("vae"));
    let path = dir.path().join("odd.safetensors");
    file(&path, &tensors, &plain);
    let refused = Plan::new(&open(&path), None, &request(Layout::SingleFile, Precision::Keep));
    assert!(matches!(refused, Err(ConvertError::Unknown { count: 1, .. })), "{refused:?}");
    let vae = dir.path().join("vae.safetensors");
    let bare: Vec<_> =
        names("vae").into_iter().map(|(name, shape)| (name["first_stage_model.".len()..].to_owned(), shape)).collect();
    file(&vae, &bare, &plain);
    let refused = Plan::new(&open(&vae), None, &request(Layout::Diffusers, Precision::Keep));
    assert!(matches!(&refused, Err(ConvertError::Layout { why, .. }) if why.contains("scale")), "{refused:?}");
}

#[test]
fn a_vae_of_another_model_takes_the_place_of_its_own() {
    let dir = TempDir::new().unwrap();
    let path = checkpoint(dir.path(), &SD15, &plain);
    let vae = dir.path().join("vae.safetensors");
    let bare: Vec<_> =
        names("vae").into_iter().map(|(name, shape)| (name["first_stage_model.".len()..].to_owned(), shape)).collect();
    file(&vae, &bare, &|_| Box::new(|at| at as f32));
    let plan = Plan::new(&open(&path), Some(&open(&vae)), &request(Layout::Same, Precision::Keep)).unwrap();
    let place = Place::open(dir.path(), "out.safetensors").unwrap();
    write(&job(&plan, &place, &|| false), &mut go).unwrap();
    let (own, other, out) = (content(&path), content(&vae), content(&place.path()));
    for (key, bytes) in &out {
        let from = if key.0 == ComponentKind::Vae { &other } else { &own };
        assert!(from[key] == *bytes, "{key:?}");
    }
    assert_eq!(plan.dropped.iter().map(|dropped| dropped.what).collect::<Vec<_>>(), ["constants", "replaced"]);
}

#[test]
fn the_place_of_the_hash_has_the_length_of_a_hash() {
    assert_eq!(header::NO_HASH.len(), 66);
}
