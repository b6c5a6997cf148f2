//! Others' COSE libraries verify what we sign, and we verify what they sign.
//!
//! Two judges: the crate `coset`, and the Python package `pycose`, for which the test runner sets
//! `EDGEWARD_PYTHON` to an interpreter that has `tests/interop/requirements.txt`.

use coset::{
    CborSerializable, CoseSign1, CoseSign1Builder, HeaderBuilder, TaggedCborSerializable, iana,
};
use edgeward::bundle::write::sign;
use edgeward::bundle::{BoardClass, BundleWriter, Description, Head, SectionKind};
use edgeward::recorder::{Recorder, Snapshot};
use edgeward::sync::{Desired, RolloutState};
use edgeward::telemetry::codec::{encode_frame, sign_frame};
use edgeward::telemetry::pull::{Command as Wish, Order, Pull, encode_command, verify_part};
use edgeward::telemetry::{Body, Event, Frame, Refused};
use edgeward::trust::cose::{self, ContentType};
use edgeward::trust::ring::{RingSigner, RingVerifier};
use edgeward::trust::{PublicKey, Signer, Verifier};
use std::path::Path;
use std::process::Command;

const SEED: [u8; 32] = [42; 32];

fn signer(number: u8) -> RingSigner {
    RingSigner::from_seed(&[number; 32]).expect("any seed is a key")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bundle(keys: &[&RingSigner]) -> Vec<u8> {
    let mut writer = BundleWriter::new(Description {
        name: "motion".into(),
        version: "1.0.0".into(),
        counter: 1,
        class: BoardClass::Linux,
        kernels: "tract".into(),
        arena_bytes: 0,
        min_runtime: 1,
    })
    .expect("the description is plain");
    writer
        .section(SectionKind::TractModel, vec![5; 9000])
        .expect("first of its kind");
    let mut bytes = writer.finish().expect("it fits");
    for key in keys {
        sign(&mut bytes, *key).expect("there is room");
    }
    bytes
}

fn desired() -> Vec<u8> {
    let desired = Desired {
        fleet: "plant".try_into().expect("it fits"),
        sequence: 9,
        expires_s: 1_900_000_000,
        rollout: "r1".try_into().expect("it fits"),
        state: RolloutState::Active,
        targets: heapless::Vec::new(),
        tags: heapless::Vec::new(),
        share_per_mille: 333,
    };
    postcard::to_extend(&desired, Vec::new()).expect("a vector takes all")
}

/// A signed frame and its payload.
fn frame(key: &RingSigner) -> (Vec<u8>, Vec<u8>) {
    let frame: Frame<2, 2> = Frame {
        device: "press-7".try_into().expect("it fits"),
        epoch: 0x5eed,
        acknowledged: 39,
        boot: 3,
        first_sequence: 40,
        sequence: 41,
        time_ms: 1_800_000_000_000,
        body: Body::Event(Event::Refused { what: Refused::Ack }),
    };
    let mut payload = [0; 512];
    let mut out = [0; 1024];
    let len = sign_frame(&frame, key, &mut out).expect("it fits");
    let payload = encode_frame(&frame, &mut payload).expect("it fits");
    (out[..len].to_vec(), payload.to_vec())
}

/// The signed parts of a flight record, and their payloads.
fn parts(key: &RingSigner) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut recorder = Recorder::new([0; 512]);
    for n in 0..10 {
        recorder.event(n, [2; 8], &Event::Refused { what: Refused::Ack });
    }
    let mut out = [0; 417];
    let mut pull = Pull::new([7; 16], 3, 5, &recorder, out.len()).expect("room");
    let device = "press-7".try_into().expect("it fits");
    let (mut parts, mut whole) = (Vec::new(), 0);
    while !pull.is_done() {
        let len = pull.sign_next(&device, &recorder, key, &mut out);
        let message = out[..len.expect("it fits")].to_vec();
        let part = verify_part(&message, &key.public_key(), &RingVerifier).expect("ours");
        whole += part.bytes.len();
        let parsed = cose::parse(&message).expect("of the one shape");
        let payload = parsed.payload.expect("embedded").to_vec();
        parts.push((message, payload));
        pull.sent();
    }
    assert_eq!(whole, recorder.len());
    parts
}

/// The payload of a command.
fn command() -> Vec<u8> {
    let command = Wish {
        fleet: "plant".try_into().expect("it fits"),
        device: "press-7".try_into().expect("it fits"),
        boot: 3,
        sequence: 9,
        expires_s: 1_900_000_000,
        order: Order::PullRecord { pull: [7; 16] },
    };
    let mut space = [0; 128];
    let payload = encode_command(&command, &mut space).expect("it fits");
    payload.to_vec()
}

