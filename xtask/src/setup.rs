//! Installs what the tests need beyond Rust.

use crate::step;
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the tests may use.
pub struct Found {
    /// Python with the packages of the interoperability tests and the tutorial.
    pub python: Option<PathBuf>,
    /// The Mosquitto broker.
    pub mosquitto: Option<PathBuf>,
}

impl Found {
    /// Says which tests will skip, and why, so that a green run is not taken for a whole one.
    pub fn complain(&self) {
        if self.python.is_none() {
            eprintln!("!!! tests that need Python will skip: pycose as judge, the tutorial");
        }
        if self.mosquitto.is_none() {
            eprintln!(
                "!!! tests that need Mosquitto will skip: the demo on it, the client on it, TLS and \
                 passwords"
            );
        }
    }
}

/// Debian packages, with the file that shows that each is there.
const PACKAGES: &[(&str, &str)] = &[
    ("mosquitto", "/usr/sbin/mosquitto"),
    ("python3", "/usr/bin/python3"),
    ("g++", "/usr/bin/g++"),
    ("qemu-system-arm", "/usr/bin/qemu-system-arm"),
];

/// The package without which Debian's Python makes no environments.
const VENV: &str = "python3-venv";

fn can_make_venv() -> bool {
    Command::new("/usr/bin/python3")
        .args(["-c", "import ensurepip, venv"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Installs or reports what is missing.
pub fn run(root: &Path) -> Result<Found> {
    let mut missing: Vec<&str> = PACKAGES
        .iter()
        .filter(|(_, file)| !Path::new(file).exists())
        .map(|(package, _)| *package)
        .collect();
    if !can_make_venv() && !missing.contains(&VENV) {
        missing.push(VENV);
    }
    install(&missing)?;
    let mosquitto = Path::new("/usr/sbin/mosquitto");
    Ok(Found {
        python: venv(root)?,
        mosquitto: mosquitto.exists().then(|| mosquitto.to_owned()),
    })
}

/// Installs Debian packages when that is possible, and says what to do when it is not.
pub fn install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let wanted = packages.join(" ");
    if !Path::new("/usr/bin/apt-get").exists() {
        eprintln!("!!! not a Debian system: install by hand what corresponds to: {wanted}");
        return Ok(());
    }
    if !is_root() {
        eprintln!("!!! not root: run `sudo apt-get install --no-install-recommends {wanted}`");
        return Ok(());
    }
    step(
        "apt-get update",
        Command::new("apt-get").args(["update", "-qq"]),
    )?;
    step(
        "apt-get install",
        Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            // Nothing that is installed for the tests may start a service of its own.
            .env("RUNLEVEL", "1")
            .args(["install", "-y", "-qq", "--no-install-recommends"])
            .args(packages),
    )
}

/// Whether this program may install what is missing: then nothing that it installs may be missing.
pub fn can_install() -> bool {
    Path::new("/usr/bin/apt-get").exists() && is_root()
}

fn is_root() -> bool {
    Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout == b"0\n")
}

/// The files of pinned Python packages that the tests need.
const REQUIREMENTS: &[&str] = &[
    "tests/interop/requirements.txt",
    "models/digits/requirements.txt",
];

/// A Python environment in `target/venv`, or nothing where Python or its packages can't be had.
fn venv(root: &Path) -> Result<Option<PathBuf>> {
    let folder = root.join("target/venv");
    let python = folder.join("bin/python");
    let mut wanted = String::new();
    for file in REQUIREMENTS {
        let path = root.join(file);
        if path.exists() {
            wanted.push_str(&std::fs::read_to_string(path)?);
        }
    }
    let stamp = folder.join("requirements.stamp");
    if python.exists() && std::fs::read_to_string(&stamp).is_ok_and(|text| text == wanted) {
        return Ok(Some(python));
    }
    let made = Command::new("/usr/bin/python3")
        .args(["-m", "venv"])
        .arg(&folder)
        .stdin(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !made {
        eprintln!(
            "!!! no Python environment: tests against Python libraries will say that they skip"
        );
        return Ok(None);
    }
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "-q", "--disable-pip-version-check"]);
    for file in REQUIREMENTS.iter().filter(|file| root.join(file).exists()) {
        pip.arg("-r").arg(root.join(file));
    }
    step("Python packages", &mut pip)?;
    std::fs::write(stamp, wanted)?;
    Ok(Some(python))
}
