"""Where the server listens: the address, the loopback rule, and TLS from PEM files."""

from __future__ import annotations

import ipaddress
import ssl
from pathlib import Path

import grpc

from proxy.config.settings import TlsSettings
from proxy.errors import Reason, Rejected, Violation


def is_loopback(address: str) -> bool:
    """True if only this machine can reach the address ("host:port", "[::1]:port", "unix:path").

    A name other than "localhost" counts as reachable, whatever it resolves to today.
    """
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_address(address: str, *, tls: TlsSettings | None, insecure: bool) -> None:
    """Refuse an address that others can reach in clear text.

    Raises:
        Rejected: INVALID_ARGUMENT, no host:port; FAILED_PRECONDITION, it is not loopback and has
            neither TLS nor `insecure`.
    """
    if not address.startswith(("unix:", "unix-abstract:")):
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65535:
            violation = Violation(where="listen.address", expected="host:port", got=address)
            raise Rejected(str(violation), violations=(violation,))
    if tls is None and not insecure and not is_loopback(address):
        violation = Violation(
            where="listen.tls", expected="a certificate and a key", got=f"none, at {address}"
        )
        raise Rejected(
            f"{address} can be reached from other machines, and there is no TLS.",
            reason=Reason.FAILED_PRECONDITION,
            violations=(violation,),
            hint="Give listen.tls a certificate and a key, listen on 127.0.0.1, or accept clear "
            "text with --insecure.",
        )


def server_credentials(tls: TlsSettings) -> grpc.ServerCredentials:
    """Return credentials from PEM files; `client_ca` makes a client certificate mandatory.

    Raises:
        Rejected: FAILED_PRECONDITION, naming the file that cannot be read or does not fit.
    """
    certificate = _read(tls.certificate, "listen.tls.certificate")
    key = _read(tls.key, "listen.tls.key")
    client_ca = _read(tls.client_ca, "listen.tls.client_ca") if tls.client_ca else None
    _check_pair(tls)
    return grpc.ssl_server_credentials(
        [(key, certificate)],
        root_certificates=client_ca,
        require_client_auth=client_ca is not None,
    )


def _read(path: str, where: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise _refusal(where, "a readable PEM file", f"{path}: {error.strerror}") from error


def _check_pair(tls: TlsSettings) -> None:
    """gRPC itself says only that a handshake failed, later; OpenSSL says why, now."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(tls.certificate, tls.key)
    except (ssl.SSLError, OSError) as error:
        expected = "a PEM certificate and its own unencrypted key"
        raise _refusal("listen.tls", expected, f"{tls.certificate}, {tls.key}: {error}") from error
    if tls.client_ca:
        try:
            context.load_verify_locations(tls.client_ca)
        except (ssl.SSLError, OSError) as error:
            where = "listen.tls.client_ca"
            raise _refusal(where, "PEM certificates", f"{tls.client_ca}: {error}") from error


def _refusal(where: str, expected: str, got: str) -> Rejected:
    violation = Violation(where=where, expected=expected, got=got)
    return Rejected(str(violation), reason=Reason.FAILED_PRECONDITION, violations=(violation,))
