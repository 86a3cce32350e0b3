"""The presets that the demo knows, by name."""

from __future__ import annotations

from proxy.demo.options import PRESETS, DemoOptions
from proxy.demo.scenario import Scenario
from proxy.errors import Rejected, Violation


def check_preset(name: str) -> None:
    """Raise Rejected if there is no demo of a preset."""
    if name not in PRESETS:
        expected = " or ".join(PRESETS)
        raise Rejected(
            f"There is no demo of the preset {name!r}; expected {expected}.",
            violations=(Violation(where="--preset", expected=expected, got=name),),
        )


def prepare(options: DemoOptions, seed: int) -> Scenario:
    """Read the input of a preset's demo and deal it out by the seed.

    Raises:
        Rejected: the preset is unknown, or the corpus cannot be used.
    """
    check_preset(options.preset)
    if options.preset == "work-items":
        from proxy.demo.work_items.scenario import work_items

        return work_items(options, seed)
    from proxy.demo.doc_server.scenario import doc_server

    return doc_server(options, seed)
