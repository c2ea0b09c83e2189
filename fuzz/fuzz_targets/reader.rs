//! The answer reader on any bytes: no panic, no answer outside the options, the strict answer
//! is the flexible one, blanks around a text make no difference.
//!
//!     cargo fuzz run -s none reader -- -dict=fuzz/reader.dict

#![no_main]

use cotalign::task::reader::{Form, Shape, is_right, latex, ranaldi2024, read_as};
use cotalign::task::{Answer, Gold};
use libfuzzer_sys::fuzz_target;

const STEM: &str = "Sort the words: List: bock bela bank";

// The first byte picks the form of the answer, the text follows. With options of its own the
// input holds them before the text, between NULs.
fuzz_target!(|data: &[u8]| {
    let Some((pick, rest)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(rest).into_owned();
    let set = |options: &[&str]| options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>();
    let mut text = text.as_str();
    let options = match pick % 10 {
        0 => set(&["bank", "library", "department store", "mall", "store"]),
        1 => set(&["5", "15", "25", "1,500", "-5"]),
        2 => (0..18).map(|i| format!("shape {i} x")).collect(),
        3 => {
            let mut parts: Vec<&str> = text.split('\0').collect();
            text = parts.pop().unwrap_or("");
            set(&parts)
        }
        _ => Vec::new(),
    };
    let form = match pick % 10 {
        _ if !options.is_empty() => Form::Choice(&options),
        5 => Form::Math,
        6 => Form::Text(Shape::of("True", STEM)),
        7 => Form::Text(Shape::of("] )", STEM)),
        8 => Form::Text(Shape::of("bela bock", STEM)),
        9 => Form::Text(Shape::of("x", "")),
        _ => Form::Number,
    };
    let reading = read_as(form, text);
    match &reading.flexible {
        Some(Answer::Choice(index)) => assert!(*index < options.len()),
        Some(Answer::Number(number)) => {
            assert_eq!(read_as(Form::Number, number).strict, reading.flexible);
        }
        Some(Answer::Math(formula)) => assert!(latex::equal(formula, formula)),
        Some(answer @ Answer::Text(text)) => {
            assert!(is_right(&[], &Gold::Text(text.clone()), answer));
        }
        None => {}
    }
    assert!(reading.strict.is_none() || reading.strict == reading.flexible);
    assert_eq!(read_as(form, &format!(" \n{text}\n ")), reading);
    if let Some(found) = ranaldi2024::read(text) {
        ranaldi2024::is_right(&options, &Gold::Choice(0), found);
    }
});
