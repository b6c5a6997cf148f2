//! Bundles on the broker.

use crate::common::snapshot;
use crate::site::Site;
use edgeward::bundle::CHUNK_BYTES;
use edgeward::topic;
use edgeward::trust::Digest32;
use edgeward_host::keys::unhex;

#[test]
fn a_signed_bundle_is_published_and_an_unsigned_one_is_refused() {
    let place = Site::new();
    let error = place.error(&["publish", "plain.bundle"], 3);
    let said = error["error"].as_str().expect("a sentence");
    assert!(said.contains("edgeward sign"), "{said}");
    let dry = place.json(&["publish", "v1.bundle", "--dry-run"], 0);
    assert_eq!(dry["dry_run"], true);
    assert!(!place.path(".edgeward/releases").exists());

    let published = place.json(&["publish", "v1.bundle"], 0);
    snapshot("publish", &published);
    let bytes = std::fs::read(place.path("v1.bundle")).expect("the bundle");
    let chunks: Vec<&[u8]> = bytes.chunks(CHUNK_BYTES).collect();
    assert_eq!(published["chunks"], chunks.len());
    assert_eq!(
        (&published["counter"], &published["version"]),
        (&1.into(), &"1.0.0".into())
    );
    let digest: Digest32 = published["digest"]
        .as_str()
        .and_then(unhex)
        .expect("a digest");
    for n in [0, chunks.len() - 1] {
        let topic = topic::blob(&digest, u32::try_from(n).expect("few"));
        assert_eq!(place.retained(&topic), chunks[n], "chunk {n}");
    }

    // What is wrong with a bundle is said once, with where it is and what to do.
    std::fs::write(place.path("torn.bundle"), &bytes[..bytes.len() - 1]).expect("written");
    for args in [
        &["publish", "torn.bundle"][..],
        &["rollout", "start", "torn.bundle"],
        &["rollback", "--to", "torn.bundle"],
    ] {
        let error = place.error(args, 3);
        let said = error["error"].as_str().expect("a sentence");
        let parts: Vec<&str> = said.split(": ").collect();
        let again = |at: usize| parts[at + 1..].iter().any(|part| part.contains(parts[at]));
        assert!(!(0..parts.len()).any(again), "{said}");
        assert!(
            said.starts_with("torn.bundle: ") && said.contains("at byte"),
            "{said}"
        );
        assert!(
            error["next"]
                .as_str()
                .is_some_and(|next| next.contains("pack it again"))
        );
    }

    // A broker that is not there is a question of time.
    let nowhere = ["publish", "v1.bundle", "--broker", "127.0.0.1:1"];
    place.error(&[&nowhere[..], &["--timeout", "1"]].concat(), 5);
}
