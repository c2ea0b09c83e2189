//! Adapters on disk, in PEFT's layout.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::checkpoint::write_json;
use super::lora::LoraConfig;
use super::transformer::Transformer;
use super::weights::Weights;

/// Keys of PEFT's `adapter_config.json` that change what an adapter computes
/// and that this project does not have, with the value that switches them off.
/// Absent and null are off, too.
fn must_be_off() -> [(&'static str, Value); 16] {
    let (no, none, nothing) = (json!(false), json!("none"), json!({}));
    [
        ("alora_invocation_tokens", Value::Null),
        ("alpha_pattern", nothing.clone()),
        ("bias", none),
        ("exclude_modules", Value::Null),
        ("fan_in_fan_out", no.clone()),
        ("layer_replication", Value::Null),
        ("layers_pattern", Value::Null),
        ("layers_to_transform", Value::Null),
        ("lora_bias", no.clone()),
        ("megatron_config", Value::Null),
        ("modules_to_save", Value::Null),
        ("rank_pattern", nothing),
        ("target_parameters", Value::Null),
        ("trainable_token_indices", Value::Null),
        ("use_dora", no.clone()),
        ("use_qalora", no),
    ]
}

impl LoraConfig {
    /// Reads `adapter_config.json` of an adapter folder, this project's or PEFT's.
    pub fn load(dir: &Path) -> Result<LoraConfig> {
        let path = dir.join("adapter_config.json");
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!("{}: cannot be read; is this an adapter folder?", path.display())
        })?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> Result<LoraConfig> {
        let json: Value = serde_json::from_str(text)?;
        let kind = json.get("peft_type").and_then(Value::as_str).unwrap_or_default();
        ensure!(kind == "LORA", "peft_type {kind:?} is not supported; only LORA");
        for (key, off) in must_be_off() {
            let found = json.get(key).unwrap_or(&Value::Null);
            let empty = found.as_array().is_some_and(Vec::is_empty);
            ensure!(
                found.is_null() || *found == off || empty,
                "key {key:?} with the value {found} is not supported"
            );
        }
        let lora = LoraConfig {
            r: field(&json, "r")?.context("key \"r\" is missing")?,
            lora_alpha: field(&json, "lora_alpha")?.context("key \"lora_alpha\" is missing")?,
            lora_dropout: field(&json, "lora_dropout")?.unwrap_or(0.0),
            target_modules: field(&json, "target_modules")?
                .context("key \"target_modules\" is missing")?,
            use_rslora: field(&json, "use_rslora")?.unwrap_or(false),
        };
        ensure!(lora.r > 0, "key \"r\" is 0");
        Ok(lora)
    }
}

/// The value of a key; none if it is absent or null.
fn field<T: DeserializeOwned>(json: &Value, key: &str) -> Result<Option<T>> {
    match json.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(v) => Ok(Some(T::deserialize(v).with_context(|| format!("key {key:?}"))?)),
    }
}

/// Writes the adapters of `model` as PEFT does: `adapter_config.json` and
/// `adapter_model.safetensors`, in f32.
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
        "use_rslora": lora.use_rslora,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true
    });
    write_json(&dir.join("adapter_config.json"), &config)
}

/// Puts saved adapters on a model that carries none yet. A tensor that is missing,
/// extra, mis-shaped or not finite is an error that names it.
pub fn load_adapter(model: &mut Transformer, lora: &LoraConfig, dir: &Path) -> Result<()> {
    let path = dir.join("adapter_model.safetensors");
    let saved = candle_core::safetensors::load(&path, &Device::Cpu)
        .with_context(|| format!("{}: not a readable safetensors file", path.display()))?;
    let mut saved: BTreeMap<String, Tensor> = saved
        .into_iter()
        .map(|(name, t)| Ok((name, t.to_dtype(DType::F32)?.contiguous()?)))
        .collect::<Result<_>>()?;
    model.add_lora(lora, 0)?;
    for (name, var) in model.variables() {
        let t = saved.tensor(name, var.dims()).with_context(|| path.display().to_string())?;
        var.set(&t.to_device(var.device())?)?;
    }
    if let Some(name) = saved.left() {
        bail!("{}: tensor {name} belongs to no layer of the model", path.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_adapter_may_not_ask_for_is_named() {
        let parse = |more: &str| {
            LoraConfig::parse(&format!(
                r#"{{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"],
                   "rank_pattern": {{}}, "modules_to_save": null{more}}}"#
            ))
        };
        assert_eq!(parse("").unwrap().scaling(), 2.0);
        assert_eq!(parse(r#", "use_rslora": true"#).unwrap().scaling(), 4.0);
        let error = |more: &str| parse(more).unwrap_err().to_string();
        assert!(error(r#", "use_dora": true"#).contains("use_dora"));
        assert!(error(r#", "bias": "all""#).contains("bias"));
        assert!(error(r#", "alpha_pattern": {"q_proj": 3}"#).contains("alpha_pattern"));
    }
}
