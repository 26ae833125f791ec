//! Durations as operators write them: a whole number and a unit, `500ms` `30s` `5m` `2h` `1d`.

use std::time::Duration;

/// Units in milliseconds, largest first.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Reads `30s`; `None` for anything else, and for more milliseconds than 64 bits hold.
#[must_use]
pub fn parse(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, factor) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(factor).map(Duration::from_millis)
}

/// Writes a duration of whole milliseconds in the largest unit that divides it, as [`parse`] reads it.
#[must_use]
pub fn format(duration: Duration) -> String {
    let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let divides = |factor: u64| milliseconds != 0 && milliseconds.is_multiple_of(factor);
    let (unit, factor) = UNITS.into_iter().find(|(_, factor)| divides(*factor)).unwrap_or(("s", 1_000));
    format!("{}{unit}", milliseconds / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_unit_is_read_and_written_back() {
        for (text, milliseconds) in
            [("500ms", 500), ("30s", 30_000), ("5m", 300_000), ("2h", 7_200_000), ("1d", 86_400_000)]
        {
            assert_eq!(parse(text), Some(Duration::from_millis(milliseconds)), "{text}");
            assert_eq!(format(Duration::from_millis(milliseconds)), text);
        }
        assert_eq!(format(Duration::from_secs(90)), "90s");
        assert_eq!(format(Duration::ZERO), "0s");
    }

    #[test]
    fn anything_without_exactly_a_number_and_a_unit_is_refused() {
        for text in
            ["", "30", "s", "-1s", "1.5s", "1 s", "1S", "1h30m", "30sec", "18446744073709551615d", "é1s"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
