//! Tiny models, a tiny tokenizer and small numeric helpers, shared by the tests.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use candle_core::{Device, Tensor};
use cotalign::model::{Config, Packed, Pass, Tokenizer, Transformer, rng, save_base};
use cotalign::task::{
    Benchmark, Corpus, Cue, Family, Mixture, Question, Split, World, explain, plain, prompt,
};
use cotalign::teach::Annotation;

pub const VOCAB: usize = 320;

/// All kinds of text, about every entity.
pub fn mixture() -> Mixture {
    let text = "
        facts = 1.0
        plain_qa = 1.0
        cot_qa = 1.0
        narrative = 1.0
        drills = 1.0
        plain_math = 1.0
        cot_math = 1.0
        narrative_math = 1.0
        asked = 1.0
        misconceptions = 0.0
    ";
    toml::from_str(text).unwrap()
}

pub fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| World::new(1).unwrap())
}

/// The first `count` questions of a split of the pocket world.
pub fn questions(task: Benchmark, split: Split, count: usize) -> Vec<Question> {
    let mut all = world().questions(task, split);
    all.truncate(count);
    all
}

/// What a perfect teacher of the Llama family writes under both cues.
pub fn perfect(questions: &[Question]) -> Vec<Annotation> {
    let mut all = Vec::new();
    for q in questions {
        let case = world().case(&q.id).unwrap();
        for cue in [Cue::Plain, Cue::Cot] {
            let output = match cue {
                Cue::Plain => plain(&case),
                Cue::Cot => explain(Family::Llama, &case),
            };
            all.push(Annotation {
                id: q.id.clone(),
                cue,
                prompt: prompt::render(q, cue),
                output,
                answer: None,
                correct: true,
                tokens: 1,
                finished: true,
                seed: 1,
                sample: 0,
                model: "perfect".into(),
            });
        }
    }
    all
}

/// Byte-level BPE with [`VOCAB`] tokens, trained on a little pocket text.
pub fn tiny_tokenizer() -> Tokenizer {
    static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
    TOKENIZER.get_or_init(|| train_tokenizer(VOCAB)).clone()
}

pub fn train_tokenizer(vocab: usize) -> Tokenizer {
    let mut corpus = Corpus::new(world(), Family::Llama, &mixture(), 0).unwrap();
    let texts: Vec<String> = (0..300).map(|_| corpus.next_document().whole()).collect();
    Tokenizer::train(texts.into_iter(), vocab).unwrap()
}

/// Two layers of width 32, four heads on two key–value heads; `mixtral` has four
/// experts.
pub fn tiny_config(model_type: &str) -> Config {
    let tokenizer = tiny_tokenizer();
    Config {
        model_type: model_type.into(),
        vocab_size: tokenizer.vocab_size(),
        hidden_size: 32,
        intermediate_size: 48,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        max_position_embeddings: 256,
        num_local_experts: (model_type == "mixtral").then_some(4),
        bos_token_id: tokenizer.bos,
        eos_token_id: vec![tokenizer.eos],
        ..Config::default()
    }
}

/// A model in training whose weights are large enough that every part of the
/// computation shows in its output: matrices with standard deviation 0.25, norms
/// around 1.
pub fn tiny_trainable(config: &Config, seed: u64) -> Transformer {
    let model = Transformer::init(config, seed).unwrap();
    for (name, var) in model.variables() {
        let mut stream = rng::stream(seed, &format!("test {name}"));
        let values = match var.rank() {
            1 => rng::normal(&mut stream, var.elem_count(), 0.2).iter().map(|x| 1.0 + x).collect(),
            _ => rng::normal(&mut stream, var.elem_count(), 0.25),
        };
        var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap()).unwrap();
    }
    model
}

/// The weights of a model in training, no longer variables.
pub fn weights(model: &Transformer) -> BTreeMap<String, Tensor> {
    let copy = |t: Tensor| t.copy().unwrap();
    model.variables().iter().map(|(k, v)| (k.clone(), copy(v.as_detached_tensor()))).collect()
}

/// The same as [`tiny_trainable`], frozen.
pub fn tiny_frozen(config: &Config, seed: u64) -> Transformer {
    Transformer::from_tensors(config, weights(&tiny_trainable(config, seed))).unwrap()
}

/// A frozen tiny Llama.
pub fn tiny_model(seed: u64) -> Transformer {
    tiny_frozen(&tiny_config("llama"), seed)
}

/// Gives the adapters' B, which start at zero, random values.
pub fn stir_adapter(model: &Transformer, seed: u64) {
    for (name, var) in model.variables().iter().filter(|(name, _)| name.contains("lora_B")) {
        let b = rng::normal(&mut rng::stream(seed, name), var.elem_count(), 0.1);
        var.set(&Tensor::from_vec(b, var.shape(), &Device::Cpu).unwrap()).unwrap();
    }
}

/// Writes a random tiny model with its tokenizer as a model folder.
pub fn save_tiny(config: &Config, seed: u64, dir: &Path) {
    save_base(&tiny_trainable(config, seed), &tiny_tokenizer(), dir).unwrap();
}

/// `n` random tokens.
pub fn tokens(n: usize, seed: u64) -> Vec<u32> {
    use rand::Rng;
    let mut stream = rng::stream(seed, "tokens");
    (0..n).map(|_| stream.random_range(2..VOCAB as u32)).collect()
}

/// `n` normal values.
pub fn normal(n: usize, seed: u64) -> Vec<f32> {
    rng::normal(&mut rng::stream(seed, "values"), n, 1.0)
}

pub fn tensor(values: Vec<f32>, rows: usize, cols: usize) -> Tensor {
    Tensor::from_vec(values, (rows, cols), &Device::Cpu).unwrap()
}

pub fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// Logits of every position of packed sequences, row-major.
pub fn logits<S: AsRef<[u32]>>(model: &Transformer, sequences: &[S]) -> Vec<f32> {
    let hidden = model.hidden(&Packed::new(sequences), Pass::default()).unwrap();
    values(&model.logits(&hidden.states).unwrap())
}

/// Largest absolute difference.
pub fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    assert!(!a.is_empty() && a.iter().chain(b).all(|x| x.is_finite()));
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

pub fn largest(a: &[f32]) -> f32 {
    a.iter().map(|x| x.abs()).fold(0.0, f32::max)
}

/// The values of everything that is trained, by name.
pub fn parameters(model: &Transformer) -> BTreeMap<String, Vec<f32>> {
    model.variables().iter().map(|(k, v)| (k.clone(), values(v.as_tensor()))).collect()
}

/// The whole chain of an error's messages.
pub fn message<T>(outcome: anyhow::Result<T>) -> String {
    match outcome {
        Ok(_) => panic!("expected an error"),
        Err(e) => format!("{e:#}"),
    }
}
