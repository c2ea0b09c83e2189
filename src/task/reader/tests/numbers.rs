//! Numbers, right answers, and how answers are written.

use super::*;

/// As [`super::choices`] for word problems; `-` is no answer.
#[track_caller]
pub fn numbers(table: &[(&str, &str)]) {
    let q = question(&[], Gold::Number("0".into()));
    for &(text, expected) in table {
        let read = match read(&q, text) {
            Some(Answer::Number(n)) => n,
            None => "-".into(),
            other => panic!("{text:?}: {other:?}"),
        };
        assert_eq!(read, expected, "{text:?}");
    }
}

#[test]
fn numbers_behind_a_trigger() {
    numbers(&[
        ("The answer is 18", "18"),
        ("The answer is $18.00", "18"),
        ("The answer is $18.00.", "18"),
        ("The answer is \\$18", "18"),
        ("The answer is £ 18", "18"),
        ("####42", "42"),
        ("#### 1,080", "1080"),
        ("#### -47", "-47"),
        ("The answer is \u{2212}5", "-5"),
        ("The answer is -$5", "-5"),
        ("The answer is 10%.", "10"),
        ("The answer is 10\\%", "10"),
        ("The answer is 1{,}575{,}000", "1575000"),
        ("The answer is 1,2", "1"),
        ("The answer is .50", "0.5"),
        ("The answer is 007", "7"),
        ("The answer is -0.0", "0"),
        ("The answer is 20-8", "20"),
        ("The answer is 20-8=12", "12"),
        ("The answer is 3 + 4 = 7.", "7"),
        ("The answer is 3 x 4 = 12 nuts", "12"),
        ("The answer is 5 nuts + 3 nuts = 8 nuts", "8"),
        ("The answer is 48/2 = <<48/2=24>>24", "24"),
        ("The answer is 3/4", "0.75"),
        ("The answer is 3/4.", "0.75"),
        ("The answer is 3 3/4", "3.75"),
        ("The answer is (5 + 3) * 2 = 16.", "16"),
        ("The answer is 2(3+5) = 16.", "16"),
        ("The answer is $5 \\times 3 = 15$.", "15"),
        ("The answer is 20% of 50 = 10.", "10"),
        ("The answer is $4/day * 2 days = $8", "8"),
        ("The answer is 18, since 2 * 9 = 18", "18"),
        ("The answer is 18 because x = 5", "18"),
        ("The answer is Rs.500", "500"),
        ("The answer is –25", "-25"),
        ("The answer is that, 3 apples given away, Tom has 15 left.", "15"),
        ("The answer is 15 or 20.", "-"),
        ("The answer is 8 hours or 480 minutes.", "8"),
        ("\\boxed{2 \\times 21 = 42}", "42"),
        ("\\boxed{\\frac{-1}{2}}", "-0.5"),
        ("\\boxed{1\\frac{1}{2}}", "1.5"),
        ("The answer is 5. The answer is 6. I had 7.", "6"),
        ("The answer is not 5. It is 6.", "6"),
        ("The answer is not 5.", "-"),
        ("The answer is 8. This answer is correct since 3 and 5 are added.", "8"),
        ("\\boxed{\\frac{3}{4}}", "0.75"),
        ("\\boxed{-\\dfrac{1}{8}}", "-0.125"),
        ("\\boxed{{12}} and \\boxed{13}", "13"),
        ("so \\boxed 7", "7"),
        ("so $\\boxed{1,000}$ in 3 days", "1000"),
        ("I had 3, so \\boxed{12", "-"),
    ]);
}

#[test]
fn numbers_without_a_trigger() {
    numbers(&[
        (" 18", "18"),
        ("18\nThere are 5 more", "18"),
        ("The sum is 12...", "12"),
        ("the years 2019-2021", "2021"),
        ("20-8", "8"),
        ("it fell to \u{2212}5", "-5"),
        ("It is 7. Ask me 2 more questions.", "7"),
        ("He has 3, 4 and 5", "5"),
        ("H2O and x2", "-"),
        ("Answer: 3 plus 4 make 7", "7"),
        ("Answer: 7", "7"),
        ("seven", "-"),
        ("", "-"),
        (" \n ", "-"),
        ("3 nuts and 4 nuts. So the answer is", "4"),
        ("on 3/4/2020", "2020"),
    ]);
}

#[test]
fn right_answers() {
    let q = question(&[], Gold::Number("18".into()));
    for right in ["18", "18.0", "018", "$18"] {
        assert!(is_correct(&q, &Answer::Number(right.into())), "{right}");
    }
    for wrong in ["18.01", "-18", "", "x"] {
        assert!(!is_correct(&q, &Answer::Number(wrong.into())), "{wrong}");
    }
    assert!(!is_correct(&q, &Answer::Choice(0)));
    let q = question(&["bank", "mall", "Bank "], Gold::Choice(2));
    assert!(is_correct(&q, &Answer::Choice(2)));
    assert!(is_correct(&q, &Answer::Choice(0)), "the same text twice");
    assert!(!is_correct(&q, &Answer::Choice(1)));
    assert!(!is_correct(&q, &Answer::Choice(7)));
    assert!(!is_correct(&q, &Answer::Number("3".into())));
}

#[test]
fn answers_are_written_by_name() {
    let text = serde_json::to_string(&[Answer::Choice(1), Answer::Number("2.5".into())]).unwrap();
    assert_eq!(text, r#"[{"choice":1},{"number":"2.5"}]"#);
}
