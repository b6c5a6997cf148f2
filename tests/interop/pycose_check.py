"""Verifies with pycose what the core signed, and signs with pycose what the core must accept.

Called by tests/interop.rs with one folder, which holds index.json:

    bundle    the file of a bundle, and the hex of each release key that signed it
    messages  a file of COSE_Sign1 messages one after the other, the content type, the hex of the
              keys that signed them in order, and the file of the payload
    sign      the hex of a seed and of its public key, a content type and the file of a payload; the
              messages are written to embedded.cose and detached.cose

The bundle is read here from its documentation (docs/BUNDLE.md), not with our code. Prints one line
a message; exits with an error at the first that does not hold.
"""

import hashlib
import io
import json
import pathlib
import struct
import sys

import cbor2
from pycose.headers import KID, Algorithm, ContentType
from pycose.algorithms import EdDSA
from pycose.keys import OKPKey
from pycose.messages import CoseMessage, Sign1Message


def key_id(public: bytes) -> bytes:
    return hashlib.sha256(public).digest()[:8]


def check(message: bytes, public: bytes, content: str, detached: bytes | None) -> bytes | None:
    """Fails unless `message` is signed by `public`, and by it only over what it says."""
    decoded = CoseMessage.decode(message)
    assert isinstance(decoded, Sign1Message)
    assert decoded.phdr == {Algorithm: EdDSA, ContentType: content, KID: key_id(public)}, decoded.phdr
    assert decoded.uhdr == {}, decoded.uhdr
    decoded.key = OKPKey(crv="ED25519", x=public)
    assert decoded.verify_signature(detached_payload=detached), "the signature does not hold"
    # The judge must be able to say no, too.
    wrong = bytearray(decoded.signature)
    wrong[0] ^= 1
    decoded.signature = bytes(wrong)
    assert not decoded.verify_signature(detached_payload=detached), "a damaged signature holds"
    return decoded.payload


def sequence(data: bytes) -> list[bytes]:
    """Cuts a CBOR sequence (RFC 8742) into its items."""
    items, stream = [], io.BytesIO(data)
    while stream.tell() < len(data):
        start = stream.tell()
        cbor2.load(stream)
        items.append(data[start : stream.tell()])
    return items


def bundle_signatures(data: bytes) -> tuple[bytes, list[bytes]]:
    """The digest of a bundle and its signatures, as docs/BUNDLE.md has it."""
    magic, version, header, chunk, manifest, chunks, head, total = struct.unpack_from("<8sHHIIIII", data)
    assert (magic, version, header, chunk) == (b"EDGEWARD", 1, 64, 4096)
    assert len(data) == total
    signed = 64 + manifest + 32 * chunks
    for index in range(chunks):
        piece = data[head + 4096 * index : head + 4096 * (index + 1)]
        at = 64 + manifest + 32 * index
        assert hashlib.sha256(piece).digest() == data[at : at + 32], f"chunk {index}"
    signatures, at = [], signed + 1
    for _ in range(data[signed]):
        (length,) = struct.unpack_from("<H", data, at)
        signatures.append(data[at + 2 : at + 2 + length])
        at += 2 + length
    assert not any(data[at:head]), "the padding is not zero"
    return hashlib.sha256(data[:signed]).digest(), signatures


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    index = json.loads((folder / "index.json").read_text())

    keys = [bytes.fromhex(key) for key in index["bundle"]["keys"]]
    digest, signatures = bundle_signatures((folder / index["bundle"]["file"]).read_bytes())
    assert len(signatures) == len(keys) > 0
    for public, message in zip(keys, signatures):
        assert check(message, public, "application/edgeward-bundle", digest) is None
        print(f"bundle: {len(message)} bytes hold")

    for entry in index["messages"]:
        keys = [bytes.fromhex(key) for key in entry["keys"]]
        payload = (folder / entry["payload"]).read_bytes()
        messages = sequence((folder / entry["file"]).read_bytes())
        assert len(messages) == len(keys) > 0
        for number, (public, message) in enumerate(zip(keys, messages)):
            embedded = check(message, public, entry["content"], payload if number else None)
            assert embedded == (None if number else payload)
            print(f"{entry['file']}: message {number} of {len(message)} bytes holds")

    sign = index["sign"]
    public = bytes.fromhex(sign["public"])
    payload = (folder / sign["payload"]).read_bytes()
    headers = {Algorithm: EdDSA, ContentType: sign["content"], KID: key_id(public)}
    key = OKPKey(crv="ED25519", x=public, d=bytes.fromhex(sign["seed"]))
    embedded = Sign1Message(phdr=headers, payload=payload, key=key)
    (folder / "embedded.cose").write_bytes(embedded.encode())
    detached = Sign1Message(phdr=headers, payload=None, key=key)
    (folder / "detached.cose").write_bytes(detached.encode(detached_payload=payload))


if __name__ == "__main__":
    main()
