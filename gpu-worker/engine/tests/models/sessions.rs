//! Sessions: how many there are, what is held during a run and after it, and how a run is stopped.

use std::{collections::BTreeMap, fs, sync::Arc, thread, time::Duration};

use engine::{
    Control, ElementType, EngineError, Runtime, RuntimeOptions, Tensor, TensorData, Weights,
    graph::{Dim, Emitted, Graph, Provider, Side, UserGraph, UserWeight, layers},
    weights::{Memory, Weight},
};

use crate::support::{golden_path, library, runtime, weights};

/// `sample · weight` [2, 2], `factor` in the graph: another graph for another factor.
fn product(weights: &Weights, factor: f32) -> Emitted {
    let mut g = Graph::new("product", Provider::Cpu, weights);
    let x = g.input("sample", ElementType::F32, &[Dim::Free("rows"), Dim::Fixed(2)]);
    let x = layers::linear(&mut g, x, "layer", 2, 2, false);
    let factor = g.scalar(factor);
    let x = layers::mul(&mut g, x, factor);
    g.output("out", x);
    g.finish().unwrap()
}

fn matrix(values: [f32; 4]) -> Weights {
    weights(&BTreeMap::from([("layer.weight".to_owned(), (vec![2, 2], values.to_vec()))]))
}

fn limited(max_sessions: usize) -> Option<Runtime> {
    let Some(library) = library() else { return runtime() };
    Some(Runtime::open(RuntimeOptions { max_sessions, threads: 1, ..RuntimeOptions::cpu(library) }).unwrap())
}

#[test]
fn sessions_are_given_up_beyond_the_cap_and_compiled_again_when_they_run() {
    let Some(runtime) = limited(2) else { return };
    let weights = matrix([1.0, 0.0, 0.0, 1.0]);
    let input = Tensor::f32(&[1, 2], vec![3.0, 4.0]).unwrap();
    let sessions: Vec<_> =
        (1..=3_u8).map(|factor| runtime.session(&product(&weights, f32::from(factor))).unwrap()).collect();
    assert_eq!(runtime.session_count(), 2);
    for (session, factor) in sessions.iter().zip(1_u8..) {
        let outputs = session.run(&weights, &[("sample", &input)], &Control::default()).unwrap();
        assert_eq!(outputs[0].as_f32().unwrap(), [3.0 * f32::from(factor), 4.0 * f32::from(factor)]);
        assert_eq!(runtime.session_count(), 2);
    }
}

#[test]
fn idle_sessions_are_given_up_and_whoever_holds_them_goes_on() {
    let Some(runtime) = limited(8) else { return };
    let weights = matrix([1.0, 2.0, 3.0, 4.0]);
    let input = Tensor::f32(&[1, 2], vec![1.0, 1.0]).unwrap();
    let session = runtime.session(&product(&weights, 1.0)).unwrap();
    runtime.session(&product(&weights, 2.0)).unwrap();
    assert_eq!(runtime.release_idle(Duration::from_secs(3600)), 0);
    assert_eq!(runtime.release_idle(Duration::ZERO), 2);
    assert_eq!(runtime.session_count(), 0);
    let outputs = session.run(&weights, &[("sample", &input)], &Control::default()).unwrap();
    assert_eq!(outputs[0].as_f32().unwrap(), [3.0, 7.0]);
    assert_eq!(runtime.session_count(), 1);
}

#[test]
fn weights_of_one_architecture_share_a_session_and_are_held_only_while_it_runs() {
    let Some(runtime) = limited(8) else { return };
    let input = Tensor::f32(&[1, 2], vec![1.0, 1.0]).unwrap();
    for number in 0..20_u8 {
        let weights = matrix([f32::from(number), 0.0, 0.0, 1.0]);
        let session = runtime.session(&product(&weights, 1.0)).unwrap();
        let outputs = session.run(&weights, &[("sample", &input)], &Control::default()).unwrap();
        assert_eq!(outputs[0].as_f32().unwrap(), [f32::from(number), 1.0]);
        assert_eq!(weights.get("layer.weight").unwrap().memory.holders(), 1);
    }
    assert_eq!(runtime.session_count(), 1);
}

