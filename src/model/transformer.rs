//! One decoder-only transformer, described by its config: Llama, Mistral, and
//! Mixtral with its sparse mixture of experts.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor, Var};

use super::config::Config;
use super::lora::{Linear, LoraConfig, Pass};
use super::moe::Experts;
use super::nf4::Weight;
use super::ops::{self, AttentionShape, Continuation, Memory, Segment};
use super::rng;

/// Sequences laid end to end: see [`Segment`].
#[derive(Debug, Clone)]
pub struct Packed {
    pub tokens: Vec<u32>,
    pub segments: Arc<[Segment]>,
}

impl Packed {
    pub fn new<S: AsRef<[u32]>>(sequences: &[S]) -> Packed {
        let (mut tokens, mut segments) = (Vec::new(), Vec::new());
        for s in sequences {
            segments.push(Segment { start: tokens.len(), len: s.as_ref().len() });
            tokens.extend_from_slice(s.as_ref());
        }
        Packed { tokens, segments: segments.into() }
    }
}

/// The feed-forward half of a block.
#[derive(Debug, Clone)]
pub(super) enum FeedForward {
    Dense(Gated),
    Sparse(Experts),
}

/// `W_down (silu(W_gate x) ⊙ W_up x)`.
#[derive(Debug, Clone)]
pub(super) struct Gated {
    pub gate: Linear,
    pub up: Linear,
    pub down: Linear,
}

impl Gated {
    pub fn forward(&self, x: &Tensor, pass: Pass) -> Result<Tensor> {
        let h = ops::swiglu(&self.gate.forward(x, pass)?, &self.up.forward(x, pass)?)?;
        self.down.forward(&h, pass)
    }
}

#[derive(Debug, Clone)]
struct Block {
    input_norm: Tensor,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    post_norm: Tensor,
    ff: FeedForward,
}

/// Keys and values of sequences being generated: `memory[layer][slot]`.
#[derive(Debug, Default)]
pub struct Cache {
    memory: Vec<Vec<Memory>>,
}

impl Cache {
    pub fn new(model: &Transformer, slots: usize) -> Cache {
        Cache { memory: vec![vec![Memory::default(); slots]; model.blocks.len()] }
    }

    /// Makes `slot` a copy of another: a shared prompt prefix is computed once.
    pub fn copy(&mut self, from: usize, to: usize) {
        for layer in &mut self.memory {
            layer[to] = layer[from].clone();
        }
    }

    pub fn clear(&mut self, slot: usize) {
        for layer in &mut self.memory {
            layer[slot] = Memory::default();
        }
    }
}

/// What one pass gives.
pub struct Hidden {
    /// Final hidden states `[N, d]`, after the last norm.
    pub states: Tensor,
    /// Sum over sparse layers of the load-balancing loss; none in a dense model.
    pub balance: Option<Tensor>,
}

/// A causal language model. Clones share their weights.
#[derive(Debug, Clone)]
pub struct Transformer {
    pub config: Config,
    embed: Tensor,
    blocks: Vec<Block>,
    norm: Tensor,
    /// None: the head is the embedding.
    head: Option<Linear>,
    shape: AttentionShape,
    vars: BTreeMap<String, Var>,
}

impl Transformer {
    /// A model whose every weight is a variable, drawn from `seed`: normal with
    /// standard deviation 0.05, the projections back into the residual stream
    /// smaller by √(2·layers) (Radford et al. 2019).
    pub fn init(config: &Config, seed: u64) -> Result<Transformer> {
        let deep = 1.0 / (2.0 * config.num_hidden_layers as f64).sqrt();
        let mut vars = BTreeMap::new();
        for (name, shape) in tensor_shapes(config) {
            let n = shape.iter().product();
            let into_residual =
                ["o_proj", "down_proj", ".w2."].iter().any(|part| name.contains(part));
            let values = match shape.len() {
                1 => vec![1f32; n],
                _ => {
                    let std = 0.05 * if into_residual { deep } else { 1.0 };
                    rng::normal(&mut rng::stream(seed, &name), n, std)
                }
            };
            vars.insert(name, Var::from_vec(values, shape, &Device::Cpu)?);
        }
        let tensors = vars.iter().map(|(k, v)| (k.clone(), v.as_tensor().clone())).collect();
        let mut model = Self::from_tensors(config, tensors)?;
        model.vars = vars;
        Ok(model)
    }

