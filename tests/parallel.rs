//! Guards tuning with several ranks: they do what one process does, whoever is faster,
//! and a rank that is lost, hangs or differs is an error that names it. Ranks are threads
//! here, with a model each; `processes` starts them as the program does.

mod common;
#[path = "common/emulator.rs"]
mod emulator;
#[path = "parallel/processes.rs"]
mod processes;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use candle_core::{Device, Tensor, Var};
use common::{message, parameters, tiny_config, tiny_frozen, tiny_tokenizer, values};
use cotalign::model::{Config, LoraConfig, Pass, Placement, Transformer};
use cotalign::task::{Benchmark, Split};
use cotalign::teach::{DemonstrationSet, demonstrations};
use cotalign::tune::loss::Example;
use cotalign::tune::parallel::{Local, Patience, Transport, World, self_test};
use cotalign::tune::{
    Gradients, Instruct, LogLine, Objective, OptimizerPlan, Refine, TrainerPlan, examples, train,
    train_in,
};

const QUICK: Patience =
    Patience { meet: Duration::from_secs(20), silence: Duration::from_secs(20) };

/// What every rank of a world makes of its link, in the order of ranks.
fn linked<R: Send>(
    size: usize,
    patience: Patience,
    each: impl Fn(usize, Local) -> R + Sync,
) -> Vec<R> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let (listener, each) = (&listener, &each);
    std::thread::scope(|scope| {
        let one = move |rank: usize| {
            let link = match rank {
                0 => Local::host(listener, size, "key", patience, &mut || Ok(())),
                _ => Local::join(at, rank, size, "key", patience),
            };
            each(rank, link.unwrap())
        };
        let ranks: Vec<_> = (0..size).map(|rank| scope.spawn(move || one(rank))).collect();
        ranks.into_iter().map(|r| r.join().unwrap()).collect()
    })
}

fn worlds<R: Send>(size: usize, each: impl Fn(&mut World) -> R + Sync) -> Vec<R> {
    linked(size, QUICK, |rank, local| each(&mut World::over(rank, size, local)))
}

/// In f32, (10⁸ + 1) − 10⁸ is 0 and (10⁸ − 10⁸) + 1 is 1: the order shows.
#[test]
fn ranks_are_added_in_their_order() {
    let own = [[1.0, 1e8], [2.0, 1.0], [4.0, -1e8]];
    let sums = linked(3, QUICK, |rank, mut local| {
        // Rank 1 comes last.
        std::thread::sleep(Duration::from_millis(if rank == 1 { 100 } else { 0 }));
        let sum = local.sum_host(own[rank].to_vec()).unwrap();
        (sum, local.gather(&[rank as u8; 2]).unwrap())
    });
    for (sum, seen) in sums {
        assert_eq!(sum, [7.0, 0.0]);
        assert_eq!(seen, [[0, 0], [1, 1], [2, 2]]);
    }
    let two = linked(2, QUICK, |rank, mut local| local.sum_host(vec![rank as f32 + 1.0]).unwrap());
    assert_eq!(two, [[3.0], [3.0]]);
}

#[test]
fn buffers_of_different_lengths_are_refused() {
    let outcomes = linked(2, QUICK, |rank, mut local| local.sum_host(vec![0.0; 2 + rank]));
    let found: Vec<String> = outcomes.into_iter().map(message).collect();
    assert!(found[0].contains("rank 1 sent 3 numbers where this rank has 2"), "{}", found[0]);
    assert!(found[1].contains("rank 0"), "{}", found[1]);
}

/// `a` has a gradient on both ranks, `b` on one, `c` on none: 1 + 2, 0 + 5, untouched.
#[test]
fn a_parameter_without_a_gradient_counts_as_zero_or_stays_out() {
    let var = |n: usize| Var::zeros((1, n), candle_core::DType::F32, &Device::Cpu).unwrap();
    let vars = BTreeMap::from(["a", "b", "c"].map(|name| (name.to_string(), var(2))));
    // Each rank builds its own.
    let filled = |x: f32| (Tensor::ones((1, 2), candle_core::DType::F32, &Device::Cpu), x);
    let sums = worlds(2, |world| {
        let mut own = Gradients::new();
        let mut put = |name: &str, (ones, x): (candle_core::Result<Tensor>, f32)| {
            own.insert(name.to_string(), (ones.unwrap() * f64::from(x)).unwrap());
        };
        put("a", filled(world.rank() as f32 + 1.0));
        if world.rank() == 1 {
            put("b", filled(5.0));
        }
        let sums = world.sum(&vars, own).unwrap();
        sums.iter().map(|(k, g)| (k.clone(), g.dims().to_vec(), values(g))).collect::<Vec<_>>()
    });
    for sum in sums {
        let expected = [("a", [3.0, 3.0]), ("b", [5.0, 5.0])];
        assert_eq!(sum.len(), 2, "{sum:?}");
        for ((name, dims, values), (want, numbers)) in sum.iter().zip(expected) {
            assert_eq!((name.as_str(), &dims[..], &values[..]), (want, &[1, 2][..], &numbers[..]));
        }
    }
}

