//! Decimal numbers in running text.
//!
//! Everything is done on decimal strings: a value never passes through a float, so
//! `18`, `18.00` and `$18` are one value and `0.1` stays what was written.

/// A number found in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// First byte, sign and currency included.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
    /// Plain decimal notation, as in [`Gold::Number`](super::super::question::Gold).
    pub value: String,
}

/// The first number whose digits start at or after `from`.
pub fn next(text: &str, from: usize) -> Option<Token> {
    within(text, from, text.len())
}

/// The first number whose digits start at or after `from`, and before `until`.
fn within(text: &str, from: usize, until: usize) -> Option<Token> {
    let bytes = text.as_bytes();
    let mut i = from;
    while i < until.min(bytes.len()) {
        if bytes[i] == b'\\'
            && let Some((end, minus, over, under)) = latex_fraction(bytes, i)
        {
            let (start, negative) = lead(text, i);
            return Some(Token { start, end, value: ratio(over, under, negative != minus) });
        }
        // Not in `Rs.500`.
        let point = bytes[i] == b'.'
            && bytes.get(i + 1).is_some_and(u8::is_ascii_digit)
            && (i == 0 || !bytes[i - 1].is_ascii_alphanumeric());
        if !bytes[i].is_ascii_digit() && !point {
            i += 1;
            continue;
        }
        let (end, whole, fraction) = digits(bytes, i);
        // `H2O` and `x2` are names, `3x4` is a product.
        if text[..i].chars().next_back().is_some_and(char::is_alphabetic)
            && !(i >= 2 && bytes[i - 1] == b'x' && bytes[i - 2].is_ascii_digit())
        {
            i = end;
            continue;
        }
        let (start, negative) = lead(text, i);
        if fraction.is_empty()
            && !text[..i].ends_with('/')
            && let Some((end, under)) = denominator(bytes, end)
            && let Ok(over) = whole.parse::<u64>()
        {
            return Some(Token { start, end, value: ratio(over, under, negative) });
        }
        if fraction.is_empty()
            && let Some((end, part)) = proper_fraction(bytes, end)
        {
            return Some(Token { start, end, value: plain(&whole, &part, negative) });
        }
        return Some(Token { start, end, value: plain(&whole, fraction, negative) });
    }
    None
}

/// The last number of a text.
pub fn last(text: &str) -> Option<Token> {
    let (mut found, mut from) = (None, 0);
    while let Some(token) = next(text, from) {
        from = token.end;
        found = Some(token);
    }
    found
}

/// The number that stands at `at`, its sign and currency there or before.
pub fn at(text: &str, at: usize) -> Option<Token> {
    // Sign and currency are short: without a digit soon there is no number here, and no reason
    // to look for one through the rest of a long text.
    within(text, at, at + 16).filter(|token| token.start <= at && token.end > at)
}

/// The number a text begins with, after blanks.
pub fn leading(text: &str) -> Option<Token> {
    let blanks = text.len() - text.trim_start().len();
    at(text, blanks).filter(|token| token.start == blanks)
}

/// The value of a text that is nothing but one number, with or without currency, percent
/// sign and final stop.
pub fn exact(text: &str) -> Option<String> {
    let token = leading(text)?;
    let rest = text[token.end..].trim_matches([' ', '\t', '\n', '\r', '\\', '%', '.']);
    rest.is_empty().then_some(token.value)
}

/// What joins the numbers of a calculation.
const OPERATORS: &[&str] = &["+", "-", "*", "/", "=", "×", "÷", "·", "\\times", "\\cdot", "\\div"];

/// The result of the calculation that begins with `first`: `(3 + 4) * 2 = 14` is 14, while a
/// number that begins no equation stands for itself. The token ends where the calculation does.
pub fn result(text: &str, first: Token) -> Token {
    let bytes = text.as_bytes();
    let Token { start, mut end, mut value } = first;
    let mut whole = end;
    loop {
        let after = text[end..].trim_start_matches([' ', ')', '%', '$']);
        let after = after.strip_prefix("\\%").unwrap_or(after);
        let mut at = blanks(bytes, text.len() - after.len());
        // One unit word may stand before the operator: `5 nuts + 3 nuts = 8 nuts`.
        let word = at + bytes[at..].iter().take_while(|b| b.is_ascii_alphabetic()).count();
        // `20% of 50`
        let share = &bytes[at..word] == b"of" && text[end..at].contains('%');
        let times = &bytes[at..word] == b"x" || share;
        if word > at && !times && bytes.get(word) == Some(&b' ') {
            at = word + 1;
        }
        let operator = match OPERATORS.iter().find(|o| text[at..].starts_with(**o)) {
            _ if times => &text[at..word],
            // `2(3 + 5)`
            _ if at == end && text[at..].starts_with('(') => "(",
            Some(operator) => operator,
            None => return Token { start, end: whole, value },
        };
        let operand = text[at + operator.len()..].trim_start_matches([' ', '(', '$']);
        let operand = text.len() - operand.len();
        match next(text, operand) {
            Some(token) if token.start <= operand => {
                end = token.end;
                if operator == "=" {
                    (value, whole) = (token.value, end);
                }
            }
            _ => return Token { start, end: whole, value },
        }
    }
}

fn blanks(bytes: &[u8], from: usize) -> usize {
    from + bytes[from..].iter().take_while(|&&b| b == b' ').count()
}

