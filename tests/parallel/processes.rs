//! Ranks as processes of the program, started for the tuning stages of a run store.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cotalign::model::{Compute, LoraConfig, Sampling, save_base};
use cotalign::study::{
    AnnotatePlan, InstructPlan, ModelRef, Plan, QuestionsRef, Ranks, RefinePlan, RunId, Source,
    Spec, Stage, Store, Workshop,
};
use cotalign::task::{Benchmark, Cue, Split};
use cotalign::teach::DemonstrationSet;
use cotalign::tune::{InstructSettings, PairRule, RefineSettings};
use tempfile::TempDir;

use super::common::{self, message};

fn lora() -> LoraConfig {
    LoraConfig { r: 4, lora_alpha: 8.0, lora_dropout: 0.0, ..LoraConfig::default() }
}

fn questions(count: usize) -> QuestionsRef {
    QuestionsRef {
        benchmark: Benchmark::MultiArith,
        split: Split::Train,
        count,
        source: Source::World(1),
        draw: None,
        cut: None,
    }
}

/// Questions that the student answers itself. As many as are answered in one go, so that a
/// file of answers to all of them is taken as what an earlier run had finished.
const OWN: usize = 200;

fn sampling() -> Sampling {
    Sampling {
        temperature: 0.0,
        max_new_tokens: 24,
        seed: 1,
        batch: 12,
        stop: Vec::new(),
        samples: 1,
    }
}

fn student() -> ModelRef {
    ModelRef { name: "tiny".into(), sha256: "of a test".into(), compute: Compute::Cpu }
}

/// Instruction tuning on a perfect teacher's answers, and refinement after it.
struct Stages {
    annotations: RunId,
    instruct: Stage,
    refine: Stage,
}

fn stages() -> Stages {
    let annotate = Stage::Annotate(AnnotatePlan {
        version: 1,
        model: student(),
        questions: questions(12),
        cue: Cue::Cot,
        sampling: sampling(),
        chat: false,
    });
    let annotations = annotate.id().unwrap();
    let settings = InstructSettings {
        lora: lora(),
        num_train_epochs: 3.0,
        learning_rate: 1e-2,
        weight_decay: 1e-3,
        warmup_ratio: 0.1,
        max_grad_norm: 0.3,
        per_device_train_batch_size: 3,
        gradient_accumulation_steps: 2,
        gradient_checkpointing: false,
        evaluation: None,
    };
    let instruct = Stage::Instruct(InstructPlan {
        version: 1,
        student: student(),
        questions: questions(12),
        set: DemonstrationSet::CotDemonstrations,
        sources: vec![annotations.clone()],
        limit: 12,
        settings,
        seed: 4,
        held_out: None,
    });
    let settings = RefineSettings {
        pairs: PairRule::CotOverPlain,
        beta: 0.1,
        learning_rate: 1e-2,
        weight_decay: 1e-4,
        warmup_steps: 1,
        max_steps: 4,
        per_device_train_batch_size: 4,
        max_grad_norm: 1.0,
        hold_out: 0.05,
        eval_steps: 2,
        samples: 1,
        loss_type: Default::default(),
        gradient_accumulation_steps: 1,
        gradient_checkpointing: true,
    };
    let refine = Stage::Refine(RefinePlan {
        version: 2,
        student: student(),
        lora: lora(),
        instructed: instruct.id().unwrap(),
        questions: questions(OWN),
        sampling: sampling(),
        settings,
        seed: 4,
    });
    Stages { annotations, instruct, refine }
}

/// A run store with the teacher's answers and, in finished form, what a tiny student cannot
/// give: answers of its own. Beside it, the student.
fn place(stages: &Stages) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let config =
        cotalign::model::Config { max_position_embeddings: 1024, ..common::tiny_config("llama") };
    let model = common::tiny_trainable(&config, 4);
    save_base(&model, &common::tiny_tokenizer(), &root.path().join("models/tiny")).unwrap();
    let store = Store::open(&root.path().join("runs")).unwrap();
    let dir = store.path(&stages.annotations);
    std::fs::create_dir(&dir).unwrap();
    let put = |path: PathBuf, count: usize, cue: Cue| {
        let all = common::perfect(&questions(count).load().unwrap());
        let lines = all.iter().filter(|a| a.cue == cue);
        let text: String = lines.map(|a| serde_json::to_string(a).unwrap() + "\n").collect();
        std::fs::write(path, text).unwrap();
    };
    put(dir.join("annotations.jsonl"), 12, Cue::Cot);
    let dir = store.working(&stages.refine.id().unwrap());
    std::fs::create_dir(&dir).unwrap();
    for cue in [Cue::Plain, Cue::Cot] {
        put(dir.join(format!("own_{cue}_0.jsonl")), OWN, cue);
    }
    root
}