fn lora() -> LoraConfig {
    LoraConfig { r: 4, lora_alpha: 8.0, lora_dropout: 0.1, ..LoraConfig::default() }
}

/// A tiny base in NF4 with an adapter that changes something.
fn student(model_type: &str, seed: u64) -> Transformer {
    let config = Config { max_position_embeddings: 1024, ..tiny_config(model_type) };
    let mut model = tiny_frozen(&config, seed);
    model.quantise().unwrap();
    model.add_lora(&lora(), seed).unwrap();
    common::stir_adapter(&model, seed);
    model
}

/// Of very different lengths, so that ranks have different numbers of tokens.
fn some_examples(count: usize) -> Vec<Example> {
    let of = |task| common::questions(task, Split::Train, count.div_ceil(4));
    let questions = [of(Benchmark::Obqa), of(Benchmark::MultiArith)].concat();
    let records =
        demonstrations(DemonstrationSet::Both, &questions, &common::perfect(&questions)).unwrap();
    let mut all = examples(&tiny_tokenizer(), DemonstrationSet::Both, &records).unwrap();
    all.truncate(count);
    all
}

/// ε far above the gradients keeps AdamW's updates proportional to them; with 1e-8 an
/// update is a sign where a gradient is near zero, and rounding may turn it.
fn plan(total_steps: usize) -> TrainerPlan {
    let optimizer = OptimizerPlan {
        weight_decay: 1e-2,
        adam_epsilon: 1.0,
        ..OptimizerPlan::new(0.1, total_steps)
    };
    TrainerPlan { optimizer, dropout: 0.1, seed: 5, logging_steps: 1, save_steps: 0 }
}

type Values = BTreeMap<String, Vec<f32>>;

fn nothing(_: usize, _: &LogLine) -> Result<()> {
    Ok(())
}

/// Log, parameters, and gradients of the step after, of one rank.
fn tuned(
    world: &mut World,
    kind: &str,
    (batch, accumulation): (usize, usize),
    plan: &TrainerPlan,
) -> (Vec<LogLine>, Values, Values) {
    let model = student(kind, 3);
    let mut objective = Instruct::new(some_examples(22), batch, accumulation, 7).unwrap();
    let nowhere = Path::new("");
    let log = match world.is_alone() {
        true => train(&model, &mut objective, plan, nowhere, &mut nothing),
        false => train_in(world, &model, &mut objective, plan, nowhere, &mut nothing),
    };
    let mut sums = Gradients::new();
    for batch in objective.next_step().unwrap() {
        let (part, _) = objective.loss(&model, &batch, Pass::default()).unwrap();
        model.backward(&part, &mut sums).unwrap();
    }
    let gradients = sums.iter().map(|(name, g)| (name.clone(), values(g))).collect();
    (log.unwrap(), parameters(&model), gradients)
}

/// Largest difference of any value, relative to the largest value of all.
fn relative(a: &Values, b: &Values) -> f32 {
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    let scale = a.values().map(|x| common::largest(x)).fold(0.0, f32::max);
    a.iter().map(|(k, a)| common::distance(a, &b[k])).fold(0.0, f32::max) / scale
}

