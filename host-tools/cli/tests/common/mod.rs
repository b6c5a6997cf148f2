//! What the tests of the command share: real processes in a folder of their own, with nothing of the
//! caller's settings.

pub mod certificates;
pub mod firmware;
#[path = "../../../../firmware/tests/common/ports.rs"]
mod ports;
pub mod process;

use process::{Running, text};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The command in a folder, without what the environment says to it.
pub fn edgeward(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edgeward"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("EDGEWARD_") || text == "NO_COLOR" {
            command.env_remove(&name);
        }
    }
    command.current_dir(folder).args(args);
    command
}

/// A file of the example model.
pub fn model(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/motion");
    folder.join(name).display().to_string()
}

/// A folder of its own, in which commands run.
pub struct Place {
    folder: tempfile::TempDir,
    /// The broker that commands are told of, if any.
    broker: Option<String>,
}

impl Place {
    pub fn new() -> Self {
        Self {
            folder: tempfile::tempdir().expect("a folder"),
            broker: None,
        }
    }

    /// Makes keys and packs the motion model's first release, signed.
    pub fn with_bundle() -> Self {
        let place = Self::new();
        place.run(&["keys", "init"], 0);
        let pack = ["pack", &model("v1.toml"), "--out", "v1.bundle", "--sign"];
        place.run(&pack, 0);
        place
    }

    /// Tells commands of a broker.
    pub fn use_broker(&mut self, broker: String) {
        self.broker = Some(broker);
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = edgeward(self.folder.path(), args);
        if let Some(broker) = &self.broker {
            command.env("EDGEWARD_BROKER", broker);
        }
        command
    }

    /// Runs a command to its end and expects its exit code.
    pub fn run(&self, args: &[&str], exit: i32) -> Output {
        run(&mut self.command(args), exit)
    }

    /// The JSON values that a command printed.
    pub fn lines(&self, args: &[&str], exit: i32) -> Vec<Value> {
        let output = self.run(&[args, &["-o", "json"]].concat(), exit);
        let values = serde_json::Deserializer::from_slice(&output.stdout).into_iter();
        let json = |value: serde_json::Result<Value>| {
            value.unwrap_or_else(|error| panic!("{args:?}: {error}: {}", text(&output.stdout)))
        };
        values.map(json).collect()
    }

    /// The one JSON value that a command printed.
    pub fn json(&self, args: &[&str], exit: i32) -> Value {
        let mut values = self.lines(args, exit);
        assert_eq!(values.len(), 1, "{args:?}: {values:?}");
        values.remove(0)
    }

    /// The error that a command printed, and nothing else.
    pub fn error(&self, args: &[&str], exit: i32) -> Value {
        let output = self.run(&[args, &["-o", "json"]].concat(), exit);
        let error: Value = serde_json::from_slice(&output.stderr)
            .unwrap_or_else(|_| panic!("JSON on stderr: {}", text(&output.stderr)));
        assert_eq!(error["exit"], exit, "{args:?}: {error}");
        assert!(
            output.stdout.is_empty(),
            "{args:?}: {}",
            text(&output.stdout)
        );
        error
    }

    /// Starts a command that prints JSON and goes on.
    pub fn start(&self, args: &[&str]) -> Running {
        Running::start(self.command(args).args(["-o", "json"]))
    }

    /// Every file of the folder, and what is in it.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    found.insert(path.clone(), Vec::new());
                    folders.push(path);
                } else {
                    found.insert(path.clone(), std::fs::read(path).expect("a file"));
                }
            }
        }
        found
    }

    /// Runs something that must leave the folder as it is.
    pub fn unchanged<T>(&self, what: &str, work: impl FnOnce() -> T) -> T {
        let before = self.files();
        let done = work();
        let after = self.files();
        let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(
            names(&before),
            names(&after),
            "{what} made or removed files"
        );
        for (path, bytes) in &before {
            assert!(after[path] == *bytes, "{what} changed {}", path.display());
        }
        done
    }
}

/// Runs a command to its end and expects its exit code.
pub fn run(command: &mut Command, exit: i32) -> Output {
    let output = Running::start(command).end();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(exit), "{command:?}: {said}");
    output
}

/// Every path of field names in `value`, list entries as `[]`.
fn fields(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                let path = format!("{at}.{name}");
                found.insert(path.clone());
                fields(value, &path, found);
            }
        }
        Value::Array(values) => {
            for value in values {
                fields(value, &format!("{at}[]"), found);
            }
        }
        _ => {}
    }
}

/// Compares the field names of `value` with `tests/snapshots`; `EDGEWARD_BLESS=1` writes them anew.
pub fn snapshot(name: &str, value: &Value) {
    let mut found = BTreeSet::new();
    fields(value, "", &mut found);
    let found: String = found.into_iter().map(|path| path + "\n").collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/snapshots/{name}.txt"));
    if std::env::var_os("EDGEWARD_BLESS").is_some() {
        std::fs::write(&path, &found).expect("the snapshot is written");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        found, expected,
        "{name}: field names changed; scripts rely on them"
    );
}
