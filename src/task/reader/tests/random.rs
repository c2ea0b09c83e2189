//! Random and long texts.

use super::*;

/// Random texts of the pieces that matter, cut at random, never panic and never answer with
/// an option that is not there.
#[test]
fn never_panics() {
    const PIECES: &[&str] = &[
        "The answer is ",
        "answer:",
        "#### ",
        "\\boxed{",
        "\\boxed",
        "}",
        "{",
        "not ",
        "isn't ",
        "A",
        "B)",
        "(C",
        " or ",
        ", ",
        ".",
        "\n",
        " ",
        "Question:",
        "bank",
        "department store",
        "7",
        "-",
        "\u{2212}",
        "$",
        "1,000",
        "3/",
        "0",
        "\\frac{",
        "<<",
        ">>",
        "=",
        "é",
        "日本",
        "😀",
        "\u{a0}",
        "´",
        "\u{130}",
        "ẞ",
        "it is ",
        "but ",
        "the ",
        "\0",
        "\r\n",
        "<|",
        "|>",
        "I",
        "99999999999999999999999",
        "\\frac",
        "x",
        "%",
        "'",
        "5.",
        "*",
        "naïve",
        "</s>",
    ];
    let sets: [&[&str]; 6] = [
        PLACES,
        &["é", "日本", "naïve"],
        &["", "a", " . "],
        &["5", "15", "-1"],
        &["7 é", "\u{130}"],
        &[],
    ];
    let mut state = 7u64;
    let mut random = |n: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % n
    };
    for round in 0..30_000 {
        let q = question(sets[round % sets.len()], Gold::Choice(0));
        let mut text: String = (0..random(14)).map(|_| PIECES[random(PIECES.len())]).collect();
        let mut keep = random(text.len() + 1);
        while !text.is_char_boundary(keep) {
            keep -= 1;
        }
        text.truncate(keep);
        match read(&q, &text) {
            Some(Answer::Choice(i)) => assert!(i < q.options.len(), "{text:?}"),
            Some(Answer::Number(n)) => {
                assert!(q.options.is_empty(), "{text:?}");
                assert_eq!(number::exact(&n), Some(n), "{text:?}");
            }
            Some(other) => panic!("{text:?}: {other:?}"),
            None => {}
        }
    }
}

/// A long text is read in a time that grows with its length, not with its square.
#[test]
fn long_texts_are_fast() {
    let begun = std::time::Instant::now();
    let golds = [
        Gold::Number("1".into()),
        Gold::Math("1".into()),
        Gold::Text("True".into()),
        Gold::Text("]".into()),
        Gold::Text("x".into()),
    ];
    for piece in [
        "The answer is not A. ",
        "the answer is not ",
        "this answer is correct, ",
        "the answer is ",
        "The answer is not x. It is \\x. ",
        "The answer is the the the it is it is \\x ",
        "I would choose \\x ",
        "B) is the best answer. ",
        "a",
        "1,",
        "((((",
        "it is ",
        "store ",
        "\\boxed{",
        "\n",
        "####",
        "$",
        "\\(",
        "$x",
        "yes, no ",
    ] {
        for start in ["", "The answer is not "] {
            let text = format!("{start}{}", piece.repeat(200_000 / piece.len()));
            read(&question(PLACES, Gold::Choice(0)), &text);
            for gold in &golds {
                let mut q = question(&[], gold.clone());
                read(&q, &text);
                q.stem = "List: store a".into();
                read(&q, &text);
            }
        }
    }
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
}
