//! Layers against plain loops.

use std::collections::BTreeMap;

use engine::{
    Control, ElementType, EngineError, Tensor, Weights,
    graph::{Dim, Emitted, Graph, Provider, StorageTypes, layers},
};

use crate::support::{assert_close, numbers, runtime, weights};

const CHANNELS: usize = 8;
const GROUPS: usize = 2;
const HEADS: usize = 2;
const HEIGHT: usize = 3;
const WIDTH: usize = 5;
const TOKENS: usize = HEIGHT * WIDTH;
const EPS: f32 = 1e-5;

type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn tensors() -> Tensors {
    let shapes: [(&str, &[usize]); 8] = [
        ("conv.weight", &[CHANNELS, 3, 3, 3]),
        ("conv.bias", &[CHANNELS]),
        ("norm.weight", &[CHANNELS]),
        ("norm.bias", &[CHANNELS]),
        ("to_q.weight", &[CHANNELS, CHANNELS]),
        ("to_q.bias", &[CHANNELS]),
        ("to_k.weight", &[CHANNELS, CHANNELS]),
        ("to_v.weight", &[CHANNELS, CHANNELS]),
    ];
    let tensor = |(at, (name, shape)): (usize, &(&str, &[usize]))| {
        let values = numbers(at as u64 + 1, shape.iter().product());
        ((*name).to_owned(), (shape.to_vec(), values))
    };
    shapes.iter().enumerate().map(tensor).collect()
}

fn emit(storage: &dyn StorageTypes) -> Result<Emitted, EngineError> {
    let mut g = Graph::new("layers", Provider::Cpu, storage);
    let dims = [Dim::Free("batch"), Dim::Fixed(3), Dim::Free("height"), Dim::Free("width")];
    let x = g.input("sample", ElementType::F32, &dims);
    let x = layers::conv2d(&mut g, x, "conv", 3, CHANNELS, 3, 1, 1);
    let x = layers::group_norm(&mut g, x, "norm", CHANNELS, GROUPS, EPS);
    let x = layers::silu(&mut g, x);
    let x = layers::reshape(&mut g, x, &[0, CHANNELS as i64, -1]);
    let x = layers::transpose(&mut g, x, &[0, 2, 1]);
    let q = layers::linear(&mut g, x, "to_q", CHANNELS, CHANNELS, true);
    let k = layers::linear(&mut g, x, "to_k", CHANNELS, CHANNELS, false);
    let v = layers::linear(&mut g, x, "to_v", CHANNELS, CHANNELS, false);
    let x = layers::multi_head_attention(&mut g, q, k, v, HEADS, None);
    g.output("out", x);
    g.finish()
}

#[test]
fn emitted_layers_compute_what_plain_loops_compute() {
    let Some(runtime) = runtime() else { return };
    let tensors = tensors();
    let weights = weights(&tensors);
    let session = runtime.session(&emit(&weights).unwrap()).unwrap();
    let sample = numbers(99, 2 * 3 * TOKENS);
    let input = Tensor::f32(&[2, 3, HEIGHT, WIDTH], sample.clone()).unwrap();
    let outputs = session.run(&weights, &[("sample", &input)], &Control::default()).unwrap();
    assert_eq!(outputs[0].shape, [2, TOKENS, CHANNELS]);
    let expected: Vec<f32> = sample.chunks(3 * TOKENS).flat_map(|image| plain(&tensors, image)).collect();
    assert_close(outputs[0].as_f32().unwrap(), &expected, 1e-5);
}

#[test]
fn the_same_graph_is_compiled_once() {
    let Some(runtime) = runtime() else { return };
    let weights = weights(&tensors());
    for _ in 0..3 {
        runtime.session(&emit(&weights).unwrap()).unwrap();
    }
    assert_eq!(runtime.session_count(), 1);
}

