//! How long to wait before an attempt is made again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::Rng;

use super::settings::RemoteTeacher;
use crate::model::rng;

/// The wait before attempt `attempt` (1 is the first repetition): exponential
/// backoff with full jitter, so that prompts that failed together do not come
/// back together. A server's own wish comes first, and the jitter of one step on
/// top of it. The draw depends on the seed, the prompt and the attempt only.
pub(super) fn wait(
    teacher: &RemoteTeacher,
    key: &str,
    attempt: u32,
    wish: Option<Duration>,
) -> Duration {
    let mut rng = rng::stream(teacher.seed, &format!("retry {key} {attempt}"));
    let longest = match wish {
        Some(_) => teacher.backoff,
        None => teacher.backoff * 2f64.powi(attempt.saturating_sub(1).min(60) as i32),
    };
    let jitter = rng.random::<f64>() * longest.min(teacher.max_backoff);
    wish.unwrap_or_default() + Duration::from_secs_f64(jitter)
}

/// How long nobody asks after a server said for the `strike`th time in a row that it
/// is asked too much. One request comes back first, so the draw may not be near 0.
pub(super) fn pause(teacher: &RemoteTeacher, strike: u32, wish: Option<Duration>) -> Duration {
    let mut rng = rng::stream(teacher.seed, &format!("pause {strike}"));
    let longest = match wish {
        Some(_) => teacher.backoff,
        None => teacher.backoff * 2f64.powi(strike.saturating_sub(1).min(60) as i32),
    };
    let part = 0.5 + 0.5 * rng.random::<f64>();
    wish.unwrap_or_default() + Duration::from_secs_f64(part * longest.min(teacher.max_backoff))
}

/// What `Retry-After` asks for: seconds, or a date. Anything else is no wish.
pub(super) fn retry_after(header: &str, now: SystemTime) -> Option<Duration> {
    let header = header.trim();
    if let Ok(seconds) = header.parse::<f64>() {
        // Some servers send fractions, against the standard.
        return (0.0..=1e9).contains(&seconds).then(|| Duration::from_secs_f64(seconds));
    }
    let at = UNIX_EPOCH + Duration::from_secs(http_date(header)?);
    Some(at.duration_since(now).unwrap_or_default())
}

/// Seconds since 1970 of a date such as `Sun, 06 Nov 1994 08:49:37 GMT`, the only
/// form that servers may still send (RFC 9110 §5.6.7).
fn http_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (_, date) = text.split_once(", ")?;
    let mut parts = date.split(' ');
    let day: u64 = parts.next()?.parse().ok()?;
    let month = parts.next()?;
    let month = 1 + MONTHS.iter().position(|m| *m == month)? as u64;
    let year: u64 = parts.next()?.parse().ok()?;
    let mut clock = parts.next()?.split(':').map(|n| n.parse::<u64>().ok());
    let (h, m, s) = (clock.next()??, clock.next()??, clock.next()??);
    let zone = parts.next()?;
    let valid = (1..=31).contains(&day) && (1970..=9999).contains(&year) && h < 24 && m < 60;
    if !valid || s > 60 || zone != "GMT" || clock.next().is_some() || parts.next().is_some() {
        return None;
    }
    // Days since 1 March of year 0, in which leap days come last (Howard Hinnant's
    // `days_from_civil`).
    let y = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = 365 * y + y / 4 - y / 100 + y / 400 + day_of_year - 719_468;
    Some(86_400 * days + 3600 * h + 60 * m + s)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn teacher() -> RemoteTeacher {
        RemoteTeacher::parse(
            "base_url = \"http://h\"\nmodel = \"m\"\nendpoint = \"chat\"\nmax_tokens = 5\n\
             backoff = 0.5\nmax_backoff = 4.0\n",
        )
        .unwrap()
    }

    #[test]
    fn waits_grow_stay_bounded_and_are_seeded() {
        let t = teacher();
        let mut longest = [0.0f64; 8];
        for key in 0..500 {
            for attempt in 1..=8u32 {
                let w = wait(&t, &key.to_string(), attempt, None).as_secs_f64();
                let bound = (0.5 * 2f64.powi(attempt as i32 - 1)).min(4.0);
                assert!((0.0..=bound).contains(&w), "attempt {attempt}: {w}");
                let l = &mut longest[attempt as usize - 1];
                *l = l.max(w);
            }
        }
        assert!(longest[0] > 0.45 && longest[3] > 3.6, "full jitter: {longest:?}");
        assert_eq!(wait(&t, "q", 2, None), wait(&t, "q", 2, None));
        assert_ne!(wait(&t, "q", 2, None), wait(&t, "r", 2, None));
        let other = RemoteTeacher { seed: 2, ..teacher() };
        assert_ne!(wait(&t, "q", 2, None), wait(&other, "q", 2, None));
        let wished = wait(&t, "q", 5, Some(Duration::from_secs(7))).as_secs_f64();
        assert!((7.0..=7.5).contains(&wished), "{wished}");
        assert!(wait(&t, "q", u32::MAX, None).as_secs_f64() <= 4.0);
    }

    #[test]
    fn seconds_and_dates() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        let after = |h: &str| retry_after(h, now).map(|d| d.as_secs_f64());
        assert_eq!(after("3"), Some(3.0));
        assert_eq!(after(" 0.25 "), Some(0.25));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(0.0));
        assert_eq!(after("Sun, 06 Nov 1994 08:50:37 GMT"), Some(60.0));
        assert_eq!(after("Sat, 05 Nov 1994 08:50:37 GMT"), Some(0.0), "past");
        for wrong in ["", "-3", "soon", "NaN", "inf", "Sun, 06 Now 1994 08:49:37 GMT", "Sun, 6"] {
            assert_eq!(after(wrong), None, "{wrong}");
        }
        assert_eq!(http_date("Thu, 29 Feb 2024 00:00:00 GMT"), Some(1_709_164_800));
        assert_eq!(http_date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(http_date("Fri, 01 Mar 2024 12:34:56 GMT"), Some(1_709_296_496));
    }
}
