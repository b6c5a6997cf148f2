//! Ed25519 by `ring`.
