//! Every work of `cotalign device bench` in a tiny shape, on kernels compiled for the
//! processor: that it runs and says what the report needs, not how fast anything is.

#[path = "common/emulator.rs"]
mod emulator;

use std::process::Command;
use std::time::Duration;

use cotalign::study::device::bench::{BenchPlan, Lengths, Shape, Told, Work, bench};
use emulator::emulated;
use serde_json::Value;

const LENGTHS: &str = r#"{"seed": 1,
    "prompt_tokens": [5, 12, 3, 30, 8, 8, 17, 1, 9, 22, 4, 6],
    "new_tokens": [3, 9, 1, 4, 12, 2, 7, 5, 1, 3, 8, 6]}"#;

fn run(works: &[Work], budget: Duration) -> Option<Vec<Value>> {
    let emulated = emulated()?;
    let plan = BenchPlan {
        works: works.to_vec(),
        shapes: vec![Shape::Tiny],
        lengths: Lengths::parse(LENGTHS).unwrap(),
        budget,
    };
    let mut lines = Vec::new();
    let measured = bench(&emulated.target, &plan, &mut |told| {
        match told {
            Told::Progress(text) => println!("{text}"),
            Told::Line(line) => {
                println!("{line}");
                lines.push(line.clone());
            }
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(measured, lines.iter().filter(|l| l.get("error").is_none()).count());
    Some(lines)
}

/// Numbers at any depth; a value that is not finite is null in JSON.
fn assert_positive(line: &Value, keys: &[&str]) {
    for key in keys {
        let value = key.split('/').fold(line, |v, k| &v[k]);
        let number = value.as_f64().unwrap_or(f64::NAN);
        assert!(number > 0.0 && number.is_finite(), "{key} is {value} in {line}");
    }
}

#[test]
fn every_work_is_measured() {
    let Some(lines) = run(&Work::ALL, Duration::from_secs(600)) else { return };
    let errors: Vec<_> = lines.iter().filter(|l| l.get("error").is_some()).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    let of = |work: &str| lines.iter().filter(|l| l["work"] == work).collect::<Vec<_>>();
    for (work, count, keys) in [
        ("matmul", 1, &["size", "tflops"][..]),
        ("bandwidth", 1, &["copy_bytes_per_s"]),
        ("sft", 2, &["batch", "tokens_per_s", "length", "answer"]),
        ("dpo", 2, &["batch", "tokens_per_s", "pairs_per_s"]),
        ("steps", 1, &["batch", "model_flops", "mfu", "hfu", "peak_tflops"]),
        ("decode", 2, &["batch", "tokens_per_s", "bandwidth/bytes_per_s", "bandwidth/share"]),
    ] {
        assert_eq!(of(work).len(), count, "{work}");
        for line in of(work) {
            assert_positive(line, keys);
            assert_positive(line, &["ms_per_step", "repeats"]);
            assert!(line["spread"].as_f64().is_some_and(|s| s >= 0.0), "{line}");
        }
    }
    assert_eq!(of("annotate").len(), 2);
    for line in of("annotate") {
        assert_positive(line, &["batch", "tokens_per_s", "seconds", "repeats"]);
        assert_eq!((&line["prompts"], &line["prompts_measured"]), (&12.into(), &12.into()));
    }
    // Without events nothing is in a class: all of the time is other.
    let steps = of("steps")[0];
    assert_eq!(steps["split"]["other"], steps["ms_per_step"]);
    for line in &lines {
        assert_eq!(line["side"], "cotalign");
        assert_eq!(line["versions"]["cotalign"], env!("CARGO_PKG_VERSION"));
    }
    report_takes(&lines);
}

/// The report shows every line, and measures the model's utilisation by them.
fn report_takes(lines: &[Value]) {
    let folder = tempfile::tempdir().unwrap();
    let (raw, out) = (folder.path().join("raw.jsonl"), folder.path().join("out.md"));
    // The report looks for the papers' shapes.
    let text: String =
        lines.iter().map(|l| format!("{l}\n").replace(r#""tiny""#, r#""7b""#)).collect();
    std::fs::write(&raw, text).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cuda/report.py");
    let mut python = Command::new("python3");
    python.args(["-B", script, "write"]).arg(&raw).arg("--out").arg(&out);
    let run = match python.args(["--commit", "none"]).output() {
        Ok(run) => run,
        Err(error) => {
            eprintln!("the report is not tried: python3 does not start: {error}");
            return;
        }
    };
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let report = std::fs::read_to_string(&out).unwrap();
    assert_eq!(report.matches("\n| cotalign |").count(), lines.len(), "{report}");
    let row = |start: &str| {
        let found = report.lines().find(|l| l.starts_with(&format!("| {start}")));
        found.unwrap_or_else(|| panic!("no row {start} in {report}"))
    };
    for start in ["QLoRA SFT 7B", "DPO", "annotation", "decode 7B bf16, batch 1"] {
        assert!(row(start).contains("tokens/s"), "{}", row(start));
    }
    assert!(!row("step time, 7b").contains("not measured"), "{}", row("step time, 7b"));
}

/// Without time every work says so, and nothing fails.
#[test]
fn what_there_is_no_time_for_is_said() {
    let Some(lines) = run(&[Work::Sft, Work::Annotate], Duration::from_millis(10)) else { return };
    assert_eq!(lines.len(), 2);
    for line in lines {
        assert_eq!(line["error"], "no time left");
        assert_eq!(line["shape"], "tiny");
    }
}

#[test]
fn lengths_that_make_no_sense_are_refused() {
    let error = |text: &str| format!("{:#}", Lengths::parse(text).unwrap_err());
    assert!(error("[]").contains("prompt_tokens"));
    assert!(error(r#"{"prompt_tokens": [1, 2], "new_tokens": [1]}"#).contains("2 prompts and 1"));
    assert!(error(r#"{"prompt_tokens": [0], "new_tokens": [1]}"#).contains("at least one token"));
}
