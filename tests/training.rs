//! Guards training: what a step is made of, that a killed run goes on to the same
//! bits, that neither accumulation nor threads change the result, and that DPO
//! begins where it must.

mod common;
#[path = "training/graph.rs"]
mod graph;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::bail;
use common::{
    message, parameters, tiny_config, tiny_frozen, tiny_tokenizer, tiny_trainable, values,
};
use cotalign::model::ops::{Dropout, set_threads};
use cotalign::model::{Config, LoraConfig, Pass, Tokenizer, Transformer, save_adapter};
use cotalign::task::{Benchmark, Family, Question, Split};
use cotalign::teach::{Annotation, DemonstrationSet, demonstrations};
use cotalign::tune::loss::{Example, token_log_probs};
use cotalign::tune::{
    Evaluation, Gradients, Instruct, InstructSettings, LogLine, Objective, OptimizerPlan, Pair,
    PairRule, PretrainPlan, Refine, RefineSettings, TrainerPlan, example, examples, instruct,
    instruct_choosing, mean_loss, pretrain, refine, train,
};

fn encoded(tokenizer: &Tokenizer, pairs: &[Pair]) -> Vec<(Example, Example)> {
    let one = |p: &Pair, answer: &str| example(tokenizer, &p.prompt, answer).unwrap();
    pairs.iter().map(|p| (one(p, &p.chosen), one(p, &p.rejected))).collect()
}

fn config(model_type: &str) -> Config {
    Config { max_position_embeddings: 1024, ..tiny_config(model_type) }
}

fn lora() -> LoraConfig {
    LoraConfig { r: 4, lora_alpha: 8.0, lora_dropout: 0.1, ..LoraConfig::default() }
}

/// A tiny base in NF4 with an adapter that changes something.
fn student(model_type: &str, seed: u64) -> Transformer {
    let mut model = tiny_frozen(&config(model_type), seed);
    model.quantise().unwrap();
    model.add_lora(&lora(), seed).unwrap();
    common::stir_adapter(&model, seed);
    model
}

fn some_questions(count: usize) -> Vec<Question> {
    let of = |task| common::questions(task, Split::Train, count.div_ceil(2));
    let mut all = [of(Benchmark::Obqa), of(Benchmark::MultiArith)].concat();
    all.truncate(count);
    all
}

/// `count` examples of very different lengths: half of them word problems, half
/// of them answered step by step.
fn some_examples(count: usize) -> Vec<Example> {
    let questions = some_questions(count.div_ceil(2));
    let records =
        demonstrations(DemonstrationSet::Both, &questions, &common::perfect(&questions)).unwrap();
    let mut all = examples(&tiny_tokenizer(), DemonstrationSet::Both, &records).unwrap();
    all.truncate(count);
    assert_eq!(all.len(), count);
    all
}

fn plan(total_steps: usize) -> TrainerPlan {
    TrainerPlan {
        optimizer: OptimizerPlan { weight_decay: 1e-2, ..OptimizerPlan::new(1e-2, total_steps) },
        dropout: 0.1,
        seed: 5,
        logging_steps: 1,
        save_steps: 0,
    }
}

fn nowhere() -> &'static Path {
    Path::new("")
}

/// Numbers by the names of parameters.
type Values = BTreeMap<String, Vec<f32>>;

/// Gradients of an objective's next step, summed over its micro-batches.
fn gradients<O: Objective>(model: &Transformer, objective: &mut O, pass: Pass) -> Values {
    let mut sums = Gradients::new();
    for batch in objective.next_step().unwrap() {
        let (part, _) = objective.loss(model, &batch, pass).unwrap();
        model.backward(&part, &mut sums).unwrap();
    }
    sums.iter().map(|(name, g)| (name.clone(), common::values(g))).collect()
}

/// Largest difference of any value, relative to the largest value of all.
fn relative(a: &Values, b: &Values) -> f32 {
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    let scale = a.values().map(|x| common::largest(x)).fold(0.0, f32::max);
    a.iter().map(|(k, a)| common::distance(a, &b[k])).fold(0.0, f32::max) / scale
}

