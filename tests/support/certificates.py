"""Certificates of authorities made for a test, and tokens with their hashes."""

import hashlib
from pathlib import Path

import trustme

TOKEN, OTHER_TOKEN = "correct-horse", "battery-staple"


class Certificates:
    """One certificate, its key and its authority, as PEM files in a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.cert_file, self.key_file, self.ca_file = (folder / name for name in ("cert.pem", "key.pem", "ca.pem"))

    def issue(self, *names: str) -> trustme.CA:
        """Replace the files by those of a new authority, for `names` or this machine; return the authority."""
        authority = trustme.CA()
        issued = authority.issue_cert(*(names or ("localhost", "127.0.0.1")))
        self.cert_file.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
        self.key_file.write_bytes(issued.private_key_pem.bytes())
        self.ca_file.write_bytes(authority.cert_pem.bytes())
        return authority

    @property
    def settings(self) -> dict[str, Path]:
        """The settings of a server that has this certificate."""
        return {"tls_cert_file": self.cert_file, "tls_key_file": self.key_file}

    @property
    def client_flags(self) -> list[str]:
        """The flags of a client that has this certificate."""
        return ["--cert", str(self.cert_file), "--key", str(self.key_file)]


def hash_of(token: str) -> str:
    """What AUTH_TOKEN_HASHES holds for `token`."""
    return hashlib.sha256(token.encode()).hexdigest()


def bearer(token: str) -> list[tuple[str, str]]:
    """The metadata of a call with `token`."""
    return [("authorization", f"Bearer {token}")]
