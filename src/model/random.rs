//! Models of random weights, made where they compute: for measuring speed and memory,
//! which do not depend on the values.

use std::sync::Arc;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use rand::RngCore;
use rand_chacha::ChaCha8Rng;

use super::config::Config;
use super::nf4::{BLOCK, CODE};
use super::ops::gpu::DeviceNf4;
use super::rng;
use super::scales::NESTED_BLOCK;
use super::transformer::Transformer;
use super::weight::{Placement, Weight};
use super::weights::Weights;

/// Standard deviation of the weights, about that of a trained Llama.
const STD: f64 = 0.02;

impl Transformer {
    /// A frozen model of this shape on a GPU. Nothing of the model's size is in ordinary
    /// memory at any time. With `nf4`, every linear layer but the head is in NF4.
    pub fn random(config: &Config, place: &Placement, nf4: bool, seed: u64) -> Result<Transformer> {
        if !matches!(place.device, Device::Cpu) {
            place.device.set_seed(seed)?;
        }
        let rng = rng::stream(seed, "random model");
        Self::from_weights(config, &mut Random { place: place.clone(), nf4, rng })
    }
}

struct Random {
    place: Placement,
    nf4: bool,
    /// Where the emulator runs: candle's generator for the CPU takes no seed.
    rng: ChaCha8Rng,
}

impl Random {
    /// Drawn in f32, the one type that both generators know.
    fn normal(&mut self, shape: &[usize]) -> Result<Tensor> {
        let t = match &self.place.device {
            Device::Cpu => {
                let n = shape.iter().product();
                Tensor::from_vec(rng::normal(&mut self.rng, n, STD), shape, &Device::Cpu)?
            }
            device => Tensor::randn(0f32, STD as f32, shape, device)?,
        };
        Ok(t.to_dtype(self.place.dtype)?)
    }

    fn bytes(&mut self, n: usize) -> Result<Tensor> {
        Ok(match &self.place.device {
            Device::Cpu => {
                let mut bytes = vec![0u8; n];
                self.rng.fill_bytes(&mut bytes);
                Tensor::from_vec(bytes, n, &Device::Cpu)?
            }
            // The generator's range may include its end, which is no byte.
            device => Tensor::rand(0f32, 255.99, n, device)?.to_dtype(DType::U8)?,
        })
    }
}

impl Weights for Random {
    /// Norms are ones.
    fn tensor(&mut self, _: &str, shape: &[usize]) -> Result<Tensor> {
        match shape {
            [_] => Ok(Tensor::ones(shape, self.place.dtype, &self.place.device)?),
            _ => self.normal(shape),
        }
    }

    fn linear(&mut self, name: &str, shape: [usize; 2]) -> Result<Weight> {
        let [out, inp] = shape;
        if !self.nf4 || name == "lm_head" {
            return Ok(Weight::Dense(self.normal(&shape)?));
        }
        let blocks = (out * inp).div_ceil(BLOCK);
        let square = CODE.iter().map(|c| c * c).sum::<f32>() / CODE.len() as f32;
        // All 16 codes are equally frequent, and scales lie within a tenth of their mean.
        let mean = STD as f32 / square.sqrt();
        let nested = vec![0.1 * mean; blocks.div_ceil(NESTED_BLOCK)];
        let nested = Tensor::from_slice(&nested, nested.len(), &self.place.device)?;
        let (packed, codes) = (self.bytes((out * inp).div_ceil(2))?, self.bytes(blocks)?);
        let w = DeviceNf4::from_parts((out, inp), packed, codes, nested, mean)?;
        Ok(Weight::DeviceNf4(Arc::new(w)))
    }

    fn left(&self) -> Option<String> {
        None
    }
}
