//! A home with keys and releases for microcontrollers, a broker, and `edgeward serve`.

use crate::board::Board;
use crate::common::certificates::{Authority, ExtendedKeyUsagePurpose};
use crate::common::process::{PATIENCE, Running, free_ports, wait_until};
use crate::common::{Place, model};
use edgeward::bundle::{Bundle, CHUNK_BYTES};
use edgeward::topic;
use edgeward::trust::Digest32;
use edgeward_host::mqtt::{Event, Mqtt, Options};
use edgeward_host::store::sqlite::Sqlite;
use edgeward_host::store::{FrameQuery, Kind, Store, StoredFrame};
use serde_json::Value;
use std::cell::RefCell;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;

pub struct Site {
    place: Place,
    broker: SocketAddr,
    /// Where boards find the broker, which may have a port of its own for them, and what else they are told
    /// of it.
    pub for_boards: Vec<String>,
    /// None while it is gone.
    running: RefCell<Option<Running>>,
    serve: Option<Running>,
}

impl Deref for Site {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

impl Site {
    /// Nothing where there is no Mosquitto; a line says so.
    pub fn on_mosquitto() -> Option<Self> {
        let program = program()?;
        let place = Place::new();
        let [port] = free_ports();
        let settings = format!("listener {port} 127.0.0.1\nallow_anonymous true\n");
        std::fs::write(place.path("mosquitto.conf"), settings).expect("written");
        let broker = mosquitto(&program, &place);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        Some(Self::new(place, broker, address, told(address)))
    }

    /// A Mosquitto that boards reach through TLS, by the name `localhost`. [`Site::show`] says which
    /// certificate it shows from its next start on.
    pub fn on_secure_mosquitto() -> Option<Self> {
        let program = program()?;
        let place = Place::new();
        let (folder, site) = (place.folder(), Authority::new("the site"));
        let server = ExtendedKeyUsagePurpose::ServerAuth;
        site.write(folder, "ca");
        site.sign(folder, "right", &["localhost"], server.clone());
        site.sign(folder, "other-name", &["other.site"], server.clone());
        site.sign_expired(folder, "expired", &["localhost"]);
        // It calls itself as the site does.
        let stranger = Authority::new("the site");
        stranger.sign(folder, "stranger", &["localhost"], server);
        let [plain, tls] = free_ports();
        let shown = folder.display();
        let settings = format!(
            "user root\nper_listener_settings true\n\
             listener {plain} 127.0.0.1\nallow_anonymous true\n\
             listener {tls} 127.0.0.1\nallow_anonymous true\n\
             certfile {shown}/shown.pem\nkeyfile {shown}/shown.key\n"
        );
        std::fs::write(place.path("mosquitto.conf"), settings).expect("written");
        show(&place, "right");
        let broker = mosquitto(&program, &place);
        let address = SocketAddr::from(([127, 0, 0, 1], plain));
        let told = [
            "--broker",
            &format!("mqtts://localhost:{tls}"),
            "--broker-ca",
            "ca.pem",
        ];
        let told = told.map(str::to_owned).to_vec();
        Some(Self::new(place, broker, address, told))
    }

    /// A Mosquitto that lets boards in by a password alone; boards are told a wrong one.
    pub fn on_mosquitto_with_passwords() -> Option<Self> {
        let program = program()?;
        let passwords = Path::new("/usr/bin/mosquitto_passwd");
        if !passwords.exists() {
            println!("skipped: no {}", passwords.display());
            return None;
        }
        let place = Place::new();
        let file = place.path("passwords");
        std::fs::write(&file, "board:battery staple\n").expect("written");
        let hashed = Command::new(passwords).arg("-U").arg(&file).status();
        assert!(hashed.expect("it runs").success());
        let [open, closed] = free_ports();
        let settings = format!(
            "user root\nper_listener_settings true\n\
             listener {open} 127.0.0.1\nallow_anonymous true\n\
             listener {closed} 127.0.0.1\nallow_anonymous false\npassword_file {}\n",
            file.display()
        );
        std::fs::write(place.path("mosquitto.conf"), settings).expect("written");
        let broker = mosquitto(&program, &place);
        let [open, closed] = [open, closed].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let mut site = Self::new(place, broker, open, told(closed));
        site.boards_say("12345");
        Some(site)
    }

