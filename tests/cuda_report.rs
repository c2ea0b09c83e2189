//! The report of `make bench-cuda` is made by a script; its own tests run here. A machine
//! without python3 has no use for it, and skips them.

use std::process::Command;

#[test]
fn the_report_judges_every_aim() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cuda/report_test.py");
    let run = match Command::new("python3").args(["-B", script]).output() {
        Ok(run) => run,
        Err(error) => {
            eprintln!("skipped: python3 does not start: {error}");
            return;
        }
    };
    assert!(run.status.success(), "{script}:\n{}", String::from_utf8_lossy(&run.stderr));
}
