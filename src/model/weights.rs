//! Where the weights of a model come from: tensors in memory, or the
//! safetensors files of a model folder, read one tensor at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use candle_core::safetensors::MmapedSafetensors;
use candle_core::{DType, Device, Tensor};
use serde::Deserialize;

use super::nf4::Nf4;
use super::ops::with_values;
use super::scales::Scales;
use super::weight::{Placement, Weight};

/// A source of named tensors; each is taken once.
pub(super) trait Weights {
    /// A tensor of this shape, widened to f32, checked to be finite.
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor>;

    /// The weight of the module `name`, `[out, in]`; it may be in NF4.
    fn linear(&mut self, name: &str, shape: [usize; 2]) -> Result<Weight> {
        Ok(Weight::Dense(self.tensor(&format!("{name}.weight"), &shape)?))
    }

    /// A tensor that was not taken, if any.
    fn left(&self) -> Option<String>;
}

impl Weights for BTreeMap<String, Tensor> {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let t = self.remove(name).with_context(|| format!("tensor {name} is missing"))?;
        checked(name, t, shape)
    }

    fn left(&self) -> Option<String> {
        self.keys().next().cloned()
    }
}

fn checked(name: &str, t: Tensor, shape: &[usize]) -> Result<Tensor> {
    ensure!(
        t.dims() == shape,
        "tensor {name} has the shape {:?}, the config asks for {shape:?}",
        t.dims()
    );
    let finite = with_values("load", &t, |v| Ok(v.iter().all(|x| x.is_finite())))?;
    ensure!(finite, "tensor {name} holds a value that is not finite");
    Ok(t)
}

/// The files of a model folder: `model.safetensors`, or the shards that
/// `model.safetensors.index.json` names.
pub(super) struct Files {
    map: MmapedSafetensors,
    names: BTreeSet<String>,
    /// Quantise every linear layer as soon as it is read: the dense model never
    /// is in memory as a whole.
    pub quantise: bool,
    /// Where they go, each as it is read.
    pub place: Placement,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Buffers of older checkpoints that the config says as well.
const RECOMPUTED: &str = "rotary_emb.inv_freq";

/// `model.safetensors` in `dir`, or else the index of its shards.
pub(super) fn weights_of(dir: &Path) -> PathBuf {
    let (single, index) = (dir.join("model.safetensors"), dir.join("model.safetensors.index.json"));
    if single.is_file() || !index.is_file() { single } else { index }
}

/// The files that hold the weights in `dir`.
pub(super) fn weight_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let index = weights_of(dir);
    if index.ends_with("model.safetensors") && index.is_file() {
        return Ok(vec![index]);
    }
    let text = std::fs::read_to_string(&index).with_context(|| {
        format!(
            "{}: cannot be read, nor is there a model.safetensors.index.json; weights are taken \
             as safetensors only",
            index.display()
        )
    })?;
    let index: Index = serde_json::from_str(&text)
        .with_context(|| format!("{}: not an index of shards", index.display()))?;
    let shards: BTreeSet<&String> = index.weight_map.values().collect();
    // A shard lies beside its index; anything else could point outside the folder.
    if let Some(odd) = shards.iter().find(|s| s.contains(['/', '\\'])) {
        bail!("{}: shard {odd:?} is not a plain file name", dir.display());
    }
    Ok(shards.into_iter().map(|s| dir.join(s)).collect())
}

impl Files {
    /// Opens the weights in `dir`. Tensors whose name begins with one of `skip`
    /// need not be taken.
    pub fn open(dir: &Path, skip: &[&str]) -> Result<Files> {
        let files = weight_files(dir)?;
        for file in &files {
            // Opened one by one first, so that an error can name its file.
            // SAFETY: as below.
            unsafe { MmapedSafetensors::new(file) }
                .with_context(|| format!("{}: not a readable safetensors file", file.display()))?;
        }
        // SAFETY: the files must not change while they are mapped; models are
        // written under a temporary name and renamed, and the hub's cache is
        // never written in place.
        let map = unsafe { MmapedSafetensors::multi(&files) }
            .with_context(|| dir.display().to_string())?;
        let names = map
            .tensors()
            .into_iter()
            .map(|(name, _)| name)
            .filter(|n| !n.ends_with(RECOMPUTED) && !skip.iter().any(|s| n.starts_with(s)))
            .collect();
        Ok(Files { map, names, quantise: false, place: Placement::CPU })
    }

