//! Values of postcard, read into memory that is there already, and written, field by field.
//!
//! A derived decoder makes a value and moves it, at every level again: a profile or a summary then
//! takes a microcontroller's stack several times over, and its flash for all the copies. Here the same
//! primitives read the same bytes to where the value is to be, and write them, each in one function.
//! An error stays in the decoder, so that no field's caller looks for one. What is written, what is
//! refused, and where, is as of the derived encoders and decoders; tests hold one to the other.

use heapless::{String, Vec, VecView};
use postcard::{Error, Result, de_flavors, ser_flavors};
use serde::{Deserialize, Serialize};

/// Bytes that are read from their beginning on, up to what is refused.
pub(crate) struct Decoder<'a> {
    bytes: postcard::Deserializer<'a, de_flavors::Slice<'a>>,
    refused: Option<Error>,
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes: postcard::Deserializer::from_bytes(bytes),
            refused: None,
        }
    }

    /// The next value, as serde reads it.
    fn take<T: Deserialize<'a>>(&mut self) -> Option<T> {
        if self.refused.is_some() {
            return None;
        }
        match T::deserialize(&mut self.bytes) {
            Ok(value) => Some(value),
            Err(error) => {
                self.refused = Some(error);
                None
            }
        }
    }

    /// Refuses what was read last.
    pub(crate) fn refuse(&mut self) {
        self.refused.get_or_insert(Error::SerdeDeCustom);
    }

    /// Whether all was read, and the bytes that were not.
    pub(crate) fn finish(self) -> (Result<()>, &'a [u8]) {
        let rest = self.bytes.finalize().unwrap_or_default();
        (self.refused.map_or(Ok(()), Err), rest)
    }
}

/// Bytes that are written from their beginning on, as far as there is room.
pub(crate) struct Encoder<'a> {
    bytes: postcard::Serializer<ser_flavors::Slice<'a>>,
    full: bool,
}

impl Encoder<'_> {
    /// Writes a value, as serde does.
    fn add<T: Serialize + ?Sized>(&mut self, value: &T) {
        self.full = self.full || value.serialize(&mut self.bytes).is_err();
    }
}

