"""Authentication by bearer tokens, of which the server knows only the SHA-256."""

import hashlib
import hmac
from collections.abc import Iterable

_SCHEME = "bearer "


class TokenCheck:
    """Compares the `authorization` metadata of a call with the hashes of the valid tokens."""

    def __init__(self, token_hashes: Iterable[str]) -> None:
        """`token_hashes` are hexadecimal SHA-256 digests; without any, every call is allowed."""
        self._hashes = [digest.lower() for digest in token_hashes]

    def allows(self, metadata: Iterable[tuple[str, str | bytes]]) -> bool:
        """Whether the metadata carry a valid token. Takes the same time for every invalid one."""
        if not self._hashes:
            return True
        given = next((str(value) for key, value in metadata if key == "authorization"), "")
        if given[: len(_SCHEME)].lower() != _SCHEME:
            return False
        digest = hashlib.sha256(given[len(_SCHEME) :].strip().encode("utf-8", "surrogatepass")).hexdigest()
        return sum(hmac.compare_digest(digest, known) for known in self._hashes) > 0  # all compared: no early end
