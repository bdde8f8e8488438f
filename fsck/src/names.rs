//! Names and paths of a volume as text: bytes that are not plain printable text are escaped.
//!
//! *Security*: a name may hold any byte but `/` and NUL. Escape sequences in it must not reach a terminal, and a line break
//! in it must not forge a line of output.

/// The bytes as one line of printable text. Control characters, backslashes and what is not UTF-8 appear as `\xHH`
/// (a line feed as `\n`, a tab as `\t`).
pub fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                other if other.is_control() || is_format(other) => {
                    let mut buffer = [0; 4];
                    other.encode_utf8(&mut buffer).bytes().for_each(|byte| push_hex(&mut text, byte));
                }
                other => text.push(other),
            }
        }
        chunk.invalid().iter().for_each(|&byte| push_hex(&mut text, byte));
    }
    text
}

/// Characters that change how the text around them is shown: they could make one name look like another.
fn is_format(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

fn push_hex(text: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    text.push_str("\\x");
    text.push(char::from(DIGITS[usize::from(byte >> 4)]));
    text.push(char::from(DIGITS[usize::from(byte & 15)]));
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn plain_names_stay_as_they_are() {
        assert_eq!(escaped("Grüße 東京.txt".as_bytes()), "Grüße 東京.txt");
    }

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        assert_eq!(escaped(b"a\x1b[2Jb"), "a\\x1b[2Jb");
        assert_eq!(escaped(b"one\ntwo\tthree\\"), "one\\ntwo\\tthree\\\\");
        assert_eq!(escaped("x\u{202e}y\u{9b}".as_bytes()), "x\\xe2\\x80\\xaey\\xc2\\x9b");
    }

    #[test]
    fn bytes_that_are_not_text_are_escaped() {
        assert_eq!(escaped(b"\xff\xfea"), "\\xff\\xfea");
    }
}
