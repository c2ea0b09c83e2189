//! The outputs that the usual patterns misread, row by row as the reference notes list them
//! (datasets.md §4), with the answer of either reading.

use super::*;

const PLACES: &[&str] = &["bank", "library", "department store", "mall", "store"];
const FRIENDS: &[&str] = &["help a friend", "go home", "sing"];

/// `-` is no answer; options are written by letter.
#[track_caller]
fn row(options: &[&str], gold: Gold, text: &str, flexible: &str, strict: &str) {
    let options: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
    let reading = read_as(Form::of(&options, &gold, "s"), text);
    let written = |answer: Option<Answer>| match answer {
        None => "-".to_owned(),
        Some(Answer::Choice(index)) => crate::task::letter(index).to_string(),
        Some(Answer::Number(text) | Answer::Math(text) | Answer::Text(text)) => text,
    };
    let read = (written(reading.flexible), written(reading.strict));
    assert_eq!(read, (flexible.to_owned(), strict.to_owned()), "{text:?}");
}

#[test]
fn numbers() {
    for (text, flexible, strict) in [
        ("The answer is 18", "18", "18"),
        ("The answer is $18.00", "18", "18"),
        ("The sum is 12...", "12", "-"),
        ("the years 2019-2021", "2021", "-"),
        ("20-8", "8", "-"),
        ("\u{2212}5", "-5", "-5"),
        ("It is 7. Ask me 2 more questions.", "7", "-"),
        ("####42", "42", "42"),
        ("#### 42\n\nQuestion: What is 3 + 4? #### 7", "42", "42"),
        // Guesses and statements otherwise.
        ("The answer is clear. He has 3 and 4", "3", "-"),
        ("The answer is not 5. It is 6.", "6", "6"),
        ("Answer: 3 plus 4 make 7", "7", "-"),
        ("Answer: 7", "7", "7"),
        ("Answer: 5 km", "5", "5"),
        ("Answer: 8\n\nThis answer is based on 3 assumptions.", "8", "8"),
        ("**15**", "15", "15"),
        ("\\(15\\)", "15", "15"),
        ("7 apples", "7", "-"),
        ("so \\boxed{7}", "7", "7"),
        ("seven", "-", "-"),
    ] {
        row(&[], Gold::Number("0".into()), text, flexible, strict);
    }
}

#[test]
fn letters_and_options() {
    for (options, text, flexible, strict) in [
        (PLACES, "So the answer is (B)", "B", "B"),
        (PLACES, "So the answer is B", "B", "B"),
        (PLACES, "The answer is (B). I hope so", "B", "B"),
        (PLACES, "The place where money is kept is Bank.", "A", "-"),
        (&["pear", "plum", "an apple"], "An apple (C)", "C", "C"),
        (PLACES, "A revolving door ... the answer is bank", "A", "A"),
        (&["calcium", "Vitamin C", "iron"], "The answer is Vitamin C.", "B", "B"),
        (&["pox", "flu", "hepatitis A"], "The answer is hepatitis A.", "C", "C"),
        (&["a", "b", "yeast", "E. coli", "mould"], "The answer is E. coli.", "D", "D"),
        (PLACES, "The answer is not A. It is D.", "D", "D"),
        (PLACES, "The answer is B) library, because A) is for money", "B", "B"),
        (PLACES, "A is wrong, since it is a bank. The answer is C", "C", "C"),
        (PLACES, "I went to the department store.", "C", "-"),
        (PLACES, "The answer is department store", "C", "C"),
        (&["5", "15", "25"], "15", "B", "B"),
        (&["5", "15", "25"], "The answer is 15.00", "B", "B"),
        (&["21", "22", "23", "24", "25"], "The answer is 23", "C", "C"),
        (PLACES, "The answer is A or C", "-", "-"),
        (FRIENDS, "2", "B", "B"),
        (&["use a saw", "use a spoon"], "solution 2", "B", "B"),
        // Guesses and statements otherwise.
        (PLACES, "The answer is in the library.", "B", "-"),
        (PLACES, "Answer: Books are in a library.", "B", "-"),
        (PLACES, "The answer is B) libr", "B", "B"),
        (PLACES, "The answer is", "-", "-"),
        (&["5", "15", "25"], "The answer is 5 + 6 = 11.", "A", "-"),
        (PLACES, "library\nQ: Where else?\nA: mall", "B", "B"),
    ] {
        row(options, Gold::Choice(0), text, flexible, strict);
    }
}

/// `reasoning_about_colored_objects` has 18 options, so that `(I)` and `(R)` are answers.
#[test]
fn letters_up_to_r() {
    let options: Vec<String> = (0..18).map(|i| format!("colour number {i} of many")).collect();
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    for (text, flexible, strict) in [
        ("I think (K)", "K", "K"),
        ("So the answer is (R).", "R", "R"),
        ("So the answer is (I).", "I", "I"),
        ("The answer is R", "R", "R"),
        ("The answer is (S)", "-", "-"),
        ("I do not know", "-", "-"),
    ] {
        row(&options, Gold::Choice(0), text, flexible, strict);
    }
}

#[test]
fn boxes() {
    for (text, answer) in [
        ("\\boxed{\\frac{3}{4}}", "\\frac{3}{4}"),
        ("\\boxed{1}, or rather \\boxed{2}", "2"),
        ("so \\boxed 7", "7"),
        ("so it is 3, \\boxed{4", "-"),
        ("$\\boxed{5}$\n\nProblem: What is 1 + 1? $\\boxed{2}$", "5"),
    ] {
        row(&[], Gold::Math("1".into()), text, answer, answer);
    }
    row(&[], Gold::Number("1".into()), "\\boxed{\\frac{3}{4}}", "0.75", "0.75");
}

#[test]
fn golds_of_all_kinds_compare() {
    for (gold, answer, right) in [
        (Gold::Math("\\frac{3}{4}".into()), Answer::Math("3/4".into()), true),
        (Gold::Math("3".into()), Answer::Number("3".into()), false),
        (Gold::Text("yes".into()), Answer::Text("Yes".into()), true),
        (Gold::Text("-35".into()), Answer::Number("-35".into()), true),
        (Gold::Text("] )".into()), Answer::Text("])".into()), true),
        (Gold::Text("True".into()), Answer::Text("False".into()), false),
        (Gold::Number("3".into()), Answer::Text("3".into()), false),
    ] {
        assert_eq!(is_right(&[], &gold, &answer), right, "{gold:?} {answer:?}");
    }
    assert_eq!(Form::of(&[], &Gold::Text("-35".into()), ""), Form::Number);
    let json = serde_json::to_string(&[Answer::Math("x".into()), Answer::Text("y".into())]);
    assert_eq!(json.unwrap(), r#"[{"math":"x"},{"text":"y"}]"#);
}
