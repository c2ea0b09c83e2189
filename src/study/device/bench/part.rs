//! The order of the works, and the time each may take.

use std::time::{Duration, Instant};

use super::{Shape, Work};

/// One work at one shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub work: Work,
    pub shape: Shape,
}

impl Part {
    /// Share of the time, about in seconds on a Hopper card.
    fn share(self) -> f64 {
        match (self.work, self.shape) {
            (Work::Matmul, _) => 8.0,
            (Work::Sft, Shape::Llama13B) => 45.0,
            (Work::Sft, _) => 40.0,
            (Work::Dpo, _) => 25.0,
            (Work::Steps, _) => 12.0,
            (Work::Annotate, _) => 60.0,
            (Work::Decode, _) => 15.0,
        }
    }

    /// Its time, if `left` is for it and all of `rest`.
    pub fn time(self, left: Duration, rest: &[Part]) -> Duration {
        let all = self.share() + rest.iter().map(|p| p.share()).sum::<f64>();
        left.mul_f64(self.share() / all)
    }
}

/// The limits first, since others are judged by them; works on one model follow each
/// other, so that it is made once.
pub(super) fn parts(works: &[Work], shapes: &[Shape]) -> Vec<Part> {
    let mut all = Vec::new();
    let mut add = |work, shape| {
        if works.contains(&work) {
            all.push(Part { work, shape });
        }
    };
    for (i, &shape) in shapes.iter().enumerate() {
        if i == 0 {
            add(Work::Matmul, shape);
        }
        add(Work::Sft, shape);
        add(Work::Steps, shape);
        if i == 0 {
            add(Work::Dpo, shape);
            add(Work::Annotate, shape);
            add(Work::Decode, shape);
        }
    }
    all
}

/// Until when a part may run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline(pub Instant);

impl Deadline {
    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_shape_has_all_works() {
        let shapes = [Shape::Llama7B, Shape::Llama13B];
        let all = parts(&Work::ALL, &shapes);
        let names: Vec<String> =
            all.iter().map(|p| format!("{} {}", p.work.name(), p.shape.name())).collect();
        let want =
            "matmul 7b, sft 7b, steps 7b, dpo 7b, annotate 7b, decode 7b, sft 13b, steps 13b";
        assert_eq!(names.join(", "), want);
        assert_eq!(parts(&[Work::Dpo], &shapes).len(), 1);
    }

    /// What one part leaves goes to the others, and the last takes all.
    #[test]
    fn time_adds_up() {
        let all = parts(&Work::ALL, &[Shape::Llama7B, Shape::Llama13B]);
        let mut left = Duration::from_secs(210);
        for (i, part) in all.iter().enumerate() {
            let time = part.time(left, &all[i + 1..]);
            assert!(time <= left && time > Duration::from_secs(5), "{part:?}: {time:?}");
            left -= time;
        }
        assert!(left < Duration::from_millis(1));
    }
}
