//! What stands beside a LoRA's factors: in the file's own metadata as diffusers writes it, or in PEFT's file in the same folder.
//! What is there and cannot be read is an error where factors are scaled by it, because they would be scaled otherwise than they were
//! trained. Where every module has an `alpha` of its own, which goes before all settings, it is told and nothing else.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use engine::lora::{self, AdapterDocument, AdapterSettings, ScaledBeside};
use model_formats::Inspection;
use serde_json::Value;
use shared::error::{Classify, ErrorCode, chain};

/// Longest file of an adapter's settings.
const LONGEST_BYTES: u64 = 1 << 20;
/// Components that have adapters of their own; without a name where diffusers saved the adapter of a lone model.
const ADAPTED: [&str; 6] = ["unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3", ""];
/// The file beside `adapter_model.safetensors`.
const BESIDE: &str = "adapter_config.json";

/// What stands beside the factors of a LoRA.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Settings {
    /// By component, or those of all under the empty name; empty where nothing is said.
    pub of: BTreeMap<String, AdapterSettings>,
    /// What of it was not read, and why no sum needs it.
    pub unread: Vec<String>,
}

/// Those of one component as they were found.
type Found = Result<Said, Unread>;

/// Those of one component that are read.
#[derive(Debug)]
struct Said {
    settings: AdapterSettings,
    /// Why the ranks of LoKr are not among them.
    ranks: Option<SettingsError>,
}

/// Those of one component that cannot be read.
#[derive(Debug)]
struct Unread {
    error: SettingsError,
    /// They say all the same that products are transposed.
    is_transposed: bool,
}

/// Settings that are there and cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The system did not give the file.
    #[error("`{path}` cannot be read")]
    Unreadable {
        /// The file.
        path: String,
        /// The answer.
        #[source]
        source: std::io::Error,
    },
    /// The file is no text.
    #[error("`{path}` is not UTF-8, as JSON is; without it the scale of the factors is not known")]
    NoText {
        /// The file.
        path: String,
    },
    /// They are longer than what is kept.
    #[error(
        "`{place}` has {bytes} bytes, more than are read of an adapter's settings; without them its scale is not known"
    )]
    TooLong {
        /// The file, or the key of the header's metadata.
        place: String,
        /// Its bytes.
        bytes: u64,
    },
    /// They say what nobody can apply.
    #[error("`{place}` does not say how the factors are scaled")]
    Wrong {
        /// The file, or the key of the header's metadata.
        place: String,
        /// What is wrong.
        #[source]
        source: lora::SettingsError,
    },
}

impl Classify for SettingsError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Unreadable { .. } => ErrorCode::Unavailable,
            Self::TooLong { .. }
            | Self::Wrong { source: lora::SettingsError::Pattern { .. } | lora::SettingsError::Kind { .. }, .. } => {
                ErrorCode::Unsupported
            }
            Self::NoText { .. } | Self::Wrong { .. } => ErrorCode::Corrupt,
        }
    }
}

/// The settings of a LoRA.
///
/// # Errors
/// [`SettingsError`] where a module without an `alpha` of its own is scaled by what cannot be read.
pub fn settings(inspection: &Inspection) -> Result<Settings, SettingsError> {
    let names = inspection.components.iter().flat_map(|part| &part.tensors).map(|tensor| tensor.name.as_str());
    let scaled = lora::scaled_beside(names);
    let mut found = match found(inspection) {
        Err(error) if scaled.is_empty() => {
            return Ok(Settings { unread: vec![unneeded(&error)], ..Settings::default() });
        }
        found => found?,
    };
    for ScaledBeside { places, needs_rank } in scaled.values() {
        let of = places.iter().find(|place| found.contains_key(**place)).copied().unwrap_or_default();
        let missed = match found.get_mut(of) {
            Some(Ok(said)) if *needs_rank => said.ranks.take(),
            Some(Err(_)) => found.remove(of).and_then(Result::err).map(|unread| unread.error),
            _ => None,
        };
        missed.map_or(Ok(()), Err)?;
    }
    let mut settings = Settings::default();
    for (component, said) in found {
        match said {
            Ok(Said { settings: said, ranks }) => {
                settings.of.insert(component, said);
                let unneeded = |error| format!("{}; no sum needs it, as factors show every rank", chain(&error));
                settings.unread.extend(ranks.map(unneeded));
            }
            Err(unread) => {
                settings.unread.push(unneeded(&unread.error));
                if unread.is_transposed {
                    settings.of.insert(component, AdapterSettings::transposed());
                }
            }
        }
    }
    Ok(settings)
}

