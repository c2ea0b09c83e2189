//! When two answers in LaTeX are the same: the normalisation that Hendrycks et al. published
//! with MATH, written anew from its description, and two steps more.

use super::number;

/// Whether two answers of MATH are equal: the same text after [`strip_string`], or before it
/// where that fails. Beyond the published rule two numbers compare by value (`1{,}000` and
/// `1000`, `18.0` and `18`), a text command around the whole answer does not count
/// (`\text{Monday}` and `Monday`), and ways to write the same do not (see `plainer`); all of
/// it only ever turns a wrong answer into a right one.
pub fn equal(a: &str, b: &str) -> bool {
    if a.trim() == b.trim() {
        return true;
    }
    let (Some(a), Some(b)) = (strip_string(a), strip_string(b)) else { return false };
    let (a, b) = (unwrapped(&a), unwrapped(&b));
    if a == b {
        return true;
    }
    let (a, b) = (plainer(a), plainer(b));
    let value = number::exact(&a);
    a == b || value.is_some() && value == number::exact(&b)
}

/// One way to write what has several: no thin blanks, degree signs, brackets around a single
/// letter or braces around a single index; a minus before a fraction, not in it; a unit that is
/// set as text behind a number is left out.
fn plainer(text: &str) -> String {
    let mut s = text.to_owned();
    for mark in ["\\,", "\\;", "\\:", "~", "°"] {
        s = s.replace(mark, "");
    }
    if let Some(rest) = s.strip_prefix("\\frac{-") {
        s = format!("-\\frac{{{rest}");
    }
    for i in ('0'..='9').chain('a'..='z') {
        s = s.replace(&format!("_{{{i}}}"), &format!("_{i}"));
    }
    if let [b'(', letter, b')'] = s.as_bytes()
        && letter.is_ascii_alphabetic()
    {
        return char::from(*letter).to_string();
    }
    let unit = s.find("\\text{").or_else(|| s.find("\\mathrm{"));
    if let Some(at) = unit
        && number::exact(&s[..at]).is_some()
        && s.ends_with('}')
    {
        s.truncate(at);
    }
    s
}

/// The published normalisation. `None`: it fails on this text (a `\sqrt` with nothing behind
/// it, two units), and the texts are to be compared as they are.
pub fn strip_string(text: &str) -> Option<String> {
    let mut s = text.replace('\n', "").replace("\\!", "").replace("\\\\", "\\");
    for (from, to) in [
        ("tfrac", "frac"),
        ("dfrac", "frac"),
        ("\\left", ""),
        ("\\right", ""),
        ("^{\\circ}", ""),
        ("^\\circ", ""),
        ("\\$", ""),
    ] {
        s = s.replace(from, to);
    }
    // Units are written `5\text{ cm}`, with the blank inside.
    let mut parts = s.split("\\text{ ");
    let value = parts.next()?;
    parts.next();
    if parts.next().is_some() {
        return None;
    }
    let mut s = value.replace("\\%", "").replace(" .", " 0.").replace("{.", "{0.");
    if s.starts_with('.') {
        s.insert(0, '0');
    }
    // `x = 5` is 5; a longer left side may be the answer itself.
    if let [name, value] = s.split('=').collect::<Vec<_>>()[..]
        && name.chars().count() <= 2
    {
        s = value.to_owned();
    }
    s = braced_fractions(&braced_roots(&s)?.replace(' ', ""))?;
    if s == "0.5" {
        s = "\\frac{1}{2}".to_owned();
    }
    Some(slashed_fraction(&s).unwrap_or(s))
}

/// `\sqrt3` as `\sqrt{3}`.
fn braced_roots(text: &str) -> Option<String> {
    let mut parts = text.split("\\sqrt");
    let mut out = parts.next()?.to_owned();
    for part in parts {
        out.push_str("\\sqrt");
        let first = part.chars().next()?;
        if first == '{' {
            out.push_str(part);
        } else {
            out.extend(['{', first, '}']);
            out.push_str(&part[first.len_utf8()..]);
        }
    }
    Some(out)
}

