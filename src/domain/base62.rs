//! Base 62, big-endian, fixed width: the alphabet `0-9A-Za-z`, left-padded with `0`.
//!
//! A value has exactly one spelling in its width, so comparing spellings compares values.

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Characters that hold any 32 bits.
pub(super) const WIDTH_32: usize = 6;
/// Characters that hold any 64 bits.
pub(super) const WIDTH_64: usize = 11;
/// Characters that hold any 128 bits.
pub(super) const WIDTH_128: usize = 22;
/// Characters that hold any 256 bits.
pub(super) const WIDTH_256: usize = 43;

/// Whether `byte` is a character of the alphabet.
pub(super) fn is_digit(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

/// Appends the number with these big-endian `bytes` in exactly `width` characters.
///
/// The width has to fit the number, as the constants above do for their sizes.
pub(super) fn push(out: &mut String, bytes: &[u8], width: usize) {
    let mut number = [0_u8; 32];
    let number = &mut number[..bytes.len()];
    number.copy_from_slice(bytes);
    let mut digits = [b'0'; WIDTH_256];
    for digit in digits[..width].iter_mut().rev() {
        let mut remainder = 0_usize;
        for byte in number.iter_mut() {
            let value = remainder << 8 | usize::from(*byte);
            *byte = u8::try_from(value / 62).unwrap_or(u8::MAX);
            remainder = value % 62;
        }
        *digit = ALPHABET[remainder];
    }
    debug_assert!(number.iter().all(|byte| *byte == 0), "the width has to fit the number");
    out.extend(digits[..width].iter().map(|digit| char::from(*digit)));
    zeroize::Zeroize::zeroize(&mut digits);
}

/// The number that `text` spells, in `N` big-endian bytes; none if a character is foreign or the number too large.
pub(super) fn decode<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let mut number = [0_u8; N];
    for character in text {
        let mut carry = usize::from(match character {
            b'0'..=b'9' => character - b'0',
            b'A'..=b'Z' => character - b'A' + 10,
            b'a'..=b'z' => character - b'a' + 36,
            _ => return None,
        });
        for byte in number.iter_mut().rev() {
            let value = usize::from(*byte) * 62 + carry;
            *byte = value.to_le_bytes()[0];
            carry = value >> 8;
        }
        if carry != 0 {
            return None;
        }
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(bytes: &[u8], width: usize) -> String {
        let mut out = String::new();
        push(&mut out, bytes, width);
        out
    }

    #[test]
    fn numbers_are_spelled_big_endian_and_padded() {
        assert_eq!(encode(&61_u32.to_be_bytes(), WIDTH_32), "00000z");
        assert_eq!(encode(&62_u32.to_be_bytes(), WIDTH_32), "000010");
        assert_eq!(encode(&u32::MAX.to_be_bytes(), WIDTH_32), "4gfFC3");
        assert_eq!(encode(&u64::MAX.to_be_bytes(), WIDTH_64), "LygHa16AHYF");
        assert_eq!(encode(&u128::MAX.to_be_bytes(), WIDTH_128), "7n42DGM5Tflk9n8mt7Fhc7");
    }

    #[test]
    fn a_number_too_large_for_its_bytes_is_refused() {
        assert_eq!(decode::<4>(b"4gfFC3"), Some(u32::MAX.to_be_bytes()));
        assert_eq!(decode::<4>(b"4gfFC4"), None);
        assert_eq!(decode::<32>(&[b'z'; WIDTH_256]), None);
    }

    proptest! {
        #[test]
        fn every_256_bit_number_survives_the_round_trip(bytes in any::<[u8; 32]>()) {
            let text = encode(&bytes, WIDTH_256);
            prop_assert_eq!(text.len(), WIDTH_256);
            prop_assert_eq!(decode::<32>(text.as_bytes()), Some(bytes));
        }

        #[test]
        fn what_parses_is_spelled_the_same_again(text in "[0-9A-Za-z]{22}") {
            if let Some(bytes) = decode::<16>(text.as_bytes()) {
                prop_assert_eq!(encode(&bytes, WIDTH_128), text);
            }
        }
    }
}
