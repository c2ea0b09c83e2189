//! AdamW, its schedule, and gradient clipping.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor, Var};
use serde::{Deserialize, Serialize};

use crate::model::ops::gpu::{self, AdamStep, Gpu};
use crate::model::ops::with_values;

/// Settings of AdamW and its schedule, named as transformers' `TrainingArguments`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerPlan {
    pub learning_rate: f64,
    pub weight_decay: f64,
    pub adam_beta1: f64,
    pub adam_beta2: f64,
    pub adam_epsilon: f64,
    /// Gradients are scaled down to this norm over all parameters.
    pub max_grad_norm: f64,
    pub warmup_steps: usize,
    /// Cosine to zero at this step.
    pub total_steps: usize,
}

impl OptimizerPlan {
    /// AdamW as transformers and TRL set it: β₁ 0.9, β₂ 0.999, ε 1e-8; gradients
    /// clipped to norm 1, no decay and no warm-up.
    pub fn new(learning_rate: f64, total_steps: usize) -> OptimizerPlan {
        OptimizerPlan {
            learning_rate,
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            max_grad_norm: 1.0,
            warmup_steps: 0,
            total_steps,
        }
    }

    /// Linear warm-up, then half a cosine, as transformers'
    /// `get_cosine_schedule_with_warmup`: the rate of step `t` (from 0) is
    /// `lr · t/w` below `w`, then `lr · (1 + cos(π (t − w)/(T − w)))/2`.
    pub fn rate(&self, step: usize) -> f64 {
        let (t, w) = (step as f64, self.warmup_steps as f64);
        if t < w {
            return self.learning_rate * t / w.max(1.0);
        }
        let progress = (t - w) / (self.total_steps as f64 - w).max(1.0);
        self.learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * progress.min(1.0)).cos())
    }
}

/// First and second moments of one parameter, in f32.
#[derive(Debug, Clone)]
enum Moments {
    Host { m: Vec<f32>, v: Vec<f32> },
    Device { m: Tensor, v: Tensor },
}

impl Moments {
    fn zeros(n: usize) -> Moments {
        Moments::Host { m: vec![0.0; n], v: vec![0.0; n] }
    }

    /// In the memory of a GPU; there afterwards.
    fn on(&mut self, device: &Device) -> Result<(&Tensor, &Tensor)> {
        if let Moments::Host { m, v } = self {
            let upload = |x: &[f32]| Tensor::from_slice(x, x.len(), device);
            *self = Moments::Device { m: upload(m)?, v: upload(v)? };
        }
        match self {
            Moments::Device { m, v } => Ok((m, v)),
            Moments::Host { .. } => unreachable!("made so above"),
        }
    }

    fn tensors(&self) -> Result<(Tensor, Tensor)> {
        let tensor = |x: &[f32]| Tensor::from_slice(x, x.len(), &Device::Cpu);
        Ok(match self {
            Moments::Host { m, v } => (tensor(m)?, tensor(v)?),
            Moments::Device { m, v } => (m.to_device(&Device::Cpu)?, v.to_device(&Device::Cpu)?),
        })
    }
}

/// AdamW (Loshchilov & Hutter 2019) with a state that can be saved. All sums
/// over parameters run in the order of their names.
#[derive(Debug)]
pub struct AdamW {
    plan: OptimizerPlan,
    moments: BTreeMap<String, Moments>,
    /// Updates done.
    pub step: usize,
}

/// What one update saw.
#[derive(Debug, Clone)]
pub struct Update {
    square: Square,
    pub learning_rate: f64,
}

/// `‖g‖²`; on a GPU it is read when somebody asks, after the update was queued.
#[derive(Debug, Clone)]
enum Square {
    Known(f64),
    OnDevice(Tensor),
}

impl Update {
    /// Norm of the gradient before clipping.
    pub fn grad_norm(&self) -> Result<f64> {
        Ok(match &self.square {
            Square::Known(s) => *s,
            Square::OnDevice(t) => t.to_scalar::<f64>()?,
        }
        .sqrt())
    }
}

/// Sums of gradients over the micro-batches of one step, by name.
pub type Gradients = BTreeMap<String, Tensor>;

impl AdamW {
    pub fn new(plan: OptimizerPlan) -> AdamW {
        AdamW { plan, moments: BTreeMap::new(), step: 0 }
    }

