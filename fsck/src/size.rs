//! Sizes as people write them: exact bytes, or K, M, G, T as powers of 1,024.

/// Reads `4096`, `64K`, `10G` or `1TiB`. `10GB` is refused, for nobody knows which of the two units was meant.
pub fn parse(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KIB" => 10,
        "M" | "MIB" => 20,
        "G" | "GIB" => 30,
        "T" | "TIB" => 40,
        "P" | "PIB" => 50,
        _ => {
            return Err(format!("'{text}' is not a size; write bytes, or a number with K, M, G or T (powers of 1024)"));
        }
    };
    let number: u64 = number.parse().map_err(|_| format!("'{text}' is not a size"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("'{text}' is too large"))
}

/// A size with the unit that leaves it exact and short, or one decimal.
pub fn render(bytes: u64) -> String {
    let unit = UNITS.iter().rev().find(|(_, shift)| bytes >> shift > 0);
    let Some((name, shift)) = unit else { return format!("{bytes} B") };
    let whole = bytes >> shift;
    let tenths = ((bytes - (whole << shift)) >> (shift - 10)) * 10 / 1024;
    match (whole, tenths) {
        (_, 0) => format!("{whole} {name}"),
        _ => format!("{whole}.{tenths} {name}"),
    }
}

const UNITS: [(&str, u32); 5] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40), ("PiB", 50)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_exact() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("1k", 1024),
            ("64K", 65_536),
            ("3MiB", 3 << 20),
            ("10G", 10 << 30),
            ("1T", 1 << 40),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "K", "-1", "+1", "1.5G", "10GB", "10 G", "0x10", "1KK", "18446744073709551616", "16777216T"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rendering_is_short() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            ((10 << 30) + (1 << 29), "10.5 GiB"),
            (u64::MAX, "16383.9 PiB"),
        ] {
            assert_eq!(render(bytes), text);
        }
    }
}
