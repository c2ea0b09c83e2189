//! Models and adapters on disk, in the layouts of the hub and of PEFT.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::config::Config;
use super::lora::LoraConfig;
use super::tokenizer::Tokenizer;
use super::transformer::Transformer;

/// Loads a model folder (`config.json`, `tokenizer.json`, `model.safetensors`),
/// widened to f32 and frozen.
pub fn load_base(dir: &Path) -> Result<(Transformer, Tokenizer)> {
    let config = Config::load(&dir.join("config.json"))?;
    let tensors = tensors(&dir.join("model.safetensors"))?;
    let model = Transformer::from_tensors(&config, tensors)
        .with_context(|| dir.join("model.safetensors").display().to_string())?;
    let tokenizer =
        Tokenizer::load(&dir.join("tokenizer.json"), config.bos_token_id, config.eos_token_id)?;
    ensure!(
        tokenizer.vocab_size() <= config.vocab_size,
        "{}: {} tokens, but config.json has vocab_size {}",
        dir.join("tokenizer.json").display(),
        tokenizer.vocab_size(),
        config.vocab_size
    );
    Ok((model, tokenizer))
}

fn tensors(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let map = candle_core::safetensors::load(path, &Device::Cpu)
        .with_context(|| format!("{}: not a readable safetensors file", path.display()))?;
    map.into_iter()
        .map(|(name, t)| {
            let t = t.to_dtype(DType::F32)?.contiguous()?;
            Ok((name, t))
        })
        .collect()
}

/// Writes a model folder in f16, the precision the pocket models are shipped in.
pub fn save_base(model: &Transformer, tokenizer: &Tokenizer, dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    let tensors: HashMap<String, Tensor> = model
        .variables()
        .iter()
        .map(|(name, v)| Ok((name.clone(), v.as_detached_tensor().to_dtype(DType::F16)?)))
        .collect::<Result<_>>()?;
    ensure!(!tensors.is_empty(), "only a model in training can be saved as a base");
    candle_core::safetensors::save(&tensors, dir.join("model.safetensors"))?;
    let mut config = model.config.clone();
    config.torch_dtype = "float16".into();
    write_json(&dir.join("config.json"), &serde_json::to_value(&config)?)?;
    tokenizer.save(&dir.join("tokenizer.json"))?;
    let generation = json!({
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "do_sample": false
    });
    write_json(&dir.join("generation_config.json"), &generation)?;
    let special = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": super::tokenizer::BOS,
        "eos_token": super::tokenizer::EOS,
        "add_bos_token": true,
        "model_max_length": config.max_position_embeddings
    });
    write_json(&dir.join("tokenizer_config.json"), &special)
}

fn write_json(path: &Path, value: &serde_json::Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value)? + "\n";
    std::fs::write(path, text).with_context(|| path.display().to_string())
}

/// SHA-256 over the files that decide a model's output, as hex.
pub fn model_hash(dir: &Path) -> Result<String> {
    let mut sha = Sha256::new();
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        let path = dir.join(name);
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

/// Writes the adapters of `model` as PEFT does.
pub fn save_adapter(model: &Transformer, lora: &LoraConfig, base: &str, dir: &Path) -> Result<()> {
    let tensors: HashMap<String, Tensor> =
        model.variables().iter().map(|(name, v)| (name.clone(), v.as_detached_tensor())).collect();
    candle_core::safetensors::save(&tensors, dir.join("adapter_model.safetensors"))?;
    let config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.r,
        "lora_alpha": lora.lora_alpha,
        "lora_dropout": lora.lora_dropout,
        "target_modules": lora.target_modules,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true
    });
    write_json(&dir.join("adapter_config.json"), &config)
}

/// Puts saved adapters on a model that carries none yet.
pub fn load_adapter(model: &mut Transformer, lora: &LoraConfig, dir: &Path) -> Result<()> {
    model.add_lora(lora, 0)?;
    let path = dir.join("adapter_model.safetensors");
    let mut saved = tensors(&path)?;
    for (name, var) in model.variables() {
        let t = saved
            .remove(name)
            .with_context(|| format!("{}: tensor {name} is missing", path.display()))?;
        ensure!(
            t.dims() == var.dims(),
            "{}: tensor {name} has the shape {:?}, the model needs {:?}",
            path.display(),
            t.dims(),
            var.dims()
        );
        var.set(&t)?;
    }
    ensure!(
        saved.is_empty(),
        "{}: tensor {} belongs to no layer of the model",
        path.display(),
        saved.keys().next().map_or("", |s| s.as_str())
    );
    Ok(())
}
