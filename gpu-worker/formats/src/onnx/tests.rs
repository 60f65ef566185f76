//! ONNX models written field by field: sound ones, names that try to leave the folder, and damage.

use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use super::{detach, inspect, read};
use crate::{ErrorKind, ModelType};

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).unwrap());
    bytes
}

fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

fn bytes(field: u64, value: impl AsRef<[u8]>) -> Vec<u8> {
    let value = value.as_ref();
    [varint(field << 3 | 2), varint(value.len() as u64), value.to_vec()].concat()
}

fn entry(key: &str, value: &str) -> Vec<u8> {
    [bytes(1, key), bytes(2, value)].concat()
}

fn port(name: &str) -> Vec<u8> {
    let dims = [bytes(1, number(1, 2)), bytes(1, bytes(2, "width"))].concat();
    let tensor = [number(1, 10), bytes(2, dims)].concat();
    [bytes(1, name), bytes(2, bytes(1, tensor))].concat()
}

fn weight(place: &[u8]) -> Vec<u8> {
    [number(1, 2), number(1, 3), number(2, 1), bytes(8, "w"), place.to_vec()].concat()
}

fn external(location: &str, offset: &str, length: &str) -> Vec<u8> {
    let note = |key, value| bytes(13, entry(key, value));
    weight(&[note("location", location), note("offset", offset), note("length", length), number(14, 1)].concat())
}

fn model(dir: &Path, weight: &[u8]) -> PathBuf {
    let inner = bytes(1, bytes(4, "Add"));
    let branch = bytes(5, bytes(6, inner));
    let nodes = [bytes(1, bytes(4, "Conv")), bytes(1, [bytes(4, "If"), branch].concat())].concat();
    let ports = [bytes(11, port("sample")), bytes(11, port("timestep")), bytes(11, port("w"))].concat();
    let graph = [nodes, bytes(2, "main"), bytes(5, weight), ports, bytes(12, port("out_sample"))].concat();
    let opset = [bytes(1, ""), number(2, 17)].concat();
    let whole = [number(1, 8), bytes(2, "exporter"), bytes(3, "2.1"), bytes(7, graph), bytes(8, opset)].concat();
    let path = dir.join("model.onnx");
    std::fs::write(&path, whole).unwrap();
    path
}

#[test]
fn a_graph_says_what_it_takes_gives_and_holds() {
    let dir = TempDir::new().unwrap();
    let path = model(dir.path(), &weight(&bytes(9, [7u8; 24])));
    let onnx = read(&path, "", "").unwrap();
    assert_eq!(
        (onnx.graph.ir_version, onnx.graph.opsets["ai.onnx"], onnx.graph.producer.as_str()),
        (8, 17, "exporter 2.1")
    );
    assert_eq!((onnx.graph.nodes, onnx.graph.operators["ai.onnx.Add"]), (3, 1));
    let names: Vec<&str> = onnx.graph.inputs.iter().map(|port| port.name.as_str()).collect();
    assert_eq!(names, ["sample", "timestep"]);
    assert_eq!(onnx.graph.inputs[0].shape, ["2", "width"]);
    let tensor = &onnx.tensors[0];
    let content = std::fs::read(&path).unwrap();
    let range = usize::try_from(tensor.begin).unwrap()..usize::try_from(tensor.end).unwrap();
    assert_eq!((tensor.shape.as_slice(), &content[range]), (&[2, 3][..], &[7u8; 24][..]));
    let found = inspect(&path).unwrap();
    assert_eq!((found.model_type, found.components[0].bytes), (ModelType::Onnx, 24));
    assert_eq!(found.metadata["facts"]["part"], "unet");
}

#[test]
fn listed_numbers_are_counted_not_ranged() {
    let dir = TempDir::new().unwrap();
    let onnx = read(&model(dir.path(), &weight(&bytes(4, [0u8; 24]))), "", "").unwrap();
    assert_eq!((onnx.tensors.len(), onnx.without_range), (0, 1));
}

#[test]
fn weights_beside_the_model_are_ranges_of_plain_files() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("w.data"), [0u8; 40]).unwrap();
    let onnx = read(&model(dir.path(), &external("w.data", "16", "24")), "unet/model.onnx", "unet/").unwrap();
    assert_eq!((onnx.tensors[0].begin, onnx.tensors[0].end, onnx.files[1].rel_path.as_str()), (16, 40, "unet/w.data"));
    let refused = |weight: &[u8]| read(&model(dir.path(), weight), "", "").unwrap_err();
    assert!(refused(&external("w.data", "17", "24")).to_string().contains("ends at 41"));
    assert!(refused(&external("w.data", "0", "23")).to_string().contains("needs 24 bytes"));
    assert!(refused(&external("w.data", "18446744073709551615", "24")).to_string().contains("overflow"));
    assert_eq!(refused(&external("gone.data", "0", "24")).kind(), ErrorKind::Missing);
}

