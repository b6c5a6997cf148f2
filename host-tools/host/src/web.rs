//! A page, an API and Prometheus metrics over the store.

mod metrics;

use crate::catalog::Catalog;
use crate::collector::now_ms;
use crate::controller::{boards, in_cohort};
use crate::keys::unhex;
use crate::names::{ALARM_NAMES, severity_name, severity_of_name};
use crate::status::{self, BoardStatus, WindowStatus, alarm_of};
use crate::store::{AlarmTotal, Device, FrameQuery, Kind, Store, StoreError, StoredFrame, Unknown};
use edgeward::policy::Policy;
use edgeward::telemetry::{Birth, SlotState};
use metrics::metrics;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use tiny_http::{Header, Response};

/// Events shown on the page.
const EVENTS: usize = 30;

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve on {address}: {why}; choose another address with --http")]
pub struct WebError {
    address: SocketAddr,
    why: String,
}

/// A running server; it stops when this is dropped.
pub struct Server {
    http: Arc<tiny_http::Server>,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves what `store` knows of `fleet`, with the names that `catalog` knows.
    ///
    /// # Errors
    /// [`WebError`] when the address can't be had.
    pub fn start(
        address: SocketAddr,
        store: Arc<dyn Store>,
        catalog: Catalog,
        fleet: &str,
    ) -> Result<Self, WebError> {
        let http = tiny_http::Server::http(address).map_err(|error| WebError {
            address,
            why: error.to_string(),
        })?;
        let http = Arc::new(http);
        let bound = http.server_addr().to_ip().unwrap_or(address);
        let thread = std::thread::spawn({
            let (http, fleet) = (Arc::clone(&http), fleet.to_owned());
            move || {
                for request in http.incoming_requests() {
                    let (status, kind, text) =
                        answer(request.url(), store.as_ref(), &catalog, &fleet);
                    let header = Header::from_bytes("Content-Type", kind);
                    let mut response = Response::from_string(text).with_status_code(status);
                    if let Ok(header) = header {
                        response = response.with_header(header);
                    }
                    // The reader may have gone; the next request is another's.
                    let _ = request.respond(response);
                }
            }
        });
        Ok(Self {
            http,
            address: bound,
            thread: Some(thread),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether the thread ended by itself, as it never should.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.http.unblock();
        if let Some(thread) = self.thread.take() {
            // A panic in the thread has been reported by its own message.
            let _ = thread.join();
        }
    }
}

/// Status, content type and body for a path.
fn answer(
    url: &str,
    store: &dyn Store,
    catalog: &Catalog,
    fleet: &str,
) -> (u16, &'static str, String) {
    let made = match url.split('?').next().unwrap_or("") {
        "/" => overview(store, catalog, fleet)
            .map(|view| ("text/html; charset=utf-8", page(&view, catalog))),
        "/metrics" => overview(store, catalog, fleet)
            .map(|view| ("text/plain; version=0.0.4; charset=utf-8", metrics(&view))),
        "/api/fleet" => overview(store, catalog, fleet).map(|view| {
            (
                "application/json",
                serde_json::to_string(&view).unwrap_or_else(|_| "{}".to_owned()),
            )
        }),
        _ => {
            return (
                404,
                "text/plain",
                "there are /, /metrics and /api/fleet\n".to_owned(),
            );
        }
    };
    match made {
        Ok((kind, text)) => (200, kind, text),
        Err(error) => (503, "text/plain", format!("{error}\n")),
    }
}

/// What is shown of one board.
#[derive(Debug, Serialize)]
pub struct BoardOverview {
    /// The device.
    pub device: Device,
    /// Its newest birth.
    pub birth: Option<serde_json::Value>,
    /// Versions and states of its slots, the running one marked.
    pub slots: Vec<String>,
    /// Its newest summary.
    pub summary: Option<serde_json::Value>,
    /// 99th percentile of the latency in the newest summary, in microseconds.
    pub latency_p99_us: Option<u32>,
    /// Accuracy estimated from calibrated confidence in the newest summary.
    pub estimated_accuracy: Option<f64>,
    /// What it runs and how it fares.
    pub status: BoardStatus,
    /// How grave its release finds each kind of alarm.
    #[serde(skip)]
    severities: BTreeMap<String, &'static str>,
}

/// What is shown of the fleet.
#[derive(Debug, Serialize)]
pub struct Overview {
    /// The fleet.
    pub fleet: String,
    /// Its boards.
    pub boards: Vec<BoardOverview>,
    /// The newest rollout and its counts.
    pub rollout: Option<serde_json::Value>,
    /// The newest events.
    pub events: Vec<StoredFrame>,
    /// Refused messages by reason.
    pub refusals: BTreeMap<String, u64>,
    /// Alarms by device and kind, since the device was enrolled.
    pub alarm_totals: Vec<AlarmTotal>,
    /// Boards that report and that nobody enrolled.
    pub unknown: Vec<Unknown>,
    /// When this was made, in milliseconds since 1970.
    pub time_ms: u64,
}

fn newest(store: &dyn Store, device: &str, kind: Kind) -> Result<Option<StoredFrame>, StoreError> {
    let query = FrameQuery {
        device: Some(device.to_owned()),
        kind: Some(kind),
        newest_first: true,
        limit: 1,
        ..FrameQuery::default()
    };
    Ok(store.frames(&query)?.into_iter().next())
}

/// Reads the fleet's present standing.
///
/// # Errors
/// [`StoreError`].
pub fn overview(store: &dyn Store, catalog: &Catalog, fleet: &str) -> Result<Overview, StoreError> {
    let mut views = Vec::new();
    for device in store
        .devices()?
        .into_iter()
        .filter(|device| device.fleet == fleet)
    {
        let birth = newest(store, &device.name, Kind::Birth)?.map(|frame| frame.body);
        let summary = newest(store, &device.name, Kind::Summary)?.map(|frame| frame.body);
        let slots = birth
            .clone()
            .and_then(|birth| serde_json::from_value::<Birth>(birth).ok())
            .map_or_else(Vec::new, |birth| slot_words(&birth));
        let status = status::standing(store, catalog, &device)?;
        let window = status.windows.first();
        views.push(BoardOverview {
            birth,
            slots,
            latency_p99_us: window.and_then(|window| window.latency_p99_us),
            estimated_accuracy: window.and_then(|window| window.estimated_accuracy),
            summary,
            severities: severities(catalog, &status),
            status,
            device,
        });
    }
    let rollout = match store.newest_rollout(fleet)? {
        Some(rollout) => {
            let counts = rollout.counts(&boards(store, fleet)?, &in_cohort, now_ms());
            Some(serde_json::json!({ "rollout": rollout, "counts": counts }))
        }
        None => None,
    };
    let mut alarm_totals = store.alarm_totals()?;
    alarm_totals.retain(|total| views.iter().any(|view| view.device.name == total.device));
    let query = FrameQuery {
        fleet: Some(fleet.to_owned()),
        kind: Some(Kind::Event),
        newest_first: true,
        limit: EVENTS,
        ..FrameQuery::default()
    };
    Ok(Overview {
        fleet: fleet.to_owned(),
        boards: views,
        rollout,
        events: store.frames(&query)?,
        refusals: store.refusal_counts()?.into_iter().collect(),
        alarm_totals,
        unknown: store.unknown(fleet)?,
        time_ms: now_ms(),
    })
}

/// How grave the release that a board runs finds each kind of alarm; as the standard policy does,
/// where the release was not published from here.
fn severities(catalog: &Catalog, status: &BoardStatus) -> BTreeMap<String, &'static str> {
    let release = status.running.as_ref();
    let release = release.and_then(|running| unhex::<8>(&running.release));
    let published = release.and_then(|release| catalog.get(release));
    let standard = Policy::standard();
    let policy = published.as_ref().map_or(&standard, |known| &known.policy);
    ALARM_NAMES
        .iter()
        .map(|&name| {
            (
                name.to_owned(),
                severity_name(severity_of_name(name, policy)),
            )
        })
        .collect()
}

fn slot_words(birth: &Birth) -> Vec<String> {
    let words = birth.slots.iter().enumerate().map(|(index, slot)| {
        let mark = if birth.running == u8::try_from(index).ok() {
            "*"
        } else {
            ""
        };
        match slot.state {
            SlotState::Empty => "empty".to_owned(),
            state => format!("{mark}{} {state:?}", slot.version),
        }
    });
    words.collect()
}

/// Text that cannot be markup.
fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            letter => safe.push(letter),
        }
    }
    safe
}