    /// A frozen model from the tensors of a checkpoint, by the hub's names. A
    /// tensor that is missing, extra, mis-shaped or not finite is an error.
    pub fn from_tensors(config: &Config, mut t: BTreeMap<String, Tensor>) -> Result<Transformer> {
        for (name, shape) in tensor_shapes(config) {
            let found = t.get(&name).with_context(|| format!("tensor {name} is missing"))?;
            ensure!(
                found.dims() == shape.as_slice(),
                "tensor {name} has the shape {:?}, the config asks for {shape:?}",
                found.dims()
            );
            let sum = ops::with_values("load", found, |v| Ok(v.iter().all(|x| x.is_finite())))?;
            ensure!(sum, "tensor {name} holds a value that is not finite");
        }
        let mut take = |name: String| t.remove(&name).expect("checked above");
        let embed = take("model.embed_tokens.weight".into());
        let mut blocks = Vec::new();
        for i in 0..config.num_hidden_layers {
            let p = format!("model.layers.{i}");
            let mut linear = |name: String| Linear {
                weight: Weight::Dense(take(format!("{name}.weight"))),
                name,
                lora: None,
            };
            let ff = match config.num_local_experts {
                None => FeedForward::Dense(Gated {
                    gate: linear(format!("{p}.mlp.gate_proj")),
                    up: linear(format!("{p}.mlp.up_proj")),
                    down: linear(format!("{p}.mlp.down_proj")),
                }),
                Some(n) => {
                    let p = format!("{p}.block_sparse_moe");
                    let router = linear(format!("{p}.gate"));
                    let experts = (0..n)
                        .map(|e| Gated {
                            gate: linear(format!("{p}.experts.{e}.w1")),
                            up: linear(format!("{p}.experts.{e}.w3")),
                            down: linear(format!("{p}.experts.{e}.w2")),
                        })
                        .collect();
                    let used = config.num_experts_per_tok.unwrap_or(2);
                    FeedForward::Sparse(Experts { router, experts, used })
                }
            };
            let [q, k, v, o] =
                ["q", "k", "v", "o"].map(|x| linear(format!("{p}.self_attn.{x}_proj")));
            let input_norm = take(format!("{p}.input_layernorm.weight"));
            let post_norm = take(format!("{p}.post_attention_layernorm.weight"));
            blocks.push(Block { input_norm, q, k, v, o, post_norm, ff });
        }
        let norm = take("model.norm.weight".into());
        let head = (!config.tie_word_embeddings).then(|| Linear {
            weight: Weight::Dense(take("lm_head.weight".into())),
            name: "lm_head".into(),
            lora: None,
        });
        if let Some(name) = t.keys().next() {
            bail!("tensor {name} does not belong to a {} model", config.model_type);
        }
        let shape = AttentionShape {
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim(),
            window: config.sliding_window,
            rope: ops::rope_table(
                config.max_position_embeddings,
                config.head_dim(),
                config.rope_theta,
            ),
        };
        let config = config.clone();
        Ok(Transformer { config, embed, blocks, norm, head, shape, vars: BTreeMap::new() })
    }

    /// Final hidden states of packed sequences; differentiable.
    pub fn hidden(&self, packed: &Packed, pass: Pass) -> Result<Hidden> {
        let segments = &packed.segments;
        self.run(&packed.tokens, pass, &mut |_, q, k, v| {
            Ok(ops::attention(q, k, v, &self.shape, segments)?)
        })
    }

    /// Final hidden states of new tokens that continue cached sequences.
    pub fn step(&self, tokens: &[u32], rows: &[Continuation], cache: &mut Cache) -> Result<Tensor> {
        let attend = &mut |layer: usize, q: &Tensor, k: &Tensor, v: &Tensor| {
            let memory = &mut cache.memory[layer];
            Ok(ops::cached_attention(q, k, v, &self.shape, rows, memory)?)
        };
        Ok(self.run(tokens, Pass::default(), attend)?.states)
    }

    fn run(
        &self,
        tokens: &[u32],
        pass: Pass,
        attend: &mut dyn FnMut(usize, &Tensor, &Tensor, &Tensor) -> Result<Tensor>,
    ) -> Result<Hidden> {
        let eps = self.config.rms_norm_eps;
        let norm = |x: &Tensor, w: &Tensor| ops::rms_norm(x, w, eps, w.is_variable());
        if let Some(bad) = tokens.iter().find(|t| **t as usize >= self.config.vocab_size) {
            bail!("token {bad} is outside the vocabulary of {}", self.config.vocab_size);
        }
        let ids = Tensor::new(tokens, self.embed.device())?;
        let mut x = self.embed.index_select(&ids, 0)?;
        let mut balance: Option<Tensor> = None;
        for (i, b) in self.blocks.iter().enumerate() {
            let h = norm(&x, &b.input_norm)?;
            let (q, k, v) =
                (b.q.forward(&h, pass)?, b.k.forward(&h, pass)?, b.v.forward(&h, pass)?);
            x = (x + b.o.forward(&attend(i, &q, &k, &v)?, pass)?)?;
            let h = norm(&x, &b.post_norm)?;
            x = match &b.ff {
                FeedForward::Dense(ff) => (x + ff.forward(&h, pass)?)?,
                FeedForward::Sparse(ff) => {
                    let (y, loss) = ff.forward(&h, pass)?;
                    balance = Some(match balance {
                        None => loss,
                        Some(total) => (total + loss)?,
                    });
                    (x + y)?
                }
            };
        }
        Ok(Hidden { states: norm(&x, &self.norm)?, balance })
    }