/// After ten steps, with dropout where micro-batches need not be split. Only the order in
/// which the gradients of micro-batches are added differs: parameters within 1e-6, and
/// what is computed with them, which magnifies their rounding, within 5e-6.
#[test]
fn two_ranks_do_what_one_does() {
    for (kind, ranks, shape, dropout) in [
        ("llama", 2, (2, 4), 0.1),
        // Three micro-batches over two ranks, four over three.
        ("llama", 2, (2, 3), 0.1),
        ("llama", 3, (2, 4), 0.1),
        // Experts that no token of a rank chose.
        ("mixtral", 2, (1, 2), 0.1),
        // One micro-batch, which is split; and fewer items than ranks.
        ("llama", 2, (5, 1), 0.0),
        ("llama", 3, (2, 1), 0.0),
    ] {
        let name = format!("{kind}, {ranks} ranks, {shape:?}");
        let plan = TrainerPlan { dropout, ..plan(10) };
        let (log, after, gradients) = tuned(&mut World::alone(), kind, shape, &plan);
        let moved = relative(&parameters(&student(kind, 3)), &after);
        assert!(moved > 1e-3, "{name}: the updates must show: {moved}");
        let all = worlds(ranks, |world| tuned(world, kind, shape, &plan));
        for other in &all[1..] {
            assert!(*other == all[0], "{name}: ranks differ");
        }
        let (their_log, their_after, their_gradients) = &all[0];
        let off = relative(&after, their_after);
        assert!(off < 1e-6, "{name}: parameters off by {off}");
        let off = relative(&gradients, their_gradients);
        assert!(off < 5e-6, "{name}: gradients off by {off}");
        assert_eq!(log.len(), their_log.len());
        for (a, b) in log.iter().zip(their_log) {
            let close = |a: f64, b: f64| (a - b).abs() <= 5e-6 * a.abs();
            assert!(close(a.loss, b.loss) && close(a.grad_norm, b.grad_norm), "{a:?} {b:?}");
            assert_eq!((a.step, a.learning_rate), (b.step, b.learning_rate));
            assert_eq!(a.metrics, b.metrics, "{name}");
        }
        // Before any update there is nothing that rounding could have moved.
        if shape.1 > 1 {
            assert_eq!(log[0].loss, their_log[0].loss, "{name}");
        }
    }
}

/// DPO's pairs are shared out and split in the same way.
#[test]
fn ranks_share_the_pairs_of_a_dpo_step() {
    let all = some_examples(12);
    let pairs: Vec<_> = all.chunks(2).map(|p| (p[0].clone(), p[1].clone())).collect();
    let run = |world: &mut World, shape| {
        let (model, reference) = (student("llama", 6), student("llama", 7));
        let mut objective = Refine::new(&reference, pairs.clone(), shape, 0.5, 3).unwrap();
        let plan = TrainerPlan { dropout: 0.0, ..plan(5) };
        let log = train_in(world, &model, &mut objective, &plan, Path::new(""), &mut nothing);
        (log.unwrap(), parameters(&model))
    };
    for shape in [(2, 2), (3, 1)] {
        let (log, after) = run(&mut World::alone(), shape);
        for (their_log, theirs) in worlds(2, |world| run(world, shape)) {
            let off = relative(&after, &theirs);
            assert!(off < 1e-6, "{shape:?}: parameters off by {off}");
            for (a, b) in log.iter().zip(&their_log) {
                // Rewards are small differences of log-probabilities in the hundreds.
                let close = |a: f64, b: f64| (a - b).abs() <= 1e-5 * (1.0 + a.abs());
                assert!(close(a.loss, b.loss), "{a:?} {b:?}");
                for (name, value) in &a.metrics {
                    assert!(close(*value, b.metrics[name]), "{name}: {a:?} {b:?}");
                }
            }
        }
    }
}

#[test]
fn a_world_of_one_changes_no_bit() {
    let alone = tuned(&mut World::alone(), "mixtral", (2, 2), &plan(3));
    let one = tuned(&mut World::over(0, 1, Local::single()), "mixtral", (2, 2), &plan(3));
    assert!(one == alone);
    assert_eq!(self_test(&Device::Cpu).unwrap(), "a sum over one rank, by the host");
}

/// The same where the optimizer reads the gradients by their addresses in the one buffer.
#[test]
fn nor_does_it_on_a_gpu() {
    let Some(emulated) = emulator::emulated() else { return };
    let run = |world: &mut World| {
        let mut model = tiny_frozen(&tiny_config("llama"), 3);
        model.quantise().unwrap();
        let mut model = model.at(&Placement::CPU).unwrap();
        model.add_lora(&lora(), 3).unwrap();
        let mut objective = Instruct::new(some_examples(4), 1, 2, 7).unwrap();
        let log = train_in(world, &model, &mut objective, &plan(2), Path::new(""), &mut nothing);
        (log.unwrap(), parameters(&model))
    };
    let (alone, one) = emulated
        .target
        .run(|| (run(&mut World::alone()), run(&mut World::over(0, 1, Local::single()))));
    assert!(one == alone);
    let unused = emulated.not_launched();
    assert!(!unused.iter().any(|name| name == "adamw"), "not the GPU's optimizer: {unused:?}");
}

