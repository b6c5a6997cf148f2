//! Values of postcard, read into memory that is there already.
//!
//! A derived decoder makes a value and moves it, at every level again: a profile or a summary then
//! takes a microcontroller's stack several times over, and its flash for all the copies. Here the same
//! primitives read the same bytes, field by field, to where the value is to be. What is refused, and
//! where, is as of the derived decoders; tests hold one to the other.

use heapless::{String, Vec, VecView};
use postcard::de_flavors::Slice;
use postcard::{Error, Result};
use serde::Deserialize;

/// Bytes that are read from their beginning on.
pub(crate) type Decoder<'a> = postcard::Deserializer<'a, Slice<'a>>;

/// What can be read to where it is.
pub(crate) trait Fill {
    /// Reads the value. After an error it is anything.
    fn fill_from(&mut self, from: &mut Decoder<'_>) -> Result<()>;
}

/// What an element of a list is before it is read.
pub(crate) trait Blank: Fill {
    /// Anything; it does not stay. Made in place, where a constant would be copied from flash.
    fn blank() -> Self;
}

/// Small values, which are read as their derived decoders do.
macro_rules! values {
    ($($value:ty),* $(,)?) => { $(
        impl crate::place::Fill for $value {
            #[inline(never)]
            fn fill_from(&mut self, from: &mut crate::place::Decoder<'_>) -> postcard::Result<()> {
                *self = serde::Deserialize::deserialize(from)?;
                Ok(())
            }
        }
    )* };
}

/// Records, with all of their fields in the order in which they are written.
macro_rules! records {
    ($($record:ident $(<$(const $n:ident),*>)? { $($field:ident),* $(,)? })*) => { $(
        impl $(<$(const $n: usize),*>)? crate::place::Fill for $record $(<$($n),*>)? {
            #[inline(never)]
            fn fill_from(&mut self, from: &mut crate::place::Decoder<'_>) -> postcard::Result<()> {
                let Self { $($field),* } = self;
                $( crate::place::Fill::fill_from($field, from)?; )*
                Ok(())
            }
        }
    )* };
}

pub(crate) use {records, values};

values!(u8, u16, u32, u64, f32);

impl Blank for u32 {
    fn blank() -> Self {
        0
    }
}

impl<T: Fill> Fill for [T] {
    fn fill_from(&mut self, from: &mut Decoder<'_>) -> Result<()> {
        self.iter_mut()
            .try_for_each(|element| element.fill_from(from))
    }
}

impl<T: Fill, const N: usize> Fill for [T; N] {
    fn fill_from(&mut self, from: &mut Decoder<'_>) -> Result<()> {
        Fill::fill_from(self.as_mut_slice(), from)
    }
}

impl<const N: usize> Fill for String<N> {
    #[inline(never)]
    fn fill_from(&mut self, from: &mut Decoder<'_>) -> Result<()> {
        let text = <&str>::deserialize(from)?;
        self.clear();
        self.push_str(text).map_err(|_| Error::SerdeDeCustom)
    }
}

impl<const N: usize> Blank for String<N> {
    fn blank() -> Self {
        Self::new()
    }
}

impl<T: Blank, const N: usize> Fill for Vec<T, N> {
    fn fill_from(&mut self, from: &mut Decoder<'_>) -> Result<()> {
        fill_list(self.as_mut_view(), from)
    }
}

#[inline(never)]
fn fill_list<T: Blank>(list: &mut VecView<T>, from: &mut Decoder<'_>) -> Result<()> {
    list.clear();
    for _ in 0..usize::deserialize(&mut *from)? {
        let room = list.push(T::blank()).is_ok();
        // One too many is read before it is refused, as serde does: so errors are where they were.
        list.last_mut()
            .ok_or(Error::SerdeDeCustom)?
            .fill_from(from)?;
        if !room {
            return Err(Error::SerdeDeCustom);
        }
    }
    Ok(())
}

/// Reads a value that may be followed by others, and returns these.
///
/// # Errors
/// Those of postcard.
pub(crate) fn fill<'a>(place: &mut dyn Fill, bytes: &'a [u8]) -> Result<&'a [u8]> {
    let mut from = Decoder::from_bytes(bytes);
    place.fill_from(&mut from)?;
    from.finalize()
}

/// Checks that values are read as derived decoders read them, whatever becomes of their bytes.
#[cfg(test)]
pub(crate) fn check<T>(value: &T, blank: &T)
where
    T: Fill + Clone + serde::Serialize + for<'a> Deserialize<'a>,
{
    let written = |value: &T| postcard::to_extend(value, std::vec::Vec::new()).expect("is written");
    let same = |bytes: &[u8]| {
        let (mut derived, mut placed) = (Decoder::from_bytes(bytes), Decoder::from_bytes(bytes));
        let expected = T::deserialize(&mut derived);
        let mut found = blank.clone();
        let outcome = found.fill_from(&mut placed).map(|()| written(&found));
        // As bytes, since no NaN equals another.
        assert_eq!(outcome, expected.map(|value| written(&value)), "{bytes:?}");
        assert_eq!(placed.finalize(), derived.finalize(), "{bytes:?}");
    };
    let bytes = written(value);
    same(&bytes);
    for at in 0..bytes.len() {
        same(&bytes[..at]);
        for byte in [0, 1, 2, 3, 7, 9, 16, 17, 33, 0x7f, 0x80, 0xc3, 0xff] {
            let mut bytes = bytes.clone();
            bytes[at] = byte;
            same(&bytes);
        }
    }
}
