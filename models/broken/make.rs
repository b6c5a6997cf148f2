//! Writes broken and unsupported models into a folder: see `README.md`.

#[path = "files.rs"]
#[allow(dead_code, reason = "tests look at what is expected, too")]
mod files;

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder] = arguments.as_slice() else {
        return Err("usage: broken FOLDER".into());
    };
    for file in files::write(Path::new(folder))? {
        println!("{}", file.name);
    }
    Ok(())
}