#[test]
fn every_example_has_one_bos_and_ends_with_eos() {
    let tokenizer = tiny_tokenizer();
    let questions: Vec<Question> =
        Benchmark::ALL.into_iter().flat_map(|t| common::questions(t, Split::Train, 5)).collect();
    let annotations = common::perfect(&questions);
    for (set, count) in [
        (DemonstrationSet::Demonstrations, 30),
        (DemonstrationSet::Truthful, 30),
        (DemonstrationSet::CotDemonstrations, 30),
        (DemonstrationSet::DeliveringCot, 30),
        (DemonstrationSet::Both, 60),
    ] {
        let records = demonstrations(set, &questions, &annotations).unwrap();
        let examples = examples(&tokenizer, set, &records).unwrap();
        assert_eq!((records.len(), examples.len()), (count, count));
        for (record, e) in records.iter().zip(&examples) {
            let (given, answer) = record.split(set).unwrap();
            assert_eq!(e.tokens.iter().filter(|t| Some(**t) == tokenizer.bos).count(), 1);
            assert_eq!(e.tokens.iter().filter(|t| **t == tokenizer.eos).count(), 1);
            assert_eq!(Some(e.tokens[0]), tokenizer.bos);
            assert_eq!(*e.tokens.last().unwrap(), tokenizer.eos);
            assert_eq!(tokenizer.decode(&e.tokens[1..e.answer]).unwrap(), given);
            assert_eq!(tokenizer.decode(&e.tokens[e.answer..]).unwrap(), answer);
            // A student is asked with the very tokens it was trained behind.
            assert_eq!(tokenizer.prompt(&given).unwrap(), e.tokens[..e.answer]);
        }
    }
}

#[test]
fn accumulation_does_not_change_a_step() {
    let examples = some_examples(20);
    // ε far above the gradients makes Adam's first update proportional to them; with
    // 1e-8 it is their sign, which rounding may turn where a gradient is near zero.
    let mut one = TrainerPlan { dropout: 0.0, ..plan(1) };
    (one.optimizer.learning_rate, one.optimizer.adam_epsilon) = (1.0, 1.0);
    let step = |batch, accumulation| {
        let model = student("llama", 1);
        let objective = || Instruct::new(examples.clone(), batch, accumulation, 3).unwrap();
        let grads = gradients(&model, &mut objective(), Pass::default());
        let log = train(&model, &mut objective(), &one, nowhere(), &mut |_, _| Ok(())).unwrap();
        (grads, parameters(&model), log[0].loss)
    };
    let (grads, after, loss) = step(16, 1);
    let moved = relative(&parameters(&student("llama", 1)), &after);
    assert!(moved > 1e-3, "the update must show: {moved}");
    for (batch, accumulation) in [(1, 16), (4, 4)] {
        let (other, other_after, other_loss) = step(batch, accumulation);
        let off = relative(&grads, &other);
        assert!(off < 1e-6, "{batch} × {accumulation}: gradients off by {off}");
        let off = relative(&after, &other_after);
        assert!(off < 1e-6, "{batch} × {accumulation}: parameters off by {off}");
        assert!((loss - other_loss).abs() < 1e-6 * loss);
    }
    assert!(relative(&grads, &step(15, 1).0) > 1e-3, "another batch is another gradient");
}

#[test]
fn all_that_is_trained_gets_a_gradient_on_the_second_step() {
    let objective = || Instruct::new(some_examples(16), 8, 1, 3).unwrap();
    for model_type in ["llama", "mistral", "mixtral"] {
        for qlora in [true, false] {
            let model = match qlora {
                true => {
                    let mut model = tiny_frozen(&config(model_type), 2);
                    model.quantise().unwrap();
                    model.add_lora(&lora(), 2).unwrap();
                    model
                }
                false => tiny_trainable(&config(model_type), 2),
            };
            let pass = Pass { dropout: Some(Dropout { p: 0.1, key: 9 }), ..Pass::default() };
            let first = gradients(&model, &mut objective(), pass);
            train(&model, &mut objective(), &plan(1), nowhere(), &mut |_, _| Ok(())).unwrap();
            let second = gradients(&model, &mut objective(), pass);
            for name in model.variables().keys() {
                // With B at zero, nothing reaches A on the first step.
                let zero = first[name].iter().all(|x| *x == 0.0);
                assert_eq!(zero, name.contains("lora_A"), "{model_type}: {name}");
                let g = &second[name];
                assert!(g.iter().all(|x| x.is_finite()), "{model_type}: {name}");
                assert!(g.iter().any(|x| *x != 0.0), "{model_type}: {name} is not trained");
            }
        }
    }
}

