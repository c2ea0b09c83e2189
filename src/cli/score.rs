//! `cotalign score`: saved generations are read and scored.

use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use cotalign::probe::score::{NamedReader, is_stdout, score_file};

#[derive(Args)]
pub struct ScoreArgs {
    /// Generations, one JSON object a line: `benchmark`, `choices` (a list, or null for an
    /// open question), `output` and, if known, `gold` (a letter or a choice's text; else a
    /// number, a formula or a text).
    file: PathBuf,
    /// How answers are read: this program's reader by its version, or `ranaldi2024`, the
    /// matcher that the authors of P1 released.
    #[arg(long, default_value_t = NamedReader::Own)]
    reader: NamedReader,
    /// Where the lines go, each with `answer`, `answer_strict` and, with a gold, `correct`
    /// and `correct_strict`; if not FILE with `.scored` before its ending. A file of that name
    /// is written over. `-` is the standard output; the summary then goes to standard error.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub fn run(args: ScoreArgs) -> Result<()> {
    let out = match args.out {
        Some(out) => out,
        // The standard input: a file beside it would lie among the devices.
        None if args.file.exists() && !args.file.is_file() && !args.file.is_dir() => {
            bail!("{}: is not a regular file; say where to with --out FILE", args.file.display())
        }
        None => args.file.with_extension("scored.jsonl"),
    };
    let score = score_file(&args.file, &out, args.reader)?;
    let summary = format!("reader {}\n{score}answers in {}\n", args.reader, out.display());
    let shown = if is_stdout(&out) {
        io::stderr().write_all(summary.as_bytes())
    } else {
        io::stdout().write_all(summary.as_bytes())
    };
    // A reader of the summary who has seen enough is no error: the answers are written.
    if let Err(error) = shown
        && error.kind() != ErrorKind::BrokenPipe
    {
        return Err(error.into());
    }
    if score.problems.is_empty() {
        return Ok(());
    }
    const SHOWN: usize = 20;
    for problem in score.problems.iter().take(SHOWN) {
        eprintln!("{problem}");
    }
    if score.problems.len() > SHOWN {
        eprintln!("and {} more", score.problems.len() - SHOWN);
    }
    bail!("lines that could not be scored and are left out: {}", score.problems.len())
}
