//! Little-endian fields and records: how operators lie in a program.

/// Reads fields one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// A reader at the first of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// How many bytes have been read.
    pub const fn at(&self) -> usize {
        self.at
    }

    #[inline(always)]
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.part(N)?.bytes.try_into().ok()
    }

    /// A reader of the next `len` bytes alone, which count as read.
    ///
    /// A record asks for all of its bytes at once: the compiler then knows that each field is there.
    #[inline(always)]
    pub(crate) fn part(&mut self, len: usize) -> Option<Self> {
        let end = self.at.checked_add(len)?;
        let bytes = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(Self::new(bytes))
    }
}

/// Writes fields one after the other.
#[derive(Debug)]
pub struct Writer<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl<'a> Writer<'a> {
    /// A writer at the first of `bytes`.
    pub const fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// How many bytes have been written.
    pub const fn at(&self) -> usize {
        self.at
    }

    fn put(&mut self, field: &[u8]) -> Option<()> {
        let end = self.at.checked_add(field.len())?;
        self.bytes.get_mut(self.at..end)?.copy_from_slice(field);
        self.at = end;
        Some(())
    }
}

/// Something with a fixed number of bytes in a program.
pub trait Field: Copy {
    /// Bytes that it takes.
    const BYTES: usize;

    /// Reads one; `None` when the bytes end before it does.
    fn read(reader: &mut Reader<'_>) -> Option<Self>;

    /// Writes one; `None` when the room ends before it does.
    fn write(&self, writer: &mut Writer<'_>) -> Option<()>;
}

macro_rules! number {
    ($($number:ty),*) => { $(
        impl Field for $number {
            const BYTES: usize = size_of::<$number>();

            #[inline(always)]
            fn read(reader: &mut Reader<'_>) -> Option<Self> {
                Some(<$number>::from_le_bytes(reader.take()?))
            }

            fn write(&self, writer: &mut Writer<'_>) -> Option<()> {
                writer.put(&self.to_le_bytes())
            }
        }
    )* };
}
number!(u8, u16, u32, i8, i32, f32);

impl<T: Field, const N: usize> Field for [T; N]
where
    T: Default,
{
    const BYTES: usize = T::BYTES * N;

    #[inline(always)]
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let mut all = [T::default(); N];
        for one in &mut all {
            *one = T::read(reader)?;
        }
        Some(all)
    }

    fn write(&self, writer: &mut Writer<'_>) -> Option<()> {
        self.iter().try_for_each(|one| one.write(writer))
    }
}

/// Declares a structure that is a [`Field`]: its fields in order, with nothing between them.
macro_rules! record {
    ($(#[$meta:meta])* $name:ident { $( $(#[$field_meta:meta])* $field:ident: $kind:ty ),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq)]
        pub struct $name { $( $(#[$field_meta])* pub $field: $kind, )* }

        impl $crate::program::codec::Field for $name {
            const BYTES: usize = 0 $( + <$kind as $crate::program::codec::Field>::BYTES )*;

            #[inline(always)]
            fn read(reader: &mut $crate::program::codec::Reader<'_>) -> Option<Self> {
                let mut fields = reader.part(<Self as $crate::program::codec::Field>::BYTES)?;
                Some(Self { $( $field: $crate::program::codec::Field::read(&mut fields)?, )* })
            }

            fn write(&self, writer: &mut $crate::program::codec::Writer<'_>) -> Option<()> {
                $( self.$field.write(writer)?; )*
                Some(())
            }
        }
    };
}
pub(crate) use record;
