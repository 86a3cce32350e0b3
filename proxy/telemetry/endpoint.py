"""The Prometheus endpoint: its own registry, its own thread, stopped when told to."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import start_wsgi_server

from proxy.config.checks import split_address
from proxy.errors import ConfigInvalid

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer


class MetricsEndpoint:
    """Serves one registry over HTTP until `close`."""

    def __init__(self, registry: CollectorRegistry, address: str) -> None:
        """Listen at `address` ("127.0.0.1:9464"; port 0 picks a free one).

        Raises:
            ConfigInvalid: the address cannot be bound; the message names it.
        """
        host, port = split_address(address)
        try:
            server, thread = start_wsgi_server(port, addr=host, registry=registry)
        except OSError as error:
            raise ConfigInvalid(
                f"The metrics endpoint cannot listen on {address}: {error.strerror or error}."
                ' Name another: listen.metrics (`crossfade reconcile --metrics`); "" is none.',
                (),
            ) from error
        self._server: WSGIServer = server
        self._thread: threading.Thread = thread
        shown = f"[{host}]" if ":" in host else host
        self.address = f"{shown}:{server.server_port}"
        log.info("metrics at http://%s/metrics", self.address)

    def close(self) -> None:
        """Stop serving; safe to call twice."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join(timeout=5.0)
            self._server.server_close()
