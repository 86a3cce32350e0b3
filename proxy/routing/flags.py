"""The traffic flag: who reads from the new store, asked through OpenFeature.

The built-in provider answers from the routing in force: a key's place in [0, 2**64) is a hash that
never changes within a migration, and it reads the new store while that place lies below the
percentage. So a key sticks, and raising the percentage only adds keys. A team can hand in its own
provider; while a provider fails, the built-in answer stands in for it.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from openfeature import api
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import FlagResolutionDetails, Reason
from openfeature.provider import AbstractProvider, FeatureProvider, Metadata
from openfeature.provider.no_op_provider import NoOpProvider

from proxy.config.settings import FlagSettings
from proxy.errors import ConfigInvalid, Violation
from proxy.ledger.types import Phase, Routing

if TYPE_CHECKING:
    from openfeature.client import OpenFeatureClient
    from openfeature.flag_evaluation import FlagValueType

_T = TypeVar("_T")
_PLACES = 2**64
_OPEN_DEADLINE_S = 5.0
"""A team's provider may dial its service at start; the proxy does not wait longer than this."""


class Buckets:
    """Gives every targeting key of one migration its place in [0, 2**64)."""

    def __init__(self, migration: str) -> None:
        self._head = hashlib.blake2b(f"{migration}\0".encode(), digest_size=8)

    def place(self, targeting_key: str) -> int:
        """Return the key's place: uniform, and the same in every process for ever."""
        state = self._head.copy()
        state.update(targeting_key.encode("utf-8", "surrogatepass"))
        return int.from_bytes(state.digest(), "big")

    def within(self, targeting_key: str, percent: float) -> bool:
        """True if the key is among the first `percent` (0..100) of all places."""
        return self.place(targeting_key) < int(percent / 100.0 * _PLACES)


class RoutingProvider(AbstractProvider):
    """The built-in provider: boolean flag `flag_key` from the routing in force.

    It extends the SDK's base class, as the SDK asks every provider to do.
    """

    def __init__(self, migration: str, flag_key: str, routing: Callable[[], Routing]) -> None:
        super().__init__()
        self._buckets = Buckets(migration)
        self._flag_key = flag_key
        self._routing = routing

    def get_metadata(self) -> Metadata:
        return Metadata(name="crossfade-routing")

    def answer(self, targeting_key: str) -> bool:
        """Return the answer without going through the SDK."""
        percent = self._routing().percent
        if percent <= 0.0:
            return False
        return percent >= 100.0 or self._buckets.within(targeting_key, percent)

    def resolve_boolean_details(
        self,
        flag_key: str,
        default_value: bool,
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[bool]:
        if flag_key != self._flag_key:
            return _unknown(default_value)
        key = evaluation_context.targeting_key if evaluation_context is not None else None
        if not key:
            return FlagResolutionDetails(
                value=default_value, reason=Reason.ERROR, error_code=ErrorCode.TARGETING_KEY_MISSING
            )
        return FlagResolutionDetails(value=self.answer(key), reason=Reason.SPLIT)

    def resolve_string_details(
        self,
        flag_key: str,
        default_value: str,
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[str]:
        return _unknown(default_value)

    def resolve_integer_details(
        self,
        flag_key: str,
        default_value: int,
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[int]:
        return _unknown(default_value)

    def resolve_float_details(
        self,
        flag_key: str,
        default_value: float,
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[float]:
        return _unknown(default_value)

    def resolve_object_details(
        self,
        flag_key: str,
        default_value: Sequence[FlagValueType] | Mapping[str, FlagValueType],
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[Sequence[FlagValueType] | Mapping[str, FlagValueType]]:
        return _unknown(default_value)


def _unknown(default_value: _T) -> FlagResolutionDetails[_T]:
    return FlagResolutionDetails(
        value=default_value, reason=Reason.ERROR, error_code=ErrorCode.FLAG_NOT_FOUND
    )


class TrafficFlags:
    """What the read path asks. Safe to use from one event loop; `open` it before."""

    def __init__(
        self,
        settings: FlagSettings,
        *,
        migration: str,
        routing: Callable[[], Routing],
        on_error: Callable[[str], None] = lambda _code: None,
    ) -> None:
        """Load the provider; nothing is dialled before `open`.

        Args:
            routing: returns the routing in force; must be cheap, it is called for every read.
            on_error: told the error code of each evaluation that failed.

        Raises:
            ConfigInvalid: `settings.provider` cannot be imported or is no provider.
        """
        self._flag_key = settings.flag_key
        self._routing = routing
        self._on_error = on_error
        self._built_in = RoutingProvider(migration, settings.flag_key, routing)
        self._own = load_provider(settings.provider) if settings.provider else None
        # A domain of this instance's own: the global default provider is never touched, and two
        # replicas in one process do not see each other.
        self._domain = f"crossfade/{migration}/{id(self):x}"
        self._client: OpenFeatureClient | None = None
        self.errors = 0

    async def open(self) -> None:
        """Bind the provider.

        A team's provider that fails or hangs at start is no reason to stop: the built-in answer
        stands in for it until it is ready.
        """
        provider: FeatureProvider = self._own or self._built_in
        try:
            async with asyncio.timeout(_OPEN_DEADLINE_S):
                await asyncio.to_thread(api.set_provider_and_wait, provider, domain=self._domain)
        except Exception as error:  # noqa: BLE001  (any failure of foreign code means the same)
            self._failed(type(error).__name__)
        self._client = api.get_client(self._domain)

    async def close(self) -> None:
        """Unbind the provider, which the SDK then shuts down; safe to call twice."""
        if self._client is not None:
            self._client = None
            api.set_provider_and_wait(NoOpProvider(), domain=self._domain)

    def read_new(self, targeting_key: str, attributes: Mapping[str, str]) -> bool:
        """True if this key's reads go to the new store.

        A team's own provider decides while the phase is ramp; in any other phase the routing
        alone does, so that a flag service cannot send reads to a store that is not ready.
        """
        if self._client is None:
            return self._built_in.answer(targeting_key)
        if self._own is not None and self._routing().phase is not Phase.RAMP:
            return self._built_in.answer(targeting_key)
        context = EvaluationContext(targeting_key, attributes)
        default = False if self._own is None else self._built_in.answer(targeting_key)
        details = self._client.get_boolean_details(self._flag_key, default, context)
        if details.error_code is None:
            return details.value
        self._failed(details.error_code.value)
        return self._built_in.answer(targeting_key)

    def _failed(self, code: str) -> None:
        self.errors += 1
        self._on_error(code)


def load_provider(spec: str) -> FeatureProvider:
    """Import "package.module:factory" and call the factory without arguments.

    Raises:
        ConfigInvalid: what failed, and what was expected.
    """
    module_name, _, factory_name = spec.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
        provider: FeatureProvider = factory()
    except Exception as error:
        raise _unusable(spec, f"{type(error).__name__}: {error}") from error
    if not callable(getattr(provider, "resolve_boolean_details", None)):
        raise _unusable(spec, f"a {type(provider).__name__}")
    return provider


def _unusable(spec: str, got: str) -> ConfigInvalid:
    expected = f'"{spec}" as package.module:factory that returns an OpenFeature provider'
    problem = Violation(where="flags.provider", expected=expected, got=got)
    return ConfigInvalid("the flag provider cannot be used", (problem,))
