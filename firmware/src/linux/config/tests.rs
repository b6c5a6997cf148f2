use super::*;
use proptest::prelude::*;
use std::time::Duration;

const LEAST: &str = r#"
    fleet = "plant"
    device = "press-1"
    broker = { host = "localhost" }
    source = { listen = "samples.sock" }
"#;

#[test]
fn the_least_file_gets_defaults_and_its_folder() {
    let config = Config::parse(LEAST, Path::new("/etc/edgeward")).unwrap();
    assert_eq!(config.broker.port, 1883);
    assert_eq!((config.hang_ms, config.load_hang_ms), (10_000, 120_000));
    assert_eq!(config.recorder_bytes, 262_144);
    assert_eq!(config.broker.protocol, Protocol::Auto);
    assert_eq!(config.key, Path::new("/etc/edgeward/device.key"));
    assert_eq!(
        config.source,
        Source::Listen("/etc/edgeward/samples.sock".into())
    );
    assert_eq!(config.flash.path, Path::new("/etc/edgeward/slots.flash"));
}

const MOST: &str = r#"
    fleet = "plant"
    device = "press-1"
    tags = ["canary", "hall-2"]
    key = "/var/lib/edgeward/device.key"
    root = "/var/lib/edgeward/root.cose"
    log = "debug"
    [broker]
    host = "mqtt.example.org"
    port = 8883
    protocol = "5"
    keep_alive_s = 30
    reconnect_max_s = 60
    username = "press-1"
    password_file = "/etc/edgeward/password"
    tls = { ca = "ca.pem", cert = "board.pem", key = "board.key" }
    [flash]
    path = "slots.flash"
    bytes = 4194304
    outbox_path = "outbox.flash"
    outbox_bytes = 262144
    [source.replay]
    file = "recording.csv"
    rate_hz = 50.0
    repeat = true
"#;

/// What is accepted can be used and written again; what is refused says why.
fn hold(text: &str) -> Result<(), TestCaseError> {
    match Config::parse(text, Path::new("/x")) {
        Ok(config) => {
            prop_assert!(is_name(&config.fleet) && is_name(&config.device));
            prop_assert!(config.flash.bytes >= SECTOR_BYTES as u32);
            prop_assert!(config.broker.reconnect_max_s > 0);
            if let Source::Replay { rate_hz, .. } = config.source
                && rate_hz > 0.0
            {
                let period = Duration::try_from_secs_f32(1.0 / rate_hz);
                prop_assert!(period.is_ok(), "{rate_hz} Hz");
            }
            let again = toml::to_string(&config).expect("a configuration can be written");
            prop_assert_eq!(Config::parse(&again, Path::new("/x")).ok(), Some(config));
        }
        Err(error) => prop_assert!(!error.to_string().is_empty()),
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_text_is_a_configuration_or_an_error(text in "\\PC{0,120}") {
        hold(&text)?;
        hold(&format!("{MOST}\n{text}"))?;
    }

    #[test]
    fn any_changed_line_is_a_configuration_or_an_error(
        line in any::<prop::sample::Index>(),
        value in prop::sample::select(vec![
            "0", "-1", "1", "4096", "65535", "65536", "4294967295", "4294967296",
            "9223372036854775807", "1e-30", "1e30", "-0.0", "inf", "nan", "\"\"", "\"a/b\"",
            "\"\\u0000\"", "[]", "[\"\"]", "{}", "true", "2026-01-01", "=", "[[", "\"",
        ]),
        other in any::<prop::sample::Index>(),
        how in 0u8..4,
    ) {
        let mut lines: Vec<String> = MOST.trim().lines().map(|l| l.trim().to_owned()).collect();
        let at = line.index(lines.len());
        match how {
            0 => {
                let key = lines[at].split('=').next().unwrap_or_default().to_owned();
                lines[at] = format!("{key} = {value}");
            }
            1 => {
                lines.remove(at);
            }
            2 => lines.push(lines[at].clone()),
            _ => {
                let other = other.index(lines.len());
                lines.swap(at, other);
            }
        }
        hold(&lines.join("\n"))?;
    }
}

#[test]
fn deep_nesting_is_an_error_and_no_overflow_of_the_stack() {
    for opening in ["[", "{a="] {
        let text = format!("tags = {}", opening.repeat(100_000));
        assert!(Config::parse(&text, Path::new("")).is_err());
    }
}

#[test]
fn everything_can_be_said() {
    let config = Config::parse(MOST, Path::new("/x")).unwrap();
    assert_eq!(config.broker.protocol, Protocol::V5);
    let again = toml::to_string(&config).unwrap();
    assert_eq!(Config::parse(&again, Path::new("/x")).unwrap(), config);
}

#[test]
fn mistakes_are_named() {
    for (from, to, expected) in [
        ("fleet", "fleets", "fleets"),
        ("\"plant\"", "\"plant/1\"", "fleet"),
        (
            "host = \"localhost\"",
            "host = \"localhost\", prot = 1",
            "prot",
        ),
        (
            "host = \"localhost\"",
            "host = \"localhost\", keep_alive_s = 1",
            "keep_alive_s",
        ),
        (
            "host = \"localhost\"",
            "host = \"localhost\", username = \"x\"",
            "password_file",
        ),
        ("listen = \"samples.sock\"", "", "source"),
        ("device", "tags = [\"\"]\ndevice", "tags"),
        ("device", "hang_ms = 99\ndevice", "hang_ms"),
        ("device", "load_hang_ms = 99\ndevice", "load_hang_ms"),
        ("device", "recorder_bytes = 4095\ndevice", "recorder_bytes"),
        (
            "device",
            "recorder_bytes = 4194305\ndevice",
            "recorder_bytes",
        ),
        ("device", "flash = { bytes = 1000 }\ndevice", "flash.bytes"),
        (
            "{ listen = \"samples.sock\" }",
            "{ replay = { file = \"x\", rate_hz = 1e-30 } }",
            "rate_hz",
        ),
        (
            "host = \"localhost\"",
            "host = \"localhost\", reconnect_max_s = 0",
            "reconnect_max_s",
        ),
    ] {
        let error = Config::parse(&LEAST.replacen(from, to, 1), Path::new("")).unwrap_err();
        let message = format!("{error:#}");
        assert!(message.contains(expected), "{to}: {message}");
    }
}