/// Runs to the end, or until `stop` updates are done.
fn run(
    model: &Transformer,
    plan: &TrainerPlan,
    dir: &Path,
    stop: Option<usize>,
) -> anyhow::Result<Vec<LogLine>> {
    // 10 examples in steps of 4: an epoch ends inside a step.
    let mut objective = Instruct::new(some_examples(10), 2, 2, 7).unwrap();
    train(model, &mut objective, plan, dir, &mut |step, _| {
        if Some(step) == stop {
            bail!("stopped");
        }
        Ok(())
    })
}

#[test]
fn a_resumed_run_equals_an_uninterrupted_one_bit_for_bit() {
    let kinds: [&dyn Fn() -> Transformer; 2] =
        [&|| student("llama", 3), &|| tiny_trainable(&config("mixtral"), 3)];
    for new_model in kinds {
        // A checkpoint every second step, and only where a log line has been written.
        for (logging_steps, save_steps, total) in [(2, 2, 9), (3, 2, 8), (1, 4, 8)] {
            let saving = TrainerPlan { logging_steps, save_steps, ..plan(total) };
            let whole = new_model();
            let aside = tempfile::tempdir().unwrap();
            let log = run(&whole, &saving, aside.path(), None).unwrap();
            let without = new_model();
            let unsaved = TrainerPlan { save_steps: 0, ..saving.clone() };
            assert_eq!(run(&without, &unsaved, nowhere(), None).unwrap(), log);
            assert_eq!(parameters(&without), parameters(&whole), "saving changes nothing");
            for stops in [vec![1], vec![5], vec![2, 4, 7], vec![7, 7], vec![total]] {
                let dir = tempfile::tempdir().unwrap();
                for stop in &stops {
                    let stopped = run(&new_model(), &saving, dir.path(), Some(*stop));
                    assert_eq!(message(stopped), "stopped");
                }
                let place = dir.path().join("checkpoint");
                if stops.len() == 3 && place.exists() {
                    // As a kill between the two renames of a save leaves it.
                    std::fs::rename(&place, dir.path().join("checkpoint.old")).unwrap();
                }
                let resumed = new_model();
                let resumed_log = run(&resumed, &saving, dir.path(), None).unwrap();
                assert_eq!(parameters(&resumed), parameters(&whole), "stopped at {stops:?}");
                assert_eq!(resumed_log.len(), log.len(), "stopped at {stops:?}");
            }
            // Once more in the folder of the finished run.
            let again = new_model();
            run(&again, &saving, aside.path(), None).unwrap();
            assert_eq!(parameters(&again), parameters(&whole));
        }
    }
}

/// The log of what came before the kill is read back from the checkpoint; not a
/// digit of it may change.
#[test]
fn a_resumed_run_logs_the_same_lines() {
    let saving = TrainerPlan { logging_steps: 2, save_steps: 2, ..plan(9) };
    let whole = tempfile::tempdir().unwrap();
    let log = run(&student("llama", 3), &saving, whole.path(), None).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let stopped = run(&student("llama", 3), &saving, dir.path(), Some(7));
    assert_eq!(message(stopped), "stopped");
    assert_eq!(run(&student("llama", 3), &saving, dir.path(), None).unwrap(), log);
}

