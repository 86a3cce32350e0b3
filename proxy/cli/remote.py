"""Commands that talk to a running proxy: where it is, how to trust it, and its errors as ours."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proxy.cli.session import DEFAULT_CONFIG
from proxy.errors import ConfigInvalid, CrossfadeError, Reason, Rejected, Unavailable, Violation

if TYPE_CHECKING:
    import grpc
    from crossfade.client.control import ControlClient
    from crossfade.client.errors import CallError

    from proxy.config.settings import ListenSettings

AddressOption = Annotated[
    str,
    typer.Option(
        "--address",
        "-a",
        metavar="HOST:PORT",
        envvar="CROSSFADE_ADDRESS",
        help="Any replica of the proxy. Default: listen.address of the configuration;"
        " 127.0.0.1:50051 if there is none.",
        show_default=False,
    ),
]
ProxyConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar="CROSSFADE_CONFIG",
        help="The configuration that says where the proxy listens. Default: crossfade.yaml, if it"
        " is there. With --address it is not read.",
        show_default=False,
    ),
]
TlsCaOption = Annotated[
    Path | None,
    typer.Option(
        "--tls-ca",
        envvar="CROSSFADE_TLS_CA",
        help="Use TLS and trust this CA (PEM).",
        show_default=False,
    ),
]
TlsCertOption = Annotated[
    Path | None,
    typer.Option(
        "--tls-cert",
        envvar="CROSSFADE_TLS_CERT",
        help="Client certificate and key in one PEM file, for mutual TLS.",
        show_default=False,
    ),
]
ActorOption = Annotated[
    str,
    typer.Option(
        "--actor",
        envvar="CROSSFADE_ACTOR",
        help="Who does this, for the event log. Default: user@host.",
        show_default=False,
    ),
]
ReasonOption = Annotated[
    str, typer.Option("--reason", "-r", help="Why, for the event log.", show_default=False)
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Check and print the preconditions; change nothing.")
]
ForceOption = Annotated[
    bool,
    typer.Option("--force", help="Go on although a precondition failed. Needs --reason; logged."),
]
DEFAULT_ADDRESS = "127.0.0.1:50051"
_ANYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]", "*": "127.0.0.1"}  # noqa: S104  # where to ask one that listens everywhere

_UNREACHABLE = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A proxy and how to trust it; `migration`: which one it must serve, "" for any."""

    address: str
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    migration: str = ""


def proxy_of(
    address: str, config: Path | None, *, tls_ca: Path | None, tls_cert: Path | None
) -> Target:
    """Return the proxy that a command asks: the one named, else that of the configuration.

    Args:
        address: "" if none was named.
        config: None if none was named; crossfade.yaml counts if it is there.

    Raises:
        ConfigInvalid: the configuration does not say where its proxy listens.
    """
    file = config or (DEFAULT_CONFIG if DEFAULT_CONFIG.is_file() else None)
    if address or file is None:
        return Target(address=address or DEFAULT_ADDRESS, tls_ca=tls_ca, tls_cert=tls_cert)
    from proxy.config.loader import locate

    told = locate(file)
    found = target_of(told.listen)
    if found is None:
        raise ConfigInvalid(
            f"{file}: nobody can know where a proxy with listen.address {told.listen.address} is"
            " found; name it with --address or CROSSFADE_ADDRESS.",
            (),
        )
    return replace(
        found,
        tls_ca=tls_ca or found.tls_ca,
        tls_cert=tls_cert or found.tls_cert,
        migration=told.migration,
    )


async def require_ours(client: ControlClient, target: Target) -> None:
    """Return if the proxy serves the migration that the configuration names, or none is named.

    Raises:
        Rejected(FAILED_PRECONDITION): another migration's proxy answers there.
    """
    if target.migration:
        served = (await client.status()).migration
        if served != target.migration:
            raise not_ours(target.address, served, target.migration)


