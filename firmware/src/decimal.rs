//! Decimal numbers in single precision where flash is scarce: the results of the standard library's parser, which
//! is faster by ten times and has 10 KB of powers of five for it.

/// Significant digits that count: a number halfway between two others has 113 at most, so that of those
/// behind it matters only whether one is not zero.
const DIGITS_MAX: i32 = 120;
/// Power of ten that is beyond every number, and the one below which all are zero.
const LARGE: i32 = 40;
const SMALL: i32 = -46;
/// Where the limb of the units is: in front of it is what 120 digits need that are divided until they are small,
/// at four bits for a power of ten and with 36 to spare.
const UNITS: usize = (DIGITS_MAX - SMALL) as usize / 4 + 3;
/// Limbs in all.
const LIMBS: usize = UNITS + DIGITS_MAX as usize / 4;

/// The number nearest to what a text says, as [`str::parse`] has it; none where it says no number.
#[must_use]
pub fn parse(text: &str) -> Option<f32> {
    let magnitude = text.strip_prefix(['+', '-']).unwrap_or(text);
    let is = |word: &str| magnitude.eq_ignore_ascii_case(word);
    let value = if is("nan") {
        f32::NAN
    } else if is("inf") || is("infinity") {
        f32::INFINITY
    } else {
        let mut number = Number::default();
        number.read(magnitude.as_bytes())?;
        number.nearest()
    };
    Some(if text.starts_with('-') { -value } else { value })
}

/// Digits times a power of ten.
struct Number {
    /// The digits as one number, least first; from `end` on all are zero.
    limbs: [u16; LIMBS],
    end: usize,
    /// Significant digits in it.
    digits: i32,
    exponent: i32,
    /// Whether anything was lost behind the last limb.
    more: bool,
}

impl Default for Number {
    fn default() -> Self {
        Self {
            limbs: [0; LIMBS],
            end: UNITS,
            digits: 0,
            exponent: 0,
            more: false,
        }
    }
}

impl Number {
    /// Takes a text without its sign in.
    fn read(&mut self, text: &[u8]) -> Option<()> {
        let (mut any, mut point) = (false, false);
        for (at, &byte) in text.iter().enumerate() {
            match byte {
                b'0'..=b'9' => {
                    any = true;
                    self.digit(byte - b'0', point);
                }
                b'.' if !point => point = true,
                b'e' | b'E' if any => {
                    self.exponent += exponent(text.get(at + 1..)?)?;
                    return Some(());
                }
                _ => return None,
            }
        }
        any.then_some(())
    }

    fn digit(&mut self, digit: u8, behind_point: bool) {
        if self.digits < DIGITS_MAX {
            self.multiply(digit);
            self.digits += i32::from(self.end > UNITS);
            self.exponent -= i32::from(behind_point);
        } else {
            self.more |= digit != 0;
            self.exponent += i32::from(!behind_point);
        }
    }

    /// Ten times as much, and a digit.
    fn multiply(&mut self, digit: u8) {
        let mut carry = u32::from(digit);
        for limb in self.limbs.iter_mut().take(self.end).skip(UNITS) {
            carry += u32::from(*limb) * 10;
            *limb = carry as u16;
            carry >>= 16;
        }
        if carry > 0
            && let Some(limb) = self.limbs.get_mut(self.end)
        {
            *limb = carry as u16;
            self.end += 1;
        }
    }

    /// A tenth, from a limb on.
    fn divide(&mut self, from: usize) {
        let mut rest = 0;
        for limb in self.limbs.iter_mut().take(self.end).skip(from).rev() {
            rest = rest << 16 | u32::from(*limb);
            *limb = (rest / 10) as u16;
            rest %= 10;
        }
        self.more |= rest > 0;
    }

    /// The nearest number; of two the one whose last bit is clear.
    fn nearest(mut self) -> f32 {
        let magnitude = self.exponent + self.digits;
        if self.digits == 0 || magnitude < SMALL {
            return 0.0;
        }
        if magnitude > LARGE {
            return f32::INFINITY;
        }
        for _ in 0..self.exponent {
            self.multiply(0);
        }
        let tenths = (-self.exponent).max(0) as usize;
        for _ in 0..tenths {
            self.divide(UNITS - 3 - tenths / 4);
        }
        self.round()
    }