#[test]
fn a_checkpoint_of_another_model_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let saving = TrainerPlan { save_steps: 1, ..plan(2) };
    run(&student("llama", 3), &saving, dir.path(), None).unwrap();
    let other = run(&student("mixtral", 3), &saving, dir.path(), None);
    let found = message(other);
    assert!(found.contains("parameters.safetensors") && found.contains("missing"), "{found}");
    let state = dir.path().join("checkpoint/state.json");
    std::fs::write(&state, "{").unwrap();
    let found = message(run(&student("llama", 3), &saving, dir.path(), None));
    assert!(found.contains("state.json"), "{found}");
}

fn instruct_settings() -> InstructSettings {
    InstructSettings {
        lora: lora(),
        num_train_epochs: 2.0,
        learning_rate: 1e-2,
        weight_decay: 1e-3,
        warmup_ratio: 0.1,
        max_grad_norm: 0.3,
        per_device_train_batch_size: 8,
        gradient_accumulation_steps: 1,
        gradient_checkpointing: false,
        evaluation: None,
    }
}

fn refine_settings() -> RefineSettings {
    RefineSettings {
        pairs: PairRule::CotOverPlain,
        beta: 0.1,
        learning_rate: 1e-2,
        weight_decay: 1e-4,
        warmup_steps: 1,
        max_steps: 6,
        per_device_train_batch_size: 4,
        max_grad_norm: 1.0,
        hold_out: 0.25,
        eval_steps: 2,
        samples: 1,
        loss_type: Default::default(),
        gradient_accumulation_steps: 1,
        gradient_checkpointing: false,
    }
}

/// Under the CoT prompt, the explained answer over the plain one.
fn some_pairs(count: usize) -> Vec<Pair> {
    let all = common::perfect(&some_questions(count));
    let pair = |a: &[Annotation]| Pair {
        id: a[0].id.clone(),
        prompt: a[1].prompt.clone(),
        chosen: a[1].output.clone(),
        rejected: a[0].output.clone(),
    };
    all.chunks(2).map(pair).collect()
}

/// Both phases on a fresh student, to the files they leave.
fn both_phases(seed: u64) -> BTreeMap<String, Vec<u8>> {
    let mut model = tiny_frozen(&config("llama"), 4);
    let settings = instruct_settings();
    let mut files = BTreeMap::new();
    let mut keep = |model: &Transformer, phase: &str, log: String| {
        let dir = tempfile::tempdir().unwrap();
        save_adapter(model, &lora(), "tiny", dir.path()).unwrap();
        for name in ["adapter_model.safetensors", "adapter_config.json"] {
            files.insert(format!("{phase} {name}"), std::fs::read(dir.path().join(name)).unwrap());
        }
        files.insert(format!("{phase} log"), log.into_bytes());
    };
    let log = instruct(&mut model, some_examples(24), &settings, seed, &mut |_, _| Ok(()));
    keep(&model, "instruct", serde_json::to_string(&log.unwrap()).unwrap());
    let (tokenizer, pairs) = (tiny_tokenizer(), some_pairs(12));
    let report =
        refine(&model, &tokenizer, &pairs, &refine_settings(), seed, &mut |_, _| Ok(())).unwrap();
    keep(&model, "refine", serde_json::to_string(&report).unwrap());
    files
}

/// The number of threads is a setting of the process; the other tests of this file
/// run beside this one and must not mind.
#[test]
fn the_seed_decides_the_bytes_and_threads_do_not() {
    set_threads(1);
    let one = both_phases(1);
    set_threads(2);
    let two = both_phases(1);
    set_threads(5);
    let five = both_phases(1);
    set_threads(1);
    assert_eq!(one.len(), 6);
    let other = both_phases(2);
    for (name, bytes) in &one {
        assert!(two[name] == *bytes && five[name] == *bytes, "{name} depends on the threads");
        assert_eq!(other[name] == *bytes, name.ends_with("config.json"), "{name} and the seed");
    }
}

