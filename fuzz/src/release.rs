//! Bundles: sound ones, and the hashes of changed ones made right.

use edgeward::bundle::decode::{encode_policy, encode_profile};
use edgeward::bundle::golden::encode_golden;
use edgeward::bundle::write::{BundleWriter, Description, sign};
use edgeward::bundle::{BoardClass, CHUNK_BYTES, FileHeader, Manifest, SectionKind};
use edgeward::policy::Policy;
use edgeward::profile::{
    BINS, DType, DriftLimits, EDGES, FeatureProfile, Layout, MissingPolicy, Name, OutputKind,
    OutputProfile, Profile, Schema,
};
use edgeward::trust::sha256;

use crate::Gullible;

/// The example model: a bundle with it is as large as those of the demonstration.
const MODEL: &[u8] = include_bytes!("../../models/motion/motion-v1.onnx");

fn feature(name: &str) -> FeatureProfile {
    let mut edges = [0.0; EDGES];
    for (i, edge) in edges.iter_mut().enumerate() {
        *edge = i as f32 - 7.0;
    }
    let mut reference = [100; BINS];
    reference[0] = 0;
    reference[BINS - 1] = 0;
    FeatureProfile {
        name: Name::try_from(name).expect("short"),
        missing: MissingPolicy::HoldLast,
        min: -10.0,
        max: 10.0,
        mean: 0.0,
        sd: 4.04,
        max_rate: 5.0,
        stuck_run: 20,
        edges,
        reference,
        limits: DriftLimits {
            psi: 0.2,
            ks: 0.1,
            js: 0.1,
            wasserstein: 1.0,
        },
    }
}

/// The profile of a model of two features and two classes.
pub fn profile() -> Profile<128, 32> {
    Profile {
        schema: Schema {
            version: 1,
            dtype: DType::F32,
            window: 4,
            hop: 2,
            layout: Layout::SamplesFirst,
            period_ms: 10,
            max_age_ms: 1000,
            feature_version: 0,
        },
        features: ["ax", "ay"].into_iter().map(feature).collect(),
        output: OutputProfile {
            kind: OutputKind::Logits,
            names: ["no", "yes"]
                .into_iter()
                .map(|name| Name::try_from(name).expect("short"))
                .collect(),
            temperature: 1.0,
            class_counts: [100, 100].into_iter().collect(),
            score_mean: 0.8,
            score_sd: 0.1,
            score_p01: 0.4,
            score_p99: 0.99,
            entropy_mean: 0.3,
            class_psi_limit: 0.5,
            score_shift_limit: 0.5,
        },
        drift_window: 100,
    }
}

fn sections() -> [(SectionKind, Vec<u8>); 3] {
    let vectors = [
        (vec![0.5; 8], vec![0.25, 0.75]),
        (vec![1.0; 8], vec![1.0, 0.0]),
    ];
    [
        (
            SectionKind::Profile,
            encode_profile(&profile()).expect("a profile"),
        ),
        (
            SectionKind::Policy,
            encode_policy(&Policy::standard()).expect("a policy"),
        ),
        (
            SectionKind::Golden,
            encode_golden(0.01, &vectors).expect("vectors"),
        ),
    ]
}

/// A bundle of these sections, signed; `None` when they make none.
pub fn bundle(sections: &[(SectionKind, Vec<u8>)]) -> Option<Vec<u8>> {
    let mut writer = BundleWriter::new(Description {
        name: "m".into(),
        version: "1".into(),
        counter: 1,
        class: BoardClass::Linux,
        kernels: "tract".into(),
        arena_bytes: 0,
        min_runtime: 1,
    })
    .ok()?;
    for (kind, bytes) in sections {
        writer.section(*kind, bytes.clone()).ok()?;
    }
    let mut bytes = writer.finish().ok()?;
    sign(&mut bytes, &Gullible).ok()?;
    Some(bytes)
}

/// Sections from a fuzzer's bytes: kind, length and content, one after the other.
pub fn sections_of(mut bytes: &[u8]) -> Vec<(SectionKind, Vec<u8>)> {
    let mut sections = Vec::new();
    while let [kind, low, high, rest @ ..] = bytes {
        let len = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (content, after) = rest.split_at(len);
        if let Some(kind) = SectionKind::from_code(u32::from(*kind) % 6) {
            sections.push((kind, content.to_vec()));
        }
        bytes = after;
    }
    sections
}

/// What [`sections_of`] reads.
fn written(sections: &[(SectionKind, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, content) in sections {
        bytes.push(kind.code() as u8);
        bytes.extend((content.len() as u16).to_le_bytes());
        bytes.extend(content);
    }
    bytes
}

/// Makes the hashes of a changed bundle right: those of its sections in the manifest, then those of
/// its chunks in the table. What is no manifest, or claims what the file does not hold, stays.
pub fn repair(bytes: &mut [u8]) {
    let Ok(header) = FileHeader::parse(bytes) else {
        return;
    };
    let (manifest, table) = (header.manifest_range(), header.table_range());
    let Some(encoded) = bytes.get(manifest.clone()).map(<[u8]>::to_vec) else {
        return;
    };
    if let Ok(mut decoded) = postcard::from_bytes::<Manifest<'_>>(&encoded) {
        for section in &mut decoded.sections {
            let from = section.offset as usize;
            let to = from.saturating_add(section.len as usize);
            if let Some(content) = bytes.get(from..to) {
                section.sha256 = sha256(content);
            }
        }
        let mut again = vec![0; encoded.len() + 64];
        if let Ok(again) = postcard::to_slice(&decoded, &mut again)
            && again.len() == encoded.len()
        {
            bytes[manifest].copy_from_slice(again);
        }
    }
    let hashes: Vec<u8> = bytes
        .get(header.head_bytes as usize..)
        .unwrap_or_default()
        .chunks(CHUNK_BYTES)
        .flat_map(sha256)
        .collect();
    if let Some(place) = bytes.get_mut(table)
        && place.len() == hashes.len()
    {
        place.copy_from_slice(&hashes);
    }
}

/// A bundle as it is, one to be repaired, one with the example model in it, and bare sections.
pub fn seeds() -> Vec<Vec<u8>> {
    use crate::Mode::{Content, Raw, Repaired};
    let sections = sections();
    let small = bundle(&sections).expect("a bundle");
    let model = [(SectionKind::TractModel, MODEL.to_vec())];
    let large = bundle(&[&model[..], &sections].concat()).expect("a bundle");
    let [profile, policy, golden] = &sections;
    vec![
        Raw.seed(&small),
        Repaired.seed(&small),
        Repaired.seed(&large),
        Content.seed(&written(&sections)),
        Raw.seed(&profile.1),
        Raw.seed(&policy.1),
        Raw.seed(&golden.1),
    ]
}
