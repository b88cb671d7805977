"""``bubu-operator retention-pass``: one pass in a process of its own.

Reads one document from stdin, runs the engine, writes checkpoints and the report to
stdout. Invariants: stdin is the lifeline: the moment it ends, the parent is gone and this
process exits at once, wherever it is (the engine may be killed anywhere); a line ``stop``
ends the pass in good order; no request is sent to the store after the time until which the
parent is known to lead (deletions are asked about once more where they leave the process), and
one that is still under way soon afterwards is cut off by the process's end, so a parent that was
stopped cannot delete through us. Who owns runs is asked of
the parent: no Kubernetes and no Kopf is loaded here. Nothing but protocol lines can reach
stdout, whatever a library prints.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import IO, Any, Final

from bubu_operator.jobpass.opening import open_store
from bubu_operator.retention.document import STOP_LINE, LineType, PassDocument, PassLine, read_until
from bubu_operator.retention.owner_lines import OwnerQuestion, is_answer
from bubu_operator.retention.piped_owners import PipedOwners
from bubu_operator.retention.store_use import StoreUse, StoreWishes, use_store
from bubu_operator.stop_signals import StopSignals
from bubu_storage.backend.decorator import innermost
from bubu_storage.backend.last_look import GuardsDeletions
from bubu_storage.backend.types import ObjectBackend
from bubu_storage.errors import ClaimedError, StorageError
from bubu_storage.retention.gate import PassStoppedError
from bubu_storage.retention.references import ReferenceCache
from bubu_storage.retention.report import StoppedBy
from bubu_storage.retention.runner import DEFAULT_CONCURRENCY, boot_seconds, run_pass
from bubu_storage.retention.tidy import tidy_store

__all__ = ["main", "run_child"]

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_PARENT_GONE: Final = 4
EXIT_LEADERSHIP_OVER: Final = 5
EXIT_CLAIMED: Final = 6

CUT_OFF_SECONDS: Final = 1.5
"""After the end of the parent's leadership, for a request that was sent before; a successor begins later."""

LOOK_SECONDS: Final = 0.25
"""Between two looks at the clock: a wait stands still while the machine sleeps, the leadership does not."""

MAX_CACHE_BYTES: Final = 2 << 20
"""Of what is remembered for the next pass; the controller keeps it, and hands it over, for each policy."""

_READ_BYTES: Final = 1 << 16


class _Validity:
    """Until when the parent leads; None for ever."""

    def __init__(self, valid_until: float | None) -> None:
        self._valid_until = valid_until

    def extend(self, valid_until: float) -> None:
        if self._valid_until is not None:
            self._valid_until = max(self._valid_until, valid_until)

    def remaining_seconds(self) -> float:
        return float("inf") if self._valid_until is None else self._valid_until - boot_seconds()

    def check(self) -> None:
        """See `bubu_storage.retention.gate.Permit`."""
        if self.remaining_seconds() <= 0:
            raise PassStoppedError(StoppedBy.STOPPED, "the controller of this pass may not lead any more")


def main() -> int:
    """Run the pass that stdin describes; return the exit code."""
    # Our own copy of stdout; what anybody else prints goes to stderr.
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", buffering=1) as out:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        stop = threading.Event()
        signal.signal(signal.SIGTERM, StopSignals(stop))
        # The lifeline is read unbuffered by descriptor: a thread that blocks in sys.stdin would hold up exit.
        return run_child(sys.stdin.fileno(), out, stop)


def run_child(stdin: int, out: IO[str], stop: threading.Event) -> int:
    """Do the work of `main` on the given descriptor and stream."""
    head, rest = _read_line(stdin)
    try:
        document = PassDocument.from_line(head)
    except StorageError as error:
        out.write(PassLine(LineType.ERROR, message=str(error)).to_line())
        return EXIT_USAGE
    return _Child(stdin, out, stop, document).run(rest)