#[test]
fn what_does_not_fit_is_named_before_anything_runs() {
    let whole = weights(&tensors());
    let mut fewer = tensors();
    fewer.remove("to_k.weight");
    let missing = emit(&weights(&fewer)).unwrap_err();
    assert!(matches!(missing, EngineError::MissingWeights { count: 1, ref first, .. } if first == "to_k.weight"));
    let mut other = tensors();
    other.insert("norm.bias".to_owned(), (vec![4], vec![0.0; 4]));
    let wrong = emit(&weights(&other)).unwrap_err();
    assert!(matches!(wrong, EngineError::WeightShape { ref found, .. } if *found == [4]));

    let Some(runtime) = runtime() else { return };
    let session = runtime.session(&emit(&whole).unwrap()).unwrap();
    let input = Tensor::zeros(&[1, 3, 4, 4]);
    let run = |weights: &Weights, inputs: &[(&str, &Tensor)]| session.run(weights, inputs, &Control::default());
    assert!(matches!(run(&Weights::new(), &[("sample", &input)]), Err(EngineError::MissingWeights { count: 8, .. })));
    assert!(matches!(run(&weights(&other), &[("sample", &input)]), Err(EngineError::WeightShape { .. })));
    assert!(matches!(run(&whole, &[]), Err(EngineError::Input { .. })));
    assert!(matches!(run(&whole, &[("sample", &input), ("more", &input)]), Err(EngineError::Input { .. })));
    assert!(matches!(run(&whole, &[("sample", &Tensor::zeros(&[1, 4, 4, 4]))]), Err(EngineError::Input { .. })));
    let integers = Tensor::i64(&[1, 3, 1, 1], vec![1; 3]).unwrap();
    assert!(matches!(run(&whole, &[("sample", &integers)]), Err(EngineError::Input { .. })));
    let cancelled = Control::default();
    cancelled.cancel.cancel();
    assert!(matches!(session.run(&whole, &[("sample", &input)], &cancelled), Err(EngineError::Cancelled)));
}

/// One image [3, height, width] through the same layers.
fn plain(tensors: &Tensors, image: &[f32]) -> Vec<f32> {
    let w = |name: &str| tensors[name].1.as_slice();
    let convolved = convolution(image, w("conv.weight"), w("conv.bias"));
    let normal = group_norm(&convolved, w("norm.weight"), w("norm.bias"));
    let active: Vec<f32> = normal.iter().map(|x| x / (1.0 + (-x).exp())).collect();
    let tokens: Vec<f32> = (0..TOKENS * CHANNELS).map(|i| active[(i % CHANNELS) * TOKENS + i / CHANNELS]).collect();
    let zeros = [0.0; CHANNELS];
    let q = linear(&tokens, w("to_q.weight"), w("to_q.bias"));
    let (k, v) = (linear(&tokens, w("to_k.weight"), &zeros), linear(&tokens, w("to_v.weight"), &zeros));
    attention(&q, &k, &v)
}

fn convolution(image: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let pixel = |c: usize, y: isize, x: isize| {
        let inside = (0..HEIGHT as isize).contains(&y) && (0..WIDTH as isize).contains(&x);
        if inside { image[(c * HEIGHT + y as usize) * WIDTH + x as usize] } else { 0.0 }
    };
    let mut out = Vec::new();
    for (o, bias) in bias.iter().enumerate() {
        for at in 0..TOKENS {
            let (y, x) = ((at / WIDTH) as isize, (at % WIDTH) as isize);
            let term = |i: usize| {
                let (c, ky, kx) = (i / 9, (i / 3 % 3) as isize, (i % 3) as isize);
                weight[o * 27 + i] * pixel(c, y + ky - 1, x + kx - 1)
            };
            out.push(bias + (0..27).map(term).sum::<f32>());
        }
    }
    out
}

fn group_norm(x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let size = x.len() / GROUPS;
    let normal = x.chunks(size).flat_map(|group| {
        let mean = group.iter().sum::<f32>() / size as f32;
        let variance = group.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / size as f32;
        group.iter().map(move |x| (x - mean) / (variance + EPS).sqrt()).collect::<Vec<_>>()
    });
    normal.enumerate().map(|(i, x)| x * weight[i / TOKENS] + bias[i / TOKENS]).collect()
}

fn linear(x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let row = |row: &[f32]| -> Vec<f32> {
        let dot = |o: usize| (0..CHANNELS).map(|i| row[i] * weight[o * CHANNELS + i]).sum::<f32>();
        (0..CHANNELS).map(|o| bias[o] + dot(o)).collect()
    };
    x.chunks(CHANNELS).flat_map(row).collect()
}

fn attention(q: &[f32], k: &[f32], v: &[f32]) -> Vec<f32> {
    let size = CHANNELS / HEADS;
    let mut out = vec![0.0; q.len()];
    for head in 0..HEADS {
        let at = |token: usize, i: usize| token * CHANNELS + head * size + i;
        for token in 0..TOKENS {
            let dot = |other: usize| (0..size).map(|i| q[at(token, i)] * k[at(other, i)]).sum::<f32>();
            let scores: Vec<f32> = (0..TOKENS).map(|other| (dot(other) / (size as f32).sqrt()).exp()).collect();
            let sum: f32 = scores.iter().sum();
            for i in 0..size {
                out[at(token, i)] = (0..TOKENS).map(|other| scores[other] / sum * v[at(other, i)]).sum();
            }
        }
    }
    out
}
