//! The edge cases of Ed25519 on which libraries differ, decided once for all back ends.
//!
//! A key of small order lets one signature fit many messages, and an encoding that is not the
//! shortest lets one key or signature have several forms. Chalkias, Garillot and Nikolaenko,
//! "Taming the many EdDSAs" (2020), list what the common libraries make of them: they do not agree.
//! So that a host and a board never do either, every [`super::Verifier`] asks this module first.

/// y of the points of small order whose encoding is canonical, sign bit clear (orders 1, 2, 4, 8
/// and 8). With either sign bit these encode all eight points of the torsion subgroup.
const SMALL_ORDER_Y: [[u8; 32]; 5] = [
    [
        1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0,
    ],
    [
        0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0x7f,
    ],
    [0; 32],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67,
        0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac,
        0x03, 0x7a,
    ],
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98,
        0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53,
        0xfc, 0x05,
    ],
];

/// The field's prime, 2^255 - 19, little-endian.
const P: [u8; 32] = [
    0xed, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
];

/// The group's order, 2^252 + 27742317777372353535851937790883648493, little-endian.
const L: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

/// Whether the encoded point is canonical and not of small order. Says nothing of whether it is on
/// the curve.
#[must_use]
pub fn point_is_strict(point: &[u8; 32]) -> bool {
    let mut y = *point;
    y[31] &= 0x7f;
    less(&y, &P) && !SMALL_ORDER_Y.contains(&y)
}

/// Whether both points of a signature by `key` are strict and its scalar is below the group's order.
#[must_use]
pub fn signature_is_strict(key: &[u8; 32], signature: &[u8; 64]) -> bool {
    let (Some(r), Some(s)) = (signature.first_chunk::<32>(), signature.last_chunk::<32>()) else {
        return false;
    };
    point_is_strict(key) && point_is_strict(r) && less(s, &L)
}

/// Whether `a` is less than `b`, both little-endian.
fn less(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.iter().rev().lt(b.iter().rev())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds `value` to a little-endian number.
    fn plus(mut number: [u8; 32], value: u8) -> [u8; 32] {
        let mut carry = u16::from(value);
        for byte in &mut number {
            carry += u16::from(*byte);
            *byte = carry as u8;
            carry >>= 8;
        }
        number
    }

    #[test]
    fn all_encodings_of_the_small_order_points_are_refused() {
        // The eight points have fourteen encodings ("Taming the many EdDSAs", table 1): the five
        // canonical y and the two that are p too large, each with both sign bits.
        let mut encodings = SMALL_ORDER_Y.to_vec();
        encodings.extend([P, plus(P, 1)]);
        for mut encoding in encodings {
            assert!(!point_is_strict(&encoding));
            encoding[31] |= 0x80;
            assert!(!point_is_strict(&encoding));
        }
    }

    #[test]
    fn points_are_canonical_below_p_only() {
        let mut below = P;
        below[0] -= 2;
        assert!(point_is_strict(&below));
        for value in 0..19 {
            assert!(!point_is_strict(&plus(P, value)), "p + {value}");
        }
        // The base point.
        let mut base = [0x66; 32];
        base[0] = 0x58;
        assert!(point_is_strict(&base));
    }

    #[test]
    fn scalars_are_canonical_below_the_order_only() {
        let point = [0x66; 32];
        let with = |s: &[u8; 32]| {
            let mut signature = [0x66; 64];
            signature[32..].copy_from_slice(s);
            signature_is_strict(&point, &signature)
        };
        let mut below = L;
        below[0] -= 1;
        assert!(with(&[0; 32]));
        assert!(with(&below));
        assert!(!with(&L));
        assert!(!with(&plus(L, 1)));
        assert!(!with(&[0xff; 32]));
    }
}
