//! COSE_Sign1 (RFC 9052) in the one fixed shape that Edgeward uses.