    fn take(&mut self, name: &str) -> Result<Tensor> {
        if !self.names.remove(name) {
            bail!("tensor {name} is missing");
        }
        self.map.load(name, &Device::Cpu).with_context(|| format!("tensor {name}"))
    }

    /// In f32 and in ordinary memory.
    fn dense(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let t = self.take(name)?;
        ensure!(
            matches!(t.dtype(), DType::F32 | DType::F16 | DType::BF16),
            "tensor {name} is stored as {:?}; supported are F32, F16 and BF16",
            t.dtype()
        );
        checked(name, t.to_dtype(DType::F32)?.contiguous()?, shape)
    }

    fn bytes(&mut self, name: &str) -> Result<Vec<u8>> {
        let t = self.take(name)?;
        t.flatten_all()?.to_vec1::<u8>().map_err(|_| anyhow!("tensor {name} does not hold bytes"))
    }

    fn floats(&mut self, name: &str) -> Result<Vec<f32>> {
        Ok(self.take(name)?.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?)
    }

    /// A weight that bitsandbytes quantised before it was saved: codes, scales
    /// and a small JSON text, all under the name of the weight.
    fn quantised(&mut self, name: &str, shape: [usize; 2]) -> Result<Nf4> {
        #[derive(Deserialize)]
        struct State {
            blocksize: usize,
            shape: Vec<usize>,
            nested_blocksize: Option<usize>,
            nested_offset: Option<f32>,
        }
        let text = self.bytes(&format!("{name}.quant_state.bitsandbytes__nf4"))?;
        let state: State = serde_json::from_slice(&text).context("quant_state")?;
        ensure!(
            state.shape == shape,
            "its shape is {:?}, the config asks for {shape:?}",
            state.shape
        );
        ensure!(state.blocksize == super::nf4::BLOCK, "blocks of {}, not 64", state.blocksize);
        let code = self.floats(&format!("{name}.quant_map"))?;
        ensure!(code == super::nf4::CODE, "its quant_map is not NF4's");
        let scales = match state.nested_offset {
            None => Scales::Single(self.floats(&format!("{name}.absmax"))?),
            Some(offset) => {
                let size = state.nested_blocksize.unwrap_or(super::scales::NESTED_BLOCK);
                ensure!(size == super::scales::NESTED_BLOCK, "nested blocks of {size}, not 256");
                let map = self.floats(&format!("{name}.nested_quant_map"))?;
                ensure!(map.len() == 256, "its nested_quant_map has {} values", map.len());
                let codes = self.bytes(&format!("{name}.absmax"))?;
                let nested = self.floats(&format!("{name}.nested_absmax"))?;
                ensure!(
                    nested.len() == codes.len().div_ceil(size),
                    "{} nested scales for {} scales",
                    nested.len(),
                    codes.len()
                );
                let map = (map != *super::scales::DYNAMIC_MAP).then_some(map);
                Scales::Double { codes, nested, offset, map }
            }
        };
        let packed = self.bytes(name)?;
        Ok(Nf4::from_parts((shape[0], shape[1]), packed, scales)?)
    }
}

impl Weights for Files {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let t = self.dense(name, shape)?;
        Ok(self.place.tensor(&t)?)
    }

    fn linear(&mut self, name: &str, shape: [usize; 2]) -> Result<Weight> {
        let weight = format!("{name}.weight");
        if self.names.contains(&format!("{weight}.quant_state.bitsandbytes__nf4")) {
            let nf4 = self.quantised(&weight, shape).with_context(|| format!("tensor {weight}"))?;
            return Ok(Weight::Nf4(Arc::new(nf4)).at(&self.place)?);
        }
        let dense = Weight::Dense(self.dense(&weight, &shape)?);
        let quantise = self.quantise && name != "lm_head";
        Ok(if quantise { dense.quantised()? } else { dense }.at(&self.place)?)
    }

    fn left(&self) -> Option<String> {
        self.names.first().cloned()
    }
}
