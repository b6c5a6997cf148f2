//! Hosts and boards on a real Mosquitto with TLS and passwords: what works, and what is refused with
//! which words. Everything runs as processes; the certificates are made here.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const PATIENCE: Duration = Duration::from_secs(90);
const HOST_PASSWORD: &str = "correct horse";
const BOARD_PASSWORD: &str = "battery staple";
const SAMPLES: &str = include_str!("../../../models/motion/test.csv");

/// A process that ends with its owner, and what it says.
struct Running {
    child: Child,
    log: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Nothing to do about one that ended before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn start(mut command: Command, log: PathBuf) -> Self {
        let file = File::create(&log).expect("a log");
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a log"))
            .stderr(file)
            .spawn()
            .expect("it starts");
        Self { child, log }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn until_it_says(&self, what: &str) {
        until(what, || self.said().contains(what), || self.said());
    }
}

/// Waits for a condition; what it saw instead, when it waits in vain.
fn until(what: &str, mut condition: impl FnMut() -> bool, seen: impl Fn() -> String) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "in vain: {what}: {}", seen());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// An authority that signs the broker's certificate, or a client's.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("an authority"))
    }

    /// Writes `NAME.pem`.
    fn write(&self, folder: &Path, name: &str) {
        std::fs::write(folder.join(format!("{name}.pem")), self.0.pem()).expect("written");
    }

    /// Writes `NAME.pem` and `NAME.key`, a certificate for `names`.
    fn sign(&self, folder: &Path, name: &str, names: &[&str], usage: ExtendedKeyUsagePurpose) {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().expect("a key");
        let signed = params.signed_by(&key, &self.0).expect("a certificate");
        let write = |ending: &str, text: String| {
            std::fs::write(folder.join(format!("{name}.{ending}")), text).expect("written");
        };
        write("pem", signed.pem());
        write("key", key.serialize_pem());
    }
}

/// A Mosquitto with three ports, and a home for the host.
struct Site {
    folder: tempfile::TempDir,
    /// TLS and a password.
    tls: u16,
    /// A password without TLS.
    plain: u16,
    /// TLS and a client's certificate.
    mutual: u16,
    mosquitto: Running,
}

fn free_ports() -> [u16; 3] {
    let taken = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
    taken.map(|listener| listener.local_addr().expect("an address").port())
}

impl Site {
    /// Nothing where there is no Mosquitto; a line says so.
    fn new() -> Option<Self> {
        let named = std::env::var_os("EDGEWARD_MOSQUITTO").map(PathBuf::from);
        let program = named.unwrap_or_else(|| "/usr/sbin/mosquitto".into());
        let passwords = Path::new("/usr/bin/mosquitto_passwd");
        if !program.exists() || !passwords.exists() {
            println!("skipped: no {} or mosquitto_passwd", program.display());
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path();
        let authority = Authority::new("the site");
        authority.write(path, "ca");
        Authority::new("a stranger").write(path, "stranger");
        authority.sign(
            path,
            "server",
            &["localhost"],
            ExtendedKeyUsagePurpose::ServerAuth,
        );
        authority.sign(
            path,
            "client",
            &["host"],
            ExtendedKeyUsagePurpose::ClientAuth,
        );
        for (user, password) in [("host", HOST_PASSWORD), ("board", BOARD_PASSWORD)] {
            std::fs::write(path.join(format!("{user}.password")), password).expect("written");
        }
        std::fs::write(path.join("wrong.password"), "12345").expect("written");
        std::fs::write(
            path.join("passwords"),
            format!("host:{HOST_PASSWORD}\nboard:{BOARD_PASSWORD}\n"),
        )
        .expect("written");
        let hashed = Command::new(passwords)
            .arg("-U")
            .arg(path.join("passwords"))
            .status();
        assert!(hashed.expect("it runs").success());

        let [tls, plain, mutual] = free_ports();
        let config = settings(path, [tls, plain, mutual]);
        std::fs::write(path.join("mosquitto.conf"), config).expect("written");
        let mut command = Command::new(program);
        command.arg("-v").arg("-c").arg(path.join("mosquitto.conf"));
        let mosquitto = Running::start(command, path.join("mosquitto.log"));
        mosquitto.until_it_says("running");
        Some(Self {
            folder,
            tls,
            plain,
            mutual,
            mosquitto,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_edgeward"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("EDGEWARD_") {
                command.env_remove(name);
            }
        }
        command.current_dir(self.folder.path()).args(args);
        command
    }

    /// Runs a command to its end and expects its exit code.
    fn run(&self, command: &mut Command, exit: i32) -> Output {
        let output = command.output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(exit), "{command:?}: {said}");
        output
    }

    fn json(&self, args: &[&str]) -> Value {
        let mut command = self.command(args);
        let output = self.run(command.args(["-o", "json"]), 0);
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let last = text.lines().last().expect("output");
        serde_json::from_str(last).unwrap_or_else(|_| serde_json::from_str(&text).expect("JSON"))
    }

