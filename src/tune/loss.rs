//! The losses: maximum likelihood on answers, and DPO.

use anyhow::Result;
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::model::ops::log_sigmoid;
use crate::model::{Packed, Pass, Transformer};

/// One training sequence: `tokens`, of which those from `answer` on carry the loss.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    pub tokens: Vec<u32>,
    /// Index of the first token that is predicted with loss; at least 1.
    pub answer: usize,
}

/// Log-probability of every answer token of `examples` under the model, with
/// the example each belongs to: `log π_θ(w_t | s_t)`, `[tokens]`, differentiable.
pub struct TokenLogProbs {
    pub values: Tensor,
    pub example: Vec<usize>,
    /// Load-balancing loss of sparse layers.
    pub balance: Option<Tensor>,
}

/// One packed pass over `examples`; logits are computed only where a label is.
pub fn token_log_probs(
    model: &Transformer,
    examples: &[&Example],
    pass: Pass,
) -> Result<TokenLogProbs> {
    // The last token predicts nothing.
    let inputs: Vec<&[u32]> = examples.iter().map(|e| &e.tokens[..e.tokens.len() - 1]).collect();
    let packed = Packed::new(&inputs);
    let (mut rows, mut labels, mut example) = (Vec::new(), Vec::new(), Vec::new());
    for (i, (e, s)) in examples.iter().zip(packed.segments.iter()).enumerate() {
        for t in e.answer..e.tokens.len() {
            rows.push((s.start + t - 1) as u32);
            labels.push(e.tokens[t]);
            example.push(i);
        }
    }
    let hidden = model.hidden(&packed, pass)?;
    let states = if rows.len() == packed.tokens.len() {
        hidden.states
    } else {
        let rows = Tensor::new(rows.as_slice(), hidden.states.device())?;
        hidden.states.index_select(&rows, 0)?
    };
    let values = model.log_probs(&states, &labels)?;
    Ok(TokenLogProbs { values, example, balance: hidden.balance })
}

/// P2, phase 1: `L_IT = −(1/n) Σ_t log π_θ(w_t | s_t, q, i)` over answer tokens.
/// `n` is given: the number of answer tokens of the *whole* step, so that
/// 1 × 16 and 16 × 1 give the same gradient.
pub fn sft(log_probs: &TokenLogProbs, n: usize) -> Result<Tensor> {
    Ok((log_probs.values.sum_all()? * (-1.0 / n as f64))?)
}

/// `log π(y|x) = Σ_t log π(w_t | s_t)` of each of `count` examples, `[count]`.
pub fn sequence_log_probs(log_probs: &TokenLogProbs, count: usize) -> Result<Tensor> {
    let device = log_probs.values.device();
    let index: Vec<u32> = log_probs.example.iter().map(|i| *i as u32).collect();
    let index = Tensor::new(index.as_slice(), device)?;
    let zero = Tensor::zeros(count, candle_core::DType::F32, device)?;
    Ok(zero.index_add(&index, &log_probs.values, 0)?)
}

/// The DPO loss of a batch with its parts, each `[pairs]`.
pub struct Dpo {
    pub losses: Tensor,
    /// `β (log π_θ(y_w|x) − log π_ref(y_w|x))`.
    pub chosen_rewards: Tensor,
    /// `β (log π_θ(y_l|x) − log π_ref(y_l|x))`.
    pub rejected_rewards: Tensor,
}

/// Which loss the preferences are learnt with, by TRL's names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossType {
    /// [`dpo`].
    #[default]
    Sigmoid,
    /// [`ipo`].
    Ipo,
}

