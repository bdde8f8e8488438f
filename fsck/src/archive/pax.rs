//! The records of extended headers (POSIX pax): `LENGTH KEY=VALUE\n`, where a value may hold any byte.

use std::collections::BTreeMap;

use sefs::types::Timestamp;

use super::refusal::Refusal;
use crate::source::Attributes;

/// What the extended headers of an entry say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pax {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u64>,
    pub(crate) gid: Option<u64>,
    pub(crate) mtime: Option<Timestamp>,
    pub(crate) atime: Option<Timestamp>,
    /// Access control lists in text form, which nothing here reads.
    pub(crate) text_acl: bool,
    pub(crate) sparse: PaxSparse,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Those of libarchive: where both are there, they say the same.
    encoded_xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// GNU tar's records about holes, in any of its three formats.
#[derive(Clone, Debug, Default)]
pub(crate) struct PaxSparse {
    /// The map stands before the content (format 1.0).
    pub(crate) map_in_content: bool,
    /// The file's length with holes.
    pub(crate) size: Option<u64>,
    /// The map (formats 0.0 and 0.1), offsets and lengths by turns.
    pub(crate) map: Option<Vec<u64>>,
}

impl Pax {
    /// Reads all records.
    pub(crate) fn decode(mut bytes: &[u8]) -> Result<Pax, Refusal> {
        let mut pax = Pax::default();
        while !bytes.is_empty() {
            let (key, value, rest) = record(bytes).ok_or(Refusal::Pax)?;
            pax.take(key, value)?;
            bytes = rest;
        }
        Ok(pax)
    }

    /// These records, and of a global header what they do not say. A name, a size or holes for all entries make no sense.
    pub(crate) fn over(mut self, global: &Pax) -> Pax {
        self.uid = self.uid.or(global.uid);
        self.gid = self.gid.or(global.gid);
        self.mtime = self.mtime.or(global.mtime);
        self.atime = self.atime.or(global.atime);
        for (name, value) in &global.xattrs {
            self.xattrs.entry(name.clone()).or_insert_with(|| value.clone());
        }
        self
    }

    /// All extended attributes.
    pub(crate) fn xattrs(self) -> Attributes {
        let mut all = self.encoded_xattrs;
        all.extend(self.xattrs);
        all.into_iter().collect()
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), Refusal> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            self.xattrs.insert(keyword(name), value.to_vec());
            return Ok(());
        }
        if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
            let decoded = percent_decoded(name).zip(base64_decoded(value)).ok_or(Refusal::Pax)?;
            self.encoded_xattrs.insert(decoded.0, decoded.1);
            return Ok(());
        }
        if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
            return self.take_sparse(key, value);
        }
        // An empty value takes the record back.
        let given = !value.is_empty();
        match key {
            b"path" => self.path = given.then(|| value.to_vec()),
            b"linkpath" => self.link = given.then(|| value.to_vec()),
            b"size" => self.size = given.then(|| number(value)).transpose()?,
            b"uid" => self.uid = given.then(|| number(value)).transpose()?,
            b"gid" => self.gid = given.then(|| number(value)).transpose()?,
            b"mtime" => self.mtime = given.then(|| time(value).ok_or(Refusal::Pax)).transpose()?,
            b"atime" => self.atime = given.then(|| time(value).ok_or(Refusal::Pax)).transpose()?,
            key if key.starts_with(b"SCHILY.acl.") => self.text_acl |= given,
            _ => {}
        }
        Ok(())
    }

    fn take_sparse(&mut self, key: &[u8], value: &[u8]) -> Result<(), Refusal> {
        let sparse = &mut self.sparse;
        match key {
            b"major" => sparse.map_in_content = number(value)? == 1,
            b"size" | b"realsize" => sparse.size = Some(number(value)?),
            b"name" => self.path = Some(value.to_vec()),
            b"offset" | b"numbytes" => sparse.map.get_or_insert_default().push(number(value)?),
            b"map" => {
                let numbers = value.split(|byte| *byte == b',').filter(|part| !part.is_empty()).map(number);
                sparse.map = Some(numbers.collect::<Result<_, _>>()?);
            }
            _ => {}
        }
        Ok(())
    }
}

/// The first record's key and value, and what follows it.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(LENGTH_DIGITS_MAX + 1).position(|byte| *byte == b' ')?;
    let length = usize::try_from(number(&bytes[..space]).ok()?).ok()?;
    let (record, rest) = bytes.split_at_checked(length)?;
    let body = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|byte| *byte == b'=')?;
    (equals > 0).then(|| (&body[..equals], &body[equals + 1..], rest))
}

/// A decimal number without sign.
pub(crate) fn number(text: &[u8]) -> Result<u64, Refusal> {
    let digits = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|digits| digits.parse().ok()).ok_or(Refusal::Pax)
}