/// The payload embedded by the first signer, detached signatures by the others.
fn sequence(content: ContentType, payload: &[u8], keys: &[&RingSigner]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, key) in keys.iter().enumerate() {
        let mut out = vec![0; content.embedded_bytes(payload.len())];
        let len = if index == 0 {
            cose::sign_embedded(*key, content, payload, &mut out)
        } else {
            cose::sign_detached(*key, content, payload, &mut out)
        };
        bytes.extend_from_slice(&out[..len.expect("it fits")]);
    }
    bytes
}

/// Checks with coset that `message` is signed by `key`, and that its headers say so.
fn coset_verifies(message: &[u8], key: &PublicKey, content: ContentType, detached: Option<&[u8]>) {
    let parsed = CoseSign1::from_tagged_slice(message).expect("it is COSE_Sign1");
    let header = &parsed.protected.header;
    assert_eq!(
        header.alg,
        Some(coset::Algorithm::Assigned(iana::Algorithm::EdDSA))
    );
    assert_eq!(
        header.content_type,
        Some(coset::ContentType::Text(content.text().into()))
    );
    assert_eq!(header.key_id, key.id().0);
    assert!(parsed.unprotected.is_empty());
    let ring = |signature: &[u8], message: &[u8]| {
        ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, &key.0)
            .verify(message, signature)
    };
    match detached {
        None => parsed.verify_signature(&[], ring),
        Some(payload) => parsed.verify_detached_signature(payload, &[], ring),
    }
    .expect("the signature holds");
    // What it would print again is what we printed: ours is the canonical form.
    let again = CoseSign1 {
        protected: coset::ProtectedHeader {
            original_data: None,
            ..parsed.protected.clone()
        },
        ..parsed
    };
    assert_eq!(again.to_tagged_vec().expect("it prints"), message);
}

#[test]
fn coset_verifies_ours() {
    let key = signer(1);
    let public = key.public_key();
    let bytes = bundle(&[&key]);
    let head = Head::parse(&bytes).expect("it is sound");
    let message = head.signatures().next().expect("one signed");
    coset_verifies(message, &public, ContentType::Bundle, Some(&head.digest()));
    coset_verifies(&frame(&key).0, &public, ContentType::Frame, None);
    for (part, _) in parts(&key) {
        coset_verifies(&part, &public, ContentType::Record, None);
    }
    let asked = sequence(ContentType::Command, &command(), &[&key]);
    coset_verifies(&asked, &public, ContentType::Command, None);
    for content in ContentType::ALL {
        for len in [0, 23, 24, 255, 256, 65536] {
            let payload = vec![0xc3; len];
            let bytes = sequence(content, &payload, &[&key]);
            coset_verifies(&bytes, &public, content, None);
        }
    }
}

#[test]
fn we_verify_cosets() {
    let key = signer(2);
    for content in ContentType::ALL {
        for len in [0, 23, 24, 255, 256, 65536] {
            let payload = vec![0x3c; len];
            let header = HeaderBuilder::new()
                .algorithm(iana::Algorithm::EdDSA)
                .content_type(content.text().into())
                .key_id(key.public_key().id().0.to_vec())
                .build();
            let message = CoseSign1Builder::new()
                .protected(header.clone())
                .payload(payload.clone())
                .create_signature(&[], |bytes| key.sign(&[bytes]).to_vec())
                .build()
                .to_tagged_vec()
                .expect("it prints");
            let verified = cose::verify_one(&message, content, &key.public_key(), &RingVerifier);
            assert_eq!(verified, Ok(&payload[..]));
            let message = CoseSign1Builder::new()
                .protected(header)
                .create_detached_signature(&payload, &[], |bytes| key.sign(&[bytes]).to_vec())
                .build()
                .to_tagged_vec()
                .expect("it prints");
            let parsed = cose::parse(&message).expect("it is of the one shape");
            assert!(parsed.verify(&RingVerifier, &key.public_key(), Some(&payload)));
        }
    }
}

