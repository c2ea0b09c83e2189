//! One decoder-only transformer, described by its config: Llama, Mistral, Qwen2,
//! Qwen3, and Mixtral with its sparse mixture of experts.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor, Var};

use super::block::{Block, FeedForward, Gated};
use super::cache::Cache;
use super::config::Config;
use super::lora::{Linear, LoraConfig, Pass};
use super::moe::Experts;
use super::ops::{self, AttentionShape, Continuation, Segment};
use super::recompute::{Recompute, Sink};
use super::rng;
use super::rope::scaled_frequencies;
use super::weight::{Placement, Weight};
use super::weights::Weights;

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
    vars: BTreeMap<String, Var>,
    /// Where gradients of recomputed blocks gather; none: nothing is recomputed.
    recomputation: Option<Arc<Sink>>,
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
                1 if name.ends_with(".bias") => vec![0f32; n],
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
        Self::from_weights(config, &mut t)
    }

    pub(super) fn from_weights(config: &Config, w: &mut dyn Weights) -> Result<Transformer> {
        config.check()?;
        let (d, f, hd) = (config.hidden_size, config.intermediate_size, config.head_dim());
        let (q_width, kv_width) =
            (config.num_attention_heads * hd, config.num_key_value_heads * hd);
        let (qkv_bias, o_bias) = config.projection_biases();
        let embed = w.tensor("model.embed_tokens.weight", &[config.vocab_size, d])?;
        let rope = ops::Rope::new(config.max_position_embeddings, &scaled_frequencies(config));
        let linear = |w: &mut dyn Weights, name: String, shape: [usize; 2], bias: bool| {
            Ok::<_, anyhow::Error>(Linear {
                weight: w.linear(&name, shape)?,
                bias: bias.then(|| w.tensor(&format!("{name}.bias"), &shape[..1])).transpose()?,
                name,
                lora: None,
            })
        };
        let mut blocks = Vec::new();
        for i in 0..config.num_hidden_layers {
            let p = format!("model.layers.{i}");
            let a = format!("{p}.self_attn");
            let ff = match config.num_local_experts {
                None => FeedForward::Dense(Gated {
                    gate: linear(w, format!("{p}.mlp.gate_proj"), [f, d], config.mlp_bias)?,
                    up: linear(w, format!("{p}.mlp.up_proj"), [f, d], config.mlp_bias)?,
                    down: linear(w, format!("{p}.mlp.down_proj"), [d, f], config.mlp_bias)?,
                }),
                Some(n) => {
                    let p = format!("{p}.block_sparse_moe");
                    let router = linear(w, format!("{p}.gate"), [n, d], false)?;
                    let experts = (0..n)
                        .map(|e| {
                            let p = format!("{p}.experts.{e}");
                            Ok(Gated {
                                gate: linear(w, format!("{p}.w1"), [f, d], false)?,
                                up: linear(w, format!("{p}.w3"), [f, d], false)?,
                                down: linear(w, format!("{p}.w2"), [d, f], false)?,
                            })
                        })
                        .collect::<Result<_>>()?;
                    FeedForward::Sparse(Experts {
                        router,
                        experts,
                        used: config.num_experts_per_tok,
                    })
                }
            };
            blocks.push(Block {
                input_norm: w.tensor(&format!("{p}.input_layernorm.weight"), &[d])?,
                q: linear(w, format!("{a}.q_proj"), [q_width, d], qkv_bias)?,
                k: linear(w, format!("{a}.k_proj"), [kv_width, d], qkv_bias)?,
                v: linear(w, format!("{a}.v_proj"), [kv_width, d], qkv_bias)?,
                o: linear(w, format!("{a}.o_proj"), [d, q_width], o_bias)?,
                qk_norm: if config.qk_norm() {
                    let mut norm = |x| w.tensor(&format!("{a}.{x}_norm.weight"), &[hd]);
                    Some((norm("q")?, norm("k")?))
                } else {
                    None
                },
                shape: AttentionShape {
                    heads: config.num_attention_heads,
                    kv_heads: config.num_key_value_heads,
                    head_dim: hd,
                    window: config.window(i),
                    rope: rope.clone(),
                },
                post_norm: w.tensor(&format!("{p}.post_attention_layernorm.weight"), &[d])?,
                ff,
            });
        }
        let norm = w.tensor("model.norm.weight", &[d])?;
        let head = match config.tie_word_embeddings {
            true => None,
            false => Some(linear(w, "lm_head".into(), [config.vocab_size, d], false)?),
        };
        if let Some(name) = w.left() {
            bail!("tensor {name} does not belong to this {} model", config.model_type);
        }
        Ok(Transformer {
            config: config.clone(),
            embed,
            blocks,
            norm,
            head,
            vars: BTreeMap::new(),
            recomputation: None,
        })
    }

    /// Final hidden states of packed sequences; differentiable.
    pub fn hidden(&self, packed: &Packed, pass: Pass) -> Result<Hidden> {
        let (mut x, mut balance) = (self.embedded(&packed.tokens)?, None::<Tensor>);
        let eps = self.config.rms_norm_eps;
        for (i, block) in self.blocks.iter().enumerate() {
            let loss;
            (x, loss) = match &self.recomputation {
                None => block.forward(&x, pass, eps, &mut |q, k, v| {
                    Ok(ops::attention(q, k, v, &block.shape, &packed.segments)?)
                })?,
                Some(sink) => {
                    let again = Recompute {
                        block: block.clone(),
                        vars: self.vars_of(i),
                        segments: packed.segments.clone(),
                        pass,
                        eps,
                        sink: sink.clone(),
                    };
                    again.forward(x)?
                }
            };
            balance = match (balance, loss) {
                (Some(total), Some(loss)) => Some((total + loss)?),
                (total, loss) => total.or(loss),
            };
        }
        Ok(Hidden { states: self.last_norm(&x)?, balance })
    }

    /// Final hidden states of new tokens that continue cached sequences.
    pub fn step(&self, tokens: &[u32], rows: &[Continuation], cache: &mut Cache) -> Result<Tensor> {
        let mut x = self.embedded(tokens)?;
        let eps = self.config.rms_norm_eps;
        let step = cache.begin(rows)?;
        for (i, block) in self.blocks.iter().enumerate() {
            (x, _) = block.forward(&x, Pass::default(), eps, &mut |q, k, v| {
                cache.attend(i, (q, k, v), &block.shape, &step)
            })?;
        }
        cache.end(rows);
        self.last_norm(&x)
    }

    /// Activation checkpointing (Chen et al. 2016), a block at a time: only the
    /// inputs of blocks are kept for the backward pass, which computes the rest
    /// again. The gradients have the same bits.
    pub fn set_gradient_checkpointing(&mut self, on: bool) {
        self.recomputation = on.then(Default::default);
    }

    /// Gradients of a loss of this model, added to `sums` by the variables' names.
    pub fn backward(&self, loss: &Tensor, sums: &mut BTreeMap<String, Tensor>) -> Result<()> {
        let store = loss.backward()?;
        let mut add = |name: &str, g: &Tensor| -> Result<()> {
            let g = g.contiguous()?;
            let sum = match sums.remove(name) {
                None => g,
                Some(sum) => (sum + g)?,
            };
            sums.insert(name.to_string(), sum);
            Ok(())
        };
        for (name, var) in &self.vars {
            if let Some(g) = store.get(var) {
                add(name, g)?;
            }
        }
        if let Some(sink) = &self.recomputation {
            for (name, g) in sink.take() {
                add(&name, &g)?;
            }
        }
        Ok(())
    }

    /// The variables inside block `i`.
    fn vars_of(&self, i: usize) -> Vec<(String, Var)> {
        let inside = format!("model.layers.{i}.");
        let all = self.vars.iter().filter(|(name, _)| name.contains(&inside));
        all.map(|(name, var)| (name.clone(), var.clone())).collect()
    }

    /// Embeddings of `tokens`, `[N, d]`.
    fn embedded(&self, tokens: &[u32]) -> Result<Tensor> {
        if let Some(bad) = tokens.iter().find(|t| **t as usize >= self.config.vocab_size) {
            bail!("token {bad} is outside the vocabulary of {}", self.config.vocab_size);
        }
        let ids = Tensor::new(tokens, self.embed.device())?;
        Ok(self.embed.index_select(&ids, 0)?)
    }

    fn last_norm(&self, x: &Tensor) -> Result<Tensor> {
        let w = &self.norm;
        Ok(ops::rms_norm(x, w, self.config.rms_norm_eps, w.is_variable())?)
    }

    /// Log-probability of `labels[m]` after row `m` of `states [M, d]`; `[M]`, in nats.
    pub fn log_probs(&self, states: &Tensor, labels: &[u32]) -> Result<Tensor> {
        Ok(match &self.head {
            None => ops::head_log_prob(states, &Weight::Dense(self.embed.clone()), labels)?,
            Some(h) if h.lora.is_none() && h.bias.is_none() => {
                ops::head_log_prob(states, &h.weight, labels)?
            }
            Some(_) => ops::log_prob(&self.logits(states)?, labels)?,
        })
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
        self.blocks.iter_mut().flat_map(Block::linears_mut).collect()
    }

    /// QLoRA's base: every linear layer but the head in NF4, the rest as it is.
    pub fn quantise(&mut self) -> Result<()> {
        for l in self.linears_mut() {
            l.weight = l.weight.quantised().with_context(|| l.name.clone())?;
        }
        Ok(())
    }

    /// Adds fresh adapters, drawn from `seed`, to the layers that the config
    /// targets; they are the only variables then.
    pub fn add_lora(&mut self, config: &LoraConfig, seed: u64) -> Result<()> {
        let mut vars = BTreeMap::new();
        let targeted = config.target_modules.matcher()?;
        let device = self.placement().device;
        for l in self.linears_mut() {
            if !targeted(&l.name) {
                continue;
            }
            let [a, b] = l.add_lora(config, seed, &device)?;
            vars.insert(format!("base_model.model.{}.lora_A.weight", l.name), a);
            vars.insert(format!("base_model.model.{}.lora_B.weight", l.name), b);
        }
        ensure!(
            !vars.is_empty(),
            "target_modules {:?} names no layer of this {} model",
            config.target_modules,
            self.config.model_type
        );
        self.vars = vars;
        Ok(())
    }

    /// The same model, sharing its weights as they are, for passes that nothing is learnt
    /// from: they keep no activations.
    pub fn frozen(&self) -> Transformer {
        let mut frozen = self.clone();
        let norms = frozen.blocks.iter_mut().flat_map(Block::norms_mut);
        for t in norms.chain([&mut frozen.norm, &mut frozen.embed]) {
            *t = t.detach();
        }
        for l in frozen.blocks.iter_mut().flat_map(Block::linears_mut).chain(&mut frozen.head) {
            let weight = match &mut l.weight {
                Weight::Dense(w) => Some(w),
                _ => None,
            };
            let adapter = l.lora.iter_mut().flat_map(|l| [&mut l.a, &mut l.b]);
            for t in adapter.chain(&mut l.bias).chain(weight) {
                *t = t.detach();
            }
        }
        frozen.vars = BTreeMap::new();
        frozen.recomputation = None;
        frozen
    }

    /// Where the model computes, and in which type.
    pub fn placement(&self) -> Placement {
        Placement { device: self.embed.device().clone(), dtype: self.embed.dtype() }
    }

    /// A frozen copy elsewhere, or in another type; adapters are added afterwards.
    pub fn at(&self, place: &Placement) -> Result<Transformer> {
        ensure!(self.vars.is_empty(), "a model in training stays where it is");
        let mut moved = self.clone();
        let norms = moved.blocks.iter_mut().flat_map(Block::norms_mut);
        for t in norms.chain([&mut moved.norm]) {
            *t = place.tensor(t)?;
        }
        moved.embed = place.tensor(&moved.embed)?;
        for l in moved.blocks.iter_mut().flat_map(Block::linears_mut).chain(&mut moved.head) {
            l.weight = l.weight.at(place)?;
            l.bias = l.bias.as_ref().map(|b| place.tensor(b)).transpose()?;
        }
        Ok(moved)
    }

    pub(super) fn attention_shapes(&self) -> Vec<&AttentionShape> {
        self.blocks.iter().map(|b| &b.shape).collect()
    }

    /// A dense copy with the adapters folded in: what generation runs on.
    pub fn merged(&self) -> Result<Transformer> {
        let dtype = self.placement().dtype;
        let mut merged = self.clone();
        for l in merged.linears_mut() {
            l.weight = Weight::Dense(l.merged(dtype)?);
            l.lora = None;
        }
        merged.vars = BTreeMap::new();
        merged.recomputation = None;
        Ok(merged)
    }

    /// Every tensor of a model without adapters by its name in a checkpoint;
    /// weights in NF4 are dequantised.
    pub fn tensors(&self) -> Result<HashMap<String, Tensor>> {
        let mut all = HashMap::new();
        let mut add = |name: String, t: &Tensor| all.insert(name, t.detach());
        add("model.embed_tokens.weight".into(), &self.embed);
        add("model.norm.weight".into(), &self.norm);
        for (i, b) in self.blocks.iter().enumerate() {
            let p = format!("model.layers.{i}");
            add(format!("{p}.input_layernorm.weight"), &b.input_norm);
            add(format!("{p}.post_attention_layernorm.weight"), &b.post_norm);
            if let Some((q, k)) = &b.qk_norm {
                add(format!("{p}.self_attn.q_norm.weight"), q);
                add(format!("{p}.self_attn.k_norm.weight"), k);
            }
        }
        for l in self.blocks.iter().flat_map(Block::linears).chain(&self.head) {
            ensure!(l.lora.is_none(), "{} carries an adapter; merge it first", l.name);
            add(format!("{}.weight", l.name), &l.weight.dense()?);
            if let Some(b) = &l.bias {
                add(format!("{}.bias", l.name), b);
            }
        }
        Ok(all)
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
    let (d, f, hd) = (c.hidden_size, c.intermediate_size, c.head_dim());
    let (q, kv) = (c.num_attention_heads * hd, c.num_key_value_heads * hd);
    let (qkv_bias, o_bias) = c.projection_biases();
    let mut all = vec![("model.embed_tokens.weight".to_string(), vec![c.vocab_size, d])];
    for i in 0..c.num_hidden_layers {
        let mut add = |name: &str, shape: &[usize], bias: bool| {
            let name = format!("model.layers.{i}.{name}");
            if bias {
                all.push((format!("{name}.bias"), shape[..1].to_vec()));
            }
            all.push((format!("{name}.weight"), shape.to_vec()));
        };
        add("input_layernorm", &[d], false);
        add("post_attention_layernorm", &[d], false);
        for (name, out) in [("q", q), ("k", kv), ("v", kv)] {
            add(&format!("self_attn.{name}_proj"), &[out, d], qkv_bias);
        }
        add("self_attn.o_proj", &[d, q], o_bias);
        if c.qk_norm() {
            add("self_attn.q_norm", &[hd], false);
            add("self_attn.k_norm", &[hd], false);
        }
        match c.num_local_experts {
            None => {
                add("mlp.gate_proj", &[f, d], c.mlp_bias);
                add("mlp.up_proj", &[f, d], c.mlp_bias);
                add("mlp.down_proj", &[d, f], c.mlp_bias);
            }
            Some(n) => {
                add("block_sparse_moe.gate", &[n, d], false);
                for e in 0..n {
                    add(&format!("block_sparse_moe.experts.{e}.w1"), &[f, d], false);
                    add(&format!("block_sparse_moe.experts.{e}.w2"), &[d, f], false);
                    add(&format!("block_sparse_moe.experts.{e}.w3"), &[f, d], false);
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
