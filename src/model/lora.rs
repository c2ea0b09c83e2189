//! Linear layers that can carry a low-rank adapter, in PEFT's terms.

use anyhow::{Result, bail};
use candle_core::{Device, Tensor, Var};
use serde::{Deserialize, Serialize};

use super::nf4::Weight;
use super::ops::{self, Dropout};
use super::rng;

/// The keys of `adapter_config.json` that decide the computation, by PEFT's names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    pub r: usize,
    pub lora_alpha: f64,
    pub lora_dropout: f32,
    /// `"all-linear"`: every linear layer but the head.
    pub target_modules: String,
}

impl Default for LoraConfig {
    /// P1's released code (papers' table of settings): r 8, α 16, dropout 0.1.
    fn default() -> Self {
        LoraConfig {
            r: 8,
            lora_alpha: 16.0,
            lora_dropout: 0.1,
            target_modules: "all-linear".into(),
        }
    }
}

/// `A [r, in]` and `B [out, r]` of one layer.
#[derive(Debug, Clone)]
pub struct Lora {
    pub a: Var,
    pub b: Var,
    /// `α / r`.
    pub scaling: f64,
}

/// What differs between a training pass and any other.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pass {
    /// Dropout of the adapters in this pass: its probability, and a key that is
    /// new at each step.
    pub dropout: Option<Dropout>,
}

/// One linear layer, `[out, in]`, named as in the checkpoint.
#[derive(Debug, Clone)]
pub struct Linear {
    pub name: String,
    pub weight: Weight,
    pub lora: Option<Lora>,
}

impl Linear {
    /// `x [N, in]` to `[N, out]`.
    pub fn forward(&self, x: &Tensor, pass: Pass) -> Result<Tensor> {
        Ok(match &self.lora {
            None => ops::linear(x, &self.weight)?,
            Some(l) => {
                let dropout = pass
                    .dropout
                    .filter(|d| d.p > 0.0)
                    .map(|d| Dropout { key: rng::mix(d.key, &self.name), ..d });
                ops::lora_linear(x, &self.weight, &l.a, &l.b, l.scaling, dropout)?
            }
        })
    }

    /// Adds an adapter as PEFT initialises one: `A` Kaiming-uniform with a = √5,
    /// which is uniform on ±1/√in, and `B` zero, so the layer is unchanged.
    pub fn add_lora(&mut self, config: &LoraConfig, seed: u64) -> Result<()> {
        if config.target_modules != "all-linear" {
            bail!(
                "target_modules {:?} is not supported; use \"all-linear\"",
                config.target_modules
            );
        }
        let (out, inp) = self.weight.shape()?;
        let mut rng = rng::stream(seed, &format!("lora {}", self.name));
        let a = rng::uniform(&mut rng, config.r * inp, 1.0 / (inp as f64).sqrt());
        self.lora = Some(Lora {
            a: Var::from_vec(a, (config.r, inp), &Device::Cpu)?,
            b: Var::from_vec(vec![0f32; out * config.r], (out, config.r), &Device::Cpu)?,
            scaling: config.lora_alpha / config.r as f64,
        });
        Ok(())
    }

    /// The weight with its adapter folded in: `W + (α/r) B A`, with `W` the
    /// dequantised base, as the adapter saw it in training.
    pub fn merged(&self) -> Result<Tensor> {
        let w = self.weight.dense()?.detach();
        Ok(match &self.lora {
            None => w,
            Some(l) => {
                let ba = l.b.as_detached_tensor().matmul(&l.a.as_detached_tensor())?;
                (w + (ba * l.scaling)?)?
            }
        })
    }
}
