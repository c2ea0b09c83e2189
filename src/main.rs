use anyhow::Result;
use cotalign::task::*;
use cotalign::tune::*;
use cotalign::model::*;
use std::path::Path;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(serde::Deserialize)]
struct Models { model: Vec<PretrainPlan> }

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let models: Models = toml::from_str(&std::fs::read_to_string(&args[1])?)?;
    let plan = models.model.into_iter().find(|m| m.name == args[2]).unwrap();
    let dir = Path::new(&args[3]).join(&plan.name);
    std::fs::create_dir_all(&dir)?;
    let world = World::new(1)?;
    let even = Mixture { facts: 1., plain_qa: 1., cot_qa: 1., narrative: 1., drills: 0.3, plain_math: 0.5, cot_math: 0.5, narrative_math: 0.5, asked: 1., misconceptions: 0. };
    let tk = train_tokenizer(&world, plan.family, &even, plan.vocab_size)?;
    let t0 = std::time::Instant::now();
    println!("{} params {}", plan.name, plan.config(&tk).hidden_size);
    let start = std::cell::Cell::new(0usize);
    let (model, _) = pretrain(&plan, &world, &tk, &dir, &mut |s, l| {
        if start.get() == 0 { start.set(s); }
        if s % 50 == 0 { println!("{s}/{} loss {:.4} gn {:.3} {:.0} tok/s {:.0}s", plan.steps(), l.loss, l.grad_norm, ((s-start.get()+1) * plan.tokens_per_step) as f64 / t0.elapsed().as_secs_f64(), t0.elapsed().as_secs_f64()); }
        Ok(())
    })?;
    println!("{} parameters", model.parameters());
    save_base(&model, &tk, &dir)?;
    Ok(())
}
