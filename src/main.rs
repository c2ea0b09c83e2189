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
    unsafe { std::env::set_var("RAYON_NUM_THREADS", "1") };
    let args: Vec<String> = std::env::args().collect();
    if args[1] == "eval" {
        let dir = Path::new(&args[2]);
        let world = World::new(1)?;
        let (model, tk) = load_base(dir)?;
        let n: usize = args[3].parse()?;
        let temperature: f64 = args[4].parse()?;
        let t0 = std::time::Instant::now();
        let mut toks = 0;
        for b in Benchmark::ALL {
            let qs: Vec<_> = world.questions(b, Split::Test).into_iter().take(n).collect();
            let mut line = format!("{b:10}");
            for cue in Cue::ALL {
                let s = Sampling { temperature, max_new_tokens: 64, seed: 1, batch: 100 };
                let a = cotalign::teach::answer(&model, &tk, "", &qs, cue, &s, &mut || ())?;
                toks += a.iter().map(|a| a.tokens).sum::<usize>();
                let p = cotalign::probe::by_generation(&a);
                line += &format!("  {cue} {:5.1} (none {:4.1})", 100. * p.correct as f64 / p.n as f64, 100. * p.no_answer as f64 / p.n as f64);
                if args.len() > 5 { for a in a.iter().take(3) { println!("   [{}] {:?} {}", a.id, a.output, a.correct); } }
            }
            if !b.is_math() {
                let (p, _) = cotalign::probe::by_language_model(&model, &tk, &qs, Cue::Plain, &mut || ())?;
                line += &format!("  lm {:5.1}", 100. * p.correct as f64 / p.n as f64);
            }
            println!("{line}");
        }
        println!("{toks} tokens generated in {:.1}s", t0.elapsed().as_secs_f64());
        return Ok(());
    }
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