/// The steps of a run that rank 0 checkpoints and that is stopped on all ranks at once.
#[test]
fn ranks_resume_together() {
    let saving = TrainerPlan { save_steps: 2, ..plan(6) };
    let run = |dir: &Path, stop: usize| {
        worlds(2, |world| {
            let model = student("llama", 3);
            let mut objective = Instruct::new(some_examples(10), 2, 2, 7).unwrap();
            let outcome =
                train_in(world, &model, &mut objective, &saving, dir, &mut |step, _| match step {
                    s if s == stop => bail!("stopped"),
                    _ => Ok(()),
                });
            (outcome, parameters(&model))
        })
    };
    let whole = tempfile::tempdir().unwrap();
    let expected = run(whole.path(), 0).swap_remove(0);
    let dir = tempfile::tempdir().unwrap();
    for (stopped, _) in run(dir.path(), 5) {
        assert!(message(stopped).contains("stopped"));
    }
    for (log, after) in run(dir.path(), 0) {
        assert_eq!(log.unwrap(), *expected.0.as_ref().unwrap());
        assert!(after == expected.1);
    }
}

/// What each rank's run ends with, when each has its own idea of it.
fn outcomes(size: usize, own: impl Fn(usize) -> (Transformer, TrainerPlan) + Sync) -> Vec<String> {
    worlds(size, |world| {
        let (model, plan) = own(world.rank());
        let mut objective = Instruct::new(some_examples(8), 1, 3, 7).unwrap();
        let log = train_in(world, &model, &mut objective, &plan, Path::new(""), &mut nothing);
        log.map_or_else(|e| format!("{e:#}"), |_| "done".into())
    })
}

#[test]
fn ranks_that_start_differently_are_refused() {
    let seed = |rank| if rank == 1 { 2 } else { 1 };
    let found = outcomes(3, |rank| (student("llama", seed(rank)), plan(3)));
    for text in found {
        assert!(text.contains("rank 1 has other parameters at the start than rank 0"), "{text}");
    }
    let found = outcomes(2, |rank| (student("llama", 1), plan(3 + rank)));
    for text in found {
        assert!(text.contains("rank 1 has other settings than rank 0"), "{text}");
    }
}

/// Rank 1 gives up in its third step and says so, ends without a word, or hangs.
#[test]
fn a_lost_rank_is_named_within_seconds() {
    let started = Instant::now();
    // Long enough for a step on a machine that is busy with other tests.
    let short = Patience { silence: Duration::from_secs(4), ..QUICK };
    for (how, patience, wanted) in [
        ("gives up", QUICK, "rank 1: the disk is full"),
        ("ends", QUICK, "rank 1 is lost"),
        ("hangs", short, "rank 1 has said nothing for 4 s"),
    ] {
        let found = linked(3, patience, |rank, local| {
            let mut world = World::over(rank, 3, local);
            let model = student("llama", 3);
            let mut objective = Instruct::new(some_examples(8), 1, 3, 7).unwrap();
            let steps = if rank == 1 && how != "gives up" { 2 } else { 9 };
            // The schedule is that of nine steps for all, or the settings would differ.
            let stop = |step: usize, _: &LogLine| match (rank, how, step) {
                (1, "gives up", 3) => bail!("the disk is full"),
                (1, "hangs", s) if s == steps => {
                    std::thread::sleep(Duration::from_secs(9));
                    bail!("late")
                }
                // As if killed: no word to the others.
                (1, "ends", s) if s == steps => std::panic::panic_any("killed"),
                _ => Ok(()),
            };
            let run = std::panic::AssertUnwindSafe(move || {
                let nowhere = Path::new("");
                train_in(&mut world, &model, &mut objective, &plan(9), nowhere, &mut { stop })
            });
            std::panic::catch_unwind(run).map_or("killed".into(), message)
        });
        assert!(found[0].contains(wanted), "{how}: {found:?}");
        assert!(found[2].contains("rank 1"), "{how}, seen from rank 2: {found:?}");
    }
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
}

/// Who takes part is decided by the key, the size and the rank.
#[test]
fn ranks_meet_only_their_own() {
    let short = Patience { meet: Duration::from_millis(700), ..QUICK };
    let host = |size, come: &(dyn Fn(std::net::SocketAddr) + Sync)| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || come(at));
            Local::host(&listener, size, "key", short, &mut || Ok(())).map(|_| ())
        })
    };
    let join = |at, rank, size, key| drop(Local::join(at, rank, size, key, short));
    let found = message(host(2, &|at| join(at, 1, 2, "another key")));
    assert!(found.contains("rank 1 has not come within 0.7 s"), "{found}");
    let found = message(host(2, &|at| join(at, 1, 3, "key")));
    assert!(found.contains("rank 1 of 3 has come, rank 0 is of 2"), "{found}");
    let twice = |at| {
        std::thread::scope(|s| {
            s.spawn(move || join(at, 1, 3, "key"));
            join(at, 1, 3, "key");
        })
    };
    let found = message(host(3, &twice));
    assert!(found.contains("two processes are rank 1"), "{found}");
}
