//! A root digest as text: 64 hex digits.

use std::fmt;
use std::str::FromStr;

use crate::showing::hex;
use crate::volume_id::decode_hex;

/// What pins a packed image. It comes from the command line alone: never from a file beside the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootDigest(pub [u8; 32]);

impl FromStr for RootDigest {
    type Err = String;

    fn from_str(text: &str) -> Result<RootDigest, String> {
        let mut digest = [0; 32];
        let read = decode_hex(text.as_bytes(), &mut digest);
        read.map(|()| RootDigest(digest)).ok_or_else(|| format!("'{text}' is no root digest, which has 64 hex digits"))
    }
}

impl fmt::Display for RootDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let text = "0f8e4a527c1d4b399a605d3c2b1e8f740f8e4a527c1d4b399a605d3c2b1e8f74";
        assert_eq!(text.parse::<RootDigest>().unwrap().to_string(), text);
        for wrong in ["", &text[1..], "g".repeat(64).as_str()] {
            assert!(wrong.parse::<RootDigest>().is_err(), "{wrong}");
        }
    }
}
