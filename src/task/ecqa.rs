//! ECQA as its authors publish it: lists of ids and explanations, without the questions.
//!
//! Those are CSQA's (`train_rand_split.jsonl` and `dev_rand_split.jsonl`, across which
//! ECQA's splits cut) and are looked for where the authors' own script wants them, in `cqa/`,
//! in the folder itself, and in a folder of CSQA inside or beside it.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, ensure};

use super::question::Benchmark;
use super::record::{Record, columns, record};
use super::rows;

/// The questions that have not been joined with anything yet.
const CSQA: [&str; 2] = ["train_rand_split.jsonl", "dev_rand_split.jsonl"];

/// Whether a file is a list of ids: `author_split/train_ids.txt`.
pub fn is_list(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().ends_with("_ids.txt"))
}

/// Whether a file holds the explanations, which no question needs.
pub fn is_explanations(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "ecqa.jsonl")
}

/// The records that a list names, in its order. With `ecqa.jsonl` beside the folder of the
/// list those without an explanation are left out, as by the authors' script.
pub fn records(list: &Path) -> Result<Vec<Record>> {
    let text = rows::text(list)?;
    let parent = list.parent().unwrap_or(Path::new("."));
    let home = parent.parent().unwrap_or(Path::new("."));
    let explained = explained(&home.join("ecqa.jsonl"))?;
    let mut all = HashMap::new();
    for path in questions(list, home)? {
        for row in rows::read(&path, columns(Benchmark::Csqa))? {
            let record = record(Benchmark::Csqa, &row)?;
            if let Some(id) = record.id.clone() {
                all.insert(id, record);
            }
        }
    }
    let mut found = Vec::new();
    for (i, id) in text.lines().map(str::trim).enumerate() {
        let record = all.get(id).ok_or_else(|| {
            anyhow!(
                "{} row {}: {id:?} is no question of CSQA's {}; fetch the files again",
                list.display(),
                i + 1,
                CSQA.join(" or ")
            )
        })?;
        if explained.as_ref().is_none_or(|known| known.contains(id)) {
            found.push(record.clone());
        }
    }
    ensure!(
        !found.is_empty(),
        "{}: none of its questions has an explanation in {}; fetch the files again",
        list.display(),
        home.join("ecqa.jsonl").display()
    );
    Ok(found)
}

/// The ids that have all parts of an explanation; none if there is no such file.
fn explained(path: &Path) -> Result<Option<HashSet<String>>> {
    if !path.exists() {
        return Ok(None);
    }
    let mut ids = HashSet::new();
    for row in rows::read(path, &[])? {
        if ["positives", "negatives", "explanation"].iter().all(|key| row.has(key)) {
            ids.insert(row.text("id")?);
        }
    }
    Ok(Some(ids))
}

fn questions(list: &Path, home: &Path) -> Result<[PathBuf; 2]> {
    let beside = home.parent().unwrap_or(Path::new("."));
    let folders = [
        home.join("cqa"),
        home.to_owned(),
        home.join("csqa"),
        beside.join("csqa"),
        beside.join("cqa"),
    ];
    let files = folders.iter().map(|folder| CSQA.map(|name| folder.join(name)));
    files.into_iter().find(|files| files.iter().all(|file| file.is_file())).ok_or_else(|| {
        anyhow!(
            "{}: the questions of these ids are CSQA's; put {} into {}",
            list.display(),
            CSQA.join(" and "),
            folders[0].display()
        )
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::task::{Gold, NativeSplit, load};

    fn csqa(id: &str, key: char) -> String {
        let choices: Vec<String> =
            "ABCDE".chars().map(|l| format!(r#"{{"label": "{l}", "text": "{id} {l}"}}"#)).collect();
        let (choices, stem) = (choices.join(", "), format!("Is it {id}?"));
        let question =
            format!(r#"{{"question_concept": "c", "choices": [{choices}], "stem": "{stem}"}}"#);
        format!(r#"{{"answerKey": "{key}", "id": "{id}", "question": {question}}}"#)
    }

    /// Questions `a` to `c` in CSQA's train file, `d` in its validation file.
    fn folder(csqa_in: &str, list: &str, explained: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("ecqa");
        fs::create_dir_all(home.join("author_split")).unwrap();
        fs::create_dir_all(home.join(csqa_in)).unwrap();
        let train = [csqa("a", 'A'), csqa("b", 'B'), csqa("c", 'C')].join("\n");
        fs::write(home.join(csqa_in).join(CSQA[0]), train).unwrap();
        fs::write(home.join(csqa_in).join(CSQA[1]), csqa("d", 'D')).unwrap();
        fs::write(home.join("author_split/val_ids.txt"), list).unwrap();
        let lines: Vec<String> = explained
            .iter()
            .map(|id| {
                let parts = r#""positives": ["p"], "negatives": ["n"], "explanation": "e""#;
                format!(r#"{{"id": "{id}", {parts}}}"#)
            })
            .collect();
        if !lines.is_empty() {
            fs::write(home.join("ecqa.jsonl"), lines.join("\n")).unwrap();
        }
        dir
    }

    #[test]
    fn the_lists_take_their_questions_from_csqa() {
        for place in ["cqa", "", "csqa", "../csqa", "../cqa"] {
            let dir = folder(place, "d\nb\r\na\n", &["a", "d"]);
            let all = load(Benchmark::Ecqa, dir.path(), NativeSplit::Validation).unwrap();
            let found: Vec<(&str, &Gold)> = all.iter().map(|q| (q.id.as_str(), &q.gold)).collect();
            assert_eq!(found, [("d", &Gold::Choice(3)), ("a", &Gold::Choice(0))], "{place:?}");
            assert_eq!((all[0].benchmark, all[0].stem.as_str()), (Benchmark::Ecqa, "Is it d?"));
            assert_eq!(all[0].options[4], "d E");
        }
        // The lists alone say which questions, too.
        let dir = folder("cqa", "b\nc", &[]);
        let all = load(Benchmark::Ecqa, dir.path(), NativeSplit::Validation).unwrap();
        assert_eq!(all.iter().map(|q| q.id.as_str()).collect::<Vec<_>>(), ["b", "c"]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = |dir: tempfile::TempDir| {
            let split = NativeSplit::Validation;
            format!("{:#}", load(Benchmark::Ecqa, dir.path(), split).unwrap_err())
        };
        let text = error(folder("cqa", "a\nx", &[]));
        assert!(text.contains("val_ids.txt row 2: \"x\"") && text.contains("CSQA"), "{text}");
        let text = error(folder("elsewhere", "a", &[]));
        assert!(text.contains("put train_rand_split.jsonl and dev_rand_split.jsonl"), "{text}");
        assert!(text.contains("cqa"), "{text}");
        let text = error(folder("cqa", "a", &["b"]));
        assert!(text.contains("ecqa.jsonl") && text.contains("explanation"), "{text}");
        let text = error(folder("cqa", "a\na", &[]));
        assert!(text.contains("the id \"a\""), "{text}");
    }

    #[test]
    fn a_check_counts_the_lists_and_passes_over_the_explanations() {
        let dir = folder("cqa", "d\nb", &["b", "d"]);
        let reports = crate::task::check::check(&dir.path().join("ecqa")).unwrap();
        let found: Vec<_> = reports.iter().map(|r| (r.benchmark, r.split, r.questions)).collect();
        let ecqa = (Some(Benchmark::Ecqa), Some(NativeSplit::Validation), 2);
        assert!(found.contains(&ecqa) && found.len() == 3, "{found:?}");
        assert!(reports.iter().all(|r| r.broken.is_empty()), "{found:?}");
    }
}