/// `\frac12` as `\frac{1}{2}`, `\frac1{72}` as `\frac{1}{72}`.
fn braced_fractions(text: &str) -> Option<String> {
    let mut parts = text.split("\\frac");
    let mut out = parts.next()?.to_owned();
    for part in parts {
        let mut chars = part.chars();
        let over = chars.next()?;
        if over == '{' {
            out.push_str("\\frac");
            out.push_str(part);
            continue;
        }
        // One argument only: the published code gives the text back as it came.
        let Some(under) = chars.next() else { return Some(text.to_owned()) };
        out.push_str("\\frac");
        out.extend(['{', over, '}']);
        if under == '{' {
            out.push('{');
        } else {
            out.extend(['{', under, '}']);
        }
        out.push_str(chars.as_str());
    }
    Some(out)
}

/// `3/4` as `\frac{3}{4}`, where both are whole numbers and nothing else is there.
fn slashed_fraction(text: &str) -> Option<String> {
    let (over, under) = text.split_once('/')?;
    let whole = |s: &str| {
        let digits = s.strip_prefix('-').unwrap_or(s);
        let plain = digits == "0" || !digits.starts_with('0');
        !digits.is_empty() && plain && s != "-0" && digits.bytes().all(|b| b.is_ascii_digit())
    };
    (whole(over) && whole(under)).then(|| format!("\\frac{{{over}}}{{{under}}}"))
}

/// The text inside a command that is the whole answer.
fn unwrapped(text: &str) -> &str {
    ["\\text{", "\\textbf{", "\\textit{", "\\mathrm{", "\\mbox{"]
        .into_iter()
        .find_map(|command| text.strip_prefix(command)?.strip_suffix('}'))
        .filter(|inner| !inner.contains(['{', '}']))
        .unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_steps() {
        for (text, expected) in [
            ("1\n2", "12"),
            ("10,\\!000", "10,000"),
            ("\\left(1,2\\right)", "(1,2)"),
            ("90^\\circ", "90"),
            ("90^{\\circ}", "90"),
            ("\\$5", "5"),
            ("50\\%", "50"),
            ("5\\text{ cm}", "5"),
            ("\\dfrac{1}{2}", "\\frac{1}{2}"),
            ("\\tfrac12", "\\frac{1}{2}"),
            ("\\frac1{72}", "\\frac{1}{72}"),
            (".5", "\\frac{1}{2}"),
            (".25", "0.25"),
            ("{.5}", "{0.5}"),
            ("0.5", "\\frac{1}{2}"),
            ("x = 7", "7"),
            ("y=x+1", "x+1"),
            ("abc=7", "abc=7"),
            ("a=b=c", "a=b=c"),
            ("3\\sqrt2", "3\\sqrt{2}"),
            ("\\sqrt{12}", "\\sqrt{12}"),
            ("3/4", "\\frac{3}{4}"),
            ("-3/4", "\\frac{-3}{4}"),
            ("a/b", "a/b"),
            ("1/2/3", "1/2/3"),
            ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix}1\\2\\end{pmatrix}"),
            ("\\frac3", "\\frac3"),
            ("", ""),
        ] {
            assert_eq!(strip_string(text).as_deref(), Some(expected), "{text}");
        }
        for text in ["1\\text{ m} 2\\text{ cm}", "\\sqrt", "1+\\frac"] {
            assert_eq!(strip_string(text), None, "{text}");
        }
    }

    #[test]
    fn equality() {
        for (a, b) in [
            ("\\frac{3}{4}", "3/4"),
            ("\\dfrac34", "\\frac{3}{4}"),
            ("0.5", "\\frac12"),
            ("1,000", "1000"),
            ("10{,}000", "10,\\!000"),
            ("18.0", "18"),
            ("\\text{Monday}", "Monday"),
            ("(1, 2)", "\\left( 1,2 \\right)"),
            ("x=5", "5"),
            ("\\sqrt", "\\sqrt"),
            ("2\\text{ m} 3\\text{ cm}", " 2\\text{ m} 3\\text{ cm} "),
            ("5\\text{cm}", "5"),
            ("5\\,\\mathrm{cm}", "5.0"),
            ("90°", "90^\\circ"),
            ("\\frac{-3}{4}", "-\\frac{3}{4}"),
            ("\\text{(A)}", "A"),
            ("10_2", "10_{2}"),
        ] {
            assert!(equal(a, b) && equal(b, a), "{a} {b}");
        }
        for (a, b) in [
            ("5", "6"),
            ("", "0"),
            ("(1,2)", "(2,1)"),
            ("x+1", "x-1"),
            ("\\text{A} or \\text{B}", "A"),
            ("\\frac{a}{b}", "a/b"),
        ] {
            assert!(!equal(a, b) && !equal(b, a), "{a} {b}");
        }
    }
}