    /// Has boards be provisioned with this password from their next start on.
    pub fn boards_say(&mut self, password: &str) {
        std::fs::write(self.path("board.password"), password).expect("written");
        let who = [
            "--broker-user",
            "board",
            "--broker-password-file",
            "board.password",
        ];
        self.for_boards.truncate(BROKER);
        self.for_boards.extend(who.map(str::to_owned));
    }

    /// Has a secure Mosquitto show this certificate from its next start on.
    pub fn show(&self, certificate: &str) {
        show(&self.place, certificate);
    }

    pub fn on_the_embedded_broker() -> Self {
        let place = Place::new();
        let broker = place.start(&["broker", "--port", "0", "--port-v5", "0"]);
        let printed = broker.first_json();
        let address = |name: &str| {
            let address = printed[name].as_str().expect("an address");
            address.parse().expect("an address")
        };
        let (four, five) = (address("mqtt_3_1_1"), address("mqtt_5"));
        Self::new(place, broker, four, told(five))
    }

    fn new(
        mut place: Place,
        running: Running,
        broker: SocketAddr,
        for_boards: Vec<String>,
    ) -> Self {
        place.use_broker(broker.to_string());
        place.json(&["keys", "init"], 0);
        for release in ["v1", "v2", "bad"] {
            write_spec(&place, release);
            let (spec, out) = (format!("{release}.toml"), format!("{release}.bundle"));
            let pack = [
                "pack", &spec, "--target", "cortex-m", "--out", &out, "--sign",
            ];
            // The bad one is known to be bad; somebody overrode that.
            let skew: &[&str] = if release == "bad" {
                &["--allow-skew"]
            } else {
                &[]
            };
            place.json(&[&pack, skew].concat(), 0);
        }
        write_recording(&place.path("recording.txt"), 1.0, 1, "");
        // A sensor whose gain drifted, and one whose driver hangs after a while of ten samples a second.
        write_recording(&place.path("loud.txt"), 4.0, 1, "");
        write_recording(&place.path("slow.txt"), 1.0, 100, "");
        write_recording(&place.path("hanging.txt"), 1.0, 100, "hang\n");
        let mut site = Self {
            place,
            broker,
            for_boards,
            running: RefCell::new(Some(running)),
            serve: None,
        };
        let serve = site.start(&["serve", "--http", "127.0.0.1:0"]);
        serve.first_json();
        site.serve = Some(serve);
        site
    }

    /// Has every board of the fleet run a release.
    pub fn roll_out(&self, release: &str) {
        let bundle = format!("{release}.bundle");
        let start = [
            "rollout", "start", &bundle, "--id", release, "--phases", "100%",
        ];
        self.json(&start, 0);
    }

    /// Digest and chunks of a release.
    pub fn chunks(&self, release: &str) -> (Digest32, Vec<Vec<u8>>) {
        let bytes = std::fs::read(self.path(&format!("{release}.bundle"))).expect("a bundle");
        let digest = Bundle::open(&bytes).expect("a bundle").head().digest();
        let chunks = bytes.chunks(CHUNK_BYTES).map(<[u8]>::to_vec).collect();
        (digest, chunks)
    }

    /// The broker goes, with all that it retained.
    pub fn stop_broker(&self) {
        self.running.replace(None);
    }

    /// Mosquitto comes back, and knows nothing.
    pub fn start_mosquitto(&self) {
        let program = program().expect("it was there before");
        let running = mosquitto(&program, &self.place);
        self.running.replace(Some(running));
    }

