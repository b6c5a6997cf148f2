//! Why there is no connection, in words that say what to do.
//!
//! rumqttc's errors name its own layers; a person wants to know whether it is the address, the port,
//! the certificate or the password.

use rumqttc::{ConnectionError as V4Error, StateError as V4State, TlsError, v5};
use rustls::{AlertDescription, CertificateError};
use std::fmt;
use std::io;
use v5::ConnectionError as V5Error;
use v5::StateError as V5State;

/// Why a connection was not made, or ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// No TCP connection, and what the system says.
    Unreachable(String),
    /// No answer within the time that a connection may take.
    Silent,
    /// The port does not speak TLS.
    NotTls,
    /// The broker's certificate was not signed by an authority in use.
    Authority,
    /// The broker's certificate is for other names.
    HostName {
        /// The name that was asked for.
        wanted: String,
        /// The names in the certificate, where they are known.
        presented: Vec<String>,
    },
    /// Another fault of the broker's certificate.
    Certificate(String),
    /// The broker wants a certificate of the client, or does not take the one it got.
    ClientCertificate(String),
    /// TLS failed in another way.
    Tls(String),
    /// The broker does not speak this version of MQTT.
    Version,
    /// The broker closed the connection instead of answering.
    Closed,
    /// What the broker answered is no answer in this version of MQTT.
    Garbled(String),
    /// User name or password are wrong, or are missing.
    Credentials,
    /// They were understood, and may not connect.
    NotAuthorized,
    /// The broker refused the connection for another reason, which it named.
    Refused(String),
    /// The connection stood, and ended.
    Lost(String),
}

impl Failure {
    /// Whether trying again can't help until somebody changes a setting here or at the broker.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            Self::NotTls
                | Self::Authority
                | Self::HostName { .. }
                | Self::Certificate(_)
                | Self::ClientCertificate(_)
                | Self::Credentials
                | Self::NotAuthorized
        )
    }

    /// What to do about it.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Unreachable(_) | Self::Silent => {
                "is the broker running, are host and port right, does a firewall let it through?"
            }
            Self::NotTls => {
                "use the broker's TLS port (8883 by custom), or plain mqtt:// where that is meant"
            }
            Self::Authority => {
                "give the certificate of the authority that signed the broker's as the CA file, or \
                 `system` where a public authority did"
            }
            Self::HostName { .. } => {
                "connect by a name that is in the certificate, or have one made with this name"
            }
            Self::Certificate(_) => "look at the broker's certificate, and at this machine's clock",
            Self::ClientCertificate(_) => {
                "give a client certificate and its key that the broker's authority signed"
            }
            Self::Credentials => "check user name and password (file)",
            Self::NotAuthorized => {
                "give user name and password if there are none, or let the broker's access list \
                 permit this client"
            }
            Self::Closed => {
                "does the port want TLS (mqtts://)? Does the broker want a password, or another \
                 version of MQTT? Its log says why"
            }
            Self::Version => "pin no version: the protocol `auto` tries both",
            Self::Tls(_) | Self::Garbled(_) => "is this the port of an MQTT broker?",
            Self::Refused(_) | Self::Lost(_) => "the broker's log says more",
        }
    }

    /// What a connection that had not been taken yet failed of. `host` is the name it asked for.
    pub(crate) fn of_v4(error: V4Error, host: &str) -> Self {
        use rumqttc::ConnectReturnCode as Code;
        match error {
            V4Error::ConnectionRefused(code) => match code {
                Code::RefusedProtocolVersion => Self::Version,
                Code::BadUserNamePassword => Self::Credentials,
                Code::NotAuthorized => Self::NotAuthorized,
                other => Self::Refused(format!("{other:?}")),
            },
            V4Error::Tls(error) => of_tls(&error, host),
            V4Error::Io(error) => Self::Unreachable(error.to_string()),
            V4Error::NetworkTimeout | V4Error::FlushTimeout => Self::Silent,
            V4Error::MqttState(V4State::ConnectionAborted) => Self::Closed,
            V4Error::MqttState(
                V4State::Io(error) | V4State::Deserialization(rumqttc::mqttbytes::Error::Io(error)),
            ) => of_stream(&error),
            other => Self::Garbled(other.to_string()),
        }
    }

    /// As [`Failure::of_v4`].
    pub(crate) fn of_v5(error: V5Error, host: &str) -> Self {
        use v5::mqttbytes::Error as Bytes;
        use v5::mqttbytes::v5::ConnectReturnCode as Code;
        match error {
            V5Error::ConnectionRefused(code) => match code {
                Code::RefusedProtocolVersion | Code::UnsupportedProtocolVersion => Self::Version,
                Code::BadUserNamePassword => Self::Credentials,
                Code::NotAuthorized | Code::Banned => Self::NotAuthorized,
                other => Self::Refused(format!("{other:?}")),
            },
            V5Error::Tls(error) => of_tls(&error, host),
            V5Error::Io(error) => Self::Unreachable(error.to_string()),
            V5Error::Timeout(_) => Self::Silent,
            V5Error::MqttState(V5State::ConnectionAborted) => Self::Closed,
            V5Error::MqttState(V5State::Io(error) | V5State::Deserialization(Bytes::Io(error))) => {
                of_stream(&error)
            }
            other => Self::Garbled(other.to_string()),
        }
    }

    /// What a connection that stood ended of.
    pub(crate) fn lost_v4(error: &V4Error) -> Self {
        match error {
            V4Error::MqttState(V4State::ConnectionAborted) => {
                Self::Lost("the broker closed the connection".into())
            }
            other => Self::Lost(other.to_string()),
        }
    }

    /// As [`Failure::lost_v4`]; MQTT 5 says more.
    pub(crate) fn lost_v5(error: &V5Error) -> Self {
        match error {
            V5Error::MqttState(V5State::ConnectionAborted) => {
                Self::Lost("the broker closed the connection".into())
            }
            V5Error::MqttState(V5State::ServerDisconnect {
                reason_code,
                reason_string,
            }) => Self::Lost(format!(
                "the broker says {reason_code:?}{}",
                reason_string
                    .as_ref()
                    .map_or(String::new(), |text| format!(" ({text})"))
            )),
            other => Self::Lost(other.to_string()),
        }
    }
}