#[test]
fn names_that_leave_the_folder_are_refused() {
    let (dir, outside) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    std::fs::write(outside.path().join("secret"), [0u8; 64]).unwrap();
    symlink(outside.path().join("secret"), dir.path().join("link.data")).unwrap();
    let absolute = outside.path().join("secret").display().to_string();
    for name in ["../secret", "..", "", "/etc/passwd", "a/../../b", "a\\b", ".hidden", "link.data", absolute.as_str()] {
        let error = read(&model(dir.path(), &external(name, "0", "24")), "", "").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsafe, "{name}: {error}");
    }
}

#[test]
fn a_cache_may_link_the_model_and_its_weights_into_one_folder() {
    let dir = TempDir::new().unwrap();
    let (blobs, snapshot) = (dir.path().join("blobs"), dir.path().join("snapshot"));
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::rename(model(dir.path(), &external("w.data", "0", "24")), blobs.join("aa")).unwrap();
    std::fs::write(blobs.join("bb"), [0u8; 24]).unwrap();
    symlink("../blobs/aa", snapshot.join("model.onnx")).unwrap();
    symlink("../blobs/bb", snapshot.join("w.data")).unwrap();
    assert_eq!(read(&snapshot.join("model.onnx"), "", "").unwrap().tensors.len(), 1);
}

#[test]
fn damage_is_an_error_and_never_a_panic() {
    let dir = TempDir::new().unwrap();
    let path = model(dir.path(), &weight(&bytes(9, [7u8; 24])));
    let whole = std::fs::read(&path).unwrap();
    for length in 0..whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        assert!(read(&path, "", "").is_err(), "{length}");
    }
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] = 0xff;
        std::fs::write(&path, &damaged).unwrap();
        drop(read(&path, "", ""));
    }
    let mut deep = Vec::new();
    for _ in 0..40 {
        deep = bytes(1, bytes(5, bytes(6, deep)));
    }
    std::fs::write(&path, [number(1, 8), bytes(7, deep)].concat()).unwrap();
    assert!(read(&path, "", "").unwrap_err().to_string().contains("nested too deeply"));
}

/// A weight of `count` floats, all of them `value`.
fn floats(name: &str, count: u64, value: f32) -> Vec<u8> {
    let data: Vec<u8> = (0..count).flat_map(|_| value.to_le_bytes()).collect();
    [number(1, count), number(2, 1), bytes(8, name), bytes(9, data)].concat()
}

/// A weight of floats in `weights.pb`.
fn beside(name: &str, count: u64, offset: u64) -> Vec<u8> {
    let note = |key, value: String| bytes(13, entry(key, &value));
    let place = [note("location", "weights.pb".into()), note("offset", offset.to_string()), number(14, 1)].concat();
    [number(1, count), number(2, 1), bytes(8, name), place].concat()
}

#[test]
fn large_weights_become_inputs_and_all_else_stays_byte_for_byte() {
    let dir = TempDir::new().unwrap();
    let node = bytes(1, [bytes(4, "Conv"), bytes(1, "sample")].concat());
    let small = bytes(5, floats("small", 256, 0.5));
    let weights = [
        bytes(5, floats("inside", 257, 1.0)),
        small.clone(),
        bytes(5, beside("far", 300, 8)),
        bytes(5, beside("near", 2, 0)),
    ];
    let ports = bytes(11, port("sample"));
    let graph = [node.clone(), weights.concat(), ports.clone(), bytes(12, port("out"))].concat();
    let head = [number(1, 8), bytes(2, "exporter")].concat();
    let path = dir.path().join("model.onnx");
    std::fs::write(&path, [head.clone(), bytes(7, graph), bytes(8, number(2, 17))].concat()).unwrap();
    let data: Vec<u8> = [3.0_f32, 4.0].iter().chain(&[0.25; 300]).flat_map(|value| value.to_le_bytes()).collect();
    std::fs::write(dir.path().join("weights.pb"), data).unwrap();

    let files = read(&path, "unet/model.onnx", "unet/").unwrap().files;
    let (seen, beside) = files.split_first().unwrap();
    let detached = detach(seen, beside).unwrap();
    let names: Vec<(&str, &[u64])> =
        detached.weights.iter().map(|weight| (weight.name.as_str(), weight.shape.as_slice())).collect();
    assert_eq!(names, [("inside", &[257][..]), ("far", &[300][..])]);
    let near = [number(1, 2), number(2, 1), bytes(8, "near"), bytes(9, [3.0_f32, 4.0].map(f32::to_le_bytes).concat())];
    let input = |name: &str, side: u64| {
        let tensor = [number(1, 1), bytes(2, bytes(1, number(1, side)))].concat();
        bytes(11, [bytes(1, name), bytes(2, bytes(1, tensor))].concat())
    };
    let kept =
        [node, small, bytes(5, near.concat()), ports, bytes(12, port("out")), input("inside", 257), input("far", 300)];
    assert_eq!(detached.model, [head, bytes(7, kept.concat()), bytes(8, number(2, 17))].concat());

    // a file that was written to since is another model
    std::fs::write(dir.path().join("weights.pb"), [0; 2000]).unwrap();
    assert!(matches!(detach(seen, beside), Err(crate::FormatError::Changed { .. })));
    std::fs::write(&path, "other").unwrap();
    assert!(matches!(detach(seen, beside), Err(crate::FormatError::Changed { .. })));
}