    /// What is stored of the board's windows; no number of what it said is there twice. One that is missing is an
    /// error: what a broker took before the collector was back is said again after some seconds.
    pub fn windows(&self) -> Result<Vec<Windows>, String> {
        let store = Sqlite::open(&self.path(".edgeward/store.db")).expect("the store");
        let query = FrameQuery {
            device: Some(Board::NAME.to_owned()),
            ..FrameQuery::default()
        };
        let frames = store.frames(&query).expect("frames");
        let mut last = 0;
        for frame in &frames {
            assert!(frame.first_sequence > last, "told twice: {frame:?}");
            if frame.first_sequence != last + 1 {
                return Err(format!("{} is missing before {frame:?}", last + 1));
            }
            last = frame.sequence;
        }
        let summaries = frames.iter().filter(|it| it.kind == Kind::Summary);
        Ok(summaries.map(Windows::of).collect())
    }

    /// Waits until so many are stored.
    pub fn until_windows(&self, enough: u64) -> Vec<Windows> {
        wait_until("windows", PATIENCE, || {
            let stored = self.windows()?;
            let there: u64 = stored.iter().map(|it| it.windows).sum();
            match there >= enough {
                true => Ok(stored),
                false => Err(format!("{there} of {enough}")),
            }
        })
    }

    pub fn client(&self) -> Mqtt {
        let (host, port) = (self.broker.ip().to_string(), self.broker.port());
        Mqtt::connect(&Options::new("test", host, port))
    }

    /// Starts a rollout and takes a chunk of its release off the broker, once both have put it there who
    /// do: the command, and `edgeward serve`, which would put it back otherwise.
    pub fn roll_out_without(&self, release: &str, n: usize) {
        let (digest, _) = self.chunks(release);
        let client = self.client();
        let granted = client.subscribe_and_wait(&topic::blob(&digest, n as u32), PATIENCE);
        granted.expect("the broker grants it");
        self.roll_out(release);
        let mut published = 0;
        while published < 2 {
            let event = client.recv_timeout(PATIENCE);
            published += match event.expect("the chunk is published twice") {
                Event::Message(_) => 1,
                _ => 0,
            };
        }
        self.put_chunk(&digest, n, &[]);
    }

    /// Puts a chunk onto the broker.
    pub fn put_chunk(&self, digest: &Digest32, n: usize, bytes: &[u8]) {
        let client = self.client();
        client.publish(&topic::blob(digest, n as u32), bytes, true);
        client.flush(PATIENCE).expect("the broker takes it");
    }

    /// What the store knows of the board, once it is as it should be.
    pub fn until(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        wait_until(what, PATIENCE, || {
            let shown = self.json(&["device", "show", Board::NAME], 0);
            if condition(&shown) {
                return Ok(shown);
            }
            Err(format!("{shown}\n{}", crate::board::said(self)))
        })
    }

    /// Has the host take what is signed with this key.
    pub fn enroll(&self, key: &str) {
        let enroll = ["device", "enroll", Board::NAME, "--class", "mcu", "--key"];
        self.json(&[&enroll[..], &[key]].concat(), 0);
    }

    /// What a stored event of this kind says that is as it should be.
    pub fn event(&self, kind: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        wait_until(kind, PATIENCE, || {
            let events = self.lines(&["watch", "--since", "3600", "--timeout", "1"], 0);
            let mut found = events.iter().map(|event| &event["body"][kind]);
            let found = found.find(|body| !body.is_null() && wanted(body));
            found.cloned().ok_or_else(|| format!("{events:?}"))
        })
    }

