"""Prometheus metrics: counts and times of requests, of judging, of the audit queue. No user content: labels are words of ours.

One process keeps its numbers in memory. Several (``vlmguard serve --workers N``) write them to files in a folder that the
parent names before it starts them (``shared``), so that whichever worker is asked tells the numbers of all.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from vlmguard.errors import MissingExtraError

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable by which prometheus-client knows the folder. It looks once, when it is imported."""

try:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
    from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
except ImportError as error:
    raise MissingExtraError("metrics", "gateway") from error

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.013, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds. Close together where the guard's own time is promised (4 and 13 ms), wide where a model answers."""
_MOST_WORDS = 64
"""Values of one label. What is beyond them counts as ``other``: nobody may fill the memory with words of theirs."""
_LIVE_FILE = re.compile(r"gauge_live\w*_(\d+)\.db\Z")


@contextmanager
def shared(folder: Path | None = None) -> Iterator[Path]:
    """For the parent of several workers, around their whole life: the folder for their numbers, in the environment that they inherit.

    Without ``folder`` it is a temporary one, removed at the end. A folder that the environment names already stays in force.
    """
    named = os.environ.get(_FOLDER)
    if named:
        yield Path(named)
        return
    with tempfile.TemporaryDirectory(prefix="vlmguard-metrics-") as temporary:
        chosen = folder or Path(temporary)
        os.environ[_FOLDER] = str(chosen)
        try:
            yield chosen
        finally:
            del os.environ[_FOLDER]


class Metrics:
    """What the gateway counts. One for each process.

    Args:
        categories: the categories of the policies in use; a finding with another word counts as ``other``. The default
            takes the first words it meets.
    """

    def __init__(self, categories: Collection[str] | None = None) -> None:
        self._folder = os.environ.get(_FOLDER)
        if self._folder and not values.ValueClass._multiprocess:
            raise ValueError(
                f"{_FOLDER} was set after prometheus_client was imported: set it before the process starts"
            )
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "vlmguard_requests", "Requests answered", ["route", "outcome", "status"], registry=registry
        )
        self._categories = Counter(
            "vlmguard_findings", "Requests with a risk, by category", ["category"], registry=registry
        )
        self._stages = Histogram(
            "vlmguard_stage_seconds", "Time of each stage of a request", ["stage"], buckets=_BUCKETS, registry=registry
        )
        self._cache = Counter("vlmguard_cache", "Turns judged before", ["result"], registry=registry)
        self._queue = Gauge(
            "vlmguard_audit_queue", "Decisions that wait to be stored", registry=registry, multiprocess_mode="livesum"
        )
        self._in_flight = Gauge(
            "vlmguard_in_flight", "Requests under way", registry=registry, multiprocess_mode="livesum"
        )
        self._known_categories = _Words() if categories is None else _Words(categories, closed=True)
        self._known_routes, self._known_stages = _Words(), _Words()
        self._hit, self._miss = self._cache.labels("hit"), self._cache.labels("miss")

    def observe_request(
        self, route: str, outcome: str, categories: Iterable[str], status: int, stages_ms: Mapping[str, float]
    ) -> None:
        """Counts one answered request.

        Args:
            route: the configured path, never the client's own spelling of it.
            outcome: an ``Outcome``, or ``refused`` for a request that nobody judged or sent on, ``none`` for an answer
                to what is not judged.
            categories: of the findings, each counted once.
            status: of the HTTP answer.
            stages_ms: stage → milliseconds.
        """
        self._requests.labels(self._known_routes[route], str(outcome), str(status)).inc()
        for category in {self._known_categories[category] for category in categories}:
            self._categories.labels(category).inc()
        for stage, ms in stages_ms.items():
            self._stages.labels(self._known_stages[stage]).observe(ms / 1000)

    @contextmanager
    def in_flight(self) -> Iterator[None]:
        """Around one request, its stream included."""
        self._in_flight.inc()
        try:
            yield
        finally:
            self._in_flight.dec()

    def queue_depth(self, depth: int) -> None:
        """How many decisions wait in this process. ``AuditLog.open(on_depth=metrics.queue_depth)`` keeps it true."""
        self._queue.set(depth)

    def cache(self, hit: bool) -> None:
        """A turn was (not) judged before."""
        (self._hit if hit else self._miss).inc()

    def render(self) -> bytes:
        """Prometheus's text format (``CONTENT_TYPE``), of all workers together."""
        if not self._folder:
            return generate_latest(self._registry)
        _forget_the_dead(Path(self._folder))
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=self._folder)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


class _Words:
    """The values that a label may have."""

    def __init__(self, words: Collection[str] = (), *, closed: bool = False) -> None:
        self._words = set(words)
        self._most = 0 if closed else _MOST_WORDS

    def __getitem__(self, word: str) -> str:
        if word in self._words:
            return word
        if len(self._words) >= self._most:
            return "other"
        self._words.add(word)
        return word


def _forget_the_dead(folder: Path) -> None:
    """A worker that was killed has no requests under way; what it counted stays counted."""
    for file in folder.glob("gauge_live*.db"):
        if (found := _LIVE_FILE.search(file.name)) is not None and not _is_alive(int(found[1])):
            mark_process_dead(int(found[1]), str(folder))  # type: ignore[no-untyped-call]


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
