//! Linear layers that can carry a low-rank adapter, in PEFT's terms.

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor, Var};
use serde::{Deserialize, Serialize};

use super::ops::{self, Dropout};
use super::rng;
use super::weight::Weight;

/// The keys of `adapter_config.json` that decide the computation, by PEFT's names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    pub r: usize,
    pub lora_alpha: f64,
    pub lora_dropout: f32,
    pub target_modules: Targets,
    /// Rank-stabilised (Kalajdzievski 2023): the scale is `α/√r` instead of `α/r`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub use_rslora: bool,
}

/// A test of module names.
pub type Matcher<'a> = Box<dyn Fn(&str) -> bool + 'a>;

/// Which layers get an adapter, as PEFT reads `target_modules`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Targets {
    /// `"all-linear"`: every linear layer but the head. Any other text is a
    /// regular expression that the whole name must match.
    Rule(String),
    /// Names of modules, or their last parts: `q_proj` is every layer's.
    Names(Vec<String>),
}

impl Targets {
    /// A test of module names, `model.layers.0.self_attn.q_proj`.
    pub fn matcher(&self) -> Result<Matcher<'_>> {
        Ok(match self {
            Targets::Rule(rule) if rule == "all-linear" => Box::new(|_| true),
            Targets::Rule(rule) => {
                let whole = regex::Regex::new(&format!("^(?:{rule})$"))
                    .with_context(|| format!("target_modules {rule:?}"))?;
                Box::new(move |name| whole.is_match(name))
            }
            Targets::Names(names) => Box::new(|name| {
                names.iter().any(|n| {
                    name.strip_suffix(n.as_str()).is_some_and(|p| p.is_empty() || p.ends_with('.'))
                })
            }),
        })
    }
}

impl Default for LoraConfig {
    /// P1's released code (papers' table of settings): r 8, α 16, dropout 0.1.
    fn default() -> Self {
        LoraConfig {
            r: 8,
            lora_alpha: 16.0,
            lora_dropout: 0.1,
            target_modules: Targets::Rule("all-linear".into()),
            use_rslora: false,
        }
    }
}

impl LoraConfig {
    /// What `B A x` is multiplied with: `α/r`, or `α/√r`.
    pub fn scaling(&self) -> f64 {
        let r = self.r as f64;
        self.lora_alpha / if self.use_rslora { r.sqrt() } else { r }
    }
}

/// `A [r, in]` and `B [out, r]` of one layer; variables, unless the model is
/// [frozen](super::Transformer::frozen).
#[derive(Debug, Clone)]
pub struct Lora {
    pub a: Tensor,
    pub b: Tensor,
    /// [`LoraConfig::scaling`].
    pub scaling: f64,
}

/// What differs between a training pass and any other.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pass {
    /// Dropout of the adapters in this pass: its probability, and a key that is
    /// new at each step.
    pub dropout: Option<Dropout>,
    /// Gradients are made from the pass, but its output is not read: an adapted layer
    /// may leave its result undefined, since its own gradients do not need it.
    pub unread: bool,
}

impl Pass {
    /// The same for a layer whose result others go on with.
    pub fn read(self) -> Pass {
        Pass { unread: false, ..self }
    }
}

/// One linear layer, `[out, in]`, named as in the checkpoint.
#[derive(Debug, Clone)]
pub struct Linear {
    pub name: String,
    pub weight: Weight,
    /// `[out]`; it takes no part in quantisation.
    pub bias: Option<Tensor>,
    pub lora: Option<Lora>,
}

impl Linear {
    /// `x [N, in]` to `[N, out]`.
    pub fn forward(&self, x: &Tensor, pass: Pass) -> Result<Tensor> {
        let y = match &self.lora {
            None => ops::linear(x, &self.weight)?,
            Some(l) => {
                let dropout = pass
                    .dropout
                    .filter(|d| d.p > 0.0)
                    .map(|d| Dropout { key: rng::mix(d.key, &self.name), ..d });
                ops::lora_linear(x, &self.weight, &l.a, &l.b, l.scaling, dropout, pass.unread)?
            }
        };
        Ok(match &self.bias {
            None => y,
            Some(b) => ops::add_bias(&y, b)?,
        })
    }

    /// Adds an adapter as PEFT initialises one: `A` Kaiming-uniform with a = √5,
    /// which is uniform on ±1/√in, and `B` zero, so the layer is unchanged. Returns both.
    pub fn add_lora(
        &mut self,
        config: &LoraConfig,
        seed: u64,
        device: &Device,
    ) -> Result<[Var; 2]> {
        let (out, inp) = self.weight.shape()?;
        let mut rng = rng::stream(seed, &format!("lora {}", self.name));
        let a = rng::uniform(&mut rng, config.r * inp, 1.0 / (inp as f64).sqrt());
        let a = Var::from_vec(a, (config.r, inp), device)?;
        let b = Var::from_vec(vec![0f32; out * config.r], (out, config.r), device)?;
        let scaling = config.scaling();
        self.lora = Some(Lora { a: a.as_tensor().clone(), b: b.as_tensor().clone(), scaling });
        Ok([a, b])
    }

    /// The weight with its adapter folded in: `W + (α/r) B A`, with `W` the
    /// dequantised base, as the adapter saw it in training; the sum is rounded once.
    pub fn merged(&self, dtype: DType) -> Result<Tensor> {
        let w = self.weight.dense()?.detach();
        Ok(match &self.lora {
            None => w.to_dtype(dtype)?,
            Some(l) => {
                let ba = l.b.detach().matmul(&l.a.detach())?;
                (w.to_dtype(DType::F32)? + (ba * l.scaling)?)?.to_dtype(dtype)?
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_match_as_in_peft() {
        let (q, k) = ("model.layers.0.self_attn.q_proj", "model.layers.10.self_attn.k_proj");
        let hits = |t: &Targets| {
            let matches = t.matcher().unwrap();
            (matches(q), matches(k))
        };
        assert_eq!(hits(&Targets::Rule("all-linear".into())), (true, true));
        assert_eq!(hits(&Targets::Rule(r".*\.q_proj".into())), (true, false));
        assert_eq!(hits(&Targets::Names(vec!["q_proj".into()])), (true, false));
        assert_eq!(hits(&Targets::Names(vec!["layers.10.self_attn.k_proj".into()])), (false, true));
        // A part of a name is not a name.
        assert_eq!(hits(&Targets::Names(vec!["proj".into()])), (false, false));
        assert!(Targets::Rule("(".into()).matcher().is_err());
    }

    #[test]
    fn scaling_by_hand() {
        let lora = LoraConfig { r: 16, lora_alpha: 8.0, ..LoraConfig::default() };
        assert_eq!(lora.scaling(), 0.5);
        assert_eq!(LoraConfig { use_rslora: true, ..lora }.scaling(), 2.0);
    }
}