/// What can be read to where it is.
pub(crate) trait Fill {
    /// Reads the value. When it is refused, it is anything.
    fn fill_from(&mut self, from: &mut Decoder<'_>);
}

/// What can be written. A trait of its own, so that a table of the functions of what is only read does not
/// keep this one in an image.
pub(crate) trait Put {
    /// Writes the value.
    fn put_to(&self, to: &mut Encoder<'_>);
}

/// What a value is before it is read.
pub(crate) trait Blank: Fill {
    /// Anything; it does not stay. Made in place, where a constant would be copied from flash.
    fn blank() -> Self;
}

/// Records, with all of their fields in the order in which they are written.
macro_rules! records {
    ($($record:ident $(<$(const $n:ident),*>)? { $($field:ident),* $(,)? })*) => { $(
        impl $(<$(const $n: usize),*>)? crate::place::Fill for $record $(<$($n),*>)? {
            #[inline(never)]
            fn fill_from(&mut self, from: &mut crate::place::Decoder<'_>) {
                let Self { $($field),* } = self;
                $( crate::place::Fill::fill_from($field, from); )*
            }
        }

        impl $(<$(const $n: usize),*>)? crate::place::Put for $record $(<$($n),*>)? {
            #[inline(never)]
            fn put_to(&self, to: &mut crate::place::Encoder<'_>) {
                let Self { $($field),* } = self;
                $( crate::place::Put::put_to($field, to); )*
            }
        }
    )* };
}

/// Choices without fields, in the order of their numbers, which are those of the discriminants.
macro_rules! numbers {
    ($($choice:ident { $first:ident $(, $variant:ident)* $(,)? })*) => { $(
        impl crate::place::Fill for $choice {
            #[inline(never)]
            fn fill_from(&mut self, from: &mut crate::place::Decoder<'_>) {
                let mut number = 0_u32;
                crate::place::Fill::fill_from(&mut number, from);
                match [Self::$first $(, Self::$variant)*].get(number as usize) {
                    Some(choice) => *self = *choice,
                    None => from.refuse(),
                }
            }
        }

        impl crate::place::Put for $choice {
            fn put_to(&self, to: &mut crate::place::Encoder<'_>) {
                crate::place::Put::put_to(&(*self as u32), to);
            }
        }

        impl crate::place::Blank for $choice {
            fn blank() -> Self {
                Self::$first
            }
        }
    )* };
}

/// Choices, each with its number and the fields that follow it, in the order in which they are written.
macro_rules! choices {
    ($($choice:ident {
        $($number:literal $variant:ident { $($field:ident: $kind:ty),* $(,)? })*
    })*) => { $(
        impl crate::place::Fill for $choice {
            #[inline(never)]
            fn fill_from(&mut self, from: &mut crate::place::Decoder<'_>) {
                match crate::place::take::<u32>(from) {
                    $( $number => {
                        *self = Self::$variant { $($field: crate::place::take::<$kind>(from)),* };
                    } )*
                    _ => from.refuse(),
                }
            }
        }

        impl crate::place::Put for $choice {
            #[inline(never)]
            fn put_to(&self, to: &mut crate::place::Encoder<'_>) {
                match self {
                    $( Self::$variant { $($field),* } => {
                        crate::place::Put::put_to(&{ const NUMBER: u32 = $number; NUMBER }, to);
                        $( crate::place::Put::put_to($field, to); )*
                    } )*
                }
            }
        }
    )* };
}

pub(crate) use {choices, numbers, records};

/// Reads a value.
pub(crate) fn take<T: Blank>(from: &mut Decoder<'_>) -> T {
    let mut value = T::blank();
    value.fill_from(from);
    value
}

macro_rules! primitives {
    ($($primitive:ty),*) => { $(
        impl Fill for $primitive {
            #[inline(never)]
            fn fill_from(&mut self, from: &mut Decoder<'_>) {
                if let Some(value) = from.take() {
                    *self = value;
                }
            }
        }

        impl Put for $primitive {
            #[inline(never)]
            fn put_to(&self, to: &mut Encoder<'_>) {
                to.add(self);
            }
        }

        impl Blank for $primitive {
            fn blank() -> Self {
                Self::default()
            }
        }
    )* };
}

primitives!(u8, u16, u32, u64, f32);

impl<T: Fill> Fill for [T] {
    fn fill_from(&mut self, from: &mut Decoder<'_>) {
        for element in self {
            element.fill_from(from);
        }
    }
}

impl<T: Put> Put for [T] {
    fn put_to(&self, to: &mut Encoder<'_>) {
        for element in self {
            element.put_to(to);
        }
    }
}

impl<T: Fill, const N: usize> Fill for [T; N] {
    fn fill_from(&mut self, from: &mut Decoder<'_>) {
        Fill::fill_from(self.as_mut_slice(), from);
    }
}

impl<T: Put, const N: usize> Put for [T; N] {
    fn put_to(&self, to: &mut Encoder<'_>) {
        self.as_slice().put_to(to);
    }
}

impl<T: Blank + Copy, const N: usize> Blank for [T; N] {
    fn blank() -> Self {
        [T::blank(); N]
    }
}

impl<T: Blank> Fill for Option<T> {
    fn fill_from(&mut self, from: &mut Decoder<'_>) {
        *self = match take::<u8>(from) {
            0 => None,
            1 => Some(take(from)),
            _ => {
                from.refuse();
                None
            }
        };
    }
}

impl<T: Put> Put for Option<T> {
    fn put_to(&self, to: &mut Encoder<'_>) {
        u8::from(self.is_some()).put_to(to);
        if let Some(value) = self {
            value.put_to(to);
        }
    }
}

impl<T> Blank for Option<T>
where
    Self: Fill,
{
    fn blank() -> Self {
        None
    }
}

impl<A: Fill, B: Fill> Fill for (A, B) {
    fn fill_from(&mut self, from: &mut Decoder<'_>) {
        self.0.fill_from(from);
        self.1.fill_from(from);
    }
}

impl<A: Put, B: Put> Put for (A, B) {
    fn put_to(&self, to: &mut Encoder<'_>) {
        self.0.put_to(to);
        self.1.put_to(to);
    }
}

impl<A: Blank, B: Blank> Blank for (A, B) {
    fn blank() -> Self {
        (A::blank(), B::blank())
    }
}

impl<const N: usize> Fill for String<N> {
    #[inline(never)]
    fn fill_from(&mut self, from: &mut Decoder<'_>) {
        self.clear();
        let text: &str = from.take().unwrap_or_default();
        if self.push_str(text).is_err() {
            from.refuse();
        }
    }
}

impl<const N: usize> Put for String<N> {
    fn put_to(&self, to: &mut Encoder<'_>) {
        put_text(self, to);
    }
}

#[inline(never)]
fn put_text(text: &str, to: &mut Encoder<'_>) {
    to.add(text);
}

impl<const N: usize> Blank for String<N> {
    fn blank() -> Self {
        Self::new()
    }
}

impl<T: Blank, const N: usize> Fill for Vec<T, N> {
    fn fill_from(&mut self, from: &mut Decoder<'_>) {
        fill_list(self.as_mut_view(), from);
    }
}

/// How long a list is, in as many bits as serde reads here.
#[cfg(target_pointer_width = "64")]
type Length = u64;
#[cfg(not(target_pointer_width = "64"))]
type Length = u32;

#[inline(never)]
fn fill_list<T: Blank>(list: &mut VecView<T>, from: &mut Decoder<'_>) {
    list.clear();
    for _ in 0..take::<Length>(from) {
        let room = list.push(T::blank()).is_ok();
        // One too many is read before it is refused, as serde does: so errors are where they were.
        if let Some(last) = list.last_mut() {
            last.fill_from(from);
        }
        if !room {
            from.refuse();
        }
        if from.refused.is_some() {
            return;
        }
    }
}

impl<T: Put, const N: usize> Put for Vec<T, N> {
    fn put_to(&self, to: &mut Encoder<'_>) {
        put_list(self, to);
    }
}

#[inline(never)]
fn put_list<T: Put>(list: &[T], to: &mut Encoder<'_>) {
    (list.len() as Length).put_to(to);
    list.put_to(to);
}

/// Reads a value that may be followed by others, and returns these.
///
/// # Errors
/// Those of postcard.
#[inline(never)]
pub(crate) fn fill<'a>(place: &mut dyn Fill, bytes: &'a [u8]) -> Result<&'a [u8]> {
    let mut from = Decoder::new(bytes);
    place.fill_from(&mut from);
    let (read, rest) = from.finish();
    read.map(|()| rest)
}

