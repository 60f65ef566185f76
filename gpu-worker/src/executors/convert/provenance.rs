//! What a converted model says of where it comes from: in the header of a file, in `modelyard.json` of a folder.

use std::collections::BTreeMap;

use model_formats::write::{JOB_KEY, MADE_FROM_KEY};
use serde_json::{Value, json};
use shared::{ids::JobId, job::ConvertArgs};

use super::{bake::Bake, source::Source};

// what is written here and found by readers of files is what the API looks for in the catalogue
const _: () = assert!(same(MADE_FROM_KEY.as_bytes(), shared::wire::MADE_FROM_KEY.as_bytes()));

const fn same(one: &[u8], other: &[u8]) -> bool {
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}

/// Names of models that were put together, as ModelSpec has it.
const MERGED_FROM: &str = "modelspec.merged_from";

/// The fields of its headers.
pub(super) fn fields(
    job: JobId,
    args: &ConvertArgs,
    (base, vae): (&Source, Option<&Source>),
    bake: Option<&Bake>,
) -> BTreeMap<String, String> {
    let made_from = json!({
        "by": concat!("modelyard ", env!("CARGO_PKG_VERSION")),
        "models": models(base, vae, bake),
        "layout": args.layout, "dtype": args.dtype, "vae_dtype": args.vae_dtype, "prune": args.prune, "use_ema": args.use_ema,
    });
    let mut fields =
        BTreeMap::from([(JOB_KEY.to_owned(), job.to_string()), (MADE_FROM_KEY.to_owned(), made_from.to_string())]);
    let others = vae.map(|vae| vae.wanted.model.name.clone()).into_iter();
    let others: Vec<String> = others.chain(bake.into_iter().flat_map(Bake::names)).collect();
    if !others.is_empty() {
        fields.insert(MERGED_FROM.to_owned(), [vec![base.wanted.model.name.clone()], others].concat().join(", "));
    }
    fields
}

fn models(base: &Source, vae: Option<&Source>, bake: Option<&Bake>) -> Vec<Value> {
    let of = |role: &str, source: &Source| {
        let model = &source.wanted.model;
        json!({
            "as": role, "name": model.name, "sha256": model.sha256, "digest": model.content_digest,
            "components": source.digests(),
        })
    };
    let vae = vae.map(|vae| of("vae", vae));
    let loras = bake.into_iter().flat_map(Bake::entries);
    [of("base", base)].into_iter().chain(vae).chain(loras).collect()
}
