"""`crossfade serve`: one replica of the proxy, until it is told to stop."""

from __future__ import annotations

from typing import Annotated

import typer

from proxy.cli.session import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    begin,
    load_config,
    only_error,
    run,
)
from proxy.errors import ConfigInvalid, Rejected


def serve(
    ctx: typer.Context,
    *,
    config: ConfigOption = DEFAULT_CONFIG,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure", help="Allow an address other than loopback without TLS. Logged loudly."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Serve the gRPC storage proxy.

    Start as many replicas as you like with the same configuration: they agree through the ledger.
    One line is printed once the replica serves; logs go to standard error. SIGTERM and Ctrl-C
    stop it in order: what is under way is finished, its lease is given back.

    With a store that one process alone may write (LanceDB) one replica is all there can
    be, and it is the reconciler too: `crossfade backfill`, `verify` and `repair` ask it
    (reconcile.in_proxy: auto, always or never).

    [bold]Examples[/bold]

      crossfade serve --config crossfade.yaml

      CROSSFADE_LISTEN=127.0.0.1:0 crossfade serve -c crossfade.yaml     (a free port, printed)
    """
    output = begin(ctx, as_json)
    loaded = load_config(config, output)
    from proxy.server.serve import serve as serve_proxy

    def ready(address: str) -> None:
        if as_json:
            output.line({"event": "ready", "address": address})
        else:
            output.say(f"serving {loaded.settings.migration} at {address}")

    try:
        run(serve_proxy(loaded, insecure=insecure, ready=ready))
    except (Rejected, ExceptionGroup) as raised:
        error = only_error(raised)
        if isinstance(error, Rejected):  # an address or TLS file that cannot be used
            raise ConfigInvalid(str(error), error.violations) from raised
        raise