/// Valid COSE that is not of the one shape is refused: untagged, or with headers of its own.
#[test]
fn other_shapes_are_refused() {
    let key = signer(2);
    let header = || {
        HeaderBuilder::new()
            .algorithm(iana::Algorithm::EdDSA)
            .content_type(ContentType::Ack.text().into())
            .key_id(key.public_key().id().0.to_vec())
    };
    let build = |protected, unprotected| {
        CoseSign1Builder::new()
            .protected(protected)
            .unprotected(unprotected)
            .payload(vec![1])
            .create_signature(&[], |bytes| key.sign(&[bytes]).to_vec())
            .build()
    };
    let none = || HeaderBuilder::new().build();
    let good = build(header().build(), none());
    let tagged = good.clone().to_tagged_vec().expect("it prints");
    assert!(cose::parse(&tagged).is_ok());
    assert!(cose::parse(&good.to_vec().expect("it prints")).is_err());
    let extra = header().value(-70000, null()).build();
    for message in [
        build(extra, none()),
        build(header().build(), HeaderBuilder::new().iv(vec![1]).build()),
        build(header().algorithm(iana::Algorithm::ES256).build(), none()),
        build(header().key_id(vec![1; 9]).build(), none()),
        build(header().content_type("text/plain".into()).build(), none()),
    ] {
        assert!(cose::parse(&message.to_tagged_vec().expect("it prints")).is_err());
    }
}

fn null() -> coset::cbor::value::Value {
    coset::cbor::value::Value::Null
}

/// Fills `folder` as `pycose_check.py` describes; returns the key that the script signs with, and how
/// many parts of a flight record there are.
fn write_what_we_sign(folder: &Path) -> (RingSigner, usize) {
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(folder.join(name), bytes).expect("the build folder is ours");
    };
    let keys = [signer(1), signer(2), signer(3)];
    let publics = keys.each_ref().map(|key| hex(&key.public_key().0));
    write("release.bundle", &bundle(&[&keys[0], &keys[1]]));
    let (message, payload) = frame(&keys[2]);
    write("frame.cose", &message);
    write("frame.payload", &payload);
    write("desired.payload", &desired());
    let signers = [&keys[0], &keys[2]];
    write(
        "desired.cose",
        &sequence(ContentType::Desired, &desired(), &signers),
    );
    let asked = sequence(ContentType::Command, &command(), &[&keys[1]]);
    write("command.cose", &asked);
    write("command.payload", &command());
    let parts = parts(&keys[2]);
    for ((message, payload), number) in parts.iter().zip(0..) {
        write(&format!("part-{number}.cose"), message);
        write(&format!("part-{number}.payload"), payload);
    }
    let part = |number: usize| {
        serde_json::json!({
            "file": format!("part-{number}.cose"),
            "payload": format!("part-{number}.payload"),
            "content": ContentType::Record.text(),
            "keys": [publics[2]],
        })
    };
    let theirs = RingSigner::from_seed(&SEED).expect("any seed is a key");
    let mut index = serde_json::json!({
        "bundle": {"file": "release.bundle", "keys": publics[..2]},
        "messages": [
            {
                "file": "frame.cose",
                "payload": "frame.payload",
                "content": ContentType::Frame.text(),
                "keys": [publics[2]],
            },
            {
                "file": "desired.cose",
                "payload": "desired.payload",
                "content": ContentType::Desired.text(),
                "keys": [publics[0], publics[2]],
            },
        ],
        "sign": {
            "seed": hex(&SEED),
            "public": hex(&theirs.public_key().0),
            "content": ContentType::Desired.text(),
            "payload": "desired.payload",
        },
    });
    let messages = index["messages"].as_array_mut().expect("a list");
    messages.push(serde_json::json!({
        "file": "command.cose",
        "payload": "command.payload",
        "content": ContentType::Command.text(),
        "keys": [publics[1]],
    }));
    messages.extend((0..parts.len()).map(part));
    write("index.json", index.to_string().as_bytes());
    (theirs, parts.len())
}

#[test]
fn pycose_verifies_ours_and_we_verify_pycoses() {
    let Some(python) = std::env::var_os("EDGEWARD_PYTHON") else {
        eprintln!("skipped: EDGEWARD_PYTHON names no Python with tests/interop/requirements.txt");
        return;
    };
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pycose");
    std::fs::create_dir_all(&folder).expect("the build folder is ours");
    let (theirs, parts) = write_what_we_sign(&folder);
    assert!(parts > 1);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/pycose_check.py");
    let output = Command::new(python)
        .arg(script)
        .arg(&folder)
        .output()
        .expect("EDGEWARD_PYTHON runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{complained}");
    assert_eq!(
        said.lines().filter(|line| line.contains("hold")).count(),
        6 + parts,
        "{said}"
    );

    let read = |name: &str| std::fs::read(folder.join(name)).expect("the script wrote it");
    let public = theirs.public_key();
    let embedded = read("embedded.cose");
    let verified = cose::verify_one(&embedded, ContentType::Desired, &public, &RingVerifier);
    assert_eq!(verified, Ok(&desired()[..]));
    let detached = read("detached.cose");
    let message = cose::parse(&detached).expect("it is of the one shape");
    let verifier: &dyn Verifier = &RingVerifier;
    assert!(message.verify(verifier, &public, Some(&desired())));
}