fn unneeded(error: &SettingsError) -> String {
    format!("{}; no sum needs it, as every module that it is for has an `alpha` of its own", chain(error))
}

fn found(inspection: &Inspection) -> Result<BTreeMap<String, Found>, SettingsError> {
    let key = model_formats::ADAPTER_METADATA_KEY;
    if let Some(bytes) = left_out(inspection, key) {
        return Err(SettingsError::TooLong { place: key.to_owned(), bytes });
    }
    match inspection.metadata.get(key).and_then(Value::as_str) {
        Some(text) => read(key, text, &ADAPTED),
        None => beside(inspection),
    }
}

/// Bytes of a value of the header that was too long to be kept.
fn left_out(inspection: &Inspection, key: &str) -> Option<u64> {
    let left_out = inspection.metadata.get("facts")?.get("omitted_metadata")?.as_array()?;
    left_out.iter().find(|one| one["key"] == key)?["bytes"].as_u64()
}

/// PEFT's file, where the LoRA has the name that PEFT gives it.
fn beside(inspection: &Inspection) -> Result<BTreeMap<String, Found>, SettingsError> {
    let file = inspection.files.first().map(|file| Path::new(&file.path));
    let peft = file.filter(|file| file.file_stem().is_some_and(|stem| stem == "adapter_model"));
    let Some(path) = peft.and_then(Path::parent).map(|folder| folder.join(BESIDE)) else { return Ok(BTreeMap::new()) };
    match text(&path)? {
        Some(text) => read(&path.display().to_string(), &text, &[""]),
        None => Ok(BTreeMap::new()),
    }
}

/// The file's text; none where there is no file.
fn text(path: &PathBuf) -> Result<Option<String>, SettingsError> {
    let place = path.display().to_string();
    let unreadable = |source| SettingsError::Unreadable { path: place.clone(), source };
    let file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(unreadable)?,
    };
    let bytes = file.metadata().map_err(unreadable)?.len();
    if bytes > LONGEST_BYTES {
        return Err(SettingsError::TooLong { place, bytes });
    }
    match std::io::read_to_string(file.take(LONGEST_BYTES)) {
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => Err(SettingsError::NoText { path: place }),
        read => read.map(Some).map_err(unreadable),
    }
}

