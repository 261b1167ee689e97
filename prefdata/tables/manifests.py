"""The manifest in a table file's key-value metadata: stage, version, hash of its settings slice, content hashes of its inputs,
rows, drops by reason; no time, host or path.
"""

import hashlib
import json
from typing import Any

MANIFEST = b"prefdata"


def sealed(manifest: dict[str, Any]) -> str:
    """A manifest as it is written: with its own hash, since a file's footer has no checksum."""
    return json.dumps({**manifest, "seal": _seal(manifest)}, sort_keys=True)


def _seal(manifest: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(manifest, sort_keys=True).encode(), digest_size=8).hexdigest()


def unsealed(metadata: dict[bytes, bytes]) -> dict[str, Any]:
    """The manifest of a footer, checked. Raises ValueError where it is not what was written."""
    loaded: dict[str, Any] = json.loads(metadata[MANIFEST])
    if loaded.pop("seal") != _seal(loaded):
        raise ValueError("its manifest was changed")
    return loaded