/// Reads the digits at `at`: their end, the whole part without separators, the fraction.
fn digits(bytes: &[u8], at: usize) -> (usize, String, &str) {
    let run = |from: usize| from + bytes[from..].iter().take_while(|b| b.is_ascii_digit()).count();
    let ascii = |from: usize, to: usize| std::str::from_utf8(&bytes[from..to]).unwrap_or("");
    let mut end = run(at);
    let mut whole = ascii(at, end).to_owned();
    if (1..=3).contains(&whole.len()) {
        // A comma belongs to the number only before exactly three digits: not in `3, 4`.
        while let Some(comma) = [&b","[..], b"{,}", b"\\,"]
            .into_iter()
            .find(|comma| bytes[end..].starts_with(comma))
            .map(<[u8]>::len)
            && run(end + comma) == end + comma + 3
        {
            whole.push_str(ascii(end + comma, end + comma + 3));
            end += comma + 3;
        }
    }
    let mut fraction = "";
    if bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit) {
        let to = run(end + 1);
        fraction = ascii(end + 1, to);
        end = to;
    }
    (end, whole, fraction)
}

/// Sign and currency before the digits at `at`: where the token starts, whether it is negative.
fn lead(text: &str, at: usize) -> (usize, bool) {
    let (mut before, mut negative) = minus(&text[..at]);
    let spaced = before.strip_suffix(' ').unwrap_or(before);
    let rupees = spaced.strip_suffix("Rs.").or_else(|| spaced.strip_suffix("Rs"));
    if let Some(rest) = rupees.or_else(|| spaced.strip_suffix(['$', '£', '€', '¥', '₹'])) {
        before = rest.strip_suffix('\\').unwrap_or(rest);
        if !negative {
            (before, negative) = minus(before);
        }
    }
    (before.len(), negative)
}

/// Takes a minus sign off the end. A hyphen is one only at a token's start: `20-8` and
/// `2019-2021` have none.
fn minus(before: &str) -> (&str, bool) {
    if let Some(rest) = before.strip_suffix(['-', '–', '\u{2212}'])
        && !rest.ends_with(|c: char| c.is_alphanumeric() || ")]}%-–\u{2212}".contains(c))
    {
        return (rest, true);
    }
    (before, false)
}

/// `/4` right behind the digits; not in a date such as `3/4/2020`.
fn denominator(bytes: &[u8], at: usize) -> Option<(usize, u64)> {
    if bytes.get(at) != Some(&b'/') {
        return None;
    }
    let (end, under) = small(bytes, at + 1)?;
    let goes_on = match bytes.get(end) {
        Some(b'/') => true,
        Some(b'.') => bytes.get(end + 1).is_some_and(u8::is_ascii_digit),
        _ => false,
    };
    (under != 0 && !goes_on).then_some((end, under))
}

/// The fraction behind a whole number, `1 1/2` or `1\frac{1}{2}`: end, decimals.
fn proper_fraction(bytes: &[u8], at: usize) -> Option<(usize, String)> {
    let (end, over, under) = if bytes.get(at) == Some(&b'\\') {
        let (end, minus, over, under) = latex_fraction(bytes, at)?;
        (!minus).then_some((end, over, under))?
    } else {
        let (middle, over) = (bytes.get(at) == Some(&b' ')).then(|| small(bytes, at + 1))??;
        let (end, under) = denominator(bytes, middle)?;
        (end, over, under)
    };
    let value = ratio(over, under, false);
    (0 < over && over < under).then(|| (end, value.replacen("0.", "", 1)))
}

/// `\frac{3}{4}`, also `\dfrac`, `\tfrac` and `\frac34`: end, whether a minus is inside,
/// numerator, denominator.
fn latex_fraction(bytes: &[u8], at: usize) -> Option<(usize, bool, u64, u64)> {
    let name = [&b"\\frac"[..], b"\\dfrac", b"\\tfrac"]
        .into_iter()
        .find(|name| bytes[at..].starts_with(name))?;
    let argument = |at: usize| match *bytes.get(at)? {
        b'{' => {
            let (end, value) = small(bytes, at + 1)?;
            (bytes.get(end) == Some(&b'}')).then_some((end + 1, value))
        }
        digit if digit.is_ascii_digit() => Some((at + 1, u64::from(digit - b'0'))),
        _ => None,
    };
    let start = at + name.len();
    let minus = bytes[start..].starts_with(b"{-");
    let (middle, over) = if minus {
        let (end, value) = small(bytes, start + 2)?;
        (bytes.get(end) == Some(&b'}')).then_some((end + 1, value))?
    } else {
        argument(start)?
    };
    let (end, under) = argument(middle)?;
    (under != 0).then_some((end, minus, over, under))
}

fn small(bytes: &[u8], at: usize) -> Option<(usize, u64)> {
    let count = bytes[at..].iter().take_while(|b| b.is_ascii_digit()).count();
    let text = std::str::from_utf8(&bytes[at..at + count]).ok()?;
    Some((at + count, text.parse().ok()?))
}

/// A quotient as a decimal, cut at twelve places.
fn ratio(over: u64, under: u64, negative: bool) -> String {
    let under = u128::from(under);
    let whole = u128::from(over) / under;
    let mut rest = u128::from(over) % under;
    let mut fraction = String::new();
    while rest != 0 && fraction.len() < 12 {
        rest *= 10;
        fraction.push((b'0' + (rest / under) as u8) as char);
        rest %= under;
    }
    plain(&whole.to_string(), &fraction, negative)
}

fn plain(whole: &str, fraction: &str, negative: bool) -> String {
    let whole = whole.trim_start_matches('0');
    let fraction = fraction.trim_end_matches('0');
    let mut value = String::with_capacity(whole.len() + fraction.len() + 3);
    if negative && !(whole.is_empty() && fraction.is_empty()) {
        value.push('-');
    }
    value.push_str(if whole.is_empty() { "0" } else { whole });
    if !fraction.is_empty() {
        value.push('.');
        value.push_str(fraction);
    }
    value
}