    /// A release of the motion model, signed.
    fn release(&self) {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/motion/v1.toml");
        self.json(&["keys", "init"]);
        let manifest = manifest.display().to_string();
        self.json(&["pack", &manifest, "--out", "v1.bundle", "--sign"]);
    }

    /// Writes the host's `edgeward.toml`.
    fn configure(&self, lines: &str) {
        std::fs::write(self.path("edgeward.toml"), lines).expect("written");
    }

    /// Writes a board's `agent.toml`.
    fn configure_board(&self, broker: &str) {
        let text = format!(
            "fleet = 'default'\ndevice = 'board-1'\nflash = {{ bytes = 2097152 }}\n\
             [source]\nlisten = 'samples.sock'\n\
             [broker]\nkeep_alive_s = 5\nreconnect_max_s = 1\n{broker}"
        );
        std::fs::write(self.path("agent.toml"), text).expect("written");
    }

    fn board(&self) -> Running {
        let log = self.path("agent.log");
        Running::start(self.command(&["agent", "--config", "agent.toml"]), log)
    }
}

fn settings(path: &Path, [tls, plain, mutual]: [u16; 3]) -> String {
    let path = path.display();
    let certificates =
        format!("cafile {path}/ca.pem\ncertfile {path}/server.pem\nkeyfile {path}/server.key\n");
    // As root, Mosquitto would become a user who may not read this folder.
    format!(
        "user root\nper_listener_settings true\nlog_dest stderr\nmax_queued_messages 0\n\
         listener {tls} 127.0.0.1\nallow_anonymous false\npassword_file {path}/passwords\n\
         {certificates}\
         listener {plain} 127.0.0.1\nallow_anonymous false\npassword_file {path}/passwords\n\
         listener {mutual} 127.0.0.1\nallow_anonymous true\nrequire_certificate true\n\
         {certificates}"
    )
}

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
    site.run(
        &mut site.command(&["keys", "export", "--root", "root.cose"]),
        0,
    );
    let key = ["agent", "--config", "agent.toml", "--print-key"];
    let key = site.run(&mut site.command(&key), 0).stdout;
    let key = String::from_utf8(key).expect("UTF-8");
    site.json(&["device", "enroll", "board-1", "--key", key.trim()]);

    let serve = ["serve", "--http", "127.0.0.1:0"];
    let serve = Running::start(site.command(&serve), site.path("serve.log"));
    serve.until_it_says("collecting fleet default");
    let socket = site.path("samples.sock");
    let agent = site.board();
    let listens = || UnixStream::connect(&socket).is_ok();
    until("the agent listens", listens, || agent.said());
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
        let seen = site.run(&mut site.command(&watch), 0).stdout;
        String::from_utf8_lossy(&seen).contains("\"summary\"")
    });
    let quiet = || {
        let stats = stats(&socket);
        let next = stats["next_sequence"].as_u64().unwrap_or(0);
        stats["outbox_records"] == 0 && next > 1 && stats["acknowledged"] == next - 1
    };
    until("all is acknowledged", quiet, || stats(&socket).to_string());

    // Mosquitto's own word for who came how: p5 is MQTT 5.
    let log = site.mosquitto.said();
    for (client, user) in [
        ("edgeward-default-board-1", "board"),
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
        let output = site.run(&mut command, 1);
        assert!(begin.elapsed() < PATIENCE / 2, "{}: too late", case.says);
        let error: Value = serde_json::from_slice(&output.stderr).expect("JSON on stderr");
        let (said, next) = (error["error"].as_str(), error["next"].as_str());
        assert!(said.is_some_and(|said| said.contains(case.says)), "{error}");
        assert!(next.is_some_and(|next| next.contains(case.next)), "{error}");
        assert!(!error.to_string().contains(case.password), "{error}");
    }

    // A port that speaks TLS does not answer those who don't; nor does it say why.
    let mut command = site.command(&["publish", "v1.bundle", "-o", "json", "--timeout", "2"]);
    let output = site.run(command.args(["--broker", &unencrypted]), 5);
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
    site.run(command.args(["--broker-key", "client.key"]), 0);
    let mut command = site.command(&["publish", "v1.bundle"]);
    command
        .env("EDGEWARD_BROKER", &name)
        .env("EDGEWARD_BROKER_CA", "ca.pem")
        .env("EDGEWARD_BROKER_USER", "host")
        .env("EDGEWARD_BROKER_PASSWORD", good)
        .env("EDGEWARD_BROKER_PROTOCOL", "3.1.1");
    site.run(&mut command, 0);
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
    site.run(
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
    let mut absent = board("localhost", "ca", "absent");
    let ended = || absent.child.try_wait().is_ok_and(|status| status.is_some());
    until("the agent ends", ended, String::new);
    assert!(
        absent.said().contains("absent.password"),
        "{}",
        absent.said()
    );
}
