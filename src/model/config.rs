//! `config.json` as the hub writes it.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// The keys of `config.json` that decide the computation, by the hub's names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    pub architectures: Vec<String>,
    pub model_type: String,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    pub max_position_embeddings: usize,
    #[serde(default)]
    pub tie_word_embeddings: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sliding_window: Option<usize>,
    /// Experts of a sparse mixture; absent in a dense model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_local_experts: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_experts_per_tok: Option<usize>,
    pub bos_token_id: u32,
    pub eos_token_id: u32,
    #[serde(default = "silu")]
    pub hidden_act: String,
    #[serde(default)]
    pub torch_dtype: String,
}

fn silu() -> String {
    "silu".into()
}

impl Config {
    /// Reads and checks `config.json`.
    pub fn load(path: &Path) -> Result<Config> {
        let text = std::fs::read_to_string(path).with_context(|| {
            format!("{}: cannot be read; is this a model folder?", path.display())
        })?;
        let config: Config = serde_json::from_str(&text)
            .with_context(|| format!("{}: not a supported config.json", path.display()))?;
        config.check().with_context(|| path.display().to_string())?;
        Ok(config)
    }

    fn check(&self) -> Result<()> {
        let known = ["llama", "mistral", "mixtral"];
        ensure!(
            known.contains(&self.model_type.as_str()),
            "model_type {:?} is not supported; supported: {}",
            self.model_type,
            known.join(", ")
        );
        ensure!(
            self.hidden_act == "silu",
            "hidden_act {:?} is not supported; only silu",
            self.hidden_act
        );
        ensure!(
            self.num_attention_heads > 0 && self.hidden_size % (2 * self.num_attention_heads) == 0,
            "hidden_size {} does not split into {} heads of even width",
            self.hidden_size,
            self.num_attention_heads
        );
        ensure!(
            self.num_key_value_heads > 0
                && self.num_attention_heads % self.num_key_value_heads == 0,
            "num_attention_heads {} is not a multiple of num_key_value_heads {}",
            self.num_attention_heads,
            self.num_key_value_heads
        );
        ensure!(
            self.num_local_experts.is_some() == (self.model_type == "mixtral"),
            "num_local_experts belongs to model_type mixtral, and only there"
        );
        if let Some(experts) = self.num_local_experts {
            let used = self.num_experts_per_tok.unwrap_or(2);
            ensure!(
                (1..=experts).contains(&used),
                "num_experts_per_tok {used} of {experts} experts"
            );
        }
        Ok(())
    }

    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }
}
