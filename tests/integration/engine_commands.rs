//! The commands that run models, as people type them, to their ends: what they leave as files and say.

use std::path::Path;

use harness::{Farm, LONG};
use serde_json::Value;

use crate::{
    command_line::{Ran, modelyard},
    engine::{make_models, read, tensors, wave, with_library},
};

const MODEL: &str = "sd15-tiny-diffusers";

/// Commands of one person, in a folder of their own.
struct Person<'f> {
    farm: &'f Farm,
    folder: std::path::PathBuf,
}

impl Person<'_> {
    async fn types(&self, words: &[&str]) -> Ran {
        let words = [&["--api", self.farm.api.url()][..], words].concat();
        modelyard(&self.folder, &words, LONG).await
    }

    /// Where a file of this name lies, as a word of a command.
    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }
}

#[tokio::test]
async fn models_are_run_from_the_command_line() {
    let farm = Farm::start().await;
    let Some(settings) = with_library(&farm) else { return };
    make_models(&farm, "sd15", "diffusers");
    let _agent = farm.agent_with_library(settings).await;
    let folder = farm.path("cli");
    std::fs::create_dir(&folder).expect("a folder");
    let person = Person { farm: &farm, folder };
    texts(&person).await;
    pictures(&person).await;
    benchmarks(&person).await;
    farm.assert_ledger_is_clean().await;
}

async fn texts(person: &Person<'_>) {
    // the small vocabulary has no word for a cat
    let said = person.types(&["tokenize", "a (cat:1.2) BREAK dog", "--model", MODEL, "--weights"]).await.with(0);
    assert!(["CHUNK", "at</w>", "1.20", "4 tokens in 2 chunks"].iter().all(|part| said.contains(part)), "{said}");
    let states = person.file("states.safetensors");
    person.types(&["encode", MODEL, "a cat", "--only", "hidden", "-o", &states]).await.with(0);
    let states = read(&person.bytes("states.safetensors"));
    let [(name, shape, values)] = states.as_slice() else { panic!("{states:?}") };
    assert_eq!((name.as_str(), &shape[..2]), ("text_encoder.hidden", &[1, 77][..]));
    let inputs = tensors(&[
        ("sample", &[1, 4, 8, 8], wave(256)),
        ("timestep", &[1], vec![500.0]),
        ("encoder_hidden_states", shape, values.clone()),
    ]);
    let (given, predicted) = (person.file("inputs.safetensors"), person.file("prediction.safetensors"));
    std::fs::write(Path::new(&given), inputs).expect("a write");
    person.types(&["unet", "step", MODEL, &given, "-o", &predicted]).await.with(0);
    assert_eq!(read(&person.bytes("prediction.safetensors"))[0].1, [1, 4, 8, 8]);
}

async fn pictures(person: &Person<'_>) {
    let (cat, latents, again) = (person.file("cat.png"), person.file("latents.safetensors"), person.file("again.webp"));
    let small = ["-W", "64", "-H", "64", "--steps", "2", "--seed", "7", "--no-weights"];
    person.types(&[&["generate", MODEL, "a (cat)", "-o", &cat][..], &small].concat()).await.with(0);
    assert!(person.bytes("cat.png").starts_with(b"\x89PNG"));
    person.types(&["vae", "encode", MODEL, &cat, "-o", &latents]).await.with(0);
    person.types(&["vae", "decode", MODEL, &latents, "-o", &again]).await.with(0);
    assert!(person.bytes("again.webp").starts_with(b"RIFF"));
}

async fn benchmarks(person: &Person<'_>) {
    let plot = person.file("vae.svg");
    let wanted = ["benchmark", MODEL, "--component", "vae", "--size", "64x64", "--loads", "0"];
    let quick = ["--warmup", "0", "--window", "2", "--windows", "2", "--max-runs", "6", "--spread", "100"];
    let said = person.types(&[&wanted[..], &quick, &["--plot", &plot]].concat()).await.with(0);
    assert!(said.contains("vae_decode 64x64 ×1 (vae)"), "{said}");
    assert!(String::from_utf8_lossy(&person.bytes("vae.svg")).contains("<svg"));
    // how fast it is is nothing to assert: the exit code says what the verdict does
    let checked = [&wanted[..], &quick, &["--compare", "last", "--check", "--json"]].concat();
    let (code, said) = person.types(&checked).await.ended();
    let is_worse = said.contains(r#""verdict": "regressed""#) || said.contains(r#""verdict":"regressed""#);
    assert_eq!(code, Some(i32::from(is_worse)), "{said}");
    let listed = person.types(&["benchmarks", "ls", "--model", MODEL, "--json"]).await.json();
    let ids: Vec<&str> =
        listed["items"].as_array().into_iter().flatten().filter_map(|row| row["id"].as_str()).collect();
    let [second, first] = ids.as_slice() else { panic!("{listed}") };
    let shown: Value = person.types(&["benchmarks", "show", first, "--json"]).await.json();
    assert_eq!(shown["components"], serde_json::json!(["vae"]), "{shown}");
    let compared = person.types(&["benchmarks", "compare", first, second, "--json"]).await.json();
    assert_eq!(compared["cases"].as_array().map(Vec::len), Some(2), "{compared}");
}
