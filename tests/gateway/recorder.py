"""A process that records decisions without end, to be killed or starved: ``python -m tests.gateway.recorder URL FLUSH``.

Prints ``id monotonic-seconds`` for every decision that ``record`` accepted. Lines on standard input steer it: ``full`` lets
files grow no more, ``space`` lets them again, ``stop`` closes the log; it answers ``failing`` or ``closed``.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time

from tests.gateway.entries import entry
from vlmguard.errors import AuditError
from vlmguard.gateway.audit import AuditLog

_BATCH = 20
_PAUSE = 0.002


def _limit_files(size: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


async def _steer(log: AuditLog, stop: asyncio.Event) -> None:
    while True:
        match (await asyncio.to_thread(sys.stdin.readline)).strip():
            case "full":
                _limit_files(100_000)
                while True:
                    try:
                        await log.ready()
                    except AuditError as error:
                        print(f"failing {error}", flush=True)
                        break
                    await asyncio.sleep(0.01)
            case "space":
                _limit_files(resource.RLIM_INFINITY)
            case _:
                stop.set()
                return


async def _main(url: str, flush_seconds: float) -> None:
    log = await AuditLog.open(url, flush_seconds=flush_seconds)
    stop = asyncio.Event()
    steering = asyncio.create_task(_steer(log, stop))
    while not stop.is_set():
        lines = []
        for _ in range(_BATCH):
            made = entry()
            await log.record(made)
            lines.append(f"{made.receipt.id} {time.monotonic()}\n")
        sys.stdout.write("".join(lines))
        sys.stdout.flush()
        await asyncio.sleep(_PAUSE * _BATCH)
    await steering
    await log.close()
    print("closed", flush=True)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], float(sys.argv[2])))
