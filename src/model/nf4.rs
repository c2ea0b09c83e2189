//! Weights, dense or in 4-bit NormalFloat (QLoRA, Dettmers et al. 2023) with
//! double quantisation, laid out as bitsandbytes lays them out.

use std::sync::{Arc, LazyLock};

use candle_core::{Device, Result, Tensor, bail};

use super::ops::with_values;

/// The 16 values of NF4: quantiles of a normal distribution scaled to [−1, 1].
pub const CODE: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// A value above `THRESHOLDS[i]` (strictly) takes at least code `i + 1`.
const THRESHOLDS: [f32; 15] = [
    -0.848_096_4,
    -0.610_632_96,
    -0.459_995_27,
    -0.339_679_43,
    -0.234_607_4,
    -0.137_911_73,
    -0.045_525_018,
    0.039_790_15,
    0.120_255_25,
    0.203_521_25,
    0.292_013_77,
    0.389_312_54,
    0.501_663_4,
    0.642_786_9,
    0.861_478_4,
];

/// Weights that share one scale.
pub const BLOCK: usize = 64;
/// Scales that share one scale of their own.
const NESTED_BLOCK: usize = 256;

/// The signed 8-bit dynamic map that scales are stored in: 1 sign bit, a
/// decimal exponent and a linear fraction that share the other seven.
static DYNAMIC_MAP: LazyLock<Vec<f32>> = LazyLock::new(|| {
    let mut map = vec![0.0f32, 1.0];
    for i in 0..7u32 {
        let items = 1usize << i;
        let scale = 10f64.powi(i as i32 - 6);
        let edge = |j: usize| (0.1 + 0.9 * j as f64 / items as f64) as f32;
        for j in 0..items {
            let mean = (scale * ((edge(j) + edge(j + 1)) / 2.0) as f64) as f32;
            map.extend([mean, -mean]);
        }
    }
    map.sort_by(f32::total_cmp);
    map
});

/// A matrix `[out, in]` in NF4: about 4.127 bits a weight.
#[derive(Debug)]
pub struct Nf4 {
    shape: (usize, usize),
    /// Two codes a byte, the first in the high nibble.
    packed: Vec<u8>,
    /// One 8-bit scale a block of 64, as an index into the dynamic map.
    absmax: Vec<u8>,
    /// One scale a block of 256 scales.
    nested_absmax: Vec<f32>,
    /// Mean of the scales, taken off before they are quantised.
    offset: f32,
}

impl Nf4 {
    /// Quantises a matrix.
    pub fn quantise(w: &[f32], shape: (usize, usize)) -> Self {
        let scales: Vec<f32> =
            w.chunks(BLOCK).map(|b| b.iter().fold(0f32, |m, x| m.max(x.abs()))).collect();
        let codes: Vec<u8> = w
            .chunks(BLOCK)
            .zip(&scales)
            .flat_map(|(b, scale)| {
                // A block of zeros has no scale to divide by; 0/0 must not become a code.
                let inv = if *scale > 0.0 { 1.0 / scale } else { 0.0 };
                b.iter().map(move |x| THRESHOLDS.iter().filter(|t| x * inv > **t).count() as u8)
            })
            .collect();
        let packed = codes.chunks(2).map(|c| c[0] << 4 | c.get(1).copied().unwrap_or(0)).collect();
        let offset = scales.iter().sum::<f32>() / scales.len().max(1) as f32;
        let centred: Vec<f32> = scales.iter().map(|s| s - offset).collect();
        let nested_absmax: Vec<f32> = centred
            .chunks(NESTED_BLOCK)
            .map(|b| b.iter().fold(0f32, |m, x| m.max(x.abs())))
            .collect();
        let absmax = centred
            .chunks(NESTED_BLOCK)
            .zip(&nested_absmax)
            .flat_map(|(b, m)| {
                let inv = if *m > 0.0 { 1.0 / m } else { 0.0 };
                b.iter().map(move |x| nearest(x * inv))
            })
            .collect();
        Nf4 { shape, packed, absmax, nested_absmax, offset }
    }

