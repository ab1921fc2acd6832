"""The health figures for Prometheus, on 127.0.0.1 only and off unless health.prometheus_port asks for it.

The counters are read from where the health message reads them, at the moment of the scrape.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgefer.errors import ConfigError, ServiceError
from edgefer.health import BUCKETS_NS, StageTimes, memory_mb, power_mode, temperatures

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

HOST = "127.0.0.1"
LEVELS = ("unacknowledged", "spool_depth")
"""what ``counters`` holds that goes up and down"""
Counters = Callable[[], Mapping[str, int]]


class Collector:
    """What a scrape shows. ``counters``: those of the health message."""

    def __init__(self, times: StageTimes, counters: Counters) -> None:
        self._times, self._counters = times, counters
        self._start = time.time()

    def collect(self) -> Iterator[Metric]:
        yield self._stages()
        yield from self._counts(dict(self._counters()))
        yield from self._machine()

    def _stages(self) -> Metric:
        from prometheus_client.core import HistogramMetricFamily

        family = HistogramMetricFamily("edgefer_stage_seconds", "Time in a stage; frame: all of it.", labels=["stage"])
        for stage, (buckets, total_ns) in self._times.histograms().items():
            bounds = [*(str(ns / 1e9) for ns in BUCKETS_NS), "+Inf"]
            family.add_metric([stage], list(zip(bounds, buckets, strict=True)), total_ns / 1e9)
        return family

    def _counts(self, counts: dict[str, int]) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for level in LEVELS:
            yield GaugeMetricFamily(f"edgefer_{level}", "Messages, now.", counts.pop(level, 0))
        readings = self._times.counts()["decide"]
        yield CounterMetricFamily("edgefer_readings", "Readings since start; their rate is the frame rate.", readings)
        family = CounterMetricFamily("edgefer_count", "The health message's counters, since start.", labels=["name"])
        for name, value in counts.items():
            family.add_metric([name], value)
        yield family

    def _machine(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily

        yield GaugeMetricFamily(
            "edgefer_start_time_seconds", "UNIX time of the start: a new one is a restart.", self._start
        )
        yield GaugeMetricFamily("edgefer_memory_bytes", "Resident set.", memory_mb() * 1e6)
        family = GaugeMetricFamily("edgefer_temperature_celsius", "By sensor.", labels=["sensor"])
        for sensor, celsius in temperatures().items():
            family.add_metric([sensor], celsius)
        yield family
        mode = power_mode()
        if mode is not None:
            yield InfoMetricFamily("edgefer_power", "Power mode of a Jetson.", {"mode": mode})


@contextmanager
def served(port: int, times: StageTimes, counters: Counters) -> Iterator[None]:
    """Answers scrapes while the block runs; 0: does nothing. Raises ServiceError, ConfigError for a taken port."""
    if not port:
        yield
        return
    with contextlib.closing(_Endpoint(port, Collector(times, counters))):
        yield


class _Endpoint:
    def __init__(self, port: int, collector: Collector) -> None:
        try:
            from prometheus_client import CollectorRegistry, start_http_server
        except ImportError:
            raise ServiceError(
                "health.prometheus_port needs prometheus-client: pip install 'edgefer[metrics]', or set it to 0"
            ) from None
        registry = CollectorRegistry()
        registry.register(collector)
        try:
            self._server, self._thread = start_http_server(port, HOST, registry)
        except OSError as e:
            raise ConfigError(f"'health.prometheus_port': {HOST}:{port}: {e.strerror}; choose another") from None

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
