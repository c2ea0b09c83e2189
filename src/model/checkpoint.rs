//! Models on disk, in the hub's layout.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Tensor};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::config::Config;
use super::tokenizer::Tokenizer;
use super::transformer::Transformer;
use super::weight::Placement;
use super::weights::{Files, weight_files, weights_of};

/// Loads a model folder (`config.json`, `tokenizer.json`, `tokenizer_config.json`
/// and `generation_config.json` if there, `model.safetensors` or its shards),
/// frozen. Weights are widened to f32; those that bitsandbytes quantised stay
/// in NF4.
pub fn load_base(dir: &Path) -> Result<(Transformer, Tokenizer)> {
    load_at(dir, false, &Placement::CPU)
}

/// The same with every linear layer but the head in NF4, quantised one by one
/// as they are read: QLoRA's base, at the memory of QLoRA's base.
pub fn load_nf4(dir: &Path) -> Result<(Transformer, Tokenizer)> {
    load_at(dir, true, &Placement::CPU)
}

/// Either of the two, where `place` says; each tensor goes there as it is read.
pub fn load_at(dir: &Path, quantise: bool, place: &Placement) -> Result<(Transformer, Tokenizer)> {
    let model = load_weights(dir, quantise, place)?;
    let tokenizer = Tokenizer::open(dir, &model.config)?;
    ensure!(
        tokenizer.vocab_size() <= model.config.vocab_size,
        "{}: {} tokens, but config.json has vocab_size {}",
        dir.join("tokenizer.json").display(),
        tokenizer.vocab_size(),
        model.config.vocab_size
    );
    Ok((model, tokenizer))
}

/// The weights of a model folder alone, quantised while they are read if asked.
pub fn load_model(dir: &Path, quantise: bool) -> Result<Transformer> {
    load_weights(dir, quantise, &Placement::CPU)
}

fn load_weights(dir: &Path, quantise: bool, place: &Placement) -> Result<Transformer> {
    let config = Config::load(&dir.join("config.json"))?;
    // Some checkpoints hold the head once more although it is the embedding.
    let skip: &[&str] = if config.tie_word_embeddings { &["lm_head."] } else { &[] };
    let mut files = Files::open(dir, skip)?;
    (files.quantise, files.place) = (quantise, place.clone());
    Transformer::from_weights(&config, &mut files)
        .with_context(|| weights_of(dir).display().to_string())
}

/// What weights are rounded to on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    F32,
    F16,
    Bf16,
}

impl Precision {
    /// torch's name.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "float32",
            Precision::F16 => "float16",
            Precision::Bf16 => "bfloat16",
        }
    }
}

impl std::str::FromStr for Precision {
    type Err = anyhow::Error;
    fn from_str(s: &str) -> Result<Self> {
        [Precision::F32, Precision::F16, Precision::Bf16]
            .into_iter()
            .find(|p| p.name() == s)
            .with_context(|| format!("unknown precision {s:?}; known: float32, float16, bfloat16"))
    }
}

/// Writes a model in training as a model folder in f16, the precision the
/// pocket models are shipped in.
pub fn save_base(model: &Transformer, tokenizer: &Tokenizer, dir: &Path) -> Result<()> {
    ensure!(!model.variables().is_empty(), "only a model in training can be saved as a base");
    std::fs::create_dir_all(dir)?;
    let tensors = model.variables().iter().map(|(name, v)| (name.clone(), v.as_detached_tensor()));
    save_weights(tensors.collect(), Precision::F16, dir)?;
    let config = Config { torch_dtype: "float16".into(), ..model.config.clone() };
    write_json(&dir.join("config.json"), &config.to_json())?;
    tokenizer.save(&dir.join("tokenizer.json"))?;
    let generation = json!({
        "bos_token_id": config.bos_token_id,
        "eos_token_id": tokenizer.eos,
        "do_sample": false
    });
    write_json(&dir.join("generation_config.json"), &generation)?;
    let special = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": super::tokenizer::BOS,
        "eos_token": super::tokenizer::EOS,
        "model_max_length": config.max_position_embeddings
    });
    write_json(&dir.join("tokenizer_config.json"), &special)
}

/// Writes `model` as a plain checkpoint that needs neither adapter nor
/// bitsandbytes: the dequantised base, with `W + (α/r) B A` where an adapter is,
/// rounded to `precision`. Tokenizer and generation settings are copied from
/// `base`, the folder the model came from.
pub fn export(model: &Transformer, base: &Path, precision: Precision, dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    save_weights(model.merged()?.tensors()?, precision, dir)?;
    let name = precision.name().to_string();
    let config = Config { torch_dtype: name, quantization: None, ..model.config.clone() };
    write_json(&dir.join("config.json"), &config.to_json())?;
    for name in BESIDE_THE_WEIGHTS {
        let from = base.join(name);
        if from.is_file() {
            let bytes = std::fs::read(&from).with_context(|| from.display().to_string())?;
            let to = dir.join(name);
            std::fs::write(&to, bytes).with_context(|| to.display().to_string())?;
        }
    }
    Ok(())
}

/// What a model folder holds besides `config.json` and the weights.
const BESIDE_THE_WEIGHTS: [&str; 5] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
];

fn save_weights(tensors: HashMap<String, Tensor>, to: Precision, dir: &Path) -> Result<()> {
    let dtype = match to {
        Precision::F32 => DType::F32,
        Precision::F16 => DType::F16,
        Precision::Bf16 => DType::BF16,
    };
    let tensors: HashMap<String, Tensor> = tensors
        .into_iter()
        .map(|(name, t)| {
            let t = t.to_dtype(dtype)?;
            // 65504 is the largest f16: an outlier beyond it would become infinite.
            let largest = t.to_dtype(DType::F32)?.abs()?.flatten_all()?.max(0)?;
            ensure!(
                largest.to_scalar::<f32>()?.is_finite(),
                "tensor {name} has values that {dtype:?} cannot hold; use bfloat16"
            );
            Ok((name, t))
        })
        .collect::<Result<_>>()?;
    let path = dir.join("model.safetensors");
    // transformers refuses a file that does not say which framework its layout is of.
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    let views: Vec<(&String, &Tensor)> = {
        let mut all: Vec<_> = tensors.iter().collect();
        all.sort_by_key(|(name, _)| *name);
        all
    };
    safetensors::serialize_to_file(views, Some(metadata), &path)
        .with_context(|| path.display().to_string())
}

pub(super) fn write_json(path: &Path, value: &serde_json::Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value)? + "\n";
    std::fs::write(path, text).with_context(|| path.display().to_string())
}

/// SHA-256 over the files that decide a model's output, as hex.
pub fn model_hash(dir: &Path) -> Result<String> {
    let mut sha = Sha256::new();
    let mut files = vec![dir.join("config.json"), dir.join("tokenizer.json")];
    files.extend(weight_files(dir).unwrap_or_else(|_| vec![weights_of(dir)]));
    for path in files {
        let bytes = std::fs::read(&path).with_context(|| {
            format!(
                "{}: cannot be read; `make pocket-models` makes the pocket models",
                path.display()
            )
        })?;
        sha.update((bytes.len() as u64).to_le_bytes());
        sha.update(bytes);
    }
    Ok(format!("{:x}", sha.finalize()))
}
