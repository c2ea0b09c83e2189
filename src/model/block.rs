//! One block of the transformer: attention, then a feed-forward network.

use anyhow::Result;
use candle_core::Tensor;

use super::lora::{Linear, Pass};
use super::moe::Experts;
use super::ops::{self, AttentionShape};

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
        let inner = pass.read();
        let h = ops::swiglu(&self.gate.forward(x, inner)?, &self.up.forward(x, inner)?)?;
        self.down.forward(&h, pass)
    }
}

#[derive(Debug, Clone)]
pub(super) struct Block {
    pub input_norm: Tensor,
    pub q: Linear,
    pub k: Linear,
    pub v: Linear,
    pub o: Linear,
    /// Norms of every head of `q` and of `k` (Qwen3).
    pub qk_norm: Option<(Tensor, Tensor)>,
    pub shape: AttentionShape,
    pub post_norm: Tensor,
    pub ff: FeedForward,
}

impl Block {
    /// Its linear layers, in checkpoint order.
    pub fn linears(&self) -> Vec<&Linear> {
        let mut all = vec![&self.q, &self.k, &self.v, &self.o];
        match &self.ff {
            FeedForward::Dense(f) => all.extend([&f.gate, &f.up, &f.down]),
            FeedForward::Sparse(s) => {
                all.push(&s.router);
                all.extend(s.experts.iter().flat_map(|e| [&e.gate, &e.up, &e.down]));
            }
        }
        all
    }

    /// The weights of its norms.
    pub fn norms_mut(&mut self) -> Vec<&mut Tensor> {
        let mut all = vec![&mut self.input_norm, &mut self.post_norm];
        if let Some((q, k)) = &mut self.qk_norm {
            all.extend([q, k]);
        }
        all
    }

    pub fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let mut all = vec![&mut self.q, &mut self.k, &mut self.v, &mut self.o];
        match &mut self.ff {
            FeedForward::Dense(f) => all.extend([&mut f.gate, &mut f.up, &mut f.down]),
            FeedForward::Sparse(s) => {
                all.push(&mut s.router);
                for e in &mut s.experts {
                    all.extend([&mut e.gate, &mut e.up, &mut e.down]);
                }
            }
        }
        all
    }

    /// `x [N, d]` to the next block's input, and a sparse block's load-balancing
    /// loss. `attend` takes queries, keys and values before their rotation.
    pub fn forward(
        &self,
        x: &Tensor,
        pass: Pass,
        eps: f64,
        attend: &mut dyn FnMut(&Tensor, &Tensor, &Tensor) -> Result<Tensor>,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let norm = |x: &Tensor, w: &Tensor| ops::rms_norm(x, w, eps, w.is_variable());
        let inner = pass.read();
        let h = norm(x, &self.input_norm)?;
        let (mut q, mut k, v) =
            (self.q.forward(&h, inner)?, self.k.forward(&h, inner)?, self.v.forward(&h, inner)?);
        if let Some((q_norm, k_norm)) = &self.qk_norm {
            let by_head = |x: &Tensor, w: &Tensor| -> Result<Tensor> {
                let (n, width) = x.dims2()?;
                let heads = x.reshape((n * width / w.dim(0)?, w.dim(0)?))?;
                Ok(norm(&heads, w)?.reshape((n, width))?)
            };
            (q, k) = (by_head(&q, q_norm)?, by_head(&k, k_norm)?);
        }
        let x = (x + self.o.forward(&attend(&q, &k, &v)?, inner)?)?;
        let h = norm(&x, &self.post_norm)?;
        Ok(match &self.ff {
            FeedForward::Dense(ff) => ((x + ff.forward(&h, pass)?)?, None),
            FeedForward::Sparse(ff) => {
                let (y, balance) = ff.forward(&h, inner)?;
                ((x + y)?, Some(balance))
            }
        })
    }
}