/// What an error of the stream means before the broker has answered.
fn of_stream(error: &io::Error) -> Failure {
    if let Some(tls) = inner(error) {
        return of_rustls(tls, "");
    }
    match error.kind() {
        io::ErrorKind::TimedOut => Failure::Silent,
        // Also where a part of a packet came: the refusal of 3.1.1 is shorter than any answer of 5.
        _ => Failure::Closed,
    }
}

fn inner(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

fn of_tls(error: &TlsError, host: &str) -> Failure {
    match error {
        TlsError::TLS(error) => of_rustls(error, host),
        TlsError::Io(error) => match inner(error) {
            Some(error) => of_rustls(error, host),
            // The other side closed the connection in the middle of the handshake.
            None => Failure::NotTls,
        },
        TlsError::DNSName(_) => Failure::Tls(format!("{host:?} is no host name")),
        other => Failure::Tls(other.to_string()),
    }
}

fn of_rustls(error: &rustls::Error, host: &str) -> Failure {
    match error {
        rustls::Error::InvalidCertificate(fault) => match fault {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Failure::Authority,
            CertificateError::NotValidForName => Failure::HostName {
                wanted: host.to_owned(),
                presented: Vec::new(),
            },
            CertificateError::NotValidForNameContext { presented, .. } => Failure::HostName {
                wanted: host.to_owned(),
                presented: presented.iter().map(|name| plain_name(name)).collect(),
            },
            other => Failure::Certificate(other.to_string()),
        },
        rustls::Error::InvalidMessage(_) => Failure::NotTls,
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA => Failure::ClientCertificate(format!("{alert:?}")),
            other => Failure::Tls(format!("the broker says {other:?}")),
        },
        other => Failure::Tls(other.to_string()),
    }
}

/// `DnsName("a.example")` as `a.example`.
fn plain_name(name: &str) -> String {
    let quoted = name
        .split_once('"')
        .and_then(|(_, rest)| rest.split_once('"'));
    quoted.map_or(name, |(inside, _)| inside).to_owned()
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) => write!(f, "no connection: {why}"),
            Self::Silent => f.write_str("no answer in time"),
            Self::NotTls => f.write_str("the port does not speak TLS"),
            Self::Authority => f.write_str(
                "the broker's certificate is not signed by the authority that is trusted here",
            ),
            Self::HostName { wanted, presented } if presented.is_empty() => {
                write!(f, "the broker's certificate is not for {wanted}")
            }
            Self::HostName { wanted, presented } => write!(
                f,
                "the broker's certificate is for {}, not for {wanted}",
                presented.join(", ")
            ),
            Self::Certificate(why) => write!(f, "the broker's certificate is no good: {why}"),
            Self::ClientCertificate(why) => {
                write!(f, "the broker wants another client certificate ({why})")
            }
            Self::Tls(why) => write!(f, "TLS failed: {why}"),
            Self::Version => f.write_str("the broker does not speak this version of MQTT"),
            Self::Closed => f.write_str("the broker closed the connection without an answer"),
            Self::Garbled(why) => write!(f, "what the broker answered is not MQTT: {why}"),
            Self::Credentials => f.write_str("the broker refuses the user name or password"),
            Self::NotAuthorized => f.write_str("the broker does not let this client in"),
            Self::Refused(why) => write!(f, "the broker refuses the connection: {why}"),
            Self::Lost(why) => f.write_str(why),
        }
    }
}
