"""Clients against `milr serve`: latency and images a second, refusals, memory. Run: python -m bench.serve_load URL.

Each client asks for one image after the other, for as long as is said. Every answer must be an image or a typed error,
and a refusal must say when to try again; anything else ends the program with exit code 1.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

PROMPTS = (
    "a red apple",
    "two dogs",
    "a blue clock",
    "three cats",
    "a red apple left of a blue clock",
    "a cow above a car",
)


@dataclass
class Load:
    """Results of a number of clients."""

    clients: int
    latencies: list[float] = field(default_factory=list[float])
    """Seconds of each image."""
    statuses: Counter[int] = field(default_factory=Counter[int])
    faults: list[str] = field(default_factory=list[str])
    """Answers that are neither an image nor a typed error."""
    seconds: float = 0.0
    memory: list[int] = field(default_factory=list[int])
    """Kilobytes of the server, once a second."""

    def line(self) -> str:
        """Return a row of the table."""
        rate = len(self.latencies) / self.seconds
        median = statistics.median(self.latencies) if self.latencies else float("nan")
        slow = statistics.quantiles(self.latencies, n=20)[-1] if len(self.latencies) > 1 else median
        half = len(self.memory) // 2
        grown = max(self.memory[half:]) / max(self.memory[:half]) - 1 if half else float("nan")
        told = ", ".join(f"{status}: {count}" for status, count in sorted(self.statuses.items()))
        return f"| {self.clients} | {rate:.2f} | {median:.2f} | {slow:.2f} | {grown:+.1%} | {told} |"


async def ask(client: httpx2.AsyncClient, load: Load, number: int, quality: str, until: float) -> None:
    """Ask for images until the time is up."""
    while time.monotonic() < until:
        began = time.monotonic()
        body = {"prompt": PROMPTS[number % len(PROMPTS)], "quality": quality, "user": f"client {number}"}
        try:
            answer = await client.post("/v1/images/generations", json=body)
        except httpx2.HTTPError as error:
            load.faults.append(f"no answer: {error!r}")
            return
        load.statuses[answer.status_code] += 1
        number += 1
        try:
            content = answer.json()
            if answer.status_code == 200:
                assert content["data"][0]["b64_json"]
                load.latencies.append(time.monotonic() - began)
                continue
            assert content["error"]["message"] and content["error"]["code"], "no typed error"
            assert answer.status_code < 500 or answer.status_code in (503, 504), "an error of the server's"
        except (AssertionError, ValueError, LookupError) as error:
            load.faults.append(f"{answer.status_code}: {error!r} {answer.text[:200]}")
            return
        if answer.status_code == 429:
            if "retry-after" not in answer.headers:
                load.faults.append("429 without Retry-After")
            await asyncio.sleep(min(2.0, float(answer.headers.get("retry-after", 1))))


async def watch_memory(process: int | None, load: Load) -> None:
    """Note the server's resident memory once a second."""
    while process is not None:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        load.memory.append(pages * os.sysconf("SC_PAGE_SIZE") // 1024)
        await asyncio.sleep(1)


async def measure(url: str, clients: int, seconds: float, quality: str, process: int | None) -> Load:
    """Let so many clients ask at once."""
    load, began = Load(clients), time.monotonic()
    limits = httpx2.Limits(max_connections=clients, max_keepalive_connections=clients)
    key = os.environ.get("MILR_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with httpx2.AsyncClient(base_url=url, timeout=600, limits=limits, headers=headers, trust_env=False) as client:
        watcher = asyncio.create_task(watch_memory(process, load))
        asked = (ask(client, load, number, quality, began + seconds) for number in range(clients))
        await asyncio.gather(*asked)
        watcher.cancel()
    load.seconds = time.monotonic() - began
    return load


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, and say whether every answer was one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="of the server")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--quality", choices=("low", "medium", "high"), default="low")
    parser.add_argument("--process", type=int, help="the server's process id, whose memory is watched (Linux)")
    given = parser.parse_args(argv)
    print("| clients | images/s | median s | 95 % s | memory, second half | answers |\n|---|---|---|---|---|---|")
    faults: list[str] = []
    for clients in given.clients:
        load = asyncio.run(measure(given.url, clients, given.seconds, given.quality, given.process))
        print(load.line(), flush=True)
        faults += load.faults
    for fault in faults[:20]:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