#[test]
fn a_weight_that_is_listed_as_an_input_is_listed_once() {
    let dir = TempDir::new().unwrap();
    let listed = [number(1, 257), number(2, 1), bytes(8, "w"), bytes(9, [0; 1028])].concat();
    let path = model(dir.path(), &listed);
    let seen = read(&path, "", "").unwrap().files.remove(0);
    let detached = detach(&seen, &[]).unwrap();
    std::fs::write(&path, &detached.model).unwrap();
    let again = read(&path, "", "").unwrap();
    let names: Vec<&str> = again.graph.inputs.iter().map(|port| port.name.as_str()).collect();
    assert_eq!((names, again.tensors.len()), (vec!["sample", "timestep", "w"], 0));
}

/// A node: its operator, what it takes, and more of its fields.
fn node(operator: &str, inputs: &[&str], more: &[u8]) -> Vec<u8> {
    let inputs: Vec<u8> = inputs.iter().flat_map(|name| bytes(1, name)).collect();
    bytes(1, [inputs, bytes(4, operator), more.to_vec()].concat())
}

#[test]
fn small_numbers_that_layers_have_learned_become_inputs_so_that_fine_tunes_have_one_graph() {
    let dir = TempDir::new().unwrap();
    let detached = |value: f32, size: f32| {
        let inner = [node("Add", &["x", "inner"], &[]), node("Resize", &["x", "", "both"], &[])].concat();
        let nodes = [
            node("Conv", &["sample", "large", "bias"], &[]),
            node("InstanceNormalization", &["x", "scale", "shift"], &[]),
            node("Mul", &["x", "width"], &[]),
            // sizes and means of images are no layer's
            node("Mul", &["x", "mean"], &[]),
            node("Resize", &["x", "", "sizes"], &[]),
            node("Add", &["x", "both"], &[]),
            node("Conv", &["x", "lone"], &bytes(7, "com.example")),
            node("If", &["condition"], &bytes(5, bytes(6, inner))),
        ];
        let learned = [("large", 300), ("bias", 4), ("scale", 32), ("shift", 32), ("width", 8), ("inner", 16)];
        let kept = [("mean", 3), ("sizes", 4), ("both", 8), ("lone", 8), ("unused", 8)];
        let weights = learned.map(|(name, count)| bytes(5, floats(name, count, value)));
        let constants = kept.map(|(name, count)| bytes(5, floats(name, count, size)));
        let graph = [nodes.concat(), weights.concat(), constants.concat(), bytes(12, port("out"))].concat();
        let path = dir.path().join("model.onnx");
        std::fs::write(&path, [number(1, 8), bytes(7, graph), bytes(8, number(2, 17))].concat()).unwrap();
        let seen = read(&path, "", "").unwrap().files.remove(0);
        let detached = detach(&seen, &[]).unwrap();
        let names: Vec<String> = detached.weights.iter().map(|weight| weight.name.clone()).collect();
        assert_eq!(names, learned.map(|(name, _)| name));
        detached
    };
    assert_eq!(detached(1.0, 2.0), detached(0.5, 2.0), "one graph, whatever was learned");
    assert_ne!(detached(1.0, 2.0).model, detached(1.0, 3.0).model, "what is no weight is the graph's");
}