def not_ours(address: str, served: str, ours: str) -> Rejected:
    """Say that another migration's proxy answers at an address of ours."""
    return Rejected(
        f"The proxy at {address} serves {served}, not {ours}.",
        reason=Reason.FAILED_PRECONDITION,
        hint="Correct listen.address, or migration, in the configuration.",
    )


def target_of(listen: ListenSettings) -> Target | None:
    """Return where the configured proxy is found from its own machine, None if nobody can know.

    With TLS its own certificate is trusted, unless CROSSFADE_TLS_CA names another authority.
    """
    host, _, port = listen.address.rpartition(":")
    if not port.isdigit() or port == "0":
        return None
    address = f"{_ANYWHERE.get(host, host)}:{port}"
    if listen.tls is None:
        return Target(address=address)
    own = os.environ.get("CROSSFADE_TLS_CERT", "")
    return Target(
        address=address,
        tls_ca=Path(os.environ.get("CROSSFADE_TLS_CA", "") or listen.tls.certificate),
        tls_cert=Path(own) if own else None,
    )


def actor_name(given: str) -> str:
    """Return who does this: what was given, else user@host."""
    if given:
        return given
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


@asynccontextmanager
async def control(
    target: Target, *, timeout_s: float = 10.0, retries: int = 3
) -> AsyncIterator[ControlClient]:
    """Connect to the control plane; its errors leave this context as Crossfade's own.

    Raises:
        Unavailable: nobody answers at this address.
        Rejected: the proxy refused the request.
        ConfigInvalid: a TLS file cannot be read.
    """
    from crossfade.client.control import ControlClient
    from crossfade.client.errors import CallError

    client = ControlClient(
        target.address, credentials=_credentials(target), timeout_s=timeout_s, retries=retries
    )
    async with client:
        try:
            yield client
        except CallError as error:
            raise as_ours(error, target.address) from error


def as_ours(error: CallError, address: str) -> CrossfadeError:
    """Translate what a call raised."""
    if error.code in _UNREACHABLE:
        if not error.detail.reason:
            return _nobody(address, error.message)
        return Unavailable(error.message, where=error.detail.metadata.get("where", "proxy"))
    if error.code in Reason.__members__:
        violations = tuple(
            # A description on the wire says "expected ..."; a violation says the word itself.
            Violation(where=item.field, expected=item.description.removeprefix("expected "))
            for item in error.violations
        )
        hint = error.detail.metadata.get("hint", "")
        message = error.message.removesuffix(hint).rstrip() or error.message
        return Rejected(message, reason=Reason[error.code], violations=violations, hint=hint)
    return CrossfadeError(str(error), hint="The proxy's log has more under this request.")


def _nobody(address: str, why: str) -> Unavailable:
    return Unavailable(
        f"No proxy answers at {address}: {why}",
        where="proxy",
        hint="Start one with `crossfade serve`, or name another with --address. One with TLS"
        " needs --tls-ca, and with mutual TLS --tls-cert, or a --config that says so.",
    )


def _credentials(target: Target) -> grpc.ChannelCredentials | None:
    if target.tls_ca is None and target.tls_cert is None:
        return None
    import grpc

    pair = _read(target.tls_cert) if target.tls_cert is not None else None
    return grpc.ssl_channel_credentials(
        root_certificates=_read(target.tls_ca) if target.tls_ca is not None else None,
        private_key=pair,
        certificate_chain=pair,
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigInvalid(f"cannot read {path}: {error.strerror or error}", ()) from error


async def healthy(target: Target, *, deadline_s: float = 5.0) -> bool:
    """Ask the standard health service whether this replica takes calls.

    Raises:
        Unavailable: nobody answers at this address.
    """
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    credentials = _credentials(target)
    channel = (
        grpc.aio.insecure_channel(target.address)
        if credentials is None
        else grpc.aio.secure_channel(target.address, credentials)
    )
    async with channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=deadline_s)
        except grpc.aio.AioRpcError as error:
            raise _nobody(target.address, error.details() or error.code().name) from error
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
