//! What the reader makes of texts; word problems and random texts in files of their own.

mod numbers;
mod random;

use numbers::numbers;

use super::super::question::{Benchmark, Gold, Question};
use super::*;

fn question(options: &[&str], gold: Gold) -> Question {
    Question {
        id: "q".into(),
        benchmark: Benchmark::Csqa,
        stem: "s".into(),
        options: options.iter().map(|o| (*o).to_owned()).collect(),
        gold,
    }
}

/// Reads every text and compares with the option expected, by letter; `-` is no answer.
#[track_caller]
fn choices(options: &[&str], table: &[(&str, char)]) {
    let q = question(options, Gold::Choice(0));
    for &(text, expected) in table {
        let read = match read(&q, text) {
            Some(Answer::Choice(i)) => (b'A' + i as u8) as char,
            None => '-',
            other => panic!("{text:?}: {other:?}"),
        };
        assert_eq!(read, expected, "{text:?} of {options:?}");
    }
}

const PLACES: &[&str] = &["bank", "library", "department store", "mall", "store"];

#[test]
fn pocket_outputs() {
    choices(
        &["sinks", "floats", "stays dry", "use a saw"],
        &[
            (" sinks", 'A'),
            (" Sinks.", 'A'),
            (". The key is made of brass. Brass sinks in a pond. So the answer is sinks.", 'A'),
            (". It is wood. Wood floats, brass sinks. So the answer is stays dry", 'C'),
            (" stays dry\n", 'C'),
            (" to use a saw", 'D'),
            (". So the answer is to use a saw.", 'D'),
            (". So the answer is Use a Saw!", 'D'),
            (". The key is made of brass. Brass sinks in a pond.", 'A'),
            (". The key is made of brass. Brass sinks and wood floats.", '-'),
            ("So the answer is", '-'),
            ("So the answer is sin", '-'),
            ("Answer: sinks", 'A'),
            ("Answer: The key is made of brass. Brass sinks in a pond.", 'A'),
            ("Answer: Wood floats. Brass does not. So the answer is A) sinks", 'A'),
            ("", '-'),
            (" \n\t ", '-'),
            ("...", '-'),
        ],
    );
}

#[test]
fn letters() {
    choices(
        PLACES,
        &[
            ("So the answer is (B)", 'B'),
            ("So the answer is B", 'B'),
            ("The answer is (B). I hope so", 'B'),
            ("The answer is B) library, because A) is a place for money", 'B'),
            ("A is wrong, since banks hold money. The answer is C", 'C'),
            ("The answer is: **B**", 'B'),
            ("**Answer:** B", 'B'),
            ("Answer - B", 'B'),
            ("#### D", 'D'),
            ("The answer is E.", 'E'),
            ("The answer is E) store", 'E'),
            ("The answer is F.", '-'),
            ("The answer is option D.", 'D'),
            ("The answer is most likely (D)", 'D'),
            ("The correct option is B.", 'B'),
            ("The correct answer to this question is B) library.", 'B'),
            ("The answer from the given options would be B) library.", 'B'),
            ("The answer must be B.", 'B'),
            ("The answer is\n\nB", 'B'),
            ("The answer is A because money is there.", 'A'),
            ("The answer is $\\boxed{\\text{B}}$.", 'B'),
            ("\\boxed{A} no, \\boxed{C}", 'C'),
            ("\\boxed{B", '-'),
            ("\\boxed B", 'B'),
            ("\\boxed{(D) mall}", 'D'),
            (" b", 'B'),
            ("(b)", 'B'),
            ("B) library", 'B'),
            ("B.", 'B'),
            ("the answer is b.", 'B'),
            ("the answer is a", '-'),
            ("The answer is A) library", '-'),
            ("The answer is library (B).", 'B'),
            ("The answer is library (C).", '-'),
            ("Bees are nice", '-'),
        ],
    );
}

#[test]
fn several_letters_are_none() {
    choices(
        PLACES,
        &[
            ("The answer is A or C", '-'),
            ("The answer is A and C.", '-'),
            ("The answer is A, C", '-'),
            ("The answer is A/C", '-'),
            ("The answer is either (A) or (C).", '-'),
            ("The answer is A, B, or C.", '-'),
            ("The answer is B) library or D) mall", '-'),
            ("The answer is library or mall", '-'),
            ("The answer is B or library.", 'B'),
            ("A or C", '-'),
            ("A\nC", '-'),
            ("The answer is B, C being too small.", 'B'),
        ],
    );
}