/// Writes values one after the other to the beginning of `space`, and returns how many bytes they take.
///
/// # Errors
/// Those of postcard: there is too little space.
#[inline(never)]
pub(crate) fn put(values: &[&dyn Put], space: &mut [u8]) -> Result<usize> {
    let mut to = Encoder {
        bytes: postcard::Serializer {
            output: ser_flavors::Slice::new(space),
        },
        full: false,
    };
    for value in values {
        value.put_to(&mut to);
    }
    if to.full {
        return Err(Error::SerializeBufferFull);
    }
    let written = ser_flavors::Flavor::finalize(to.bytes.output)?;
    Ok(written.len())
}

/// Checks that values are written as derived encoders write them, in any space, and read as derived
/// decoders read them, whatever becomes of their bytes.
#[cfg(test)]
pub(crate) fn check<T>(value: &T, blank: &T)
where
    T: Fill + Put + Clone + Serialize + for<'a> Deserialize<'a>,
{
    let written = |value: &T| postcard::to_extend(value, std::vec::Vec::new()).expect("is written");
    let same = |bytes: &[u8]| {
        let mut derived = postcard::Deserializer::from_bytes(bytes);
        let expected = T::deserialize(&mut derived).map(|value| written(&value));
        let (mut found, mut placed) = (blank.clone(), Decoder::new(bytes));
        found.fill_from(&mut placed);
        let (outcome, rest) = placed.finish();
        // As bytes, since no NaN equals another.
        assert_eq!(
            outcome.is_ok().then(|| written(&found)),
            expected.as_ref().ok().cloned()
        );
        let cut = |error: &Error| *error == Error::DeserializeUnexpectedEnd;
        assert_eq!(
            outcome.as_ref().err().map(cut),
            expected.as_ref().err().map(cut)
        );
        assert_eq!(Ok(rest), derived.finalize(), "{bytes:?}");
    };
    let bytes = written(value);
    for room in 0..=bytes.len() {
        let mut space = std::vec![0; room];
        let len = put(&[value], &mut space).ok();
        assert_eq!(len, (room == bytes.len()).then_some(room));
        assert!(len.is_none() || space == bytes);
    }
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
