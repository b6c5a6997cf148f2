//! The microcontroller boards: which there are, how one's own begins, and how one of silicon is written.

use crate::common::process::text;
use crate::common::{Place, snapshot};
use edgeward_firmware::provisioning::{PROVISIONING_BYTES, Provisioning};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

fn checkout() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize()
        .expect("the checkout")
        .display()
        .to_string()
}

#[test]
fn boards_are_listed() {
    let place = Place::new();
    let listed = place.json(&["board", "list"], 0);
    snapshot("board-list", &listed);
    let boards = listed["boards"].as_array().expect("boards");
    let named = |name: &str| {
        let found = boards.iter().find(|board| board["name"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {listed}"))
    };
    let emulated = named("qemu-mps2-an386");
    assert_eq!(emulated["class"], "mcu");
    assert_eq!(emulated["kernels"][0], "cortex-m");
    assert_eq!(emulated["ram_bytes"], 4 << 20);
    assert_eq!(emulated["started_by"], "qemu");
    assert_eq!(named("nucleo-h743zi")["started_by"], "probe-rs");
    let table = text(&place.run(&["board", "list"], 0).stdout);
    assert!(table.contains("rpi-pico2"), "{table}");
}

#[test]
fn a_board_of_ones_own_is_a_copy_that_stands_alone() {
    let place = Place::new();
    let checkout = checkout();
    let new = ["board", "new", "press", "--like", "nucleo-h743zi"];
    // Nothing here is a checkout.
    place.error(&new, 1);
    let new = [&new[..], &["--checkout", &checkout]].concat();
    let said = place.json(&[&new[..], &["--dry-run"]].concat(), 0);
    assert!(!place.path("press").exists(), "{said}");
    snapshot("board-new", &place.json(&new, 0));
    let manifest = std::fs::read_to_string(place.path("press/Cargo.toml")).expect("a manifest");
    let manifest: toml::Table = manifest.parse().expect("TOML");
    assert_eq!(manifest["package"]["name"].as_str(), Some("press"));
    assert_eq!(manifest["bin"][0]["name"].as_str(), Some("press"));
    assert!(manifest["package"]["edition"].is_str() && manifest["profile"]["release"].is_table());
    let firmware = manifest["dependencies"]["edgeward-mcu"]["path"].as_str();
    assert_eq!(firmware, Some(&*format!("{checkout}/firmware/mcu")));
    let main = std::fs::read_to_string(place.path("press/src/main.rs")).expect("a program");
    assert!(
        main.contains("press") && !main.contains("nucleo-h743zi"),
        "{main}"
    );
    let described = std::fs::read_to_string(place.path("press/board.toml")).expect("a board");
    assert!(described.contains("name = \"press\""), "{described}");
    let lock = |path: String| std::fs::read(path).expect("a lock");
    let copied = lock(place.path("press/Cargo.lock").display().to_string());
    assert_eq!(copied, lock(format!("{checkout}/boards/Cargo.lock")));

    place.error(&new, 1);
    for name in ["Press", "-a", "a b", "9", ""] {
        place.error(&["board", "new", name, "--like", "nucleo-h743zi"], 2);
    }
    place.error(&["board", "new", "press", "--like", "toaster"], 2);
}

/// A stand-in for probe-rs that notes what it is asked, and keeps what it would write.
fn place_with_probe() -> Place {
    let place = Place::new();
    place.json(&["keys", "init"], 0);
    std::fs::create_dir(place.path("bin")).expect("a folder");
    let script = "#!/bin/sh\necho \"$@\" >> asked\nfor last; do :; done\n\
                  [ \"$1\" = erase ] || cp \"$last\" written-$1-$(wc -l < asked)\n";
    let path = place.path("bin/probe-rs");
    std::fs::write(&path, script).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("a program");
    std::fs::write(place.path("image.elf"), "an image").expect("written");
    place
}

fn flash(place: &Place, more: &[&str], exit: i32) -> Output {
    let mut command = place.command(&["flash", "press-04", "--board", "nucleo-h743zi"]);
    let path = format!("{}:/usr/bin:/bin", place.path("bin").display());
    command
        .env("PATH", path)
        .args(["--image", "image.elf"])
        .args(more);
    let output = command.output().expect("it runs");
    assert_eq!(output.status.code(), Some(exit), "{}", text(&output.stderr));
    output
}

#[test]
fn a_board_of_silicon_is_provisioned_and_written_by_probe_rs() {
    let place = place_with_probe();
    let broker = ["--broker", "192.168.1.10:1884"];
    let asked = || std::fs::read_to_string(place.path("asked")).unwrap_or_default();
    flash(&place, &[&broker[..], &["--dry-run"]].concat(), 0);
    assert_eq!(asked(), "");
    flash(&place, &[&broker[..], &["--erase"]].concat(), 0);
    let asked = asked();
    let lines: Vec<_> = asked.lines().collect();
    assert_eq!(lines[0], "erase --chip STM32H743ZITx");
    let download = "download --chip STM32H743ZITx --binary-format bin --base-address 0x080e0000 ";
    assert!(lines[1].starts_with(download), "{asked}");
    assert_eq!(lines[2], "run --chip STM32H743ZITx image.elf");
    let written = std::fs::read(place.path("written-download-2")).expect("provisioning");
    assert_eq!(written.len(), PROVISIONING_BYTES);
    let provisioning = Provisioning::decode(&written).expect("provisioning");
    assert_eq!(provisioning.device.as_str(), "press-04");
    assert_eq!(
        (provisioning.broker, provisioning.port),
        ([192, 168, 1, 10], 1884)
    );
    let image = std::fs::read(place.path("written-run-3")).expect("the image");
    assert_eq!(image, b"an image");
    let name = lines[1].rsplit_once(' ').expect("a file").1;
    assert!(!Path::new(name).exists(), "the password stays in {name}");
    let json = ["--no-start", "-o", "json"];
    let flashed = flash(&place, &[&broker[..], &json].concat(), 0).stdout;
    let flashed = serde_json::from_slice(&flashed).expect("JSON");
    snapshot("flash-probe", &flashed);
    let last = std::fs::read_to_string(place.path("asked")).expect("asked");
    let last = last.lines().last().expect("a line");
    assert_eq!(last, "download --chip STM32H743ZITx image.elf");
}

#[test]
fn what_does_not_work_with_a_board_of_silicon_is_said() {
    let place = place_with_probe();
    let loopback = flash(&place, &["--broker", "127.0.0.1:1884"], 2);
    assert!(text(&loopback.stderr).contains("address in the board's network"));
    let broker = ["--broker", "192.168.1.10:1884"];
    flash(
        &place,
        &[&broker[..], &["--samples", "image.elf"]].concat(),
        2,
    );
    flash(&place, &[&broker[..], &["--folder", "x"]].concat(), 2);
    let fails = "#!/bin/sh\necho no probe >&2\nexit 1\n";
    std::fs::write(place.path("bin/probe-rs"), fails).expect("written");
    let failed = flash(&place, &broker, 1);
    assert!(text(&failed.stderr).contains("is the probe connected"));
    std::fs::remove_file(place.path("bin/probe-rs")).expect("removed");
    let absent = flash(&place, &broker, 1);
    assert!(text(&absent.stderr).contains("cargo install probe-rs-tools"));
    // What only says what it would do needs none.
    flash(&place, &[&broker[..], &["--dry-run"]].concat(), 0);
    // It says no to what it would not do.
    let new = ["board", "new", "press", "--like", "nucleo-h743zi"];
    place.json(&[&new[..], &["--checkout", &checkout()]].concat(), 0);
    let own = ["flash", "press-05", "--board", "./press", "--dry-run"];
    let own = [&own[..], &broker].concat();
    place.json(&own, 0);
    let lean = place.error(&[&own[..], &["--lean"]].concat(), 2);
    assert!(lean.to_string().contains("this is your own"), "{lean}");
}
