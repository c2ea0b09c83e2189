//! One run: the model at hand, the clock, the memory, and the lines.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use candle_core::DType;
use serde_json::{Map, Value, json};

use super::limits::Limits;
use super::part::{Deadline, Part, parts};
use super::{BenchPlan, Shape, Told, Work};
use crate::model::ops::gpu::Gpu;
use crate::model::{LoraConfig, Placement, Transformer};
use crate::study::device::Target;

/// The settings of the papers' scale (`data/scales/paper.toml`).
pub(super) fn lora() -> LoraConfig {
    LoraConfig::default()
}

/// A model and what memory was taken before it was made.
struct Held {
    shape: Shape,
    nf4: bool,
    model: Transformer,
}

pub(super) struct Session<'a> {
    pub gpu: Gpu,
    pub plan: &'a BenchPlan,
    place: Placement,
    each: &'a mut dyn FnMut(Told) -> Result<()>,
    versions: Value,
    held: Option<Held>,
    /// Bytes in tensors before the first model.
    before: u64,
    limits: Option<Limits>,
    /// Tokens a second of QLoRA by shape and batch size.
    pub rates: BTreeMap<(Shape, usize), f64>,
    end: Instant,
    measured: usize,
}

impl<'a> Session<'a> {
    pub fn new(
        target: &Target,
        plan: &'a BenchPlan,
        each: &'a mut dyn FnMut(Told) -> Result<()>,
    ) -> Result<Session<'a>> {
        let gpu = Gpu::on(&target.device).context("a bench needs a GPU")?;
        let mut versions = json!({ "cotalign": env!("CARGO_PKG_VERSION") });
        for (name, value) in gpu.about()? {
            versions[name] = value.into();
        }
        Ok(Session {
            before: gpu.memory()?.map_or(0, |m| m.live),
            gpu,
            plan,
            place: target.place(DType::BF16),
            each,
            versions,
            held: None,
            limits: None,
            rates: BTreeMap::new(),
            end: Instant::now() + plan.budget,
            measured: 0,
        })
    }

    /// All parts; the number of measurements.
    pub fn run(mut self) -> Result<usize> {
        let all = parts(&self.plan.works, &self.plan.shapes);
        for (i, &part) in all.iter().enumerate() {
            let left = self.end.saturating_duration_since(Instant::now());
            let time = part.time(left, &all[i + 1..]);
            let Part { work, shape } = part;
            let known = json!({ "shape": shape.name() });
            self.tell(&format!(
                "{} {}, at most {:.0} s",
                work.name(),
                shape.name(),
                time.as_secs_f64()
            ))?;
            if time < Duration::from_secs(1) {
                self.failed(work, known, "no time left")?;
                continue;
            }
            let deadline = Deadline(Instant::now() + time);
            let done = match work {
                Work::Matmul => self.limits().map(|_| ()),
                Work::Sft => self.sft(shape, deadline),
                Work::Steps => self.steps(shape, deadline),
                Work::Dpo => self.dpo(shape, deadline),
                Work::Annotate => self.annotate(shape, deadline),
                Work::Decode => self.decode(shape, deadline),
            };
            if let Err(e) = done {
                self.failed(work, known, &format!("{e:#}"))?;
                // A model that was made half is gone; one that is whole may be in the way.
                self.held = None;
                self.gpu.trim()?;
            }
        }
        Ok(self.measured)
    }

    fn tell(&mut self, text: &str) -> Result<()> {
        (self.each)(Told::Progress(text))
    }

    /// A measurement.
    pub fn line(&mut self, work: &str, parts: &[Value]) -> Result<()> {
        self.measured += 1;
        let line = self.object(work, parts);
        (self.each)(Told::Line(&line))
    }

    /// A measurement that could not be made.
    pub fn failed(&mut self, work: Work, known: Value, why: &str) -> Result<()> {
        let memory = why.contains("OUT_OF_MEMORY") || why.contains("out of memory");
        let why: String = why.chars().take(300).collect();
        let error = match memory {
            true => json!({ "error": "out of memory", "notes": why }),
            false => json!({ "error": why }),
        };
        let line = self.object(work.name(), &[known, error]);
        (self.each)(Told::Line(&line))
    }

    fn object(&self, work: &str, parts: &[Value]) -> Value {
        let mut line = Map::new();
        line.insert("side".into(), "cotalign".into());
        line.insert("work".into(), work.into());
        for part in parts {
            line.extend(part.as_object().cloned().unwrap_or_default());
        }
        line.insert("versions".into(), self.versions.clone());
        line.into()
    }

    /// One of several measurements of a part: a failure becomes a line, and what it left
    /// in memory goes.
    pub fn guarded(
        &mut self,
        work: Work,
        known: &Value,
        f: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        if let Err(e) = f(self) {
            self.failed(work, known.clone(), &format!("{e:#}"))?;
            self.gpu.trim()?;
        }
        Ok(())
    }

    /// A model of this shape, in bf16 or with adapters on a base in NF4; made anew if the
    /// one at hand is another.
    pub fn model(&mut self, shape: Shape, nf4: bool) -> Result<Transformer> {
        if let Some(held) = &self.held
            && (held.shape, held.nf4) == (shape, nf4)
        {
            return Ok(held.model.clone());
        }
        self.held = None;
        self.gpu.trim()?;
        let start = Instant::now();
        let mut model = Transformer::random(&shape.config(), &self.place, nf4, 1)?;
        if nf4 {
            model.add_lora(&lora(), 1)?;
            model.set_gradient_checkpointing(true);
        }
        self.gpu.synchronise()?;
        let kind = if nf4 { "NF4 with adapters" } else { "bf16" };
        let seconds = start.elapsed().as_secs_f64();
        self.tell(&format!("  {} in {kind} made in {seconds:.1} s", shape.name()))?;
        self.held = Some(Held { shape, nf4, model: model.clone() });
        Ok(model)
    }

    /// Limits of the card, measured once in a run.
    pub fn limits(&mut self) -> Result<Limits> {
        if let Some(limits) = self.limits {
            return Ok(limits);
        }
        let limits = Limits::measure(self)?;
        self.limits = Some(limits);
        Ok(limits)
    }

    /// `peak_bytes`, the most that was in tensors at a time since the last
    /// [`Gpu::trim`], and `device_bytes`, what is taken of the card after the steps: the
    /// driver's context, kernels, libraries, and the pool, which keeps what it once had.
    pub fn memory(&self) -> Result<Value> {
        let found = self.gpu.memory()?;
        Ok(json!({
            "peak_bytes": found.map(|m| m.peak.saturating_sub(self.before)),
            "device_bytes": found.map(|m| m.taken),
        }))
    }
}

