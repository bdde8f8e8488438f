//! A volume's id as text: a UUID.

use std::fmt;
use std::str::FromStr;

/// A volume's id: 16 random bytes, written as a UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeId(pub [u8; 16]);

impl FromStr for VolumeId {
    type Err = String;

    /// With hyphens at the usual places or without any.
    fn from_str(text: &str) -> Result<VolumeId, String> {
        let wrong =
            || format!("'{text}' is not a volume id; write a UUID such as 0f8e4a52-7c1d-4b39-9a60-5d3c2b1e8f74");
        let bytes = text.as_bytes();
        let digits: Vec<u8> = match bytes.len() {
            32 => bytes.to_vec(),
            36 if HYPHENS.iter().all(|&at| bytes[at] == b'-') => {
                bytes.iter().enumerate().filter(|(at, _)| !HYPHENS.contains(at)).map(|(_, byte)| *byte).collect()
            }
            _ => return Err(wrong()),
        };
        let mut id = [0; 16];
        decode_hex(&digits, &mut id).ok_or_else(wrong)?;
        Ok(VolumeId(id))
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if [4, 6, 8, 10].contains(&at) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// Fills `out` from exactly twice as many hex digits.
pub(crate) fn decode_hex(digits: &[u8], out: &mut [u8]) -> Option<()> {
    if digits.len() != out.len() * 2 {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(())
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

const HYPHENS: [usize; 4] = [8, 13, 18, 23];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let text = "0f8e4a52-7c1d-4b39-9a60-5d3c2b1e8f74";
        let id: VolumeId = text.parse().unwrap();
        assert_eq!(id.0[..4], [0x0f, 0x8e, 0x4a, 0x52]);
        assert_eq!(id.to_string(), text);
        assert_eq!(text.replace('-', "").to_uppercase().parse(), Ok(id));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "0f8e", "0f8e4a52-7c1d-4b39-9a60-5d3c2b1e8f7", "0f8e4a527-c1d-4b39-9a60-5d3c2b1e8f74"] {
            assert!(text.parse::<VolumeId>().is_err(), "{text}");
        }
        assert!("0f8e4a52-7c1d-4b39-9a60-5d3c2b1e8fé".parse::<VolumeId>().is_err());
        assert!("gf8e4a52-7c1d-4b39-9a60-5d3c2b1e8f74".parse::<VolumeId>().is_err());
    }
}
