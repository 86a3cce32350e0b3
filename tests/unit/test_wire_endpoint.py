"""Clear text is served to this machine alone unless somebody insists."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config.settings import TlsSettings
from proxy.errors import Reason, Rejected
from proxy.fronts.native.endpoint import check_address, is_loopback, server_credentials

TLS = TlsSettings(certificate="c", key="k")


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "127.9.9.9:1", "localhost:1", "[::1]:1", "unix:/tmp/x.sock"]
)
def test_an_address_of_this_machine_needs_no_tls(address: str) -> None:
    assert is_loopback(address)
    check_address(address, tls=None, insecure=False)


@pytest.mark.parametrize(
    "address", ["0.0.0.0:1", "[::]:1", "10.0.0.7:1", "db.example.com:1", "localhost.evil.org:1"]
)
def test_an_address_that_others_reach_needs_tls_or_insistence(address: str) -> None:
    assert not is_loopback(address)
    with pytest.raises(Rejected) as caught:
        check_address(address, tls=None, insecure=False)
    assert caught.value.reason is Reason.FAILED_PRECONDITION
    assert caught.value.violations[0].where == "listen.tls"
    assert "--insecure" in caught.value.hint
    check_address(address, tls=None, insecure=True)
    check_address(address, tls=TLS, insecure=False)


@pytest.mark.parametrize("address", ["", "localhost", ":50051", "h:", "h:x", "h:70000", "h:-1"])
def test_something_that_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(Rejected, match=r"listen\.address: expected host:port"):
        check_address(address, tls=None, insecure=True)


def test_tls_files_that_cannot_be_read_or_are_no_pem_are_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.pem")
    with pytest.raises(Rejected, match=r"listen\.tls\.certificate.*No such file"):
        server_credentials(TlsSettings(certificate=missing, key=missing))
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    with pytest.raises(Rejected, match=r"listen\.tls: expected a PEM certificate"):
        server_credentials(TlsSettings(certificate=str(junk), key=str(junk)))
