//! Word problems of the pocket world: a heap of things that grows and shrinks.

use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

/// The people of the pocket world.
pub const NAMES: [&str; 12] =
    ["Tom", "Ann", "Ben", "Eva", "Sam", "Mia", "Max", "Ida", "Leo", "Zoe", "Jim", "Sue"];

const THINGS: [&str; 12] = [
    "apples", "coins", "stamps", "cards", "shells", "beads", "pens", "eggs", "books", "nuts",
    "caps", "buttons",
];

/// No value in a story is larger.
pub const LARGEST: u32 = 60;

/// What one sentence of a story does to the heap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Op {
    Add,
    Sub,
    Mul,
}

impl Op {
    /// The value after the step; `None` where it would leave `1..=LARGEST`.
    pub fn apply(self, value: u32, operand: u32) -> Option<u32> {
        let result = match self {
            Op::Add => value.checked_add(operand)?,
            Op::Sub => value.checked_sub(operand)?,
            Op::Mul => value.checked_mul(operand)?,
        };
        (1..=LARGEST).contains(&result).then_some(result)
    }

    fn sentences(self) -> &'static [&'static str] {
        match self {
            Op::Add => &["{he} finds {k} more.", "{he} buys {k} more.", "{he} gets {k} more."],
            Op::Sub => &["{he} gives away {k}.", "{he} loses {k}.", "{he} sells {k}."],
            Op::Mul => &["The pile becomes {k} times as big.", "The pile grows {k} times as big."],
        }
    }
}

/// What makes two problems the same: the pattern of operations and the numbers.
pub type StoryKey = (u32, Vec<(Op, u32)>);

/// One word problem.
#[derive(Debug, Clone, PartialEq)]
pub struct Story {
    pub name: &'static str,
    pub thing: &'static str,
    pub start: u32,
    pub steps: Vec<(Op, u32)>,
    /// By step: which of the wordings of its operation is used.
    wording: Vec<usize>,
    /// The sums of whoever works it out; right ones unless set.
    slips: Slips,
}

/// The sums that a family has wrong: a fixed share of them, each always wrong in
/// the same way.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Slips {
    /// Share of sums that are wrong.
    pub share: f64,
    /// Which ones: another key has others wrong.
    pub key: u64,
}

impl Slips {
    /// What a family believes to be the result; a wrong one is 1 or 2 too large,
    /// so that no later step can fall below zero.
    fn result(self, before: u32, op: Op, operand: u32) -> u32 {
        let right = match op {
            Op::Add => before + operand,
            Op::Sub => before - operand,
            Op::Mul => before * operand,
        };
        // SplitMix64 of the sum and the key: its upper bits decide whether, its
        // lowest by how much.
        let sum = (before as u64) << 16 | (op as u64) << 8 | operand as u64;
        let mut z = self.key ^ sum.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let wrong = ((z >> 11) as f64) < self.share * (1u64 << 53) as f64;
        right + if wrong { 1 + (z & 1) as u32 } else { 0 }
    }
}

impl Story {
    /// Draws a story of `steps` steps.
    ///
    /// A whole story is thrown away when one value leaves the range: repairing a
    /// step instead would make some numbers follow from others.
    pub fn draw(rng: &mut ChaCha8Rng, steps: usize) -> Story {
        loop {
            if let Some(story) = Story::try_draw(rng, steps) {
                return story;
            }
        }
    }

    fn try_draw(rng: &mut ChaCha8Rng, steps: usize) -> Option<Story> {
        let start = rng.random_range(2..=12);
        let mut value = start;
        let mut story = Story {
            name: NAMES.choose(rng)?,
            thing: THINGS.choose(rng)?,
            start,
            steps: Vec::with_capacity(steps),
            wording: Vec::with_capacity(steps),
            slips: Slips::default(),
        };
        for _ in 0..steps {
            let op = *[Op::Add, Op::Sub, Op::Mul].choose(rng)?;
            let operand = rng.random_range(2..=if op == Op::Mul { 5 } else { 12 });
            value = op.apply(value, operand)?;
            story.steps.push((op, operand));
            story.wording.push(rng.random_range(0..op.sentences().len()));
        }
        Some(story)
    }