#[test]
fn negation_and_remarks() {
    choices(
        PLACES,
        &[
            ("The answer is not A. It is D.", 'D'),
            ("The answer is not A but D.", 'D'),
            ("The answer is not library. It is mall.", 'D'),
            ("The answer isn't B. It's C.", 'C'),
            ("The answer is not A.", '-'),
            ("The answer cannot be A.", '-'),
            ("The answer is B. The answer is not C.", 'B'),
            ("The answer is B. No, the answer is not B.", '-'),
            ("The answer is B. This answer is correct because of the books.", 'B'),
            ("It is not a bank.", '-'),
            ("Not a bank but a library", 'B'),
            ("The answer is not the bank, it is the library.", 'B'),
        ],
    );
    choices(&["enough food", "not enough food"], &[("The answer is not enough food.", 'B')]);
    choices(&["left", "right"], &[("The answer is right.", 'B')]);
}

#[test]
fn answers_stated_first_or_by_their_predicate() {
    choices(
        PLACES,
        &[
            ("B) library\n\nExplanation: A bank is for money, a mall for shopping.", 'B'),
            ("B\n\nExplanation: A bank is a place for money.", 'B'),
            ("**B**\n\nBanks hold money; a mall sells things.", 'B'),
            ("(B) library\n\nA bank keeps money, so (A) is incorrect.", 'B'),
            ("C because the bank and the library close early", 'C'),
            ("D. The bank is wrong.", 'D'),
            ("library. A bank keeps money.", 'B'),
            ("Option C: a bank would not sell clothes.", 'C'),
            ("(B) is the correct answer.", 'B'),
            ("So C is the best choice.", 'C'),
            ("Therefore, option D is correct.", 'D'),
            ("I would choose B.", 'B'),
            ("I'd go with C, not the bank.", 'C'),
            ("Correct option: B", 'B'),
            ("<answer>B</answer>", 'B'),
            ("{\"answer\": \"B\"}", 'B'),
            ("The answer is __B__.", 'B'),
            ("The answer is （B）.", 'B'),
            // A list of all options, and one that is ruled out, are no answer.
            ("A) bank: money.\nB) library: books.", '-'),
            ("A is wrong.", '-'),
            ("A library is quiet, and a bank is not loud.", '-'),
        ],
    );
}

#[test]
fn a_remark_does_not_undo_an_answer() {
    choices(
        PLACES,
        &[
            ("The answer is C. My answer is final.", 'C'),
            ("The answer is C. Let me know if the answer is clear!", 'C'),
            ("The answer is C. The answer was found by elimination.", 'C'),
            ("The answer is C. If your answer was B, then you misread.", 'C'),
            ("I don't think the answer is A.", '-'),
            ("It is unlikely that the answer is A.", '-'),
            ("The incorrect answer is A.", '-'),
        ],
    );
    numbers(&[
        ("#### 8\n\nThe answer was found in 3 steps.", "8"),
        ("The answer is 8. I hope this answer is helpful for all 3 of you.", "8"),
        ("I don't think the answer is 5. It is 8.", "8"),
        ("The answer is 15.\n\\boxed{}", "15"),
    ]);
    let q = question(&[], Gold::Math("8".into()));
    let read = read_both(&q, "\\boxed{8}\n\nLet me know if the answer is clear!");
    assert_eq!(read.strict, Some(Answer::Math("8".into())));
}

