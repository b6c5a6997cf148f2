//! Bundles on the broker.

use crate::common::process::PATIENCE;
use crate::common::snapshot;
use crate::site::{Site, next_message};
use edgeward::bundle::CHUNK_BYTES;
use edgeward::topic;
use edgeward::trust::Digest32;
use edgeward_host::keys::unhex;

/// Withdraws a published release, which is refused while a rollout names it.
fn goes_again(place: &Site, name: &str, digest: &Digest32, chunks: usize) {
    let withdraw = ["publish", "--withdraw", name];
    place.json(&["rollout", "start", "v1.bundle", "--id", "r-1"], 0);
    let error = place.error(&withdraw, 3);
    let said = error["error"].as_str().expect("a sentence");
    assert!(said.contains("r-1, the newest rollout"), "{said}");
    // Another one takes its place, with the same content under another digest.
    let next = place.json(&["rollback", "--to", "v1.bundle"], 0);
    let target = &next["rollout"]["plan"]["targets"][0]["digest"];
    let dry = place.json(&[&withdraw[..], &["--dry-run"]].concat(), 0);
    assert_eq!(
        (&dry["chunks"], &dry["dry_run"]),
        (&chunks.into(), &true.into())
    );
    place.retained(&topic::blob(digest, 0));

    let gone = place.json(&withdraw, 0);
    assert_eq!(
        (&gone["chunks"], &gone["digest"]),
        (&chunks.into(), &name.into())
    );
    let reader = place.client("reader");
    let other: Digest32 = target.as_str().and_then(unhex).expect("a digest");
    for n in 0..chunks {
        let chunk = topic::blob(digest, u32::try_from(n).expect("few"));
        reader
            .subscribe_and_wait(&chunk, PATIENCE)
            .expect("granted");
    }
    let kept = topic::blob(&other, 0);
    reader.subscribe_and_wait(&kept, PATIENCE).expect("granted");
    assert_eq!(next_message(&reader).topic, kept.as_str());

    let unknown = "00".repeat(32);
    place.error(&["publish", "--withdraw", &unknown], 1);
    place.error(&["publish", "--withdraw", "00"], 2);
    place.error(&["publish", "v1.bundle", "--withdraw", name], 2);
    place.error(&["publish"], 2);
}

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

    let name = published["digest"].as_str().expect("a digest");
    goes_again(&place, name, &digest, chunks.len());

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