/// Milliseconds of some runs of the same.
pub(super) struct Taken(pub Vec<f64>);

impl Taken {
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        if n % 2 == 1 { sorted[n / 2] } else { (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0 }
    }

    /// The median, how many there were, and (largest − smallest) / median.
    pub fn fields(&self) -> Value {
        let (low, high) = self.0.iter().fold((f64::MAX, 0f64), |(l, h), x| (l.min(*x), h.max(*x)));
        json!({
            "ms_per_step": self.median(),
            "repeats": self.0.len(),
            "spread": (high - low) / self.median(),
        })
    }
}

/// Runs `step` by synchronised clocks: `warmup` times, then `repeats` times or, where
/// that takes more than `most`, at least three times.
pub(super) fn time(
    gpu: &Gpu,
    (warmup, repeats): (usize, usize),
    most: Duration,
    mut step: impl FnMut() -> Result<()>,
) -> Result<Taken> {
    for _ in 0..warmup {
        step()?;
    }
    gpu.synchronise()?;
    let (begun, mut taken) = (Instant::now(), Vec::new());
    while taken.len() < repeats && (taken.len() < 3 || begun.elapsed() < most) {
        let start = Instant::now();
        step()?;
        gpu.synchronise()?;
        taken.push(1e3 * start.elapsed().as_secs_f64());
    }
    Ok(Taken(taken))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_by_hand() {
        let t = Taken(vec![4.0, 1.0, 2.0, 3.0]);
        assert_eq!(t.fields(), json!({ "ms_per_step": 2.5, "repeats": 4, "spread": 1.2 }));
        assert_eq!(Taken(vec![5.0, 1.0, 2.0]).median(), 2.0);
    }
}