fn read(place: &str, text: &str, components: &[&str]) -> Result<BTreeMap<String, Found>, SettingsError> {
    let wrong = |source| SettingsError::Wrong { place: place.to_owned(), source };
    let document = AdapterDocument::parse(text).map_err(wrong)?;
    let of = |component: &&str| {
        let said = document.of(component).transpose()?;
        let unread = |source| match document.without_ranks(component) {
            Ok(Some(settings)) => Ok(Said { settings, ranks: Some(wrong(source)) }),
            _ => Err(Unread { error: wrong(source), is_transposed: document.is_transposed(component) }),
        };
        Some(((*component).to_owned(), said.map(|settings| Said { settings, ranks: None }).or_else(unread)))
    };
    Ok(components.iter().filter_map(of).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::{Map, json};
    use tempfile::TempDir;

    use super::*;

    /// The settings of a LoRA file of this name with this metadata, and perhaps PEFT's file beside it.
    fn found(
        name: &str,
        told: &[(&str, String)],
        beside: Option<&str>,
    ) -> Result<BTreeMap<String, AdapterSettings>, SettingsError> {
        let found = read(name, told, beside, &[])?;
        assert_eq!(found.unread, Vec::<String>::new());
        Ok(found.of)
    }

    /// The same of a file that has more tensors of a single number.
    fn read(
        name: &str,
        told: &[(&str, String)],
        beside: Option<&str>,
        more: &[&str],
    ) -> Result<Settings, SettingsError> {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join(name);
        let factor =
            |shape: [u64; 2], from: u64| json!({ "dtype": "F32", "shape": shape, "data_offsets": [from, from + 32] });
        let stem = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q";
        let mut header = Map::new();
        header.insert("__metadata__".into(), told.iter().cloned().collect());
        header.insert(format!("{stem}.lora_A.weight"), factor([2, 4], 0));
        header.insert(format!("{stem}.lora_B.weight"), factor([4, 2], 32));
        let mut data = vec![0; 64];
        for name in more {
            let offsets = [data.len(), data.len() + 4];
            header.insert((*name).to_owned(), json!({ "dtype": "F32", "shape": [1], "data_offsets": offsets }));
            data.extend(1_f32.to_le_bytes());
        }
        let header = Value::Object(header).to_string();
        let length = (header.len() as u64).to_le_bytes();
        fs::write(&path, [&length[..], header.as_bytes(), &data].concat()).unwrap();
        if let Some(text) = beside {
            fs::write(folder.path().join(BESIDE), text).unwrap();
        }
        settings(&model_formats::inspect(&path).unwrap())
    }

    const KEY: &str = model_formats::ADAPTER_METADATA_KEY;

    #[test]
    fn the_header_and_pefts_file_say_how_factors_are_scaled() {
        let told = r#"{"unet.lora_alpha": 8, "unet.r": 4, "text_encoder.lora_alpha": 2, "text_encoder.r": 4}"#;
        let header = found("any.safetensors", &[(KEY, told.to_owned())], None).unwrap();
        assert_eq!(header.keys().collect::<Vec<_>>(), ["text_encoder", "unet"]);
        assert_eq!((header["unet"].scale("a", 4), header["text_encoder"].scale("a", 4)), (2.0, 0.5));
        let file = r#"{"lora_alpha": 16, "r": 4, "alpha_pattern": {"to_q": 4}, "use_rslora": true}"#;
        let beside = found("adapter_model.safetensors", &[], Some(file)).unwrap();
        assert_eq!((beside[""].scale("a", 4), beside[""].scale("a.to_q", 4)), (8.0, 2.0));
        // as diffusers writes them for a model on its own
        let lone = found("any.safetensors", &[(KEY, file.to_owned())], None).unwrap();
        assert_eq!(lone.keys().collect::<Vec<_>>(), [""]);
        assert_eq!((lone[""].scale("a", 4), lone[""].scale("a.to_q", 4)), (8.0, 2.0));
        // another name is not PEFT's, and without a file there is nothing to say
        assert!(found("other.safetensors", &[], Some(file)).unwrap().is_empty());
        assert!(found("adapter_model.safetensors", &[], None).unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_an_error_and_not_a_scale_of_one() {
        for (told, code) in [
            ("{", ErrorCode::Corrupt),
            (r#"{"unet.lora_alpha": "eight"}"#, ErrorCode::Corrupt),
            (r#"{"unet.alpha_pattern": {"to_[qk]": 1}}"#, ErrorCode::Unsupported),
            (r#"{"unet.peft_type": "ADALORA", "unet.lora_alpha": 8}"#, ErrorCode::Unsupported),
        ] {
            let wrong = found("any.safetensors", &[(KEY, told.to_owned())], None).unwrap_err();
            assert!(matches!(&wrong, SettingsError::Wrong { place, .. } if place == KEY), "{told}: {wrong:?}");
            assert_eq!(wrong.code(), code, "{told}");
        }
        let wrong = found("adapter_model.safetensors", &[], Some("no")).unwrap_err();
        assert!(matches!(&wrong, SettingsError::Wrong { place, .. } if place.ends_with(BESIDE)), "{wrong:?}");
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join(BESIDE), [0xFF, b'{', b'}']).unwrap();
        let wrong = text(&folder.path().join(BESIDE)).unwrap_err();
        assert!(matches!(wrong, SettingsError::NoText { .. }) && wrong.code() == ErrorCode::Corrupt, "{wrong:?}");
        let long = " ".repeat(usize::try_from(LONGEST_BYTES).unwrap() + 1);
        let wrong = found("adapter_model.safetensors", &[], Some(&long)).unwrap_err();
        assert!(matches!(&wrong, SettingsError::TooLong { place, .. } if place.ends_with(BESIDE)), "{wrong:?}");
    }

    /// What cannot be read is told and no error where it scales nothing: every module that it is for has its own `alpha`.
    #[test]
    fn what_scales_nothing_need_not_be_read() {
        const ALPHA: &str = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.alpha";
        let all = |told: &[(&str, String)], beside: Option<&str>, more: &[&str]| {
            read("adapter_model.safetensors", told, beside, more)
        };
        for text in ["no", r#"{"lora_alpha": "eight"}"#, r#"{"lora_alpha": 8, "alpha_pattern": {"to_[qk]": 1}}"#] {
            let read = all(&[], Some(text), &[ALPHA]).unwrap();
            let [unread] = read.unread.as_slice() else { panic!("{text}: {:?}", read.unread) };
            assert!(unread.contains(BESIDE) && unread.contains("an `alpha` of its own"), "{unread}");
            assert!(read.of.is_empty(), "{text}: {:?}", read.of);
            // another module has none
            let needed = all(&[], Some(text), &[ALPHA, "unet.a.lora_A.weight", "unet.a.lora_B.weight"]);
            assert!(matches!(needed, Err(SettingsError::Wrong { .. })), "{text}: {needed:?}");
        }
        // of another component than the one that has factors; of that one they count
        let told = r#"{"unet.lora_alpha": 8, "text_encoder.lora_alpha": "eight"}"#.to_owned();
        let read = all(&[(KEY, told.clone())], None, &[]).unwrap();
        assert_eq!((read.of["unet"].scale("a", 4), read.unread.len()), (2.0, 1), "{:?}", read.unread);
        let needed = all(&[(KEY, told)], None, &["text_encoder.a.lora_A.weight"]);
        assert!(matches!(needed, Err(SettingsError::Wrong { .. })), "{needed:?}");
        // products are turned all the same where that can be read
        let told = r#"{"lora_alpha": "eight", "fan_in_fan_out": true}"#;
        assert!(all(&[], Some(told), &[ALPHA]).unwrap().of[""].transposed);
        // ranks of LoKr: where a module shows none
        let told = r#"{"peft_type": "LOKR", "alpha": 8, "r": 4, "rank_pattern": {"to_[qk]": 2}}"#;
        let read = all(&[], Some(told), &["unet.a.lokr_w1", "unet.a.lokr_w2_a", "unet.a.lokr_w2_b"]).unwrap();
        assert_eq!((read.of[""].scale("a", 4), read.unread.len()), (2.0, 1), "{:?}", read.unread);
        assert!(read.unread[0].contains("rank_pattern") && read.unread[0].contains("show every rank"), "{read:?}");
        let needed = all(&[], Some(told), &["unet.a.lokr_w1", "unet.a.lokr_w2"]);
        assert!(matches!(&needed, Err(error) if error.code() == ErrorCode::Unsupported), "{needed:?}");
        // too long for a listing
        let long = format!(r#"{{"unet.lora_alpha": 8{}}}"#, " ".repeat(300 << 10));
        assert_eq!(all(&[(KEY, long)], None, &[ALPHA]).unwrap().unread.len(), 1);
    }

    /// A listing keeps no long values; of this one it says so, also where very many others were left out before it.
    #[test]
    fn a_value_of_the_header_that_was_left_out_is_missed() {
        let long = || " ".repeat(300 << 10);
        let others: Vec<(String, String)> = (0..70).map(|number| (format!("a{number:02}"), long())).collect();
        let mut told: Vec<(&str, String)> = others.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
        told.push((KEY, format!(r#"{{"unet.lora_alpha": 8{}}}"#, long())));
        let wrong = found("any.safetensors", &told, None).unwrap_err();
        assert!(matches!(&wrong, SettingsError::TooLong { place, bytes: 300_000.. } if place == KEY), "{wrong:?}");
        assert_eq!(wrong.code(), ErrorCode::Unsupported);
    }
}