/// A row of a table, escaped.
fn row(cells: &[String]) -> String {
    let cells: String = cells
        .iter()
        .map(|cell| format!("<td>{}</td>", escape(cell)))
        .collect();
    format!("<tr>{cells}</tr>\n")
}

/// One board's row.
fn board_row(board: &BoardOverview, now_ms: u64) -> String {
    let dash = || "-".to_owned();
    let age = board
        .device
        .seen_ms
        .map(|ms| now_ms.saturating_sub(ms) / 1000);
    let of = |key: &str| {
        board
            .summary
            .as_ref()
            .map_or_else(dash, |s| s[key].to_string())
    };
    let newest = board.status.windows.first();
    row(&[
        board.device.name.clone(),
        if board.device.online {
            "online"
        } else {
            "offline"
        }
        .to_owned(),
        age.map_or_else(dash, |age| format!("{age} s ago")),
        board.slots.join(", "),
        of("inferences"),
        of("errors"),
        of("alarms"),
        newest
            .and_then(WindowStatus::p99_words)
            .unwrap_or_else(dash),
        board
            .estimated_accuracy
            .map_or_else(dash, |share| format!("{:.1} %", share * 100.0)),
    ])
}

/// An event for people: an alarm with its names, anything else as it is stored.
fn event_words(event: &StoredFrame, catalog: &Catalog) -> String {
    match alarm_of(&event.body) {
        Some((release, alarm)) => {
            let explained = catalog.explain(release, &alarm);
            let groups = status::group([(event.received_ms, explained)]);
            let words = status::words(&groups).into_iter();
            words.map(|(_, text)| text).collect()
        }
        None => event.body.to_string(),
    }
}

