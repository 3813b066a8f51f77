"""Makes what a SuperLink with TLS and registered nodes needs: a certificate authority, a server's key, nodes' keys."""

import ipaddress
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

__all__ = ["make_certificates", "make_node_key"]

_DAYS = 30


def _write(path: Path, content: bytes, secret: bool) -> Path:
    """Write a file, which only its owner may read where it is secret."""
    path.touch(mode=0o600 if secret else 0o644)
    path.write_bytes(content)
    return path


def _key_bytes(key: Any, openssh: bool = False) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    form = PrivateFormat.OpenSSH if openssh else PrivateFormat.PKCS8
    written: bytes = key.private_bytes(Encoding.PEM, form, NoEncryption())
    return written


def _builder(subject: Any, issuer: Any, public_key: Any, extensions: list[tuple[Any, bool]]) -> Any:
    from cryptography import x509

    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=_DAYS))
    )  # fmt: skip
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder


def _authority(name: Callable[[str], Any]) -> tuple[Any, Any]:
    """The key and the certificate of a certificate authority."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    subject = name("fcil CA")
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    extensions = [(x509.BasicConstraints(ca=True, path_length=0), True), (usage, True), (identifier, False)]
    return key, _builder(subject, subject, key.public_key(), extensions).sign(key, hashes.SHA256())


def make_certificates(folder: Path, hosts: list[str]) -> tuple[Path, Path, Path]:
    """Make a certificate authority and a server's certificate for some hosts, valid for 30 days.

    Args:
        hosts: names or IP addresses under which the server is reached.

    Returns:
        The paths of ca.crt, server.pem and server.key. The authority's own key is not kept: nothing more can be signed.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def name(common: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])

    def alternative(host: str) -> x509.GeneralName:
        try:
            return x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            return x509.DNSName(host)

    ca_key, ca = _authority(name)
    key = ec.generate_private_key(ec.SECP256R1())
    extensions = [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (x509.SubjectAlternativeName([alternative(host) for host in hosts]), False),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), False),
    ]
    certificate = _builder(name(hosts[0]), ca.subject, key.public_key(), extensions).sign(ca_key, hashes.SHA256())
    return (
        _write(folder / "ca.crt", ca.public_bytes(Encoding.PEM), secret=False),
        _write(folder / "server.pem", certificate.public_bytes(Encoding.PEM), secret=False),
        _write(folder / "server.key", _key_bytes(key), secret=True),
    )


def make_node_key(path: Path) -> Path:
    """Make a SuperNode's ECDSA key at `path`, and beside it `.pub`, both as `ssh-keygen` writes them."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = ec.generate_private_key(ec.SECP384R1())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    _write(path.with_name(f"{path.name}.pub"), public + b"\n", secret=False)
    return _write(path, _key_bytes(key, openssh=True), secret=True)
