//! Test questions that a training pool contains.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use anyhow::{Result, ensure};

use super::folder::{self, NativeSplit};
use super::question::{Benchmark, Question};

/// A text without what spelling may differ in: case, blanks, marks of punctuation, hyphens
/// between words. Signs of a formula and brackets stay: in MATH and BBH they are the question.
pub fn normal(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut words = String::with_capacity(text.len());
    for (i, &c) in chars.iter().enumerate() {
        let beside = |test: fn(&char) -> bool| {
            i > 0 && test(&chars[i - 1]) && chars.get(i + 1).is_some_and(test)
        };
        match c {
            '.' | ',' | ':' if beside(char::is_ascii_digit) => words.push(c),
            '-' | '\u{2010}'..='\u{2015}' | '_' | '/' if beside(|c| c.is_alphabetic()) => {
                words.push(' ');
            }
            '\'' | '\u{2018}' | '\u{2019}' | '`' => {}
            '.'
            | ','
            | ':'
            | ';'
            | '!'
            | '?'
            | '"'
            | '\u{201c}'
            | '\u{201d}'
            | '\u{2026}'
            | '\u{2010}'..='\u{2015}'
            | '_' => words.push(' '),
            _ => words.extend(c.to_lowercase()),
        }
    }
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The question with its options, in any order of them.
pub fn whole(question: &Question) -> String {
    with_options(&normal(&question.stem), &question.options)
}

fn with_options(stem: &str, options: &[String]) -> String {
    let mut options: Vec<String> = options.iter().map(|o| normal(o)).collect();
    options.sort();
    format!("{stem}\n{}", options.join("\n"))
}

/// A test question and one of the training pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    /// Ids.
    pub train: String,
    pub test: String,
    /// Whether the options are the same, too, in whatever order.
    pub options: bool,
}

/// The test questions whose stem occurs in the training pool, after [`normal`]; each once,
/// with a training question of the same options if there is one.
pub fn overlaps(train: &[Question], test: &[Question]) -> Vec<Overlap> {
    Pool::new(&keys(train)).overlaps(&keys(test))
}

/// What a question is compared by. Full-sized splits are compared in scores of pairs, so that
/// each is normalised once.
struct Key {
    id: String,
    stem: String,
    whole: String,
}

fn keys(questions: &[Question]) -> Vec<Key> {
    let key = |question: &Question| {
        let stem = normal(&question.stem);
        let whole = with_options(&stem, &question.options);
        Key { id: question.id.clone(), stem, whole }
    };
    questions.iter().map(key).collect()
}

/// A training pool, to look questions up in.
struct Pool<'a> {
    stems: HashMap<&'a str, &'a Key>,
    wholes: HashMap<&'a str, &'a Key>,
}

impl<'a> Pool<'a> {
    fn new(keys: &'a [Key]) -> Self {
        let (mut stems, mut wholes) = (HashMap::new(), HashMap::new());
        for key in keys {
            stems.entry(key.stem.as_str()).or_insert(key);
            wholes.entry(key.whole.as_str()).or_insert(key);
        }
        Pool { stems, wholes }
    }

    fn overlaps(&self, test: &[Key]) -> Vec<Overlap> {
        let find = |key: &Key| {
            let same = self.wholes.get(key.whole.as_str());
            let other = same.or_else(|| self.stems.get(key.stem.as_str()))?;
            let (train, test) = (other.id.clone(), key.id.clone());
            Some(Overlap { train, test, options: same.is_some() })
        };
        test.iter().filter_map(find).collect()
    }
}

/// The overlaps of one training pool and one test set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leak {
    pub train: (Benchmark, NativeSplit),
    pub test: (Benchmark, NativeSplit),
    pub test_questions: usize,
    pub overlaps: Vec<Overlap>,
}

/// What [`leaks`] finds in a folder.
#[derive(Debug, Clone, Default)]
pub struct Leaks {
    pub found: Vec<Leak>,
    /// What keeps splits from being read; the others are compared all the same.
    pub broken: Vec<String>,
}

/// Holds every train split in a folder against every split that may be tested on, of the same
/// and of the other benchmarks. Pairs without overlap are left out.
pub fn leaks(dir: &Path) -> Result<Leaks> {
    let mut leaks = Leaks::default();
    let mut pools = Vec::new();
    for benchmark in Benchmark::every() {
        for split in NativeSplit::ALL {
            if !NativeSplit::of(benchmark).contains(&split) {
                continue;
            }
            let there = folder::found(benchmark, dir, split);
            let load = |_| folder::load(benchmark, dir, split).map(|questions| keys(&questions));
            match there.and_then(|files| files.map(load).transpose()) {
                Ok(Some(keys)) => pools.push(((benchmark, split), keys)),
                Ok(None) => {}
                Err(error) => leaks.broken.push(format!("{benchmark} {split}: {error:#}")),
            }
        }
    }
    let (train, test): (Vec<_>, Vec<_>) =
        pools.iter().partition(|((_, split), _)| *split == NativeSplit::Train);
    ensure!(
        !train.is_empty() || !leaks.broken.is_empty(),
        "{}: no train split of any benchmark here; name a folder with one",
        dir.display()
    );
    for (train, keys) in train {
        let pool = Pool::new(keys);
        for (test, tested) in &test {
            let overlaps = pool.overlaps(tested);
            if !overlaps.is_empty() {
                let test_questions = tested.len();
                leaks.found.push(Leak { train: *train, test: *test, test_questions, overlaps });
            }
        }
    }
    Ok(leaks)
}

impl Leak {
    /// How many test questions are in the pool with all their options.
    pub fn same(&self) -> usize {
        let same = self.overlaps.iter().filter(|overlap| overlap.options);
        same.map(|overlap| &overlap.test).collect::<HashSet<_>>().len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::question::Gold;
    use super::*;

    fn question(id: &str, stem: &str, options: &[&str]) -> Question {
        Question {
            id: id.into(),
            benchmark: Benchmark::Csqa,
            stem: stem.into(),
            options: options.iter().map(ToString::to_string).collect(),
            gold: Gold::Choice(0),
        }
    }

    #[test]
    fn spelling_does_not_hide_an_overlap() {
        let train = [
            question("t1", "Where's the well-known  fox?", &["a wood", "Den"]),
            question("t2", "What is 3.5 - 2?", &[]),
            question("t3", "Only the stem is shared.", &["x", "y"]),
        ];
        let test = [
            question("v1", "where\u{2019}s the well known fox", &["den", "A wood."]),
            question("v2", "What is 35 - 2?", &[]),
            question("v3", "Only the stem is shared", &["x", "z"]),
            question("v4", "What is 3.5 + 2?", &[]),
        ];
        let found = overlaps(&train, &test);
        let pair = |train: &str, test: &str, options| Overlap {
            train: train.into(),
            test: test.into(),
            options,
        };
        assert_eq!(found, [pair("t1", "v1", true), pair("t3", "v3", false)]);
    }

    #[test]
    fn brackets_and_signs_stay() {
        assert_ne!(normal("Input: ( [ ] )"), normal("Input: ( < > )"));
        assert_ne!(normal("x + 1"), normal("x - 1"));
        assert_eq!(normal(" A  dog, \u{201c}Rex\u{201d}: "), "a dog rex");
    }
}