fn run(root: &Path, stage: &Stage, ranks: Option<Ranks>) -> anyhow::Result<bool> {
    let plan: Plan = Spec { scale: Some("smoke".into()), ..Spec::default() }
        .resolve(&Path::new(env!("CARGO_MANIFEST_DIR")).join("data/pocket/models"))
        .unwrap();
    let store = Store::open(&root.join("runs")).unwrap();
    let models = root.join("models");
    let mut shop = Workshop::new(&store, &models, &plan);
    shop.ranks = ranks;
    stage.run(&shop, &mut |_, _| ())
}

fn ranks(size: usize) -> Option<Ranks> {
    Some(Ranks { size, program: PathBuf::from(env!("CARGO_BIN_EXE_cotalign")) })
}

/// The files of a run by name, and the numbers of its adapter.
fn left(root: &Path, stage: &Stage) -> (BTreeMap<String, Vec<u8>>, super::Values) {
    let dir = root.join("runs").join(stage.id().unwrap().as_str());
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        files.insert(name, std::fs::read(&path).unwrap());
    }
    let adapter = candle_core::safetensors::load(
        dir.join("adapter_model.safetensors"),
        &candle_core::Device::Cpu,
    );
    let adapter = adapter.unwrap().iter().map(|(k, v)| (k.clone(), common::values(v))).collect();
    (files, adapter)
}

/// Instruction tuning with one and with three processes; then refinement, where a
/// micro-batch of four pairs is split. Adam's ε of 1e-8 magnifies what rounding does to
/// gradients near zero: hence 1e-4 here, while a rank that did nothing, or did it twice,
/// would be off by a tenth.
#[test]
fn processes_leave_what_one_leaves() {
    let stages = stages();
    let (one, several) = (place(&stages), place(&stages));
    for stage in [&stages.instruct, &stages.refine] {
        assert!(run(one.path(), stage, None).unwrap());
        assert!(run(several.path(), stage, ranks(3)).unwrap());
        let (files, adapter) = left(one.path(), stage);
        let (their_files, theirs) = left(several.path(), stage);
        assert_eq!(files.keys().collect::<Vec<_>>(), their_files.keys().collect::<Vec<_>>());
        assert_eq!(files["plan.json"], their_files["plan.json"]);
        let off = super::relative(&adapter, &theirs);
        assert!(off < 1e-4, "{}: off by {off}", stage.name());
        if stage.name() == "refine" {
            assert!(!files["log.jsonl"].is_empty(), "no pairs, nothing was tried");
        }
    }
    let again = place(&stages);
    run(again.path(), &stages.instruct, ranks(3)).unwrap();
    let same = left(again.path(), &stages.instruct).1;
    assert!(same == left(several.path(), &stages.instruct).1, "a repeated run differs");
}

/// A program that is no rank, one that says why it cannot, and a rank that lacks what
/// rank 0 has: the error names the rank, has its words, and comes at once.
#[test]
fn a_process_that_dies_ends_the_stage_with_its_words() {
    use std::os::unix::fs::PermissionsExt;
    let stages = stages();
    let root = place(&stages);
    let script = |text: &str| {
        let path = root.path().join("program");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        Some(Ranks { size: 2, program: path })
    };
    let real = env!("CARGO_BIN_EXE_cotalign");
    let started = Instant::now();
    for (program, wanted) in [
        ("#!/bin/sh\nexit 3\n".to_string(), vec!["rank 1 ended", "exit status: 3"]),
        (
            "#!/bin/sh\necho 'error: no card' >&2\nexit 1\n".into(),
            vec!["rank 1 ended with exit status: 1: no card"],
        ),
        (
            // It has joined, and finds no model where it looks.
            format!("#!/bin/bash\nexec {real} worker < <(sed -u s:/tiny:/gone:g 2> /dev/null)\n"),
            vec!["rank 1 is lost", "/gone"],
        ),
    ] {
        let found = message(run(root.path(), &stages.instruct, script(&program)));
        for text in wanted {
            assert!(found.contains(text), "{text:?} is not in {found:?}");
        }
    }
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    let store = Store::open(&root.path().join("runs")).unwrap();
    assert!(!store.is_done(&stages.instruct.id().unwrap()));
    assert!(Ranks::new(0).is_err());
}