    /// The scale of every block of 64.
    fn scales(&self) -> impl Iterator<Item = f32> + '_ {
        let map = &*DYNAMIC_MAP;
        self.absmax.iter().enumerate().map(move |(i, q)| {
            map[*q as usize] * self.nested_absmax[i / NESTED_BLOCK] + self.offset
        })
    }

    /// The weights as the forward pass sees them, row-major.
    pub fn dequantise(&self) -> Vec<f32> {
        let n = self.shape.0 * self.shape.1;
        let mut out = Vec::with_capacity(n + 1);
        for (bytes, scale) in self.packed.chunks(BLOCK / 2).zip(self.scales()) {
            let table: [f32; 16] = std::array::from_fn(|i| CODE[i] * scale);
            for b in bytes {
                out.push(table[(b >> 4) as usize]);
                out.push(table[(b & 15) as usize]);
            }
        }
        out.truncate(n);
        out
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.packed.len() + self.absmax.len() + 4 * self.nested_absmax.len() + 4
    }
}

/// Index of the nearest value of the dynamic map, the lower one on a tie.
fn nearest(x: f32) -> u8 {
    let map = &*DYNAMIC_MAP;
    let above = map.partition_point(|v| *v < x).min(map.len() - 1);
    let below = above.saturating_sub(1);
    if x - map[below] <= map[above] - x { below as u8 } else { above as u8 }
}

/// The weight of a linear layer, `[out, in]`.
#[derive(Debug, Clone)]
pub enum Weight {
    Dense(Tensor),
    Nf4(Arc<Nf4>),
}

impl Weight {
    pub fn shape(&self) -> Result<(usize, usize)> {
        match self {
            Weight::Dense(w) => w.dims2(),
            Weight::Nf4(w) => Ok(w.shape),
        }
    }

    /// The same weight in NF4; a variable has no quantised form.
    pub fn quantised(&self) -> Result<Weight> {
        match self {
            Weight::Dense(w) if w.is_variable() => {
                bail!("nf4: a trained weight cannot be quantised")
            }
            Weight::Dense(w) => {
                let shape = w.dims2()?;
                with_values("nf4", w, |w| Ok(Weight::Nf4(Arc::new(Nf4::quantise(w, shape)))))
            }
            Weight::Nf4(_) => Ok(self.clone()),
        }
    }

    /// As a dense tensor.
    pub fn dense(&self) -> Result<Tensor> {
        match self {
            Weight::Dense(w) => Ok(w.clone()),
            Weight::Nf4(w) => Tensor::from_vec(w.dequantise(), w.shape, &Device::Cpu),
        }
    }

    /// Calls `f` with the (dequantised) values, row-major.
    pub(super) fn with_values<R>(&self, f: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
        match self {
            Weight::Dense(w) => with_values("weight", w, f),
            Weight::Nf4(w) => f(&w.dequantise()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scale 2 for the first block, so ±2 and 0 come back exactly and 1.0 (0.5
    /// of the scale) lies under the threshold 0.5016…, which gives code 12.
    #[test]
    fn one_block_by_hand() {
        let mut w = vec![0f32; 64];
        (w[0], w[1], w[2]) = (2.0, -2.0, 1.0);
        let q = Nf4::quantise(&w, (1, 64));
        assert_eq!(q.packed[0], 0xF0);
        assert_eq!(q.packed[1] >> 4, 12);
        assert_eq!(q.packed[2], 0x77);
        let back = q.dequantise();
        assert_eq!(&back[..4], &[2.0, -2.0, 2.0 * CODE[12], 0.0]);
    }

    #[test]
    fn the_dynamic_map_has_256_sorted_values() {
        let map = &*DYNAMIC_MAP;
        assert_eq!(map.len(), 256);
        assert!(map.windows(2).all(|w| w[0] < w[1]));
        assert!((map[0] + 0.992_968_8).abs() < 1e-6, "{}", map[0]);
        assert_eq!((map[127], map[255]), (0.0, 1.0));
    }

    #[test]
    fn zero_and_odd_sizes_survive() {
        assert!(Nf4::quantise(&[0.0; 130], (2, 65)).dequantise().iter().all(|x| *x == 0.0));
        let w: Vec<f32> = (0..77).map(|i| (i as f32 * 0.7).sin()).collect();
        let back = Nf4::quantise(&w, (7, 11)).dequantise();
        assert_eq!(back.len(), 77);
        for (a, b) in w.iter().zip(&back) {
            // Half the widest gap between two codes, times the scale, and the scale's own error.
            assert!((a - b).abs() < 0.153 + 0.02, "{a} {b}");
        }
    }
}
