//! How many operations a step takes, whatever carries them out.

use crate::model::{Config, tensor_shapes};

/// Floating-point operations of one QLoRA step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct StepFlops {
    pub forward: f64,
    /// The gradient of the activations: frozen weights have none of their own.
    pub backward: f64,
    /// The forward pass again, with gradient checkpointing.
    pub recompute: f64,
}

impl StepFlops {
    /// With `T` tokens in sequences of `L`, of which `A` carry loss, and `N` weights in
    /// the linear layers of the blocks: `2NT` for a pass forward, and as many for the
    /// gradient of the activations; attention `2TLh` forward (`h` the width of the
    /// queries; half of all pairs of tokens, the causal ones) and twice that backward;
    /// the head `2AVd` each way. The adapters, under a hundredth, are left out.
    pub fn of(config: &Config, sequences: usize, length: usize, labels: usize) -> StepFlops {
        let tokens = (sequences * length) as f64;
        let linear: usize = tensor_shapes(config)
            .iter()
            .filter(|(name, shape)| shape.len() == 2 && name.starts_with("model.layers."))
            .map(|(_, shape)| shape.iter().product::<usize>())
            .sum();
        let products = 2.0 * linear as f64 * tokens;
        let width = (config.num_attention_heads * config.head_dim()) as f64;
        let attention = config.num_hidden_layers as f64 * 2.0 * tokens * length as f64 * width;
        let head = 2.0 * (labels * config.vocab_size * config.hidden_size) as f64;
        let forward = products + attention + head;
        StepFlops { forward, backward: products + 2.0 * attention + head, recompute: forward }
    }

    /// What the model asks for, however it is computed: of utilisation, the strict kind
    /// (Chowdhery et al. 2022, appendix B).
    pub fn model(&self) -> f64 {
        self.forward + self.backward
    }

    /// What the card does.
    pub fn total(&self) -> f64 {
        self.forward + self.backward + self.recompute
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::device::bench::Shape;

    /// Llama-2-7B: 6.48 billion weights in blocks, so a token takes 12.95 GFLOP forward.
    #[test]
    fn seven_billion_weights_by_hand() {
        let config = Shape::Llama7B.config();
        let f = StepFlops::of(&config, 1, 512, 128);
        let products = 2.0 * 512.0 * 32.0 * (4.0 * 4096.0 * 4096.0 + 3.0 * 4096.0 * 11008.0);
        let attention = 32.0 * 2.0 * 512.0 * 512.0 * 4096.0;
        let head = 2.0 * 128.0 * 32000.0 * 4096.0;
        assert_eq!(f.forward, products + attention + head);
        assert_eq!(f.model(), 2.0 * products + 3.0 * attention + 2.0 * head);
        assert_eq!(f.total(), 3.0 * products + 4.0 * attention + 3.0 * head);
        assert!((f.total() / 2e13 - 1.0).abs() < 0.06, "{}", f.total());
    }
}