/// The page: no script, reloaded by the browser.
fn page(view: &Overview, catalog: &Catalog) -> String {
    let boards = view.boards.iter();
    let body: String = boards.map(|board| board_row(board, view.time_ms)).collect();
    let events: String = view
        .events
        .iter()
        .map(|event| {
            row(&[
                event.device.clone(),
                event.sequence.to_string(),
                event_words(event, catalog),
            ])
        })
        .collect();
    let unknown = match view.unknown.len() {
        0 => String::new(),
        n => format!(
            "<p>{n} boards report and are not enrolled: <code>edgeward device list --unknown</code></p>\n"
        ),
    };
    let rollout = view.rollout.as_ref().map_or("none".to_owned(), |rollout| {
        let plan = &rollout["rollout"];
        format!(
            "{}: {}, boards {}",
            plan["plan"]["id"], plan["state"], rollout["counts"]
        )
    });
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content=5>\n\
         <title>Edgeward: {fleet}</title>\n<style>body{{font:14px/1.5 system-ui,sans-serif;margin:2rem;\
         color:#1b1f24;background:#fff}}table{{border-collapse:collapse;margin:0 0 2rem}}\
         th,td{{text-align:left;padding:.2rem .8rem;border-bottom:1px solid #d8dee4;vertical-align:top}}\
         td:last-child{{overflow-wrap:anywhere}}h1{{font-size:1.3rem}}h2{{font-size:1rem}}</style>\n\
         <h1>Fleet {fleet}</h1>\n<table><tr><th>board<th>state<th>heard<th>slots<th>inferences\
         <th>errors<th>alarms<th>p99<th>est. accuracy</tr>\n{body}</table>\n\
         {unknown}<h2>Rollout</h2><p>{rollout}</p>\n<h2>Events</h2>\n\
         <table><tr><th>board<th>frame<th>event</tr>\n{events}</table></html>\n",
        fleet = escape(&view.fleet),
        rollout = escape(&rollout),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::{Read as _, Write as _};
    use std::net::{Shutdown, TcpStream};

    /// The first line of what a server says to these bytes, if it says anything.
    fn said(address: SocketAddr, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).expect("it listens");
        let patience = Some(std::time::Duration::from_secs(20));
        stream.set_read_timeout(patience).expect("set");
        // One that was sent away before the end of its bytes can't write the rest.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        answer.lines().next().unwrap_or_default().to_owned()
    }

    /// Any bytes, and requests for any path: none keeps the next one from its answer.
    #[test]
    fn whatever_is_sent_the_next_request_is_answered() {
        let store = crate::store::sqlite::Sqlite::in_memory().expect("a store");
        let catalog = Catalog::at(std::path::Path::new("nowhere"));
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = Server::start(address, Arc::new(store), catalog, "f").expect("it starts");
        let bytes = proptest::collection::vec(any::<u8>(), 0..512).boxed();
        let verb = "(GET|POST|HEAD|[A-Z]{1,9})";
        let path = prop_oneof![
            "/[!-~]{0,40}",
            "(/|/metrics|/api/fleet)([?#%./][!-~]{0,20})?",
            "\\PC{0,40}",
        ];
        let headers = prop_oneof![
            "([A-Za-z-]{1,12}: [ -~]{0,20}\r\n){0,3}",
            "[ -~\r\n:]{0,80}",
        ];
        let request = (verb, path, headers);
        let request = request.prop_map(|(verb, path, rest)| {
            format!("{verb} {path} HTTP/1.1\r\n{rest}\r\n").into_bytes()
        });
        // What fails has ended the server, so that nothing smaller can be tried.
        let config = ProptestConfig {
            max_shrink_iters: 0,
            failure_persistence: None,
            ..ProptestConfig::with_cases(128)
        };
        let mut runner = proptest::test_runner::TestRunner::new(config);
        let outcome = runner.run(&prop_oneof![bytes, request], |bytes| {
            said(server.address(), &bytes);
            let next = said(server.address(), b"GET /metrics HTTP/1.0\r\n\r\n");
            prop_assert!(next.ends_with("200 OK"), "{next}");
            prop_assert!(!server.has_ended());
            Ok(())
        });
        if let Err(error) = outcome {
            panic!("{error}");
        }
    }

    #[test]
    fn a_page_shows_its_own_fleet_alone() {
        let store = crate::store::sqlite::Sqlite::in_memory().expect("a store");
        for (name, fleet) in [("a", "here"), ("b", "elsewhere")] {
            let enrolled = store.enroll(&Device {
                name: name.to_owned(),
                fleet: fleet.to_owned(),
                key: edgeward::trust::PublicKey([name.as_bytes()[0]; 32]),
                class: edgeward::bundle::BoardClass::Linux,
                enrolled_ms: 0,
                seen_ms: None,
                online: false,
                epoch: None,
                through: 0,
            });
            enrolled.expect("enrolled");
            let release = [1; 8];
            let alarm = edgeward::telemetry::Alarm::Violation {
                kind: edgeward::contract::ViolationKind::Stuck,
                feature: Some(0),
                value: 1.0,
                sample: 1,
            };
            let event = edgeward::telemetry::Event::Alarm { release, alarm };
            let stored = store.ingest(&[StoredFrame {
                device: name.to_owned(),
                epoch: 1,
                acknowledged: 0,
                boot: 1,
                first_sequence: 1,
                sequence: 1,
                time_ms: 1,
                received_ms: 1,
                kind: Kind::Event,
                body: serde_json::to_value(event).expect("JSON"),
                raw: Vec::new(),
            }]);
            stored.expect("stored");
        }
        let catalog = Catalog::at(std::path::Path::new("nowhere"));
        let view = overview(&store, &catalog, "here").expect("read");
        let events: Vec<_> = view.events.iter().map(|event| &event.device).collect();
        let totals: Vec<_> = view
            .alarm_totals
            .iter()
            .map(|total| &total.device)
            .collect();
        let own = "a".to_owned();
        assert_eq!((events, totals), (vec![&own], vec![&own]));
    }

    #[test]
    fn nothing_from_outside_becomes_markup() {
        assert_eq!(escape("<b a='\"'>&"), "&lt;b a=&#39;&quot;&#39;&gt;&amp;");
    }
}
