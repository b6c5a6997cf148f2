//! Where a broker is: `mqtt://host:port`, `mqtts://host:port`, or just `host:port`.

use std::fmt;
use std::str::FromStr;

/// Where a broker is, and whether its port speaks TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Whether the port speaks TLS.
    pub tls: bool,
}

/// Why a text is no address of a broker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Something else than `mqtt` or `mqtts` before `://`.
    #[error("{0:?} is not spoken here; write mqtt://host:port, or mqtts://host:port for TLS")]
    Scheme(String),
    /// The part behind the colon.
    #[error("{0:?} is no port; write host:port")]
    Port(String),
    /// No host.
    #[error("no host; write mqtt://host:port, or mqtts://host:port for TLS")]
    Host,
    /// A user name or password in the address. What it was is not repeated here.
    #[error(
        "no user name or password here, where every process on the machine could read it; \
         set EDGEWARD_BROKER_USER and EDGEWARD_BROKER_PASSWORD or a password file"
    )]
    Credentials,
    /// Something behind the port.
    #[error("nothing follows the port, not even {0:?}")]
    Path(String),
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        // First, so that no other message repeats a password.
        if text.contains('@') {
            return Err(AddressError::Credentials);
        }
        let (tls, rest) = match text.split_once("://") {
            None => (false, text),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("mqtt") => (false, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("mqtts") => (true, rest),
            Some((scheme, _)) => return Err(AddressError::Scheme(scheme.to_owned())),
        };
        let rest = match rest.split_once('/') {
            None | Some((_, "")) => rest.trim_end_matches('/'),
            Some((_, path)) => return Err(AddressError::Path(path.to_owned())),
        };
        let (host, port) = split_port(rest);
        let port = match port {
            None => 1883 + u16::from(tls) * 7000,
            Some(port) => match port.parse() {
                Ok(port @ 1..) => port,
                _ => return Err(AddressError::Port(port.to_owned())),
            },
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(AddressError::Host);
        }
        Ok(Self {
            host: host.to_owned(),
            port,
            tls,
        })
    }
}

/// Host and port; an address of version 6 has its colons in brackets, or no port.
fn split_port(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> (String, u16, bool) {
        let address: Address = text.parse().expect(text);
        (address.host, address.port, address.tls)
    }

    #[test]
    fn every_form_is_understood() {
        for (text, host, port, tls) in [
            ("localhost", "localhost", 1883, false),
            ("10.0.0.1:1884", "10.0.0.1", 1884, false),
            ("mqtt://site", "site", 1883, false),
            ("mqtt://site:1/", "site", 1, false),
            ("mqtts://site", "site", 8883, true),
            ("MQTTS://site:9", "site", 9, true),
            ("[::1]:5", "::1", 5, false),
            ("mqtts://[fe80::1]", "fe80::1", 8883, true),
            ("::1", "::1", 1883, false),
        ] {
            assert_eq!(parsed(text), (host.to_owned(), port, tls), "{text}");
        }
    }

    #[test]
    fn mistakes_are_named_and_passwords_are_not_repeated() {
        for (text, expected) in [
            ("http://site", "\"http\""),
            ("site:mqtt", "\"mqtt\" is no port"),
            ("site:0", "\"0\" is no port"),
            ("site:70000", "\"70000\" is no port"),
            ("mqtts://", "no host"),
            ("", "no host"),
            ("mqtt://site/topic", "\"topic\""),
            ("mqtts://ali:sesame@site", "EDGEWARD_BROKER_PASSWORD"),
        ] {
            let error = text.parse::<Address>().expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("sesame"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_understood(
            host in "[a-z][a-z0-9.-]{0,20}|[0-9a-f]{1,4}:[0-9a-f]{0,4}:[0-9a-f]{1,4}",
            port in 1u16..,
            tls: bool,
        ) {
            let address = Address { host, port, tls };
            prop_assert_eq!(address.to_string().parse(), Ok(address));
        }

        #[test]
        fn anything_is_understood_or_refused(text in ".{0,60}") {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert!(!address.host.is_empty() && address.port > 0);
            }
        }
    }
}