#[test]
fn dpo_begins_at_ln_2_with_no_margin() {
    let (tokenizer, pairs) = (tiny_tokenizer(), some_pairs(11));
    for model_type in ["llama", "mixtral"] {
        let model = student(model_type, 6);
        for batch in [1, 4, 8] {
            let mut objective =
                Refine::new(&model, encoded(&tokenizer, &pairs), (batch, 1), 0.1, 3).unwrap();
            for _ in 0..12 {
                for items in objective.next_step().unwrap() {
                    let (loss, metrics) = objective.loss(&model, &items, Pass::default()).unwrap();
                    let metrics = metrics().unwrap();
                    let loss = loss.to_scalar::<f32>().unwrap();
                    // To the bit where every row goes through the same products; an
                    // expert sees as many rows as chose it, which moves the last bits.
                    let off = if model_type == "llama" { 0.0 } else { 1e-6 };
                    let ln_2 = std::f32::consts::LN_2;
                    assert!((loss - ln_2).abs() <= off, "{model_type}, batch {batch}: {loss}");
                    for name in ["rewards/margins", "rewards/chosen", "rewards/rejected"] {
                        let (sum, n) = metrics[name];
                        assert!(
                            sum.abs() <= 10.0 * off as f64 && n == batch as f64,
                            "{name}: {sum}"
                        );
                    }
                    assert!(metrics["logps/chosen"].0 < 0.0);
                }
            }
            let mean = objective.mean_loss(&model).unwrap();
            assert!((mean - std::f64::consts::LN_2).abs() < 1e-6, "{mean}");
        }
    }
}

/// Sixteen pairs at once, one by one, and four by four: the mean over the step's pairs,
/// not a mean of means.
#[test]
fn accumulation_does_not_change_a_dpo_step() {
    let (tokenizer, pairs) = (tiny_tokenizer(), some_pairs(16));
    let step = |batch, accumulation| {
        let model = student("llama", 6);
        let reference = student("llama", 7);
        let pairs = encoded(&tokenizer, &pairs);
        // Another reference than the policy, so that no margin is 0.
        let mut objective = Refine::new(&reference, pairs, (batch, accumulation), 0.5, 3).unwrap();
        gradients(&model, &mut objective, Pass::default())
    };
    let whole = step(16, 1);
    for (batch, accumulation) in [(1, 16), (4, 4)] {
        let off = relative(&whole, &step(batch, accumulation));
        assert!(off < 1e-6, "{batch} × {accumulation}: gradients off by {off}");
    }
}

#[test]
fn refinement_prefers_the_chosen_and_keeps_the_best_weights() {
    let (tokenizer, pairs) = (tiny_tokenizer(), some_pairs(16));
    let model = student("llama", 7);
    let before = parameters(&model);
    let settings = refine_settings();
    let report = refine(&model, &tokenizer, &pairs, &settings, 1, &mut |_, _| Ok(())).unwrap();
    assert_eq!((report.pairs, report.held_out_pairs), (12, 4));
    let steps: Vec<usize> = report.held_out_loss.iter().map(|l| l.0).collect();
    assert_eq!(steps, [0, 2, 4, 6]);
    assert!((report.held_out_loss[0].1 - std::f64::consts::LN_2).abs() < 1e-7);
    let best = report.held_out_loss.iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    assert_eq!(best.0, report.best_step);
    assert!(best.0 > 0 && best.1 < 0.6, "{:?}", report.held_out_loss);
    assert_ne!(parameters(&model), before);
    // The weights left behind are those of the best look: against the student as it
    // was, the held-out pairs score what was reported.
    let was = student("llama", 7);
    let judge =
        Refine::new(&was, encoded(&tokenizer, &pairs[12..]), (4, 1), settings.beta, 1).unwrap();
    assert_eq!(judge.mean_loss(&model).unwrap(), best.1);
    let last = report.log.last().unwrap();
    assert!(last.metrics["rewards/margins"] > 0.0 && last.metrics["rewards/accuracies"] > 0.5);
    // With nothing to prefer, the student stays what it is.
    let same = student("llama", 7);
    for some in [&pairs[..0], &pairs[..1]] {
        let report = refine(&same, &tokenizer, some, &settings, 1, &mut |_, _| Ok(())).unwrap();
        assert_eq!((report.best_step, report.log.len()), (0, 0));
        assert_eq!(parameters(&same), before);
    }
}

