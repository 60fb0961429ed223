//! What a stream may take, as its text says it: `memory = '200 MB'`, `time = '25 %'`.

use operators::error::{Refusal, excerpt};

/// Bytes of an amount such as `200 MB`.
///
/// # Errors
/// The text is none.
pub fn memory(text: &str) -> Result<u64, Refusal> {
    let wrong = || wrong("memory", text, "is not an amount of memory", "write it as '200 MB' or '2 GB'");
    let lower = text.trim().to_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit()).unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let unit_bytes = match unit.trim() {
        "" | "b" | "bytes" => 1,
        "kb" => 1_000,
        "kib" => 1 << 10,
        "mb" => 1_000_000,
        "mib" => 1 << 20,
        "gb" => 1_000_000_000,
        "gib" => 1 << 30,
        _ => return Err(wrong()),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_bytes));
    bytes.filter(|bytes| *bytes > 0).ok_or_else(wrong)
}

/// Percent of a worker's time, such as `25 %`.
///
/// # Errors
/// The text is none.
pub fn time(text: &str) -> Result<u32, Refusal> {
    let number = text.trim().strip_suffix('%').and_then(|number| number.trim().parse::<u32>().ok());
    number
        .filter(|number| (1..=100).contains(number))
        .ok_or_else(|| wrong("time", text, "is not a share of a worker's time", "write it as '25 %', from 1 to 100"))
}

fn wrong(option: &str, text: &str, is: &str, hint: &'static str) -> Refusal {
    Refusal::new("sql_option_invalid", format!("{option} '{}' {is}", excerpt(text))).at(option).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_and_shares() {
        let amounts = [("200 MB", 200_000_000), ("2gib", 2 << 30), ("1024", 1_024), (" 7 kb ", 7_000)];
        for (text, bytes) in amounts {
            assert_eq!(memory(text), Ok(bytes), "{text}");
        }
        for text in
            ["", "MB", "0 MB", "-1 MB", "1.5 GB", "2 parsecs", "99999999999999999999", "18446744073709551615 GB"]
        {
            assert_eq!(memory(text).map_err(|why| why.code), Err("sql_option_invalid"), "{text}");
        }
        assert_eq!((time("25 %"), time("100%")), (Ok(25), Ok(100)));
        for text in ["", "25", "0 %", "101 %", "half", "-1 %", "2.5 %"] {
            assert_eq!(time(text).map_err(|why| why.code), Err("sql_option_invalid"), "{text}");
        }
    }
}