/// Seconds since 1970 with a fraction, also negative ones. Beyond nanoseconds it is cut off towards the past.
fn time(text: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(text).ok()?;
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let places = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
    let nanoseconds = places.fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    let finer = fraction.bytes().skip(9).any(|digit| digit != b'0');
    if !negative {
        return Some(Timestamp { seconds, nanoseconds });
    }
    match nanoseconds + u32::from(finer) {
        0 => Some(Timestamp { seconds: -seconds, nanoseconds: 0 }),
        nanoseconds => Some(Timestamp { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds }),
    }
}

/// GNU tar writes the two characters of an attribute's name that would end a key in another way.
fn keyword(name: &[u8]) -> Vec<u8> {
    let (mut plain, mut rest) = (Vec::with_capacity(name.len()), name);
    while let Some((first, after)) = rest.split_first() {
        let (byte, left) = match rest {
            [b'%', b'3', b'D', left @ ..] => (b'=', left),
            [b'%', b'2', b'5', left @ ..] => (b'%', left),
            _ => (*first, after),
        };
        plain.push(byte);
        rest = left;
    }
    plain
}

fn percent_decoded(name: &[u8]) -> Option<Vec<u8>> {
    let (mut plain, mut rest) = (Vec::with_capacity(name.len()), name);
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            plain.push(*first);
            continue;
        }
        let (digits, left) = rest.split_at_checked(2)?;
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        plain.push(digit(digits[0])? << 4 | digit(digits[1])?);
        rest = left;
    }
    Some(plain)
}

/// RFC 4648, section 4; libarchive leaves the padding away.
fn base64_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let text = text.trim_ascii_end();
    let text = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    let mut plain = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for group in text.chunks(4) {
        let mut bits = 0_u32;
        for byte in group {
            let place = ALPHABET.iter().position(|letter| letter == byte)?;
            bits = bits << 6 | u32::try_from(place).ok()?;
        }
        let bytes = (bits << (6 * (4 - group.len()))).to_be_bytes();
        match group.len() {
            1 => return None,
            length => plain.extend_from_slice(&bytes[1..length]),
        }
    }
    Some(plain)
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const LENGTH_DIGITS_MAX: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn pax(records: &[(&str, &[u8])]) -> Pax {
        Pax::decode(&super::super::member::tests::records(records)).unwrap()
    }

    #[test]
    fn a_value_may_hold_line_ends_and_equals_signs() {
        let pax = pax(&[("SCHILY.xattr.security.x", b"a\nb=c\0"), ("path", b"x=y"), ("size", b"12")]);
        assert_eq!((pax.path.as_deref(), pax.size), (Some(&b"x=y"[..]), Some(12)));
        assert_eq!(pax.xattrs(), [(b"security.x".to_vec(), b"a\nb=c\0".to_vec())]);
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        for bad in [
            &b"99 path=x\n"[..],
            b"8 path=x\n",
            b"0 path=x\n",
            b"-9 path=x\n",
            b"10 path=x",
            b"10path=x\n\n",
            b"18446744073709551616 a=b\n",
            b"5 a=\n5 =b\n",
            b"4 a\n\n",
            b" a=b\n",
        ] {
            assert!(Pax::decode(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn times_have_fractions_and_signs() {
        let at = |text: &str| time(text.as_bytes()).map(|time| (time.seconds, time.nanoseconds));
        assert_eq!(at("1.5"), Some((1, 500_000_000)));
        assert_eq!(at("-1.5"), Some((-2, 500_000_000)));
        assert_eq!(at("-2"), Some((-2, 0)));
        assert_eq!(at("-0.0000000001"), Some((-1, 999_999_999)));
        assert_eq!(at("7.1234567899"), Some((7, 123_456_789)));
        for bad in ["", ".", "1e3", "+1", "1.-5", "--1", "99999999999999999999", "-"] {
            assert_eq!(at(bad), None, "{bad}");
        }
    }

    #[test]
    fn attributes_of_both_kinds_are_decoded() {
        let found = pax(&[
            ("LIBARCHIVE.xattr.user.a%20b", b"AAECAw"),
            ("LIBARCHIVE.xattr.user.c", b"b3RoZXI"),
            ("SCHILY.xattr.user.c", b"plain"),
            ("SCHILY.xattr.user.x%3Dy%25%41", b""),
        ]);
        let expected = [(&b"user.a b"[..], &b"\0\x01\x02\x03"[..]), (b"user.c", b"plain"), (b"user.x=y%%41", b"")];
        let found = found.xattrs();
        let found: Vec<(&[u8], &[u8])> = found.iter().map(|(name, value)| (&name[..], &value[..])).collect();
        assert_eq!(found, expected);
        assert_eq!(base64_decoded(b"YQ=="), Some(b"a".to_vec()));
        assert_eq!((base64_decoded(b"Y"), base64_decoded(b"Y*==")), (None, None));
        assert_eq!(percent_decoded(b"%4"), None);
    }
}