    fn round(&self) -> f32 {
        let top = self.limbs.iter().rposition(|limb| *limb > 0);
        let Some((below, [last, next, first])) =
            top.and_then(|top| self.limbs.get(..=top)?.split_last_chunk())
        else {
            return 0.0;
        };
        let zeros = first.leading_zeros();
        let exponent = 16 * (below.len() as i32 + 2 - UNITS as i32) + 15 - zeros as i32;
        if exponent > 127 {
            return f32::INFINITY;
        }
        // Its first 32 bits, and whether there are more.
        let tail = u32::from(*last) << zeros;
        let bits = (u32::from(*first) << 16 | u32::from(*next)) << zeros | tail >> 16;
        let more = self.more || tail as u16 > 0 || below.iter().any(|limb| *limb > 0);
        // Of which 24 are kept, fewer in a number that is smaller than the normal ones.
        let shift = 8 + (-126 - exponent).max(0);
        if shift > 32 {
            return 0.0;
        }
        let kept = u64::from(bits) << 32 >> shift;
        let (significand, rest) = ((kept >> 32) as u32, kept as u32);
        let half = 1 << 31;
        let up = rest > half || rest == half && (more || significand % 2 > 0);
        // A carry out of the significand is one more in the exponent, as it should be.
        let scale = (exponent.max(-126) + 126) as u32;
        f32::from_bits((scale << 23) + significand + u32::from(up))
    }
}

/// What stands behind the `e`; one that is far too large is large.
fn exponent(text: &[u8]) -> Option<i32> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() {
        return None;
    }
    let mut exponent = 0;
    for byte in digits {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        exponent = (exponent * 10 + i32::from(digit)).min(1_000_000);
    }
    Some(if negative { -exponent } else { exponent })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// It is what the standard library says, bit for bit; of a NaN only that it is one.
    fn same(text: &str) {
        match (parse(text), text.parse::<f32>().ok()) {
            (Some(here), Some(there)) if here.is_nan() && there.is_nan() => {}
            (here, there) => assert_eq!(
                here.map(f32::to_bits),
                there.map(f32::to_bits),
                "{text}: {here:?} {there:?}"
            ),
        }
    }

    #[test]
    fn words_and_what_is_no_number() {
        for text in [
            "nan",
            "-NaN",
            "+nan",
            "inf",
            "-INF",
            "Infinity",
            "infinit",
            "",
            "+",
            "-",
            ".",
            "+.",
            "-.e1",
            "e",
            "e5",
            ".e5",
            "1e",
            "1e+",
            "1e-",
            "1e+-1",
            "--1",
            "+-1",
            "1.2.3",
            "1e5e5",
            "1e5.",
            "1x",
            "x1",
            "0x10",
            "1_0",
            " 1",
            "1 ",
            "1,0",
            "\u{661}",
            "1e\u{661}",
            "1.",
            ".1",
            "-.5",
            "5.e1",
            "00",
            "-0",
            "+0.0e9",
            "1E5",
            "1e+05",
        ] {
            same(text);
        }
    }

    #[test]
    fn the_largest_and_the_smallest() {
        for text in [
            "3.4028235e38",
            "3.4028235677973366e38",
            "3.40282356779733661637539395458142568447e38",
            "3.40282356779733661637539395458142568448e38",
            "340282356779733661637539395458142568447.999",
            "1e38",
            "1e39",
            "1e40",
            "9.99e39",
            "1e-45",
            "1.4e-45",
            "7.0064923216240854e-46",
            "7.1e-46",
            "7e-46",
            "9.9e-46",
            "1e-46",
            "1.1754944e-38",
            "1.1754942e-38",
            "1.1754943157898258998483097704743226e-38",
            "0.1e-44",
            "1e1000000",
            "1e-1000000",
            "1e99999999999999999999",
            "1e-99999999999999999999",
            "0e99999999999999999999",
            "16777217",
            "16777219",
            "16777217.0000000000000000000000001",
            "16777216.9999999999999",
        ] {
            same(text);
        }
        let zeros = "0".repeat(3000);
        for text in [
            format!("0.{zeros}1e3001"),
            format!("1{zeros}e-3000"),
            format!("1{zeros}"),
            format!("{zeros}1.5{zeros}1"),
            format!("0.{zeros}1"),
            format!("16777217.{zeros}"),
            format!("16777217.{zeros}1"),
        ] {
            same(&text);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn any_text(text in "[+-]?[0-9]{0,12}[.]?[0-9]{0,12}([eE][+-]?[0-9]{0,3})?") {
            same(&text);
        }

        #[test]
        fn any_digits(text in "[0-9]{1,200}[.][0-9]{0,200}", exponent in -250..250) {
            same(&format!("{text}e{exponent}"));
        }

        #[test]
        fn any_bytes(text in ".{0,12}") {
            same(&text);
        }

        #[test]
        fn any_number_as_it_is_printed(bits: u32, digits in 0usize..60) {
            let value = f32::from_bits(bits);
            same(&format!("{value}"));
            same(&format!("{value:e}"));
            same(&format!("{value:.digits$}"));
            same(&format!("{value:.digits$e}"));
        }

        #[test]
        fn halfway_between_two(bits in 0u32..0x7F7F_FFFF, more in "0{0,40}[019]{0,2}") {
            let (low, high) = (f32::from_bits(bits), f32::from_bits(bits + 1));
            let exact = format!("{:.160}", f64::midpoint(low.into(), high.into()));
            same(&exact);
            same(&format!("{exact}{more}"));
            // A little less.
            let digits = exact.trim_end_matches('0');
            same(&digits[..digits.len() - 1]);
        }
    }
}
