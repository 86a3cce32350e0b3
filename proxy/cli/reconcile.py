"""`crossfade reconcile`: the long-running reconciler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from proxy.cli.jobs import HereOption
from proxy.cli.output import Output
from proxy.cli.session import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    begin,
    load_config,
    run,
    until_stopped,
)

if TYPE_CHECKING:
    from proxy.config.loader import Config
    from proxy.stores.base import Store


def reconcile(
    ctx: typer.Context,
    *,
    config: ConfigOption = DEFAULT_CONFIG,
    metrics: Annotated[
        str,
        typer.Option(
            "--metrics",
            metavar="HOST:PORT",
            help="Where Prometheus finds this process's metrics; empty for nowhere.",
            show_default=False,
        ),
    ] = "",
    here: HereOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run the reconciler until it is told to stop.

    It repairs dirty keys as they appear, takes over what dead replicas left, forgets what is
    settled, and picks up the jobs that `crossfade job` asks for.
    Several may run at once: each job has one owner. SIGTERM and Ctrl-C stop it after the batch
    under way; jobs are left for the next runner, with their place.

    A LanceDB store can be written by one process alone: there `crossfade serve` does all of this
    itself (reconcile.in_proxy), and this command is refused while that proxy runs.

    [bold]Examples[/bold]

      crossfade reconcile --config crossfade.yaml --metrics 127.0.0.1:9465
    """
    output = begin(ctx, as_json)
    loaded = load_config(config, output)
    from proxy.telemetry.logs import configure_logs

    configure_logs(loaded.settings.telemetry)
    run(_serve_alone(loaded, metrics, output, here=here))


async def _serve_alone(config: Config, metrics_address: str, output: Output, *, here: bool) -> None:
    """Serve, unless a proxy does that and no second process may.

    Raises:
        Rejected(FAILED_PRECONDITION): the message says what to use instead.
        Unavailable: that proxy went down a moment ago.
    """
    from proxy.cli.hosted import reconciling_proxy, refuse_beside, require_free
    from proxy.cli.local import make_parts

    target = await reconciling_proxy(config)
    if target is not None:
        stores = make_parts(config).stores.values()
        alone = [store.name for store in stores if store.capabilities.single_writer]
        if alone:
            raise refuse_beside(target, alone)
    else:
        await require_free(config, here=here)
    await _serve(config, metrics_address, output)


async def _serve(config: Config, metrics_address: str, output: Output) -> None:
    from proxy.cli.local import reconciler
    from proxy.server.reconciling import owner_name
    from proxy.telemetry.instrument import InstrumentedStore
    from proxy.telemetry.jobs import JobMetrics
    from proxy.telemetry.setup import build_telemetry
    from reconcile.jobs import Tools
    from reconcile.service import serve

    telemetry = build_telemetry(
        config.settings.telemetry,
        migration=config.settings.migration,
        metrics_address=metrics_address,
    )

    def instrumented(store: Store) -> Store:
        return InstrumentedStore(store, telemetry.tracing, telemetry.metrics)

    try:
        owner = owner_name()
        tools = Tools(observer=JobMetrics(telemetry.metrics))
        async with reconciler(config, tools, owner=owner, wrap=instrumented) as worker:

            async def announced() -> None:
                # By now a signal stops it in order, so whoever reads this line may send one.
                if output.as_json:
                    output.line({"event": "ready", "metrics": telemetry.metrics_address})
                else:
                    output.say(f"reconciling {config.settings.migration} as {owner}")
                await serve(worker)

            await until_stopped(announced(), stop=worker.stop)
    finally:
        await telemetry.close()
