//! The gradients of a step in one buffer, summed over ranks at once.
//!
//! Hundreds of small sums would each wait for the slowest rank. The buffer holds, in the
//! order of names, every parameter that got a gradient on *any* rank, with zeros where a
//! rank has none; a parameter without one anywhere stays out of it, and the optimizer
//! leaves it as it is, moments included. Ranks agree on that first, by a byte a
//! parameter that does not come from the device: so nobody starts a sum that a lost
//! rank would leave hanging, and the host does not wait for its GPU.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use candle_core::{DType, Tensor, Var};

use super::World;
use crate::tune::Gradients;

impl World {
    /// The gradients of all ranks' micro-batches together; the same bits on every rank.
    pub fn sum(&mut self, vars: &BTreeMap<String, Var>, own: Gradients) -> Result<Gradients> {
        if self.is_alone() {
            return Ok(own);
        }
        let flags: Vec<u8> = vars.keys().map(|name| own.contains_key(name).into()).collect();
        let all = self.gather(&flags)?;
        for (rank, theirs) in all.iter().enumerate() {
            ensure!(
                theirs.len() == flags.len(),
                "rank {rank} trains {} parameters, this rank {}: start all ranks with the same \
                 settings",
                theirs.len(),
                flags.len()
            );
        }
        let present = |i: usize| all.iter().any(|theirs| theirs[i] != 0);
        let summed: Vec<(&String, &Var)> =
            vars.iter().enumerate().filter(|(i, _)| present(*i)).map(|(_, v)| v).collect();
        if summed.is_empty() {
            // The optimizer says what that means.
            return Ok(own);
        }
        let mut parts = Vec::with_capacity(summed.len());
        for (name, var) in &summed {
            let part = match own.get(*name) {
                None => Tensor::zeros(var.elem_count(), DType::F32, var.device())?,
                Some(g) => g.flatten_all()?,
            };
            ensure!(part.dtype() == DType::F32, "{name}: a gradient in {:?}", part.dtype());
            parts.push(part);
        }
        // The parts would double the memory of the gradients until the step ends.
        drop(own);
        let flat = Tensor::cat(&parts, 0)?;
        drop(parts);
        let transport = self.transport.as_mut().expect("not alone");
        let flat = transport.sum(flat)?;
        let mut at = 0;
        let mut sums = Gradients::new();
        for (name, var) in summed {
            let n = var.elem_count();
            sums.insert(name.clone(), flat.narrow(0, at, n)?.reshape(var.shape())?);
            at += n;
        }
        Ok(sums)
    }
}
