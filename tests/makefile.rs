//! `make` runs the program that Cargo built, wherever the user lets Cargo build.

use std::process::Command;

/// What `make smoke` would run, with Cargo's folder set by `key`.
fn smoke(key: &str, folder: &str) -> Option<String> {
    let mut make = Command::new("make");
    make.args(["--no-print-directory", "-n", "smoke"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    // Those of the `make test` that runs this test.
    for name in ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET_DIR", "MAKEFLAGS", "MFLAGS"] {
        make.env_remove(name);
    }
    match make.env(key, folder).output() {
        Ok(run) => {
            assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
            Some(String::from_utf8_lossy(&run.stdout).into_owned())
        }
        Err(error) => {
            eprintln!("skipped: make does not start: {error}");
            None
        }
    }
}

#[test]
fn the_program_is_where_cargo_builds_it() {
    let folder = tempfile::Builder::new().prefix("with blank ").tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    // The second one stands for everything that make does not know: `build.target-dir` of a
    // config.toml is the same setting.
    for key in ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET_DIR"] {
        let Some(commands) = smoke(key, folder) else { return };
        let program = format!("\"{folder}/release/cotalign\" reproduce");
        assert!(commands.contains(&program), "{key}:\n{commands}");
    }
}