    /// The same story, worked out by someone with these slips.
    pub fn with_slips(self, slips: Slips) -> Story {
        Story { slips, ..self }
    }

    /// The numbers and operations, without the wording.
    pub fn key(&self) -> StoryKey {
        (self.start, self.steps.clone())
    }

    /// What happens, without the question.
    pub fn plot(&self) -> String {
        let mut text = format!("{} has {} {}.", self.name, self.start, self.thing);
        for (&(op, operand), &wording) in self.steps.iter().zip(&self.wording) {
            let sentence = op.sentences()[wording]
                .replace("{he}", self.pronoun())
                .replace("{k}", &operand.to_string());
            text.push(' ');
            text.push_str(&sentence);
        }
        text
    }

    /// The problem: the plot and the question.
    pub fn stem(&self) -> String {
        format!("{} How many {} does {} have?", self.plot(), self.thing, self.name)
    }

    /// Each step as (value before, operation, operand, value after).
    pub fn worked(&self) -> Vec<(u32, Op, u32, u32)> {
        let mut value = self.start;
        self.steps
            .iter()
            .map(|&(op, operand)| {
                let before = value;
                value = self.slips.result(before, op, operand);
                (before, op, operand, value)
            })
            .collect()
    }

    /// What is left at the end.
    pub fn answer(&self) -> u32 {
        self.worked().last().map_or(self.start, |step| step.3)
    }

    fn pronoun(&self) -> &'static str {
        match self.name {
            "Ann" | "Eva" | "Mia" | "Ida" | "Zoe" | "Sue" => "She",
            _ => "He",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn a_story_reads_and_adds_up() {
        let story = Story {
            name: "Tom",
            thing: "apples",
            start: 5,
            steps: vec![(Op::Add, 3), (Op::Sub, 2), (Op::Mul, 4)],
            wording: vec![0, 0, 0],
            slips: Slips::default(),
        };
        assert_eq!(
            story.stem(),
            "Tom has 5 apples. He finds 3 more. He gives away 2. \
             The pile becomes 4 times as big. How many apples does Tom have?"
        );
        assert_eq!(story.worked(), [(5, Op::Add, 3, 8), (8, Op::Sub, 2, 6), (6, Op::Mul, 4, 24)]);
        assert_eq!(story.answer(), 24);
    }

    #[test]
    fn values_stay_in_range() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for n in 0..600 {
            let story = Story::draw(&mut rng, 2 + n % 3);
            assert!(story.worked().iter().all(|s| (1..=LARGEST).contains(&s.3)));
            assert!((1..=LARGEST).contains(&story.answer()));
        }
    }

    /// A share of sums is wrong, always the same ones, by 1 or 2; other families
    /// have others wrong.
    #[test]
    fn slips_are_a_fixed_share_of_sums() {
        let sums = || (1..60).flat_map(|a| (2..13).map(move |b| (a, b)));
        let wrong = |key| {
            let slips = Slips { share: 0.1, key };
            let off = |(a, b): &(u32, u32)| {
                let result = slips.result(*a, Op::Add, *b);
                assert!((a + b..=a + b + 2).contains(&result));
                result != a + b
            };
            sums().filter(off).collect::<Vec<_>>()
        };
        let share = wrong(1).len() as f64 / sums().count() as f64;
        assert!((0.06..0.14).contains(&share), "{share}");
        assert_eq!(wrong(1), wrong(1));
        assert_ne!(wrong(1), wrong(2));
        assert!(sums().all(|(a, b)| Slips::default().result(a, Op::Add, b) == a + b));
    }
}
