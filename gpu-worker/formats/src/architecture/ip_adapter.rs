//! The tensors of IP-Adapters, which have no config: the projections of the image's embedding, of which there are three
//! kinds, and a key and a value for every cross attention of the family's UNet.

use super::table::Table;
use crate::{canonical::Canonical, vocab::Base};

/// Channels of the cross attentions in the order of the UNet's modules: down, up, middle, with how many in a row.
type Row = (u64, u64);
const SD15: &[Row] = &[(320, 2), (640, 2), (1280, 2), (1280, 3), (640, 3), (320, 3), (1280, 1)];
const SDXL: &[Row] = &[(640, 4), (1280, 20), (1280, 30), (640, 6), (1280, 10)];
/// Widths of the embeddings of the image encoders that are used: CLIP-H, CLIP-G, and the last layer of each.
const EMBEDDINGS: [u64; 4] = [1024, 1280, 1664, 768];

/// Its table; none for families and projections that are not known.
pub(super) fn table(base: Base, tensors: &Canonical) -> Option<Table> {
    let (rows, context) = match base {
        Base::Sd15 => (SD15, 768),
        Base::Sd21 => (SD15, 1024),
        Base::Sdxl => (SDXL, 2048),
        _ => return None,
    };
    let mut table = Table::new("IPAdapter");
    projections(&mut table, context, tensors)?;
    let channels = rows.iter().flat_map(|(channels, count)| (0..*count).map(move |_| *channels));
    // self attentions are counted and have no tensors: only odd numbers
    for (number, channels) in channels.enumerate() {
        let path = format!("ip_adapter.{}", number.checked_mul(2)?.checked_add(1)?);
        table.weight(&format!("{path}.to_k_ip"), &[channels, context]);
        table.weight(&format!("{path}.to_v_ip"), &[channels, context]);
    }
    table.finish()
}

fn projections(table: &mut Table, context: u64, tensors: &Canonical) -> Option<()> {
    let shape = |name: &str| tensors.get(&format!("image_proj.{name}")).map(|tensor| tensor.shape.as_slice());
    match (shape("proj.weight"), shape("proj.0.weight"), shape("latents")) {
        (Some([outputs, embedding]), _, _) => {
            let tokens = outputs.checked_div(context).filter(|tokens| (1..=64).contains(tokens))?;
            EMBEDDINGS.contains(embedding).then_some(())?;
            table.linear("image_proj.proj", *embedding, tokens.checked_mul(context)?);
            table.norm("image_proj.norm", context);
        }
        (_, Some([_, embedding]), _) if shape("proj.3.weight").is_some() => {
            EMBEDDINGS.contains(embedding).then_some(())?;
            table.linear("image_proj.proj.0", *embedding, *embedding);
            table.linear("image_proj.proj.2", *embedding, context);
            table.norm("image_proj.proj.3", context);
        }
        (_, _, Some([1, queries, width])) => {
            let embedding = *shape("proj_in.weight")?.get(1)?;
            EMBEDDINGS.contains(&embedding).then_some(())?;
            resampler(table, *queries, *width, [embedding, context])?;
        }
        _ => return None,
    }
    Some(())
}

/// Learned queries that attend to the image's tokens, four layers deep.
fn resampler(table: &mut Table, queries: u64, width: u64, [embedding, context]: [u64; 2]) -> Option<()> {
    let path = "image_proj";
    table.put(format!("{path}.latents"), &[1, queries, width]);
    table.linear(&format!("{path}.proj_in"), embedding, width);
    table.linear(&format!("{path}.proj_out"), width, context);
    table.norm(&format!("{path}.norm_out"), context);
    for layer in 0..4_u64 {
        let path = format!("{path}.layers.{layer}");
        table.norm(&format!("{path}.0.norm1"), width);
        table.norm(&format!("{path}.0.norm2"), width);
        table.weight(&format!("{path}.0.to_q"), &[width, width]);
        table.weight(&format!("{path}.0.to_kv"), &[width.checked_mul(2)?, width]);
        table.weight(&format!("{path}.0.to_out"), &[width, width]);
        table.norm(&format!("{path}.1.0"), width);
        table.weight(&format!("{path}.1.1"), &[width.checked_mul(4)?, width]);
        table.weight(&format!("{path}.1.3"), &[width, width.checked_mul(4)?]);
    }
    Some(())
}
