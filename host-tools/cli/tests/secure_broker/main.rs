//! Hosts and boards on a real Mosquitto with TLS and passwords: what works, and what is refused with
//! which words. Everything runs as processes; the certificates are made here.

#[path = "../common/mod.rs"]
#[allow(dead_code, reason = "each test takes what it needs")]
mod common;
mod site;

use common::process::{PATIENCE, Running, text, wait_until};
use common::run;
use serde_json::Value;
use site::Site;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const HOST_PASSWORD: &str = "correct horse";
const BOARD_PASSWORD: &str = "battery staple";
const SAMPLES: &str = include_str!("../../../../models/motion/test.csv");

/// Streams the test recordings to a board until a condition holds, and reads what it answers.
fn feed(socket: &Path, what: &str, agent: &Running, mut condition: impl FnMut() -> bool) {
    let mut write = UnixStream::connect(socket).expect("the agent listens");
    let mut read = BufReader::new(write.try_clone().expect("open"));
    let rows: Vec<(&str, &str)> = SAMPLES
        .lines()
        .skip(1)
        .filter_map(|line| {
            let (recording, rest) = line.split_once(',')?;
            Some((recording, rest.split_once(',')?.1))
        })
        .collect();
    writeln!(
        write,
        "edgeward-source schema=1 dtype=f32 features=ax,ay,az,gx,gy,gz"
    )
    .expect("sent");
    let begin = Instant::now();
    let mut time_ms = 0;
    for (sequence, pair) in rows.windows(2).cycle().enumerate() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        // A sensor has a pace: no two samples are of the same millisecond.
        time_ms = now.expect("after 1970").as_millis().max(time_ms + 1);
        std::thread::sleep(Duration::from_millis(1));
        writeln!(write, "{sequence},{time_ms},{}", pair[0].1).expect("sent");
        if pair[0].0 != pair[1].0 {
            writeln!(write, "reset").expect("sent");
        }
        if sequence % 100 == 99 {
            if condition() {
                return;
            }
            assert!(
                begin.elapsed() < PATIENCE,
                "in vain: {what}: {} {}",
                stats(socket),
                agent.said()
            );
            writeln!(write, "stats").expect("sent");
            let mut line = String::new();
            while !line.starts_with('{') {
                line.clear();
                assert!(read.read_line(&mut line).expect("read") > 0, "it hung up");
            }
        }
    }
}

/// What the board says about itself.
fn stats(socket: &Path) -> Value {
    let mut stream = UnixStream::connect(socket).expect("the agent listens");
    stream.write_all(b"stats\n").expect("asked");
    let mut line = String::new();
    BufReader::new(stream)
        .read_line(&mut line)
        .expect("answered");
    serde_json::from_str(&line).expect("JSON")
}

#[test]
fn a_board_and_its_host_work_over_tls_with_passwords() {
    let Some(site) = Site::new() else {
        return;
    };
    site.release();
    site.configure(&format!(
        "broker = 'mqtts://localhost:{}'\nbroker_ca = 'ca.pem'\n\
         broker_user = 'host'\nbroker_password_file = 'host.password'\n",
        site.tls
    ));
    site.configure_board(&format!(
        "host = 'localhost'\nport = {}\ntls = {{ ca = 'ca.pem' }}\n\
         username = 'board'\npassword_file = 'board.password'\n",
        site.tls
    ));
    run(
        &mut site.command(&["keys", "export", "--root", "root.cose"]),
        0,
    );
    let key = ["agent", "--config", "agent.toml", "--print-key"];
    let key = run(&mut site.command(&key), 0).stdout;
    let key = String::from_utf8(key).expect("UTF-8");
    site.json(&["device", "enroll", "board-1", "--key", key.trim()]);

    let serve = ["serve", "--http", "127.0.0.1:0"];
    let serve = Running::start(&mut site.command(&serve));
    serve.until_it_says("collecting fleet default");
    let socket = site.path("samples.sock");
    let agent = site.board();
    wait_until("the agent's socket", PATIENCE, || {
        UnixStream::connect(&socket).map_err(|error| format!("{error}: {}", agent.said()))
    });
    let start = ["rollout", "start", "v1.bundle", "--phases", "100%"];
    site.json(&[&start[..], &["--soak", "0"]].concat());
    feed(&socket, "the release is confirmed", &agent, || {
        stats(&socket)["confirmed"] == 0
    });
    let watch = ["rollout", "status", "--watch", "--timeout", "60"];
    let ended = site.json(&watch);
    assert_eq!(
        (&ended["rollout"]["state"], &ended["counts"]["confirmed"]),
        (&"Done".into(), &1.into())
    );

    // Summaries come, are stored, and the board learns that they were.
    let watch = [
        "watch",
        "--summaries",
        "--since",
        "600",
        "--timeout",
        "1",
        "-o",
        "json",
    ];
    feed(&socket, "a summary is stored", &agent, || {
        let seen = run(&mut site.command(&watch), 0).stdout;
        String::from_utf8_lossy(&seen).contains("\"summary\"")
    });
    wait_until("all to be acknowledged", PATIENCE, || {
        let stats = stats(&socket);
        let next = stats["next_sequence"].as_u64().unwrap_or(0);
        let quiet = stats["outbox_records"] == 0 && next > 1 && stats["acknowledged"] == next - 1;
        if quiet {
            Ok(())
        } else {
            Err(stats.to_string())
        }
    });

    // Mosquitto's own word for who came how: p5 is MQTT 5.
    let log = site.mosquitto.said();
    for (client, user) in [
        ("edgeward.default.board-1", "board"),
        ("edgeward-collector", "host"),
    ] {
        let came = log.lines().any(|line| {
            line.contains("New client connected")
                && line.contains(client)
                && line.contains("(p5,")
                && line.contains(&format!("u'{user}'"))
        });
        assert!(came, "{client}: {log}");
    }
    for said in [agent.said(), serve.said(), log] {
        assert!(!said.contains(HOST_PASSWORD) && !said.contains(BOARD_PASSWORD));
    }
}

