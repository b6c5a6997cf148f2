//! What the host gives through semihosting: a command line and files.

use cortex_m_semihosting::{nr, syscall, syscall1};

/// Reads the command line into `buffer`.
pub fn command_line(buffer: &mut [u8]) -> &str {
    let mut block = [buffer.as_mut_ptr().expose_provenance(), buffer.len()];
    // SAFETY: the block names a buffer that is writable for its length.
    let failed = unsafe { syscall1!(GET_CMDLINE, block.as_mut_ptr()) };
    let text = if failed == 0 {
        buffer.get(..block[1]).unwrap_or_default()
    } else {
        &[]
    };
    core::str::from_utf8(text).unwrap_or_default()
}

/// Reads a whole file into `buffer`; `None` when it is absent or too long.
pub fn read<'a>(path: &str, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let mut name = [0_u8; 256];
    name.get_mut(..path.len())?.copy_from_slice(path.as_bytes());
    // SAFETY: the name ends with a zero, and the buffer is writable for its length.
    unsafe {
        let handle = syscall!(
            OPEN,
            name.as_ptr().expose_provenance(),
            nr::open::R_BINARY,
            path.len()
        );
        if handle == usize::MAX {
            return None;
        }
        let length = syscall!(FLEN, handle);
        let left = syscall!(
            READ,
            handle,
            buffer.as_mut_ptr().expose_provenance(),
            length.min(buffer.len())
        );
        syscall!(CLOSE, handle);
        if length > buffer.len() || left != 0 {
            return None;
        }
        Some(&buffer[..length])
    }
}
