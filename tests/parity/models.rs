//! Logits and greedy continuations of every architecture.

use cotalign::model::ops::Continuation;
use cotalign::model::{Cache, Packed, Pass, Sampling, Transformer, generate, load_model};
use serde::Deserialize;

use super::support::{agree, distance, fixture, floats, ids, json, tensors};

pub const ARCHITECTURES: [&str; 8] =
    ["llama2", "llama3", "mistral", "mixtral", "qwen2", "qwen3", "smollm2", "qwen2_sharded"];

/// The sequences of an `expected.safetensors`.
pub fn sequences(input_ids: &[u32], lengths: &[u32]) -> Vec<Vec<u32>> {
    let mut rest = input_ids;
    lengths
        .iter()
        .map(|n| {
            let (one, more) = rest.split_at(*n as usize);
            rest = more;
            one.to_vec()
        })
        .collect()
}

/// Logits of every position of packed sequences.
pub fn logits(model: &Transformer, sequences: &[Vec<u32>]) -> Vec<f32> {
    let hidden = model.hidden(&Packed::new(sequences), Pass::default()).unwrap();
    floats(&model.logits(&hidden.states).unwrap())
}

/// The same with one token at a time.
fn logits_cached(model: &Transformer, sequences: &[Vec<u32>]) -> Vec<f32> {
    let mut all = Vec::new();
    for s in sequences {
        let mut cache = Cache::new(model, 1, s.len()).unwrap();
        for token in s {
            let row = Continuation { start: 0, len: 1, slot: 0 };
            let states = model.step(&[*token], &[row], &mut cache).unwrap();
            all.extend(floats(&model.logits(&states).unwrap()));
        }
    }
    all
}

/// Holds a model against an `expected.safetensors`.
pub fn compare(name: &str, model: &Transformer, path: &str) {
    let expected = tensors(path);
    let all = sequences(&ids(&expected["input_ids"]), &ids(&expected["lengths"]));
    // One by one, packed together, and token by token.
    let alone: Vec<f32> = all.iter().flat_map(|s| logits(model, std::slice::from_ref(s))).collect();
    for (how, found, key) in [
        ("logits", alone, "logits"),
        ("logits of a batch", logits(model, &all), "logits_padded"),
        ("logits with cache", logits_cached(model, &all), "logits_cached"),
    ] {
        let off = distance(&found, &floats(&expected[key]));
        agree(&format!("{name}: {how}"), "transformers", "absolute", off, 1e-4);
    }
}

#[test]
fn logits_are_those_of_transformers() {
    for name in ARCHITECTURES {
        let model = load_model(&fixture(&format!("models/{name}")), false).unwrap();
        compare(name, &model, &format!("models/{name}/expected.safetensors"));
    }
}

/// transformers 4 and 5 write `config.json` differently.
#[test]
fn both_forms_of_a_config_say_the_same() {
    for name in ["llama3", "qwen3"] {
        let new = cotalign::model::Config::load(&fixture(&format!("models/{name}/config.json")));
        let old = fixture(&format!("models/{name}/config_old.json"));
        let old = cotalign::model::Config::load(&old).unwrap();
        assert_eq!(new.unwrap(), old, "{name}");
    }
}

#[derive(Deserialize)]
struct Greedy {
    prompts: Vec<String>,
    tokens: Vec<String>,
}

fn bytes(hex: &str) -> Vec<u32> {
    let byte = |i: usize| u32::from_str_radix(&hex[i..i + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(byte).collect()
}

#[test]
fn greedy_continuations_are_those_of_transformers() {
    for name in ARCHITECTURES {
        let model = load_model(&fixture(&format!("models/{name}")), false).unwrap();
        let greedy: Greedy = json(&format!("models/{name}/expected_greedy.json"));
        let prompts: Vec<Vec<u32>> = greedy.prompts.iter().map(|p| bytes(p)).collect();
        let keys: Vec<String> = (0..prompts.len()).map(|i| i.to_string()).collect();
        let sampling = Sampling {
            temperature: 0.0,
            max_new_tokens: 64,
            seed: 0,
            batch: 16,
            stop: vec![],
            samples: 1,
        };
        let found = generate(&model, &prompts, &keys, &sampling, &[][..], &mut || ()).unwrap();
        let wrong = found.iter().zip(&greedy.tokens).filter(|(f, t)| f.tokens != bytes(t)).count();
        assert!(found.len() >= 64 && found.iter().all(|f| f.tokens.len() == 64));
        let what = format!("{name}: greedy, {} prompts × 64 tokens", found.len());
        agree(&what, "transformers", "differing", wrong as f64, 0.0);
    }
}

/// A checkpoint that bitsandbytes quantised, and the same weights quantised here.
#[test]
fn quantised_checkpoints_are_read() {
    let model = load_model(&fixture("bnb4"), false).unwrap();
    compare("NF4 checkpoint", &model, "bnb4/expected.safetensors");
    let ours = load_model(&fixture("sft/base"), true).unwrap();
    let s = [vec![1, 7, 9, 200, 31]];
    let same = logits(&model, &s) == logits(&ours, &s);
    assert!(same, "quantised here, the weights are others");
}
