//! Conversions hold a few chunks whatever the size of the model, and one tensor where something has it whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    fs::File,
    io::Write,
    ops::ControlFlow,
    path::Path,
};

use model_formats::{
    ComponentKind, Dtype,
    convert::{Change, Job, Layout, Model, Plan, Precision, Request, look, write},
    inspect,
    write::Place,
};

use super::allocator;

/// Chunks that are read, cast, written and read back, beside headers and plans.
const CHUNKS_BYTES: usize = 20 << 20;
/// One of the large tensors: more than all chunks.
const LARGE: [u64; 4] = [3072, 2048, 1, 1];
const LARGE_BYTES: usize = 24 << 20;

/// Four large matrices of a VAE, all zeros: the file takes no room.
fn vae(path: &Path) {
    let mut tensors: Vec<(String, Vec<u64>)> = vec![
        ("encoder.conv_in.weight".into(), vec![16, 3, 3, 3]),
        ("encoder.conv_out.weight".into(), vec![8, 16, 3, 3]),
        ("decoder.conv_in.weight".into(), vec![16, 4, 3, 3]),
        ("decoder.conv_out.weight".into(), vec![3, 16, 3, 3]),
        ("decoder.conv_out.bias".into(), vec![3]),
        ("quant_conv.weight".into(), vec![8, 8, 1, 1]),
        ("post_quant_conv.weight".into(), vec![4, 4, 1, 1]),
        ("decoder.mid.block_1.conv1.weight".into(), vec![16, 16, 3, 3]),
    ];
    let large = ["q", "k", "v", "proj_out"];
    tensors.extend(large.map(|name| (format!("decoder.mid.attn_1.{name}.weight"), LARGE.to_vec())));
    let (mut header, mut end) = (String::from("{"), 0);
    for (name, shape) in &tensors {
        let begin = end;
        end += 4 * shape.iter().product::<u64>();
        let comma = if begin == 0 { "" } else { "," };
        header.push_str(&format!(
            r#"{comma}"{name}":{{"dtype":"F32","shape":{shape:?},"data_offsets":[{begin},{end}]}}"#
        ));
    }
    header.push('}');
    let mut file = File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len(8 + header.len() as u64 + end).unwrap();
}

/// Has the matrices whole.
struct Whole;

impl Change for Whole {
    fn touches(&self, _: ComponentKind, tensor: &str) -> bool {
        tensor.contains(".attn_1.")
    }

    fn apply(
        &self,
        _: ComponentKind,
        _: &str,
        (_, _, bytes): (Dtype, &[u64], Vec<u8>),
    ) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
        assert_eq!(bytes.len(), LARGE_BYTES);
        Ok(bytes)
    }
}

/// Converts to 16 bits; looks at the values before, as a job does.
fn converted(from: &Path, to: &str, change: Option<&dyn Change>) {
    let mut go = |_| ControlFlow::Continue(());
    let model = Model::open(from, inspect(from).unwrap()).unwrap();
    let request = Request {
        layout: Layout::Same,
        precision: Precision::Fp16,
        vae_precision: None,
        kept: BTreeSet::new(),
        prune: true,
        use_ema: false,
        changes: false,
        title: "t".into(),
        metadata: BTreeMap::new(),
        tokenizer: None,
    };
    let plan = Plan::new(&model, None, &request).unwrap();
    look(&plan, change, false, &mut go).unwrap();
    let place = Place::open(from.parent().unwrap(), to).unwrap();
    let job = Job {
        plan: &plan,
        place: &place,
        job: "job".into(),
        change,
        changes: String::new(),
        overwrite: false,
        allow_nan: false,
        keep: &|| false,
        stretch_bytes: None,
    };
    let made = write(&job, &mut go).unwrap();
    assert!(made.bytes > 2 * LARGE_BYTES as u64 && made.bytes < 3 * LARGE_BYTES as u64, "half of it: {made:?}");
}

pub(crate) fn conversions(folder: &Path) {
    let path = folder.join("v.safetensors");
    vae(&path);
    let peak = allocator::peak(|| converted(&path, "half.safetensors", None));
    assert!(peak <= CHUNKS_BYTES, "chunks alone: {peak} bytes at most");
    let peak = allocator::peak(|| converted(&path, "changed.safetensors", Some(&Whole)));
    assert!(peak > LARGE_BYTES, "a tensor was held: {peak}");
    assert!(
        peak <= CHUNKS_BYTES + 4 * LARGE_BYTES,
        "one tensor, as it is read, changed and cast: {peak} bytes at most"
    );
}
