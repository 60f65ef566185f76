//! Where a text encoder's tokens come from: its model's tokenizer files, or the vocabulary that ships with us.

use std::path::Path;

use model_formats::{FileFacts, Inspection};

use crate::runner::TokenizerSource;

/// The tokenizer of the encoder of this kind, in a model of this family.
pub fn find(inspection: &Inspection, kind: &str, base: Option<&str>) -> TokenizerSource {
    let number = kind.strip_prefix("text_encoder").unwrap_or_default();
    let below = format!("tokenizer{number}/");
    // a folder of one component holds the files beside its weights
    let folder = folder(inspection, &below).or_else(|| folder(inspection, ""));
    folder.map_or_else(
        || TokenizerSource::Shipped { pads_with_zero: kind == "text_encoder_2" || base == Some("sd21") },
        |folder| TokenizerSource::Folder { path: folder.to_path_buf() },
    )
}

/// The folder whose files make a tokenizer, as the names below `prefix` tell.
fn folder<'i>(inspection: &'i Inspection, prefix: &str) -> Option<&'i Path> {
    let find = |name: &str| -> Option<&'i FileFacts> {
        inspection.files.iter().find(|file| file.rel_path.strip_prefix(prefix) == Some(name))
    };
    let file = find("tokenizer.json").or_else(|| find("merges.txt").and_then(|_| find("vocab.json")))?;
    file.path.parent()
}

#[cfg(test)]
mod tests {
    use model_formats::{Base, Format, ModelType};

    use super::*;

    fn inspection(paths: &[&str]) -> Inspection {
        let file = |path: &&str| FileFacts {
            path: Path::new("/models/m").join(path),
            rel_path: (*path).to_owned(),
            size: 1,
            mtime_ns: 0,
            inode: 1,
            dev: 1,
        };
        Inspection {
            name: "m".into(),
            model_type: ModelType::Checkpoint,
            base: Base::Unknown,
            corrected: None,
            format: Format::Diffusers,
            variant: None,
            prediction: None,
            reason: None,
            evidence: Vec::new(),
            metadata: serde_json::Map::new(),
            files: paths.iter().map(file).collect(),
            components: Vec::new(),
            size_bytes: 1,
        }
    }

    #[test]
    fn each_encoder_has_its_own_folder_and_what_is_missing_ships_with_us() {
        let pipeline = inspection(&["tokenizer/vocab.json", "tokenizer/merges.txt", "tokenizer_2/vocab.json"]);
        let path = TokenizerSource::Folder { path: "/models/m/tokenizer".into() };
        assert_eq!(find(&pipeline, "text_encoder", Some("sdxl")), path);
        let shipped = TokenizerSource::Shipped { pads_with_zero: true };
        assert_eq!(find(&pipeline, "text_encoder_2", Some("sdxl")), shipped, "merges are missing");
        let alone = inspection(&["model.safetensors", "tokenizer.json"]);
        assert_eq!(find(&alone, "text_encoder", None), TokenizerSource::Folder { path: "/models/m".into() });
        let single = inspection(&[""]);
        let plain = TokenizerSource::Shipped { pads_with_zero: false };
        assert_eq!(find(&single, "text_encoder", Some("sd15")), plain);
        assert_eq!(find(&single, "text_encoder", Some("sd21")), shipped);
    }
}