/// IPO (Azar et al. 2023, Eq. 17): `L = (h − 1/(2β))²` with `h` DPO's `M` without β.
/// Arguments as in [`dpo`].
///
/// The log-probabilities are sums over answer tokens, as in the paper. TRL (1.16)
/// averages them over tokens for this loss, which gives β another meaning: 13.19
/// instead of 16.47 on the batch of the tests.
pub fn ipo(
    policy_chosen: &Tensor,
    policy_rejected: &Tensor,
    reference_chosen: &Tensor,
    reference_rejected: &Tensor,
    beta: f64,
) -> Result<Dpo> {
    let (chosen, rejected) =
        ((policy_chosen - reference_chosen)?, (policy_rejected - reference_rejected)?);
    let losses = ((&chosen - &rejected)? - 1.0 / (2.0 * beta))?.sqr()?;
    Ok(Dpo { losses, chosen_rewards: (chosen * beta)?, rejected_rewards: (rejected * beta)? })
}

/// P2 Eq. 1–2: `L_DPO = −log σ(M)`, `M = β log π_θ(y_w|x)/π_ref(y_w|x) − β log
/// π_θ(y_l|x)/π_ref(y_l|x)`. All arguments `[pairs]`, sums over answer tokens.
pub fn dpo(
    policy_chosen: &Tensor,
    policy_rejected: &Tensor,
    reference_chosen: &Tensor,
    reference_rejected: &Tensor,
    beta: f64,
) -> Result<Dpo> {
    let chosen_rewards = ((policy_chosen - reference_chosen)? * beta)?;
    let rejected_rewards = ((policy_rejected - reference_rejected)? * beta)?;
    let m = (&chosen_rewards - &rejected_rewards)?;
    let losses = log_sigmoid(&m)?.neg()?;
    Ok(Dpo { losses, chosen_rewards, rejected_rewards })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    fn t(x: &[f32]) -> Tensor {
        Tensor::new(x, &Device::Cpu).unwrap()
    }

    /// With the policy equal to the reference the margin is 0 and the loss ln 2.
    /// With β = 0.5, log-ratios +2 and −2, M = 2: the loss is ln(1 + e^{−2}).
    #[test]
    fn dpo_by_hand() {
        let at_start = dpo(&t(&[-3.0]), &t(&[-5.0]), &t(&[-3.0]), &t(&[-5.0]), 0.1).unwrap();
        assert_eq!(at_start.losses.to_vec1::<f32>().unwrap(), [std::f32::consts::LN_2]);
        let d = dpo(&t(&[-1.0]), &t(&[-7.0]), &t(&[-3.0]), &t(&[-5.0]), 0.5).unwrap();
        let loss = d.losses.to_vec1::<f32>().unwrap()[0];
        assert!((loss - (1.0 + (-2f32).exp()).ln()).abs() < 1e-6);
        assert_eq!(d.chosen_rewards.to_vec1::<f32>().unwrap(), [1.0]);
        assert_eq!(d.rejected_rewards.to_vec1::<f32>().unwrap(), [-1.0]);
    }

    /// β = 0.1 aims at h = 5; log-ratios +2 and −2 give h = 4 and (4 − 5)² = 1.
    #[test]
    fn ipo_by_hand() {
        let d = ipo(&t(&[-1.0]), &t(&[-7.0]), &t(&[-3.0]), &t(&[-5.0]), 0.1).unwrap();
        let loss = d.losses.to_vec1::<f32>().unwrap()[0];
        assert!((loss - 1.0).abs() < 1e-5, "{loss}");
        let reward = d.chosen_rewards.to_vec1::<f32>().unwrap()[0];
        assert!((reward - 0.2).abs() < 1e-6);
    }

    /// dL/dM = −σ(−M): at M = 0 the gradient on the chosen log-prob is −β/2.
    #[test]
    fn dpo_gradient_by_hand() {
        let chosen = Var::from_tensor(&t(&[-3.0])).unwrap();
        let d = dpo(&chosen, &t(&[-5.0]), &t(&[-3.0]), &t(&[-5.0]), 0.1).unwrap();
        let g = d.losses.sum_all().unwrap().backward().unwrap();
        let g = g.get(&chosen).unwrap().to_vec1::<f32>().unwrap()[0];
        assert!((g + 0.05).abs() < 1e-6, "{g}");
    }
}
