//! Graphs of a few nodes: what is read of their sizes, and what is refused.

use super::*;
use crate::graph::proto::{DimensionProto, TensorProto, TensorShapeProto, TensorTypeProto, TypeProto};

fn info(name: &str, sides: &[i64]) -> ValueInfoProto {
    // no side is 0: there it is free
    let value = |side: &i64| Some(*side).filter(|side| *side > 0).map(DimensionValue::Value);
    let dim = sides.iter().map(|side| DimensionProto { value: value(side) }).collect();
    let tensor_type = Some(TensorTypeProto { elem_type: 1, shape: Some(TensorShapeProto { dim }) });
    ValueInfoProto { name: name.to_owned(), r#type: Some(TypeProto { tensor_type }) }
}

/// A graph of floats: inputs, nodes (operator, inputs, output), outputs, constants; free sides are 0.
pub(crate) fn graph(
    inputs: &[(&str, &[i64])],
    nodes: &[(&str, &[&str], &str)],
    outputs: &[(&str, &[i64])],
    constants: &[(&str, &[i64])],
) -> UserGraph {
    let node = |(op_type, input, output): &(&str, &[&str], &str)| NodeProto {
        op_type: (*op_type).to_owned(),
        input: input.iter().map(|name| (*name).to_owned()).collect(),
        output: vec![(*output).to_owned()],
        ..NodeProto::default()
    };
    let constant = |(name, dims): &(&str, &[i64])| TensorProto {
        dims: dims.to_vec(),
        data_type: 1,
        name: (*name).to_owned(),
        raw_data: Vec::new(),
    };
    let graph = GraphProto {
        node: nodes.iter().map(node).collect(),
        name: "user".to_owned(),
        initializer: constants.iter().map(constant).collect(),
        input: inputs.iter().map(|(name, sides)| info(name, sides)).collect(),
        output: outputs.iter().map(|(name, sides)| info(name, sides)).collect(),
    };
    let model = ModelProto { ir_version: 8, graph: Some(graph), ..ModelProto::default() };
    UserGraph::read(model.encode_to_vec(), &[], Provider::Cpu).unwrap()
}

#[test]
fn sizes_are_those_of_the_ports_or_of_the_layers_beside_them() {
    let nodes: [(&str, &[&str], &str); 4] = [
        ("Cast", &["sample"], "cast"),
        ("Conv", &["cast", "conv_in"], "hidden"),
        ("Conv", &["hidden", "conv_out"], "wide"),
        ("Cast", &["wide"], "out"),
    ];
    let constants: [(&str, &[i64]); 2] = [("conv_in", &[320, 9, 3, 3]), ("conv_out", &[4, 320, 3, 3])];
    let free = graph(&[("sample", &[0, 0, 0, 0])], &nodes, &[("out", &[0, 0, 0, 0])], &constants);
    assert_eq!((free.channels_in("sample"), free.channels_out("out")), (Some(9), Some(4)));
    let fixed = graph(&[("sample", &[2, 4, 0, 0])], &nodes[..1], &[("cast", &[])], &[]);
    assert_eq!((fixed.channels_in("sample"), fixed.channels_out("cast")), (Some(4), None));
    let text = [("Reshape", &["ids", "shape"][..], "flat"), ("Gather", &["table", "flat"], "states")];
    let tables: [(&str, &[i64]); 2] = [("table", &[49_408, 768]), ("shape", &[1])];
    let text = graph(&[("ids", &[0, 77])], &text, &[("states", &[])], &tables);
    assert_eq!(text.first_layer("ids"), Some(&[49_408, 768][..]));
}

#[test]
fn inputs_that_nobody_gives_are_refused_by_name() {
    let graph = graph(&[("sample", &[0]), ("timestep_cond", &[0])], &[], &[("sample", &[0])], &[]);
    assert!(graph.must_take(&["sample", "timestep_cond"]).is_ok());
    for (known, named) in [(&["sample"][..], "timestep_cond"), (&["ids", "sample", "timestep_cond"], "ids")] {
        let refused = graph.must_take(known).unwrap_err();
        assert!(matches!(&refused, EngineError::Config { field, .. } if field == named), "{refused}");
    }
}
