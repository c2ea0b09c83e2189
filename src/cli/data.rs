//! `cotalign data`: the files of real benchmarks are looked into.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Subcommand;
use cotalign::task::{Benchmark, NativeSplit, check, leakage};

#[derive(Subcommand)]
pub enum DataCommand {
    /// Count questions, classes and duplicates, and name what is wrong; fails on a broken file.
    Check {
        /// A file, a folder of files, or the name of a benchmark in --data.
        target: String,
        /// Where a benchmark of that name is looked for.
        #[arg(long, value_name = "DIR", default_value = ".")]
        data: PathBuf,
    },
    /// Find test questions that occur in a train split, of whatever benchmark; fails on a broken
    /// file, once the others are compared.
    Leaks {
        /// Folder with obqa/, csqa/, … or allenai/openbookqa/, tau/commonsense_qa/, ….
        data: PathBuf,
    },
}

fn check_files(target: &str, data: &Path) -> Result<()> {
    let path = Path::new(target);
    let reports = match target.parse::<Benchmark>() {
        _ if path.exists() => check::check(path)?,
        Ok(benchmark) => check::check_benchmark(benchmark, data)?,
        Err(error) => bail!("{target}: no such file or folder, and an {error}"),
    };
    let mut text = String::new();
    let (mut files, mut questions, mut broken) = (0, 0, 0);
    for report in &reports {
        text += &format!("{report}\n");
        files += report.files;
        questions += report.questions;
        broken += report.broken.len();
    }
    print(&format!("{text}{files} files, {questions} questions, {broken} broken\n"))?;
    if broken > 0 {
        bail!("{target}: {broken} broken; what is wrong stands above");
    }
    Ok(())
}

fn leaks(data: &Path) -> Result<()> {
    let leakage::Leaks { found, broken } = leakage::leaks(data)?;
    let line = |cells: [&str; 5]| {
        let [train, test, n, same, stem] = cells;
        format!("{train:18} {test:18} {n:>6}  {same:>13}  {stem:>9}\n")
    };
    let mut text = match (found.is_empty(), broken.is_empty()) {
        (false, _) => line(["trained on", "tested on", "n", "same question", "same stem"]),
        (true, true) => "no test question occurs in a train split\n".to_owned(),
        (true, false) => "no test question occurs in a train split that can be read\n".to_owned(),
    };
    for leak in &found {
        let name = |(benchmark, split): (Benchmark, NativeSplit)| format!("{benchmark} {split}");
        text += &line([
            &name(leak.train),
            &name(leak.test),
            &leak.test_questions.to_string(),
            &leak.same().to_string(),
            &leak.overlaps.len().to_string(),
        ]);
        let rows = leak.overlaps.iter().take(3).map(|o| format!("{} in {}", o.test, o.train));
        let more = if leak.overlaps.len() > 3 { "; …" } else { "" };
        text +=
            &format!("    test id in train id: {}{more}\n", rows.collect::<Vec<_>>().join("; "));
    }
    for broken in &broken {
        text += &format!("BROKEN: {broken}\n");
    }
    print(&text)?;
    if !broken.is_empty() {
        bail!(
            "{}: {} splits cannot be read; what is wrong stands above",
            data.display(),
            broken.len()
        );
    }
    Ok(())
}

/// To the standard output, which may be closed by then: `cotalign data check … | head`.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

pub fn run(command: DataCommand) -> Result<()> {
    match command {
        DataCommand::Check { target, data } => check_files(&target, &data),
        DataCommand::Leaks { data } => leaks(&data),
    }
}
