"""Metrics of the server, in the text format of Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counters and histograms of one server, and of its process."""

    def __init__(self, batch_sizes: tuple[int, ...]) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self.requests = Counter(
            "flax_resnet_requests",
            "Answered requests.",
            ("route", "status"),
            registry=self._registry,
        )
        self.seconds = Histogram(
            "flax_resnet_request_seconds",
            "Time from the headers of a request to its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.photos = Counter("flax_resnet_photos", "Classified photos.", registry=self._registry)
        self.batches = Histogram(
            "flax_resnet_batch_photos",
            "Photos of each computed batch.",
            buckets=batch_sizes,
            registry=self._registry,
        )
        self.compute = Histogram(
            "flax_resnet_batch_seconds",
            "Time that a batch was computed.",
            buckets=_SECONDS,
            registry=self._registry,
        )

    def add_gauge(self, name: str, description: str, value: Callable[[], float]) -> None:
        """Add a number that is read when the metrics are."""
        Gauge(name, description, registry=self._registry).set_function(value)

    def text(self) -> bytes:
        """Return all metrics, version 0.0.4 of the text format."""
        return generate_latest(self._registry)
