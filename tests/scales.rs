//! The laptop and paper scales, dry: random tiny checkpoints in the hub's layout in
//! place of the real models, rows of the real benchmarks, every stage.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cotalign::model::Config;
use cotalign::study::{Artifact, Spec, lay_out};

/// A checkpoint of an architecture, with a chat template.
fn checkpoint(dir: &Path, model_type: &str, seed: u64) -> PathBuf {
    let to = dir.join(format!("{model_type}-{seed}"));
    let config = Config {
        max_position_embeddings: 1024,
        tie_word_embeddings: model_type == "qwen2",
        ..common::tiny_config(model_type)
    };
    common::save_tiny(&config, seed, &to);
    let path = to.join("tokenizer_config.json");
    let mut settings: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    settings["chat_template"] = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] \
        {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
        .into();
    std::fs::write(&path, settings.to_string()).unwrap();
    to
}

/// Everything of the scale but models, counts and the length of phase 2.
fn dry(scale: &str, dir: &Path) -> String {
    let member = |role: &str, path: PathBuf, family: &str, chat: bool| {
        format!(
            "[[{role}]]\nname = {:?}\nfamily = \"{family}\"\ntemperature = 0.1\n\
             figure_2 = true\nchat = {chat}\n\n",
            path.display().to_string()
        )
    };
    let text = [
        member("teachers", checkpoint(dir, "qwen2", 1), "a", true),
        member("teachers", checkpoint(dir, "mixtral", 2), "b", false),
        member("students", checkpoint(dir, "qwen3", 3), "a", false),
        member("students", checkpoint(dir, "llama", 4), "b", false),
    ];
    format!(
        "scale = \"{scale}\"\nseeds = 1\ntasks = [\"obqa\", \"csqa\", \"piqa\", \"siqa\", \
         \"gsm8k\", \"multiarith\"]\ntrain_questions = 6\ntest_questions = 4\n\
         demonstrations = 6\nmax_new_tokens = 8\nrefine_questions = 4\n\n{}\
         [refine]\npairs = \"cot_over_plain\"\nbeta = 0.1\nlearning_rate = 1e-6\n\
         weight_decay = 1e-4\nwarmup_steps = 1\nmax_steps = 2\nper_device_train_batch_size = 2\n\
         gradient_accumulation_steps = 2\nmax_grad_norm = 1.0\nhold_out = 0.3\neval_steps = 1\n\
         samples = 1\ngradient_checkpointing = true\n",
        text.concat()
    )
}

#[test]
fn both_scales_go_through_every_stage_on_random_checkpoints() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    if !data.is_dir() {
        eprintln!("skipped: the real benchmarks are not beside the project");
        return;
    }
    for scale in ["laptop", "paper"] {
        let root = tempfile::tempdir().unwrap();
        let spec = root.path().join("dry.toml");
        std::fs::write(&spec, dry(scale, root.path())).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_cotalign"));
        command.arg("--root").arg(root.path()).stdin(Stdio::null());
        command.args(["reproduce", "--jobs", "2", "--spec"]).arg(&spec);
        command.arg("--data").arg(&data).arg("--out").arg(root.path());
        let output = command.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && !error.contains("panicked"), "{scale}: {error}");
        for artifact in Artifact::ALL {
            let table = root.path().join(format!("results/{}.csv", artifact.name()));
            let text = std::fs::read_to_string(&table).unwrap();
            assert!(text.lines().count() > 6, "{scale}: {}: {text}", artifact.name());
        }
    }
}

/// Every setting of the papers that `papers` prints is the paper scale's.
#[test]
fn the_paper_scale_has_the_papers_settings() {
    let plan = Spec { scale: Some("paper".into()), ..Spec::default() }.draft().unwrap();
    assert_eq!(plan.train_questions, 4000);
    let i = &plan.instruct;
    assert_eq!((i.num_train_epochs, i.learning_rate, i.weight_decay), (4.0, 2e-5, 1e-3));
    assert_eq!((i.warmup_ratio, i.max_grad_norm, i.lora.r), (0.03, 0.3, 8));
    assert_eq!((i.lora.lora_alpha, i.lora.lora_dropout), (16.0, 0.1));
    let r = &plan.refine;
    assert_eq!((r.learning_rate, r.weight_decay, r.warmup_steps), (1e-6, 1e-4, 100));
    assert_eq!(r.per_device_train_batch_size * r.gradient_accumulation_steps, 128);
    assert_eq!((r.max_steps, r.beta), (1000, 0.1));
    let temperatures: Vec<f64> = plan.teachers.iter().map(|t| t.temperature).collect();
    assert_eq!(temperatures, [0.1, 0.1, 0.7]);
    // All six tasks, three students, three teachers: the grid can be laid out.
    assert!(lay_out(&plan).unwrap().order.len() > 1000);
}

/// A key that was written into the file by mistake is in no message.
#[test]
fn an_error_of_a_run_description_repeats_no_value() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.toml");
    for (text, wanted) in [
        ("[[teachers]]\nname = \"t\"\n[teachers.remote]\napi_key = \"sk-SESAME\"\n", "api_key"),
        ("[[teachers]]\nname = \"t\"\n[teachers.remote]\napi_key_env = sk-SESAME\n", "line 4"),
        ("scale = \"pocket\"\nmax_new_tokens = \"sk-SESAME\"\n", "max_new_tokens"),
    ] {
        std::fs::write(&file, text).unwrap();
        let message = format!("{:#}", cotalign::study::Spec::load(&file).unwrap_err());
        assert!(message.contains(wanted), "{wanted:?} is not in {message:?}");
        assert!(!message.contains("SESAME"), "{message}");
    }
}

/// A member behind a server, of the smoke scale, which computes nothing here.
#[cfg(feature = "remote")]
fn served(role: &str) -> String {
    format!(
        "[[{role}]]\nname = \"far\"\nfamily = \"a\"\ntemperature = 0.7\n[{role}.remote]\n\
         base_url = \"http://127.0.0.1:9/v1\"\nmodel = \"far\"\nendpoint = \"chat\"\n\
         max_tokens = 80\n"
    )
}

#[cfg(feature = "remote")]
fn drafted(text: &str) -> Result<cotalign::study::Plan, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.toml");
    std::fs::write(&file, text).unwrap();
    Spec::load(&file).unwrap().draft().map_err(|e| format!("{e:#}"))
}

/// It can neither be tuned nor tell log-probabilities; this showed after hours.
#[cfg(feature = "remote")]
#[test]
fn a_student_behind_a_server_is_refused_at_once() {
    let with = |only: &str| {
        drafted(&format!("scale = \"smoke\"\nonly = [\"{only}\"]\n{}", served("students")))
    };
    let error = with("p1_table03").unwrap_err();
    assert!(error.contains("students: far") && error.contains("p1_table03"), "{error}");
    assert!(with("p1_table11").is_ok(), "no student is needed");
}

/// Servers went on with the limit of their own.
#[cfg(feature = "remote")]
#[test]
fn the_limit_of_an_answer_holds_for_servers_too() {
    let plan = drafted("scale = \"paper\"\nmax_new_tokens = 1024\n").unwrap();
    assert!(plan.teachers.iter().all(|t| t.remote.as_ref().unwrap().max_tokens == 1024));
    let text = format!("scale = \"smoke\"\nmax_new_tokens = 90\n{}", served("teachers"));
    let error = drafted(&text).unwrap_err();
    assert!(error.contains("max_tokens is 80") && error.contains("90"), "{error}");
}
