//! GF(2^8) with AES's polynomial, x^8 + x^4 + x^3 + x + 1, in constant time: no tables, no branches on operands.

/// The product.
pub(crate) fn mul(a: u8, b: u8) -> u8 {
    let (mut product, mut a) = (0, a);
    for bit in 0..8 {
        // All ones where the bit is set: a mask instead of a branch.
        product ^= a & (b >> bit & 1).wrapping_neg();
        a = a << 1 ^ (0x1b & (a >> 7).wrapping_neg());
    }
    product
}

/// The inverse, a^254; zero for zero.
pub(crate) fn inverse(a: u8) -> u8 {
    let mut power = a;
    for _ in 0..6 {
        power = mul(mul(power, power), a);
    }
    mul(power, power)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 197, 4.2 and 4.2.1.
    #[test]
    fn products_of_the_standard() {
        assert_eq!((mul(0x57, 0x83), mul(0x57, 0x13), mul(0x57, 0x02)), (0xc1, 0xfe, 0xae));
    }

    #[test]
    fn a_field() {
        for a in 0..=255 {
            assert_eq!(mul(a, inverse(a)), u8::from(a != 0), "{a}");
            assert_eq!((mul(a, 1), mul(a, 0)), (a, 0));
            for b in 0..=255 {
                assert_eq!(mul(a, b), mul(b, a));
                assert_eq!(mul(a, b ^ 0x35), mul(a, b) ^ mul(a, 0x35));
            }
        }
    }
}