    /// Waits until the board runs a version that it has confirmed.
    pub fn until_it_runs(&self, version: &str) -> Value {
        self.until(version, |shown| {
            let running = &shown["running"];
            running["version"] == version && running["state"] == "confirmed"
        })
    }
}

/// A summary that was stored.
#[derive(Debug)]
pub struct Windows {
    /// How many windows it sums up.
    pub windows: u64,
    /// Their samples.
    pub samples: u64,
    /// When the last one ended, by the board's clock.
    pub to_ms: u64,
}

impl Windows {
    fn of(frame: &StoredFrame) -> Self {
        let field = |name: &str| frame.body[name].as_u64().expect("a number");
        Self {
            windows: field("windows"),
            samples: field("samples"),
            to_ms: field("to_ms"),
        }
    }
}

/// How many words tell boards of a broker without TLS.
const BROKER: usize = 2;

/// What boards are told of a broker without TLS.
fn told(broker: SocketAddr) -> Vec<String> {
    vec!["--broker".to_owned(), broker.to_string()]
}

fn show(place: &Place, certificate: &str) {
    for ending in ["pem", "key"] {
        let from = place.path(&format!("{certificate}.{ending}"));
        std::fs::copy(from, place.path(&format!("shown.{ending}"))).expect("copied");
    }
}

/// Mosquitto, where there is one; a line says so where there is none.
fn program() -> Option<PathBuf> {
    let named = std::env::var_os("EDGEWARD_MOSQUITTO").map(PathBuf::from);
    let program = named.unwrap_or_else(|| "/usr/sbin/mosquitto".into());
    if !program.exists() {
        println!("skipped: no {}", program.display());
        return None;
    }
    Some(program)
}

fn mosquitto(program: &Path, place: &Place) -> Running {
    let mut command = Command::new(program);
    let broker = Running::start(command.arg("-c").arg(place.path("mosquitto.conf")));
    broker.until_it_says("running");
    broker
}

/// The example model's releases as int8 programs, with short trials.
fn write_spec(place: &Place, release: &str) {
    let text = std::fs::read_to_string(model(&format!("{release}.toml"))).expect("a spec");
    let mut spec: toml::Table = text.parse().expect("TOML");
    spec.insert("engine".to_owned(), "program".into());
    absolute(&mut spec, Path::new(&model("")));
    let policy = spec["policy"].as_table_mut().expect("a policy");
    let trial = toml::toml! {
        min_inferences = 60
        min_windows = 2
    };
    policy.insert("trial".to_owned(), trial.into());
    let path = place.path(&format!("{release}.toml"));
    std::fs::write(path, spec.to_string()).expect("written");
}

/// Makes the paths of files that are there absolute.
fn absolute(table: &mut toml::Table, folder: &Path) {
    for (_, value) in table.iter_mut() {
        match value {
            toml::Value::Table(table) => absolute(table, folder),
            toml::Value::String(text) => {
                let path = folder.join(&text);
                if path.is_file() {
                    *text = path.display().to_string();
                }
            }
            _ => {}
        }
    }
}

/// Samples of a recording that ends otherwise than by itself.
const SAMPLES: usize = 80;

/// The example model's test data times `gain` as a recording, so many milliseconds a sample (at 100 it is
/// as slow as it was taken). Where it has an `end`, that comes after [`SAMPLES`].
fn write_recording(path: &Path, gain: f64, period_ms: usize, end: &str) {
    let text = std::fs::read_to_string(model("test.csv")).expect("test data");
    let mut lines = text.lines();
    let header: Vec<_> = lines.next().expect("a header").split(',').collect();
    assert_eq!(header[..2], ["recording", "label"]);
    let mut out = format!(
        "edgeward-source schema=1 dtype=f32 features={}\n",
        header[2..].join(",")
    );
    let mut last = None;
    for (n, line) in lines.enumerate() {
        let mut fields = line.splitn(3, ',');
        let recording = fields.next();
        if last.is_some() && last != recording {
            out.push_str("reset\n");
        }
        last = recording;
        let values = fields.nth(1).expect("values").split(',');
        write!(out, "{n},{}", n * period_ms).expect("a string");
        for value in values {
            let value = value.parse::<f64>().expect("a number") * gain;
            write!(out, ",{value}").expect("a string");
        }
        out.push('\n');
        if !end.is_empty() && n == SAMPLES {
            break;
        }
    }
    out.push_str(end);
    std::fs::write(path, out).expect("written");
}
