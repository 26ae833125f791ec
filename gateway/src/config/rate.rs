//! Rates as operators write them: a whole number a second, `100/s`.

/// Reads `100/s`; `None` for anything else.
#[must_use]
pub(super) fn parse(text: &str) -> Option<u32> {
    let number = text.strip_suffix("/s")?;
    // `parse` alone would take a sign.
    if number.bytes().all(|byte| byte.is_ascii_digit()) { number.parse().ok() } else { None }
}

/// Writes a rate as [`parse`] reads it.
#[must_use]
pub(super) fn format(rate: u32) -> String {
    format!("{rate}/s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_a_second_is_a_rate_and_nothing_else_is() {
        assert_eq!(parse("100/s"), Some(100));
        assert_eq!(parse(&format(5_000)), Some(5_000));
        for text in ["", "100", "/s", "+1/s", "-1/s", "1.5/s", "1/m", "1 /s", "4294967296/s"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