#[test]
fn option_texts() {
    choices(
        PLACES,
        &[
            ("The place where money is kept is Bank.", 'A'),
            ("A revolving door ... the answer is bank", 'A'),
            ("A revolving door ... the answer is the Bank.", 'A'),
            ("The answer is department store.", 'C'),
            ("The answer is a store", 'E'),
            ("department store", 'C'),
            ("I went to the department store.", 'C'),
            ("I went from the department store to another store.", '-'),
            ("The answer is obviously \"library\"", 'B'),
            ("The answer is in the library.", 'B'),
            ("The answer is bankrupt.", '-'),
            ("The answer is river-bank.", '-'),
            ("The answer is dep", '-'),
            ("The answer is A library", 'B'),
        ],
    );
    choices(
        &["calcium", "Vitamin C", "hepatitis A", "E. coli", "iron"],
        &[
            ("The answer is Vitamin C.", 'B'),
            ("The answer is vitamin C", 'B'),
            ("The answer is hepatitis A.", 'C'),
            ("hepatitis A", 'C'),
            ("The answer is E. coli.", 'D'),
            ("The answer is E.", 'E'),
            ("The answer is D) E. coli", 'D'),
            ("The answer is vitamin D", '-'),
        ],
    );
    choices(
        &["pear", "plum", "an apple"],
        &[("An apple (C)", 'C'), ("An apple (B)", '-'), ("apple", '-')],
    );
    choices(
        &["ice", "ice cream", "iced tea", "ICE"],
        &[
            ("The answer is ice cream", 'B'),
            ("The answer is iced tea.", 'C'),
            ("The answer is ice.", 'A'),
            ("The answer is B) ice", 'B'),
            ("The answer is B) ice.", '-'),
            ("The answer is D) ice.", 'D'),
        ],
    );
    choices(&["- glue - tape", "- glue"], &[("The answer is - glue - tape.", 'A')]);
    choices(
        &["can’t swim", "can swim", "naïve  café"],
        &[
            ("The answer is can't swim.", 'A'),
            ("The answer is can swim.", 'B'),
            ("The answer is naïve café.", 'C'),
            ("naïve\u{a0}café", 'C'),
        ],
    );
}

#[test]
fn letters_beyond_e() {
    let options: Vec<String> = (0..11).map(|i| format!("shape{}", "x".repeat(i + 1))).collect();
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    choices(
        &options,
        &[
            ("I think (K)", 'K'),
            ("I think the answer is (K).", 'K'),
            ("The answer is I think (K).", 'K'),
            ("The answer is I.", 'I'),
            ("The answer is (I)", 'I'),
            ("I'm not sure", '-'),
            ("The answer is I'm not sure", '-'),
            ("The answer is (L)", '-'),
        ],
    );
    let many = vec!["same"; 40];
    choices(&many, &[("The answer is Z", 'Z'), ("same", 'A')]);
}

#[test]
fn numeric_options_and_labels() {
    choices(
        &["5", "15", "25", "1,500", "-5"],
        &[
            ("15", 'B'),
            ("The answer is 15", 'B'),
            ("The answer is 15.0.", 'B'),
            ("The answer is $25.", 'C'),
            ("The answer is 1500", 'D'),
            ("The answer is \u{2212}5", 'E'),
            ("The answer is 5.5", '-'),
            ("The answer is 2", '-'),
            ("The answer is 5 or 15", '-'),
            ("10 + 5 makes the answer 15, so the answer is B", 'B'),
            ("The answer is 10 + 5 = 15.", 'B'),
        ],
    );
    choices(&["21", "22", "23", "None of these"], &[("So the answer is 21 + 2 = 23.", 'C')]);
    choices(
        &["3/4", "1/2", "2/3"],
        &[("The answer is \\frac{2}{3}.", 'C'), ("The answer is $\\frac{3}{4}$.", 'A')],
    );
    choices(&["Café", "москва"], &[("The answer is CAFÉ.", 'A'), ("The answer is Москва.", 'B')]);
    choices(
        &["21 km/h", "22 km/h", "23 km/h", "24 km/h"],
        &[("The answer is 23", 'C'), ("The answer is 23 km/h.", 'C'), ("23", 'C')],
    );
    choices(
        &["help a friend", "go home", "sing"],
        &[
            ("2", 'B'),
            ("The answer is 2", 'B'),
            ("The answer is 2.", 'B'),
            ("The answer is (2)", 'B'),
            ("2) go home", 'B'),
            ("solution 2", 'B'),
            ("The answer is option 3", 'C'),
            ("The answer is 2 people", '-'),
            ("The answer is 0", '-'),
            ("The answer is 4", '-'),
            ("The answer is 99999999999999999999999", '-'),
        ],
    );
}

#[test]
fn cut_at_the_next_question() {
    choices(
        PLACES,
        &[
            ("B\n\nQuestion: where?\nAnswer: C", 'B'),
            (" library\nQ: where?\nA: mall", 'B'),
            ("The answer is B.</s>The answer is C.", 'B'),
            ("The answer is B<|im_end|>\nThe answer is C.", 'B'),
            ("<|assistant|>\nThe answer is B", 'B'),
            ("[/INST] B", 'B'),
            ("B\n### Instruction:\nThe answer is C", 'B'),
            ("B\nChoose the answer to the question only from options A, B.", 'B'),
            ("Question: where? Answer: C", '-'),
        ],
    );
    numbers(&[("#### 42\n\nQuestion: what? #### 7", "42")]);
}
