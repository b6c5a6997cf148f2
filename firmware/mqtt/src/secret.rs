//! A user name and a password that no log shows.

use std::fmt;
use std::path::Path;

/// A user name and its password. Printing it for debugging leaves the password out.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user name.
    pub username: String,
    password: String,
}

impl Credentials {
    /// Both.
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self {
            username: username.into(),
            password: password.into(),
        }
    }

    /// The password is the first line of a file.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn from_file(username: impl Into<String>, path: &Path) -> std::io::Result<Self> {
        let text = std::fs::read_to_string(path)?;
        Ok(Self::new(username, text.lines().next().unwrap_or_default()))
    }

    /// The password, to be given to a broker or a board and to nobody else.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_the_first_line_and_never_printed() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "open sesame\r\nnot this\n").expect("written");
        let read = Credentials::from_file("ali", file.path()).expect("read");
        assert_eq!(read, Credentials::new("ali", "open sesame"));
        let printed = format!("{read:?}");
        assert!(printed.contains("ali") && !printed.contains("sesame"));
    }
}