    /// `g ← g · min(1, c/‖g‖)`, `m ← β₁m + (1−β₁)g`, `v ← β₂v + (1−β₂)g²`,
    /// `θ ← θ − η (m̂/(√v̂ + ε) + λθ)`, m̂ and v̂ corrected for their start at 0.
    /// Matrices decay, vectors (the norms) do not.
    pub fn update(&mut self, vars: &BTreeMap<String, Var>, grads: &Gradients) -> Result<Update> {
        let p = &self.plan;
        ensure!(!grads.is_empty(), "step {}: no parameter got a gradient", self.step);
        let rate = p.rate(self.step);
        let c1 = 1.0 - p.adam_beta1.powi(self.step as i32 + 1);
        let c2 = 1.0 - p.adam_beta2.powi(self.step as i32 + 1);
        let shared = AdamStep {
            max_norm: p.max_grad_norm as f32,
            b1: p.adam_beta1 as f32,
            b2: p.adam_beta2 as f32,
            size: (rate / c1) as f32,
            root: (1.0 / c2) as f32,
            eps: p.adam_epsilon as f32,
            decay: 0.0,
        };
        let decay = (rate * p.weight_decay) as f32;
        // Vectors (the norms) do not decay.
        let shared =
            |var: &Var| AdamStep { decay: if var.rank() > 1 { decay } else { 0.0 }, ..shared };
        let gpu = grads.values().next().and_then(Gpu::of);
        let square = match &gpu {
            None => Square::Known(self.square_sum(grads)?),
            Some(gpu) => {
                Square::OnDevice(gpu::square_sum(gpu, &grads.values().collect::<Vec<_>>())?)
            }
        };
        self.step += 1;
        for (name, var) in vars {
            // An expert that no token chose has nothing to learn from this step.
            let Some(g) = grads.get(name) else { continue };
            let moments = self.moments.entry(name.clone());
            let moments = moments.or_insert_with(|| Moments::zeros(g.elem_count()));
            match (&gpu, &square) {
                (Some(gpu), Square::OnDevice(square)) => {
                    let (m, v) = moments.on(var.device())?;
                    gpu::adamw(gpu, [var.as_tensor(), g, m, v], square, &shared(var))?;
                }
                (_, Square::Known(square)) => {
                    let clip = (p.max_grad_norm / (square.sqrt() + 1e-6)).min(1.0) as f32;
                    let Moments::Host { m, v } = moments else {
                        bail!("the optimizer's state of {name} is on a GPU, its gradient is not")
                    };
                    update_on_host(var, g, (m, v), clip, &shared(var))?;
                }
                (None, Square::OnDevice(_)) => unreachable!("made together above"),
            }
        }
        Ok(Update { square, learning_rate: rate })
    }

    fn square_sum(&self, grads: &Gradients) -> Result<f64> {
        let mut square = 0f64;
        for (name, g) in grads {
            let s: f64 =
                with_values("gradient", g, |g| Ok(g.iter().map(|x| *x as f64 * *x as f64).sum()))?;
            ensure!(s.is_finite(), "step {}: the gradient of {name} is not finite", self.step);
            square += s;
        }
        Ok(square)
    }

    /// The state as tensors, to be saved beside the parameters.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut all = BTreeMap::new();
        for (name, moments) in &self.moments {
            let (m, v) = moments.tensors()?;
            all.insert(format!("{name}.exp_avg"), m);
            all.insert(format!("{name}.exp_avg_sq"), v);
        }
        Ok(all)
    }

    /// Restores what [`AdamW::state`] gave.
    pub fn restore(
        &mut self,
        step: usize,
        state: &BTreeMap<String, Tensor>,
        from: &Path,
    ) -> Result<()> {
        self.step = step;
        self.moments.clear();
        for (key, m) in state {
            let Some(name) = key.strip_suffix(".exp_avg") else { continue };
            let v = state
                .get(&format!("{name}.exp_avg_sq"))
                .with_context(|| format!("{}: {name}.exp_avg_sq is missing", from.display()))?;
            let moments = Moments::Host { m: m.to_vec1()?, v: v.to_vec1()? };
            self.moments.insert(name.to_string(), moments);
        }
        Ok(())
    }
}

fn update_on_host(
    var: &Var,
    g: &Tensor,
    (m, v): (&mut [f32], &mut [f32]),
    clip: f32,
    s: &AdamStep,
) -> Result<()> {
    let next = with_values("adamw", g, |g| {
        with_values("adamw", var, |theta| {
            let each = theta.iter().zip(g).zip(m.iter_mut()).zip(v.iter_mut());
            let next = each.map(|(((theta, g), m), v)| {
                let g = g * clip;
                *m = s.b1 * *m + (1.0 - s.b1) * g;
                *v = s.b2 * *v + (1.0 - s.b2) * g * g;
                theta - theta * s.decay - s.size * *m / ((*v * s.root).sqrt() + s.eps)
            });
            Ok(next.collect::<Vec<f32>>())
        })
    })?;
    Ok(var.set(&Tensor::from_vec(next, var.shape(), var.device())?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> OptimizerPlan {
        OptimizerPlan {
            learning_rate: 0.1,
            weight_decay: 0.5,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            max_grad_norm: 1e9,
            warmup_steps: 2,
            total_steps: 10,
        }
    }

    #[test]
    fn schedule_by_hand() {
        let p = plan();
        assert_eq!(p.rate(0), 0.0);
        assert_eq!(p.rate(1), 0.05);
        assert_eq!(p.rate(2), 0.1);
        assert!((p.rate(6) - 0.05).abs() < 1e-12);
        assert!(p.rate(10) < 1e-12);
    }

    /// At the first update m̂ = g and v̂ = g², so the step is η·sign(g), and the
    /// decay takes η·λ·θ: 1 − 0.1·0.5·1 − 0.1 = 0.85 for a matrix, 0.9 for a vector.
    #[test]
    fn first_update_by_hand() {
        let mut vars = BTreeMap::new();
        let one = |shape: &[usize]| Var::from_vec(vec![1f32; 1], shape, &Device::Cpu).unwrap();
        vars.insert("matrix".to_string(), one(&[1, 1]));
        vars.insert("vector".to_string(), one(&[1]));
        let grads: Gradients = vars
            .iter()
            .map(|(k, v)| (k.clone(), (v.ones_like().unwrap() * 3.0).unwrap()))
            .collect();
        let mut adam =
            AdamW::new(OptimizerPlan { warmup_steps: 0, total_steps: 1_000_000, ..plan() });
        let seen = adam.update(&vars, &grads).unwrap();
        assert!((seen.grad_norm().unwrap() - 18f64.sqrt()).abs() < 1e-9);
        let value = |k: &str| vars[k].flatten_all().unwrap().to_vec1::<f32>().unwrap()[0];
        assert!((value("matrix") - 0.85).abs() < 1e-6, "{}", value("matrix"));
        assert!((value("vector") - 0.9).abs() < 1e-6, "{}", value("vector"));
    }
}