/// What a host is given, and what it must say.
struct Case<'a> {
    broker: String,
    ca: &'a str,
    password: &'a str,
    says: &'a str,
    next: &'a str,
}

#[test]
fn a_host_that_is_refused_says_why_and_what_to_do() {
    let Some(site) = Site::new() else {
        return;
    };
    site.release();
    let name = format!("mqtts://localhost:{}", site.tls);
    let case = |broker: &str, ca, password, says, next| Case {
        broker: broker.to_owned(),
        ca,
        password,
        says,
        next,
    };
    let number = format!("mqtts://127.0.0.1:{}", site.tls);
    let unencrypted = format!("mqtt://localhost:{}", site.tls);
    let plain = format!("mqtts://localhost:{}", site.plain);
    let mutual = format!("mqtts://localhost:{}", site.mutual);
    let good = HOST_PASSWORD;
    for case in [
        case(
            &name,
            "stranger.pem",
            good,
            "not signed by the authority",
            "--broker-ca",
        ),
        case(
            &name,
            "ca.pem",
            "guess",
            "does not let this client in",
            "password",
        ),
        case(
            &number,
            "ca.pem",
            good,
            "is for localhost, not for 127.0.0.1",
            "a name that is in",
        ),
        case(&plain, "ca.pem", good, "does not speak TLS", "mqtt://"),
        case(
            &mutual,
            "ca.pem",
            good,
            "another client certificate",
            "--broker-cert",
        ),
    ] {
        let mut command = site.command(&["publish", "v1.bundle", "-o", "json"]);
        command.args(["--broker", &case.broker, "--broker-ca", case.ca]);
        command.args(["--broker-user", "host"]);
        command.env("EDGEWARD_BROKER_PASSWORD", case.password);
        // At once, not when the time is over.
        let begin = Instant::now();
        let output = run(&mut command, 1);
        assert!(begin.elapsed() < PATIENCE / 2, "{}: too late", case.says);
        let error: Value = serde_json::from_slice(&output.stderr).expect("JSON on stderr");
        let (said, next) = (error["error"].as_str(), error["next"].as_str());
        assert!(said.is_some_and(|said| said.contains(case.says)), "{error}");
        assert!(next.is_some_and(|next| next.contains(case.next)), "{error}");
        assert!(!error.to_string().contains(case.password), "{error}");
    }

    // A port that speaks TLS does not answer those who don't; nor does it say why.
    let mut command = site.command(&["publish", "v1.bundle", "-o", "json", "--timeout", "2"]);
    let output = run(command.args(["--broker", &unencrypted]), 5);
    let error: Value = serde_json::from_slice(&output.stderr).expect("JSON on stderr");
    assert!(
        error["error"]
            .as_str()
            .is_some_and(|said| said.contains("without an answer")),
        "{error}"
    );
    assert!(
        error["next"]
            .as_str()
            .is_some_and(|next| next.contains("mqtts://")),
        "{error}"
    );

    // With its own certificate, or by a variable's password, it is let in.
    let mut command = site.command(&["publish", "v1.bundle", "--broker", &mutual]);
    command.args(["--broker-ca", "ca.pem", "--broker-cert", "client.pem"]);
    run(command.args(["--broker-key", "client.key"]), 0);
    let mut command = site.command(&["publish", "v1.bundle"]);
    command
        .env("EDGEWARD_BROKER", &name)
        .env("EDGEWARD_BROKER_CA", "ca.pem")
        .env("EDGEWARD_BROKER_USER", "host")
        .env("EDGEWARD_BROKER_PASSWORD", good)
        .env("EDGEWARD_BROKER_PROTOCOL", "3.1.1");
    run(&mut command, 0);
    let log = site.mosquitto.said();
    let old = |line: &str| line.contains("edgeward-publish") && line.contains("(p2,");
    assert!(log.lines().any(old), "MQTT 3.1.1 was pinned: {log}");
}

#[test]
fn a_board_that_is_refused_says_why_and_goes_on_trying() {
    let Some(site) = Site::new() else {
        return;
    };
    site.release();
    run(
        &mut site.command(&["keys", "export", "--root", "root.cose"]),
        0,
    );
    let board = |host: &str, ca: &str, password: &str| {
        site.configure_board(&format!(
            "host = '{host}'\nport = {}\ntls = {{ ca = '{ca}.pem' }}\n\
             username = 'board'\npassword_file = '{password}.password'\n",
            site.tls
        ));
        site.board()
    };
    for (host, ca, password, says, next) in [
        (
            "localhost",
            "stranger",
            "board",
            "not signed by the authority",
            "CA file",
        ),
        (
            "localhost",
            "ca",
            "wrong",
            "does not let this client in",
            "password",
        ),
        (
            "127.0.0.1",
            "ca",
            "board",
            "is for localhost, not for 127.0.0.1",
            "a name that is in",
        ),
    ] {
        let agent = board(host, ca, password);
        agent.until_it_says(says);
        assert!(agent.said().contains(next), "{}", agent.said());
        assert!(!agent.said().contains("12345"), "{}", agent.said());
    }
    let agent = board("localhost", "ca", "board");
    agent.until_it_says("connected");
    drop(agent);
    // A password file that is not there is found out at the start.
    let ended = board("localhost", "ca", "absent").end();
    let said = text(&[ended.stdout, ended.stderr].concat());
    assert!(
        !ended.status.success() && said.contains("absent.password"),
        "{said}"
    );
}
