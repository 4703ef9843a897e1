"""Who may call: bearer tokens, known to the server by their SHA-256 only."""

import hashlib
import hmac
from collections.abc import Iterable

_SCHEME = "bearer "


class TokenCheck:
    """Compares a call's `authorization` metadata with the hashes of the tokens that may call."""

    def __init__(self, token_hashes: Iterable[str]) -> None:
        """`token_hashes` are hexadecimal SHA-256 digests; none means that everybody may call."""
        self._hashes = [digest.lower() for digest in token_hashes]

    def allows(self, metadata: Iterable[tuple[str, str | bytes]]) -> bool:
        """Whether the metadata carry a known token. Takes the same time for every wrong one."""
        if not self._hashes:
            return True
        given = next((str(value) for key, value in metadata if key == "authorization"), "")
        if given[: len(_SCHEME)].lower() != _SCHEME:
            return False
        digest = hashlib.sha256(given[len(_SCHEME) :].strip().encode("utf-8", "surrogatepass")).hexdigest()
        return sum(hmac.compare_digest(digest, known) for known in self._hashes) > 0  # all compared: no early end