    /// Logits `[M, V]` of the hidden states of `M` rows.
    pub fn logits(&self, states: &Tensor) -> Result<Tensor> {
        match &self.head {
            Some(head) => head.forward(states, Pass::default()),
            None => Ok(ops::linear(states, &Weight::Dense(self.embed.clone()))?),
        }
    }

    /// Every linear layer but the head, in checkpoint order.
    pub fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let mut all = Vec::new();
        for b in &mut self.blocks {
            all.extend([&mut b.q, &mut b.k, &mut b.v, &mut b.o]);
            match &mut b.ff {
                FeedForward::Dense(f) => all.extend([&mut f.gate, &mut f.up, &mut f.down]),
                FeedForward::Sparse(s) => {
                    all.push(&mut s.router);
                    for e in &mut s.experts {
                        all.extend([&mut e.gate, &mut e.up, &mut e.down]);
                    }
                }
            }
        }
        all
    }

    /// QLoRA's base: every linear layer but the head in NF4, the rest as it is.
    pub fn quantise(&mut self) -> Result<()> {
        for l in self.linears_mut() {
            l.weight = l.weight.quantised().with_context(|| l.name.clone())?;
        }
        Ok(())
    }

    /// Adds fresh adapters, drawn from `seed`; they are the only variables then.
    pub fn add_lora(&mut self, config: &LoraConfig, seed: u64) -> Result<()> {
        let mut vars = BTreeMap::new();
        for l in self.linears_mut() {
            l.add_lora(config, seed)?;
            let lora = l.lora.as_ref().expect("just added");
            vars.insert(format!("base_model.model.{}.lora_A.weight", l.name), lora.a.clone());
            vars.insert(format!("base_model.model.{}.lora_B.weight", l.name), lora.b.clone());
        }
        self.vars = vars;
        Ok(())
    }

    /// A dense copy with the adapters folded in: what generation runs on.
    pub fn merged(&self) -> Result<Transformer> {
        let mut merged = self.clone();
        for l in merged.linears_mut() {
            l.weight = Weight::Dense(l.merged()?);
            l.lora = None;
        }
        merged.vars = BTreeMap::new();
        Ok(merged)
    }

    /// What is trained, sorted by name: the order of every sum over parameters.
    pub fn variables(&self) -> &BTreeMap<String, Var> {
        &self.vars
    }

    /// Number of weights, variables or not.
    pub fn parameters(&self) -> usize {
        tensor_shapes(&self.config).iter().map(|(_, s)| s.iter().product::<usize>()).sum()
    }
}

/// Names and shapes of every tensor of a checkpoint.
pub fn tensor_shapes(c: &Config) -> Vec<(String, Vec<usize>)> {
    let (d, f, kv) = (c.hidden_size, c.intermediate_size, c.num_key_value_heads * c.head_dim());
    let mut all = vec![("model.embed_tokens.weight".to_string(), vec![c.vocab_size, d])];
    for i in 0..c.num_hidden_layers {
        let mut add = |name: &str, shape: &[usize]| {
            all.push((format!("model.layers.{i}.{name}.weight"), shape.to_vec()))
        };
        add("input_layernorm", &[d]);
        add("post_attention_layernorm", &[d]);
        for (name, out) in [("q", d), ("k", kv), ("v", kv)] {
            add(&format!("self_attn.{name}_proj"), &[out, d]);
        }
        add("self_attn.o_proj", &[d, d]);
        match c.num_local_experts {
            None => {
                add("mlp.gate_proj", &[f, d]);
                add("mlp.up_proj", &[f, d]);
                add("mlp.down_proj", &[d, f]);
            }
            Some(n) => {
                add("block_sparse_moe.gate", &[n, d]);
                for e in 0..n {
                    add(&format!("block_sparse_moe.experts.{e}.w1"), &[f, d]);
                    add(&format!("block_sparse_moe.experts.{e}.w2"), &[d, f]);
                    add(&format!("block_sparse_moe.experts.{e}.w3"), &[f, d]);
                }
            }
        }
    }
    all.push(("model.norm.weight".into(), vec![d]));
    if !c.tie_word_embeddings {
        all.push(("lm_head.weight".into(), vec![c.vocab_size, d]));
    }
    all
}
