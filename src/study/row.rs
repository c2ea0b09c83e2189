//! The long-form row every table and figure is made from, and its statistics.

use serde::{Deserialize, Serialize};

/// One measured number with its conditions.
///
/// All names are plain strings, so that one row type holds measured models and
/// those of the papers; `-` stands for "does not apply".
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The model that is tuned or evaluated, `llama-pocket-7`; `-` for a row about a teacher.
    pub student: String,
    /// The model that wrote the demonstrations, or the teacher evaluated.
    pub teacher: String,
    /// `baseline`, `baseline_cot`, `instruction_tuning`, `instruction_tuning_cot`, `self_refine`, …
    pub method: String,
    /// `none`, `demonstrations`, `truthful`, `cot_demonstrations`, `delivering_cot`, `both`, …
    pub demonstrations: String,
    /// The benchmark tuned on, or `-`.
    pub train_task: String,
    /// The benchmark evaluated; `OBQA(train)` where a table reports both splits.
    pub eval_task: String,
    /// `accuracy`, `no_answer`, `rewards/margins`, …
    pub metric: String,
    /// The mean over seeds; percent for accuracies.
    pub mean: f64,
    /// Sample standard deviation over seeds; `None` with one seed.
    pub std: Option<f64>,
    /// Lower end of the 95 % interval.
    pub ci_low: f64,
    /// Upper end of the 95 % interval.
    pub ci_high: f64,
    /// Questions per seed.
    pub n: u64,
    /// Number of seeds.
    pub seeds: u32,
    /// The number the paper prints for the same cell, if it prints one.
    pub published: Option<f64>,
}

/// What [`summarise`] makes of the counts of all seeds, in percent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// Mean of the seeds' accuracies.
    pub mean: f64,
    /// Sample standard deviation over seeds; `None` with fewer than two.
    pub std: Option<f64>,
    /// Lower end of the 95 % interval.
    pub ci_low: f64,
    /// Upper end of the 95 % interval.
    pub ci_high: f64,
    /// Questions per seed: the smallest count, should they differ.
    pub n: u64,
    /// Number of seeds.
    pub seeds: u32,
}

/// The 97.5 % point of the normal distribution.
const Z: f64 = 1.959_963_985;

/// Mean, spread and 95 % interval of an accuracy measured with several seeds,
/// each given as (correct, questions).
///
/// With `k` seeds, accuracies `p_i`, their mean `p` and sample variance `s²`,
/// and `n` questions per seed (the smallest count, should they differ):
///
/// ```text
/// se² = p(1-p)/n + s²/k               questions and seeds both vary
/// ν   = (k-1) · (se² / (s²/k))²       Satterthwaite's degrees of freedom
/// c   = t(97.5 %, ⌊ν⌋)                1.96 with one seed, or s = 0
/// n'  = p(1-p) / se²                  effective number of questions; n if se = 0
/// interval = (p + c²/2n' ± c √(p(1-p)/n' + c²/4n'²)) / (1 + c²/n')
/// ```
///
/// The last line is Wilson's interval (1927), which with one seed is all there
/// is (`n' = n`). Putting a design-based effective sample size and Student's t
/// into it follows Korn & Graubard (1998) and Dean & Pagano (2015); it stays
/// within 0…100 and keeps a width at both ends, where `p ± 1.96 se` does not.
///
/// The sum is conservative. All seeds answer the same questions, so the first
/// term is not divided by `k`; and what an answer owes to the seed alone is
/// counted in both terms.
///
/// No seeds, or no questions, give NaN throughout.
pub fn summarise(per_seed: &[(u64, u64)]) -> Summary {
    let seeds = per_seed.len();
    let n = per_seed.iter().map(|&(_, n)| n).min().unwrap_or(0);
    let seeds_u32 = u32::try_from(seeds).unwrap_or(u32::MAX);
    if n == 0 {
        let nan = f64::NAN;
        return Summary { mean: nan, std: None, ci_low: nan, ci_high: nan, n, seeds: seeds_u32 };
    }
    let k = seeds as f64;
    let shares: Vec<f64> = per_seed.iter().map(|&(c, n)| c as f64 / n as f64).collect();
    let p = shares.iter().sum::<f64>() / k;
    let variance = (seeds > 1)
        .then(|| shares.iter().map(|share| (share - p).powi(2)).sum::<f64>() / (k - 1.0));

    let of_questions = p * (1.0 - p) / n as f64;
    let of_seeds = variance.unwrap_or(0.0) / k;
    let se2 = of_questions + of_seeds;
    let critical =
        if of_seeds > 0.0 { t_quantile((k - 1.0) * (se2 / of_seeds).powi(2)) } else { Z };
    let effective = if se2 > 0.0 { p * (1.0 - p) / se2 } else { n as f64 };
    let (low, high) = wilson(p, effective, critical);
    Summary {
        mean: 100.0 * p,
        std: variance.map(|v| 100.0 * v.sqrt()),
        ci_low: 100.0 * low,
        ci_high: 100.0 * high,
        n,
        seeds: seeds_u32,
    }
}

/// Wilson's interval of a share `p` of `n`, with critical value `c`.
fn wilson(p: f64, n: f64, c: f64) -> (f64, f64) {
    let c2 = c * c;
    let scale = 1.0 + c2 / n;
    let centre = (p + c2 / (2.0 * n)) / scale;
    let half = c * (p * (1.0 - p) / n + c2 / (4.0 * n * n)).sqrt() / scale;
    // Rounding may leave the ends of 0 of n and n of n a hair outside.
    ((centre - half).max(0.0), (centre + half).min(1.0))
}

