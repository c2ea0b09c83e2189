//! Every stage of the pipeline on the code for GPUs, its kernels on the processor.

mod common;
#[path = "common/emulator.rs"]
mod emulator;

use std::path::Path;

use candle_core::DType;
use cotalign::study::{Places, Spec, Stage, Store, Workshop, lay_out};
use cotalign::teach::read_annotations;

fn spec(dir: &Path, compute: &str) -> Spec {
    let member = |role: &str, model_type: &str, seed: u64| {
        let to = dir.join(model_type);
        if !to.exists() {
            common::save_tiny(&common::tiny_config(model_type), seed, &to);
        }
        format!(
            "[[{role}]]\nname = {:?}\nfamily = \"llama\"\ntemperature = 0.7\nfigure_2 = true\n",
            to.display().to_string()
        )
    };
    let text = format!(
        "scale = \"smoke\"\nseeds = 1\ntasks = [\"obqa\"]\nonly = [\"p2_figure02\"]\n\
         train_questions = 4\ntest_questions = 3\ndemonstrations = 4\nmax_new_tokens = 6\n\
         refine_questions = 3\ngeneration_batch = 3\ncompute = {compute:?}\n{}{}\
         [refine]\npairs = \"cot_over_plain\"\nbeta = 0.1\nlearning_rate = 1e-3\n\
         weight_decay = 1e-4\nwarmup_steps = 1\nmax_steps = 2\nper_device_train_batch_size = 2\n\
         gradient_accumulation_steps = 1\nmax_grad_norm = 1.0\nhold_out = 0.3\neval_steps = 1\n\
         samples = 1\ngradient_checkpointing = true\n",
        member("teachers", "llama", 1),
        member("students", "qwen3", 2)
    );
    toml::from_str(&text).unwrap()
}

/// What the stages of a plan left behind, by kind.
struct Left {
    answers: Vec<String>,
    adapters: Vec<Vec<f32>>,
}

fn run(root: &Path, compute: &str) -> Left {
    let places = Places::under(root);
    let plan = spec(root, compute).resolve(&places.models).unwrap();
    let grid = lay_out(&plan).unwrap();
    let store = Store::open(&places.runs).unwrap();
    let shop = Workshop::new(&store, &places.models, &plan);
    let mut left = Left { answers: Vec::new(), adapters: Vec::new() };
    for id in &grid.order {
        let stage = &grid.stages[id];
        stage.run(&shop, &mut |_, _| ()).unwrap();
        let dir = store.path(id);
        match stage {
            Stage::Annotate(_) | Stage::Probe(_) => {
                let all = read_annotations(&dir.join("annotations.jsonl")).unwrap();
                left.answers.extend(all.into_iter().map(|a| a.output));
            }
            Stage::Instruct(_) | Stage::Refine(_) => {
                let path = dir.join("adapter_model.safetensors");
                let saved =
                    candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap();
                let mut names: Vec<_> = saved.keys().collect();
                names.sort();
                let values = names.iter().flat_map(|name| {
                    assert_eq!(saved[*name].dtype(), DType::F32);
                    common::values(&saved[*name])
                });
                left.adapters.push(values.collect());
            }
        }
    }
    left
}

#[test]
fn every_stage_runs_on_the_code_for_gpus() {
    let Some(emulated) = emulator::emulated() else { return };
    let root = tempfile::tempdir().unwrap();
    let cpu = run(root.path(), "cpu-float32");
    let gpu = |compute| emulated.target.run(|| run(root.path(), compute));
    let same = gpu("cuda-float32");
    assert!(!cpu.answers.is_empty() && cpu.adapters.len() >= 2);
    assert_eq!(cpu.answers, same.answers);
    for (a, b) in cpu.adapters.iter().zip(&same.adapters) {
        assert!(common::distance(a, b) < 1e-4 * common::largest(a));
    }
    // In bf16 other tokens may be drawn; all of it must run, and to numbers.
    let rounded = gpu("cuda-bfloat16");
    assert_eq!(rounded.answers.len(), cpu.answers.len());
    assert!(rounded.adapters.iter().flatten().all(|x| x.is_finite()));
}