/// Half a minute of convolutions.
fn long(weights: &Weights) -> Emitted {
    let mut g = Graph::new("long", Provider::Cpu, weights);
    let mut x = g.image_input("sample", 64);
    for _ in 0..400 {
        x = layers::conv2d(&mut g, x, "conv", 64, 64, 3, 1, 1);
    }
    g.output("out", x);
    g.finish().unwrap()
}

#[test]
fn a_run_is_stopped_from_another_thread() {
    let Some(runtime) = limited(8) else { return };
    let shape = vec![64, 64, 3, 3];
    let weights = weights(&BTreeMap::from([
        ("conv.weight".to_owned(), (shape, vec![0.001; 64 * 64 * 9])),
        ("conv.bias".to_owned(), (vec![64], vec![0.0; 64])),
    ]));
    let session = runtime.session(&long(&weights)).unwrap();
    let control = Control::default();
    let cancel = control.cancel.clone();
    let running =
        thread::spawn(move || session.run(&weights, &[("sample", &Tensor::zeros(&[1, 64, 256, 256]))], &control));
    while !cancel.is_running() {
        assert!(!running.is_finished(), "the run ended before it could be stopped");
        thread::yield_now();
    }
    cancel.cancel();
    assert!(matches!(running.join().unwrap(), Err(EngineError::Cancelled)));
    assert!(!cancel.is_running());
}

#[test]
fn bytes_that_kernels_cannot_read_are_refused() {
    let Some(runtime) = limited(8) else { return };
    let weights = matrix([0.0; 4]);
    let session = runtime.session(&product(&weights, 1.0)).unwrap();
    let bytes = vec![0_u8; 64];
    let odd = (0..4).find(|at| !(bytes.as_ptr().addr() + at).is_multiple_of(4)).unwrap();
    let memory = Memory::host(Arc::new(bytes), odd..odd + 16).unwrap();
    let mut crooked = Weights::new();
    crooked.insert("layer.weight", Weight { dtype: ElementType::F32, shape: vec![2, 2], memory }).unwrap();
    let refused = session.run(&crooked, &[("sample", &Tensor::zeros(&[1, 2]))], &Control::default());
    assert!(matches!(refused, Err(EngineError::WeightMemory { .. })));
}

#[test]
fn a_users_graph_runs_as_it_is() {
    let Some(runtime) = runtime() else { return };
    let weight = UserWeight { name: "weight".to_owned(), shape: vec![3, 2], dtype: ElementType::F32 };
    let model = fs::read(golden_path("user.onnx")).unwrap();
    let graph = UserGraph::read(model.clone(), std::slice::from_ref(&weight), Provider::Cpu).unwrap();
    let session = runtime.session(graph.emitted()).unwrap();
    let (inputs, outputs) = (session.inputs(), session.outputs());
    assert_eq!((inputs[0].name.as_str(), inputs[0].dtype), ("x", ElementType::F32));
    assert_eq!(inputs[0].dims, [Side::Free("rows".to_owned()), Side::Fixed(3)]);
    assert_eq!(outputs.iter().map(|port| port.name.as_str()).collect::<Vec<_>>(), ["y", "best"]);
    let x = Tensor::f32(&[2, 3], vec![1.0, 0.0, 0.0, 0.0, 1.0, 1.0]).unwrap();
    let values = vec![1.0, -1.0, 2.0, 0.5, -3.0, 4.0];
    let weights = weights(&[("weight".to_owned(), (vec![3, 2], values))].into());
    let run = |x: &Tensor| session.run(&weights, &[("x", x)], &Control::default());
    let results = run(&x).unwrap();
    assert_eq!(results[0].as_f32().unwrap(), [1.5, 0.0, 0.0, 4.0]);
    assert_eq!(results[1].data, TensorData::I64(vec![0, 1]));
    assert!(matches!(run(&Tensor::zeros(&[2, 4])), Err(EngineError::Input { .. })));
    let again = UserGraph::read(model, &[weight], Provider::Cpu).unwrap();
    assert!(Arc::ptr_eq(&session, &runtime.session(again.emitted()).unwrap()));
}

#[test]
fn bytes_that_are_no_graph_are_a_typed_error() {
    for bytes in [&b"no graph"[..], &[], &[0x08, 0x09]] {
        let refused = UserGraph::read(bytes.to_vec(), &[], Provider::Cpu);
        assert!(matches!(refused, Err(EngineError::Config { .. })), "{bytes:?}");
    }
}