/// The 97.5 % point of Student's t with `⌊df⌋` degrees of freedom, at least 1.
///
/// Rounding down errs on the wide side. Above 30 the first term of the
/// expansion around the normal point is right to 0.001.
fn t_quantile(df: f64) -> f64 {
    const TABLE: [f64; 30] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
        2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
        2.052, 2.048, 2.045, 2.042,
    ];
    let whole = df.floor().max(1.0);
    if whole <= 30.0 { TABLE[whole as usize - 1] } else { Z + (Z.powi(3) + Z) / (4.0 * whole) }
}

/// The difference `a - b` in points of two models over the same questions
/// (`true` = right), and half the width of its 95 % interval.
///
/// With `n10` questions only `a` got right and `n01` only `b` got right, as in
/// McNemar's test:
///
/// ```text
/// d = (n10 - n01) / n        se² = (n10 + n01 - (n10 - n01)²/n) / n²        d ± 1.96 se
/// ```
///
/// Questions both got right or both got wrong say nothing about the
/// difference, which is why this is narrower than two separate intervals. No
/// questions give NaN.
///
/// # Panics
///
/// If the two slices differ in length.
pub fn paired_difference(a: &[bool], b: &[bool]) -> (f64, f64) {
    assert_eq!(a.len(), b.len(), "paired answers must be to the same questions");
    let n = a.len() as f64;
    let only = |x: &[bool], y: &[bool]| x.iter().zip(y).filter(|&(&x, &y)| x && !y).count() as f64;
    let (n10, n01) = (only(a, b), only(b, a));
    let net = n10 - n01;
    let se = (n10 + n01 - net * net / n).max(0.0).sqrt() / n;
    (100.0 * net / n, 100.0 * Z * se)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: f64, expected: f64, within: f64) {
        assert!((found - expected).abs() <= within, "{found} is not {expected}");
    }

    #[test]
    fn one_seed_is_wilson() {
        // 50 of 100: 1 + c²/n = 1.038415; half = 1.96 √(0.0025 + 0.000096) / 1.038415.
        let s = summarise(&[(50, 100)]);
        near(s.mean, 50.0, 1e-12);
        assert_eq!(s.std, None);
        near(s.ci_low, 40.38, 0.01);
        near(s.ci_high, 59.62, 0.01);
        // 0 of 10: the upper end is c²/(n + c²) = 3.8415 / 13.8415.
        let s = summarise(&[(0, 10)]);
        near(s.ci_low, 0.0, 1e-12);
        near(s.ci_high, 27.75, 0.01);
        let s = summarise(&[(10, 10)]);
        near(s.ci_low, 72.25, 0.01);
        near(s.ci_high, 100.0, 1e-12);
    }

    #[test]
    fn several_seeds_by_hand() {
        // p = 0.7, s² = 0.01, s²/k = 0.0033333, p(1-p)/n = 0.0021, se² = 0.0054333,
        // ν = 2 · (1.63)² = 5.31, c = t(5) = 2.571, n' = 0.21/0.0054333 = 38.65,
        // centre = 0.785511/1.171023 = 0.67079, half = 2.1955 · √0.0065395 = 0.17755.
        let s = summarise(&[(60, 100), (70, 100), (80, 100)]);
        near(s.mean, 70.0, 1e-9);
        near(s.std.unwrap(), 10.0, 1e-9);
        near(s.ci_low, 49.32, 0.02);
        near(s.ci_high, 84.83, 0.02);
        assert_eq!((s.n, s.seeds), (100, 3));
    }

    #[test]
    fn equal_seeds_do_not_narrow_the_interval() {
        // The same questions asked three times are still the same questions.
        let (one, three) = (summarise(&[(70, 100)]), summarise(&[(70, 100); 3]));
        near(three.ci_low, one.ci_low, 1e-9);
        near(three.ci_high, one.ci_high, 1e-9);
        near(three.std.unwrap(), 0.0, 1e-9);
    }

    #[test]
    fn extremes_stay_inside_and_keep_a_width() {
        let s = summarise(&[(100, 100), (100, 100), (99, 100)]);
        assert!(s.ci_high <= 100.0 && s.ci_low < 99.0 && s.ci_low > 80.0, "{s:?}");
        assert!(summarise(&[]).mean.is_nan());
        assert!(summarise(&[(0, 0)]).ci_low.is_nan());
    }

    #[test]
    fn student_t_meets_the_printed_tables() {
        near(t_quantile(1.0), 12.706, 0.001);
        near(t_quantile(5.9), 2.571, 0.001);
        near(t_quantile(60.0), 2.000, 0.001);
        near(t_quantile(1e9), Z, 1e-6);
    }

    #[test]
    fn paired_difference_by_hand() {
        // 100 questions: 20 only a, 10 only b, 40 both. d = 10 points;
        // se = √(30 - 1)/100 = 0.053852; half = 10.555 points.
        let mut a = vec![true; 60];
        a.extend([false; 40]);
        let mut b = vec![true; 40];
        b.extend([false; 20]);
        b.extend([true; 10]);
        b.extend([false; 30]);
        let (difference, half) = paired_difference(&a, &b);
        near(difference, 10.0, 1e-9);
        near(half, 10.555, 0.001);
        let (back, same) = paired_difference(&b, &a);
        near(back, -10.0, 1e-9);
        near(same, half, 1e-12);
        assert_eq!(paired_difference(&a, &a), (0.0, 0.0));
    }
}
