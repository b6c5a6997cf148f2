//! Writes a public key and the head of a release that it signed, for `cargo xtask bench-mcu`:
//! `release_head FILE`. The release is of the size of the keyword-spotting model's program.

use edgeward::bundle::write::sign;
use edgeward::bundle::{BoardClass, BundleWriter, Description, Head, SectionKind};
use edgeward::trust::Signer;
use edgeward::trust::dalek::DalekSigner;
use std::error::Error;

/// Bytes of the program.
const PROGRAM_BYTES: usize = 33_552;

fn main() -> Result<(), Box<dyn Error>> {
    let file = std::env::args().nth(1).ok_or("usage: release_head FILE")?;
    let mut writer = BundleWriter::new(Description {
        name: "kws".into(),
        version: "1.0.0".into(),
        counter: 1,
        class: BoardClass::Mcu,
        kernels: "cortex-m".into(),
        arena_bytes: 12_288,
        min_runtime: 1,
    })?;
    writer.section(SectionKind::Program, vec![5; PROGRAM_BYTES])?;
    let mut bundle = writer.finish()?;
    let key = DalekSigner::from_seed(&[1; 32]);
    sign(&mut bundle, &key)?;
    let head = Head::parse(&bundle)?.head_bytes() as usize;
    let mut out = key.public_key().0.to_vec();
    out.extend(&bundle[..head]);
    std::fs::write(file, out)?;
    Ok(())
}
