//! Files for the unit tests: real safetensors headers over sparse data.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

/// A tensor's name and shape.
pub(crate) type Spec<'a> = (&'a str, &'a [u64]);

/// A file whose header is exactly `header` and whose data has `data_bytes` (sparse) bytes.
pub(crate) fn raw(path: &Path, header: &[u8], data_bytes: u64) -> PathBuf {
    let mut file = File::create(path).unwrap();
    file.write_all(&u64::try_from(header.len()).unwrap().to_le_bytes()).unwrap();
    file.write_all(header).unwrap();
    file.set_len(8 + u64::try_from(header.len()).unwrap() + data_bytes).unwrap();
    path.to_owned()
}

/// A valid file with these tensors in `dtype` (two or four bytes an element) and this metadata.
pub(crate) fn model_in(path: &Path, dtype: &str, tensors: &[Spec<'_>], metadata: &[(&str, &str)]) -> PathBuf {
    let width = if dtype == "F32" { 4 } else { 2 };
    let mut header = Map::new();
    if !metadata.is_empty() {
        let map: Map<String, Value> = metadata.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        header.insert("__metadata__".to_owned(), Value::Object(map));
    }
    let mut at = 0;
    for (name, shape) in tensors {
        let bytes = shape.iter().product::<u64>() * width;
        let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": [at, at + bytes] });
        assert!(header.insert((*name).to_owned(), entry).is_none(), "{name} is there twice");
        at += bytes;
    }
    raw(path, &serde_json::to_vec(&header).unwrap(), at)
}

/// [`model_in`] in F16 without metadata.
pub(crate) fn model(path: &Path, tensors: &[Spec<'_>]) -> PathBuf {
    model_in(path, "F16", tensors, &[])
}

/// Writes a JSON document, creating its folder.
pub(crate) fn document(path: &Path, value: &Value) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, serde_json::to_vec(value).unwrap()).unwrap();
}

/// A reduced UNet in LDM names below `prefix`: `attention` lists the blocks with cross attention,
/// `downs` those that end a level.
pub(crate) fn ldm_unet(prefix: &str, attention: &[u64], downs: &[u64], shape: &UnetShape) -> Vec<(String, Vec<u64>)> {
    let mut tensors = vec![
        ("input_blocks.0.0.weight".to_owned(), vec![8, shape.input, 3, 3]),
        ("time_embed.0.weight".to_owned(), vec![32, 8]),
    ];
    for block in attention {
        let at = format!("input_blocks.{block}.1");
        tensors.push((format!("{at}.transformer_blocks.0.attn2.to_k.weight"), vec![8, shape.context]));
        let proj = if shape.linear { vec![8, 8] } else { vec![8, 8, 1, 1] };
        tensors.push((format!("{at}.proj_in.weight"), proj));
    }
    tensors.extend(downs.iter().map(|block| (format!("input_blocks.{block}.0.op.weight"), vec![8, 8, 3, 3])));
    tensors.extend(shape.label.map(|width| ("label_emb.0.0.weight".to_owned(), vec![32, width])));
    tensors.into_iter().map(|(name, shape)| (format!("{prefix}{name}"), shape)).collect()
}

/// Widths of a reduced UNet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UnetShape {
    pub(crate) input: u64,
    pub(crate) context: u64,
    pub(crate) linear: bool,
    pub(crate) label: Option<u64>,
}

/// The reduced UNets of the four families.
pub(crate) fn family_unet(prefix: &str, family: &str) -> Vec<(String, Vec<u64>)> {
    let shape = UnetShape { input: 4, context: 32, linear: true, label: None };
    let level_0 = [1, 2, 4, 5, 7, 8];
    match family {
        "sd15" => ldm_unet(prefix, &level_0, &[3, 6, 9], &UnetShape { linear: false, ..shape }),
        "sd21" => ldm_unet(prefix, &level_0, &[3, 6, 9], &shape),
        "sdxl" => ldm_unet(prefix, &[4, 5, 7, 8], &[3, 6], &UnetShape { label: Some(44), ..shape }),
        "sdxl-refiner" => ldm_unet(prefix, &[4, 5, 7, 8], &[3, 6, 9], &UnetShape { label: Some(40), ..shape }),
        other => panic!("no reduced UNet for {other}"),
    }
}

/// Borrowed specs of owned ones.
pub(crate) fn specs(tensors: &[(String, Vec<u64>)]) -> Vec<Spec<'_>> {
    tensors.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())).collect()
}
