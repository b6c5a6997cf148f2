//! Firmware of microcontrollers, where it was built and QEMU is there; otherwise a line says what is missing.

use std::path::Path;

/// That of a Cortex-M4.
pub fn image() -> Option<String> {
    named("EDGEWARD_MCU_IMAGE")
}

/// That of a Cortex-M7.
pub fn image_for_m7() -> Option<String> {
    named("EDGEWARD_M7_IMAGE")
}

/// That of a Cortex-M4, built lean.
pub fn lean_image() -> Option<String> {
    if std::env::var_os("EDGEWARD_LEAN_IMAGE").is_none() && image().is_some() {
        println!("skipped: a lean image wants what the automation did not find");
        return None;
    }
    named("EDGEWARD_LEAN_IMAGE")
}

fn named(variable: &str) -> Option<String> {
    let qemu = Path::new("/usr/bin/qemu-system-arm");
    let Ok(image) = std::env::var(variable) else {
        println!("skipped: {variable} names no firmware; `cargo xtask test` builds it");
        return None;
    };
    if !qemu.exists() {
        println!("skipped: no {}", qemu.display());
        return None;
    }
    assert!(Path::new(&image).exists(), "no {image}");
    Some(image)
}