#[test]
fn instruction_tuning_learns_its_examples() {
    let mut model = tiny_frozen(&config("llama"), 8);
    let settings = InstructSettings { num_train_epochs: 20.0, ..instruct_settings() };
    let mut seen = 0;
    let log = instruct(&mut model, some_examples(12), &settings, 1, &mut |step, total| {
        assert_eq!(total, 30);
        seen += 1;
        assert_eq!(step, seen);
        Ok(())
    })
    .unwrap();
    assert_eq!(seen, 30);
    assert_eq!(log.iter().map(|l| l.step).collect::<Vec<_>>(), [10, 20, 30]);
    assert!(log[2].loss < 0.8 * log[0].loss, "{log:?}");
    assert!(log[2].learning_rate < log[0].learning_rate);
}

/// The held-out answers are noise, which a student that learns its examples takes for less
/// and less likely: the weights of the lowest look are kept, not the last ones.
#[test]
fn a_checkpoint_is_chosen_by_the_held_out_loss() {
    let mut held_out = some_examples(12)[8..].to_vec();
    for e in &mut held_out {
        let noise = |(i, t): (usize, &mut u32)| *t = ((i * 37 + 11) % common::VOCAB) as u32;
        e.tokens[e.answer..].iter_mut().enumerate().for_each(noise);
    }
    let settings = InstructSettings { num_train_epochs: 20.0, ..instruct_settings() };
    let run = |evaluation: Option<Evaluation>, held_out: &[Example]| {
        let mut model = tiny_frozen(&config("llama"), 8);
        let settings = InstructSettings { evaluation, ..settings.clone() };
        let training = some_examples(8);
        let nothing = &mut |_, _| Ok(());
        let report = instruct_choosing(&mut model, training, held_out, &settings, 1, nothing);
        (model, report.unwrap())
    };
    // Off: the same bits as without any of it, whatever is handed in.
    let mut plain = tiny_frozen(&config("llama"), 8);
    let log = instruct(&mut plain, some_examples(8), &settings, 1, &mut |_, _| Ok(())).unwrap();
    for (evaluation, held_out) in
        [(None, &held_out[..]), (Some(Evaluation { hold_out: 4, eval_steps: 3 }), &[])]
    {
        let (model, report) = run(evaluation, held_out);
        assert_eq!((&report.log, report.choice), (&log, None));
        assert_eq!(parameters(&model), parameters(&plain));
    }
    // On: looks do not disturb the training, so the last look is at the plain model.
    let (model, report) = run(Some(Evaluation { hold_out: 4, eval_steps: 3 }), &held_out);
    let choice = report.choice.unwrap();
    assert_eq!(choice.held_out_examples, 4);
    let steps: Vec<usize> = choice.eval_loss.iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, [3, 6, 9, 12, 15, 18, 20]);
    let (last, losses) = (choice.eval_loss[6], &choice.eval_loss);
    assert_eq!(last, (20, mean_loss(&plain, &held_out).unwrap()));
    let lowest = losses.iter().copied().reduce(|a, b| if b.1 < a.1 { b } else { a }).unwrap();
    assert_eq!(lowest.0, choice.best_step);
    assert_eq!(mean_loss(&model, &held_out).unwrap(), lowest.1);
    assert!(choice.best_step < 20 && lowest.1 < last.1, "{losses:?}");
    // The log has a line for each look.
    let logged: Vec<(usize, f64)> =
        report.log.iter().map(|l| (l.step, l.metrics["eval_loss"])).collect();
    assert_eq!(&logged, losses);
    // By definition, from the log-probabilities of each example alone.
    let (mut sum, mut n) = (0.0, 0);
    for e in &held_out {
        let lp = token_log_probs(&model, &[e], Pass::default()).unwrap();
        sum -= values(&lp.values).iter().map(|x| f64::from(*x)).sum::<f64>();
        n += e.tokens.len() - e.answer;
    }
    assert!((sum / n as f64 - lowest.1).abs() < 1e-5, "{} {}", sum / n as f64, lowest.1);
}