class _Child:
    """One pass, and its way to the parent."""

    def __init__(self, stdin: int, out: IO[str], stop: threading.Event, document: PassDocument) -> None:
        self._stdin = stdin
        self._out = out
        self._out_lock = threading.Lock()
        self._stop = stop
        self._document = document
        self._validity = _Validity(document.valid_until)
        self._owners = PipedOwners(self._ask, should_stop=self._is_over) if document.owners else None

    def run(self, rest: bytes) -> int:
        """Run the pass; ``rest`` is what was read from stdin beyond the document."""
        take = None if self._owners is None else self._owners.take
        threading.Thread(
            target=_lifeline,
            args=(self._stdin, rest, self._stop, self._validity, take),
            name="lifeline",
            daemon=True,
        ).start()
        try:
            with contextlib.closing(open_store(self._document.settings)) as backend:
                self._sweep(backend)
        except ClaimedError as error:
            self._send(PassLine(LineType.CLAIMED, message=str(error)))
            return EXIT_CLAIMED
        except PassStoppedError as error:
            self._send(PassLine(LineType.ERROR, message=error.message))
            return EXIT_FAILED
        except (StorageError, OSError) as error:
            self._send(PassLine(LineType.ERROR, message=f"{type(error).__name__}: {error}"))
            return EXIT_FAILED
        return EXIT_OK

    def _sweep(self, backend: ObjectBackend) -> None:
        document = self._document
        cache = _read_cache(document.reference_cache)
        wishes = StoreWishes(
            dry_run=document.spec.dry_run,
            claim=document.claim,
            cluster_uid=document.cluster_uid,
            is_shared=document.shared,
            ended_claim=document.ended_claim,
            is_conditional=document.conditional,
        )
        with (
            self._guarded(backend),
            use_store(backend, wishes, sleep=self._sleep) as store,
        ):
            self._send(PassLine(LineType.FACTS, facts=store.facts))
            self._tidy(backend, store)
            report = run_pass(
                backend,
                document.spec,
                document.cursor,
                on_checkpoint=lambda report: self._send(PassLine(LineType.CHECKPOINT, report)),
                should_stop=self._is_over,
                owners=self._owners,
                permits=(self._validity, *store.permits),
                shared_store=store.facts.is_shared,
                reference_cache=cache,
                concurrency=DEFAULT_CONCURRENCY,
                conditional_batches=store.facts.is_conditional,
                stamps_clock=bool(store.permits),
            )
            if len(cache):
                self._send(PassLine(LineType.CACHE, cache=_bounded(cache)))
            # Before the claim is given back: what was done must be known, whatever becomes of that.
            self._send(PassLine(LineType.REPORT, report))

    def _guarded(self, backend: ObjectBackend) -> AbstractContextManager[None]:
        """Have the store ask once more whether the parent leads, where a deletion leaves this process.

        The next leader counts on it: it removes the claim of a pass whose leader's time is over.
        """
        inner = innermost(backend)
        if isinstance(inner, GuardsDeletions):
            return inner.guard_deletions(self._validity.check)
        return contextlib.nullcontext()

    def _tidy(self, backend: ObjectBackend, store: StoreUse) -> None:
        """Clear away what earlier passes left; whoever holds no claim writes nothing."""
        spec = self._document.spec
        if store.permits and not spec.dry_run:
            tidy_store(
                backend,
                store.permits,
                grace_seconds=max(rule.orphan_grace_seconds or 0.0 for rule in spec.rules),
                should_stop=self._is_over,
                sleep=self._sleep,
                requests_per_second=spec.requests_per_second,
            )

    def _is_over(self) -> bool:
        return self._stop.is_set() or self._validity.remaining_seconds() <= 0

    def _ask(self, question: OwnerQuestion) -> None:
        self._send(PassLine(LineType.OWNERS, question=question))

    def _send(self, line: PassLine) -> None:
        text = line.to_line()
        try:
            with self._out_lock:
                self._out.write(text)
                self._out.flush()
        except OSError:
            os._exit(EXIT_PARENT_GONE)  # nobody hears us any more: the same as stdin's end

    def _sleep(self, seconds: float) -> None:
        """Wait in full, or give up: others rely on the length of this wait."""
        end = boot_seconds() + seconds
        while (left := end - boot_seconds()) > 0:
            if self._is_over():
                raise PassStoppedError(StoppedBy.STOPPED, "the pass was asked to stop before it began")
            self._stop.wait(min(LOOK_SECONDS, left))


def _read_cache(content: Mapping[str, Any] | None) -> ReferenceCache:
    """Return what earlier passes remembered; nothing where that cannot be read."""
    try:
        return ReferenceCache.from_dict(content or {})
    except StorageError:
        return ReferenceCache()


def _bounded(cache: ReferenceCache) -> dict[str, Any]:
    """Return what was used last of a cache, as much as one line may hold."""
    left = MAX_CACHE_BYTES
    kept: list[Any] = []
    for document in reversed(cache.to_dict()["documents"]):
        left -= len(json.dumps(document)) + 2
        if left < 0:
            break
        kept.append(document)
    return {"documents": kept[::-1]}


def _read_line(descriptor: int) -> tuple[str, bytes]:
    """Return the first line, and what was read beyond it."""
    head = bytearray()
    while True:
        chunk = os.read(descriptor, _READ_BYTES)
        line, found, rest = chunk.partition(b"\n")
        head += line
        if found or not chunk:
            return head.decode("utf-8", errors="replace"), rest


def _lifeline(
    descriptor: int,
    data: bytes,
    stop: threading.Event,
    validity: _Validity,
    take_answer: Callable[[bytes], None] | None = None,
) -> None:
    wanted = STOP_LINE.strip()
    unfinished = bytearray()
    while True:
        *lines, rest = data.split(b"\n")
        for line in lines:
            whole = bytes(unfinished) + line
            unfinished.clear()
            if take_answer is not None and is_answer(whole):
                take_answer(whole)
                continue
            text = whole.decode("utf-8", errors="replace").strip()
            if text == wanted:
                stop.set()
            elif (until := read_until(text)) is not None:
                validity.extend(until)
        unfinished += rest
        data = b""
        if _wait_for_data(descriptor, validity):
            try:
                data = os.read(descriptor, _READ_BYTES)
            except OSError:
                data = b""
            if not data:
                os._exit(EXIT_PARENT_GONE)


def _wait_for_data(descriptor: int, validity: _Validity) -> bool:
    """Wait for something to read; the process does not outlive the parent's leadership here."""
    left = validity.remaining_seconds() + CUT_OFF_SECONDS
    if left == float("inf"):
        return True
    readable, _, _ = select.select([descriptor], [], [], min(LOOK_SECONDS, max(0.0, left)))
    if not readable and validity.remaining_seconds() + CUT_OFF_SECONDS <= 0:
        os._exit(EXIT_LEADERSHIP_OVER)
    return bool(readable)