fn pretrain_plan(architecture: &str) -> PretrainPlan {
    PretrainPlan {
        name: "tiny".into(),
        family: Family::Mistral,
        architecture: architecture.into(),
        hidden_size: 16,
        intermediate_size: 32,
        layers: 2,
        heads: 2,
        experts: (architecture == "mixtral").then_some(3),
        mixture: common::mixture(),
        vocab_size: common::VOCAB,
        tokens: 4000,
        tokens_per_step: 1000,
        learning_rate: 1e-2,
        seed: 1,
    }
}

#[test]
fn pretraining_moves_every_weight_and_follows_its_seed() {
    let (world, tokenizer) = (common::world(), tiny_tokenizer());
    for architecture in ["llama", "mixtral"] {
        let plan = pretrain_plan(architecture);
        let run = |seed| {
            let plan = PretrainPlan { seed, ..plan.clone() };
            let dir = tempfile::tempdir().unwrap();
            pretrain(&plan, world, &tokenizer, dir.path(), &mut |_, _| Ok(())).unwrap()
        };
        let (model, log) = run(1);
        assert_eq!(log.len(), 1);
        assert_eq!(log[0].step, 4);
        let start = Transformer::init(&plan.config(&tokenizer), 1).unwrap();
        let (before, after) = (parameters(&start), parameters(&model));
        for (name, value) in &after {
            assert!(value.iter().all(|x| x.is_finite()), "{architecture}: {name}");
            assert_ne!(value, &before[name], "{architecture}: {name} did not move");
        }
        assert_eq!(parameters(&run(1).0), after);
        assert_ne!(parameters(&run(2).0), after);
    }
}

/// A short step reaches few experts; the others have nothing to learn from it.
#[test]
fn training_goes_on_where_an_expert_is_not_chosen() {
    let config = Config { num_local_experts: Some(8), num_experts_per_tok: 1, ..config("mixtral") };
    let few = Example { tokens: vec![2, 3, 4, 5], answer: 1 };
    let full = tiny_trainable(&config, 10);
    let mut qlora = tiny_frozen(&config, 10);
    qlora.quantise().unwrap();
    qlora.add_lora(&lora(), 10).unwrap();
    for model in [full, qlora] {
        let mut objective = Instruct::new(vec![few.clone()], 1, 1, 1).unwrap();
        let log = train(&model, &mut objective, &plan(4), nowhere(), &mut |_, _| Ok(())).unwrap();
        assert!(log[3].loss < log[0].loss);
        assert!(parameters(&model).values().flatten().all(|x| x.is_finite()));
    }
}

#[test]
fn impossible_wishes_are_errors_that_say_so() {
    let tokenizer = tiny_tokenizer();
    let none = Instruct::new(Vec::new(), 4, 1, 1);
    assert!(message(none.map(drop)).contains("no demonstrations"));
    for (batch, accumulation) in [(0, 1), (1, 0)] {
        let zero = Instruct::new(some_examples(2), batch, accumulation, 1);
        assert!(message(zero.map(drop)).contains("at least 1"));
    }
    let mut model = tiny_frozen(&config("llama"), 9);
    let none = instruct(&mut model, Vec::new(), &instruct_settings(), 1, &mut |_, _| Ok(()));
    assert!(message(none).contains("no demonstrations"));
    let none = Refine::new(&student("llama", 1), Vec::new(), (4, 1), 0.1, 1);
    assert!(message(none.map(drop)).contains("no pairs"));
    let frozen = tiny_frozen(&config("llama"), 9);
    assert!(message(run(&frozen, &plan(1), nowhere(), None)).contains("nothing to train"));
    let mut wild = plan(3);
    wild.optimizer.learning_rate = 1e30;
    let diverged = message(run(&student("llama", 1), &wild, nowhere(), None));
    assert!(diverged.contains("learning_rate") || diverged.contains("not finite"), "{diverged}");
    let mut short = pretrain_plan("llama");
    short.tokens = 999;
    let dir = tempfile::tempdir().unwrap();
    let short = pretrain(&short, common::world(), &tokenizer, dir.path(), &mut |_, _| Ok(()));
    assert!(message(short.map(drop)).contains("tokens must be at least tokens_per_step"));
}
