"""Kills a server at random moments, and checks that nothing is lost.

Run: python -m tests.serve.kills --kills 20. Each round starts the server in the same folder, begins a search, follows
its events, and ends the process by SIGKILL: at some event, or at some moment of the start. At the end every search must
have ended as it would have without a kill; events that a reader got before a kill must be sent again, with the same
numbers, and no event twice.
"""

from __future__ import annotations

import argparse
import os
import random
import select
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2

from milr.serve.app import make_app
from milr.serve.config import ServeSettings
from milr.serve.listen import listening, wait_for_end
from tests.serve.conftest import fake_offer, read_events

STEPS = 12
ASKED: dict[str, Any] = {"method": "milr", "settings": {"steps": STEPS, "seed": 3}}
Told = list[tuple[int, str, dict[str, Any]]]


class Process:
    """A server in a process of its own, forked from this one, which has imported everything."""

    def __init__(self, folder: Path) -> None:
        """Start it."""
        self._read, write = os.pipe()
        self.number = os.fork()
        if self.number == 0:
            try:
                settings = ServeSettings(port=0, data=folder, batch_size=3)
                with listening(make_app([fake_offer()], settings), settings) as listener:
                    os.write(write, f"{listener.url}\n".encode())
                    wait_for_end(listener)
            finally:
                os._exit(0)
        os.close(write)

    def url(self, seconds: float) -> str | None:
        """Return its address; None if it does not listen within so many seconds."""
        found, _, _ = select.select([self._read], [], [], seconds)
        return os.read(self._read, 200).decode().strip() or None if found else None

    def end(self, by: int = signal.SIGKILL) -> None:
        """End it by a signal, and wait."""
        os.kill(self.number, by)
        os.waitpid(self.number, 0)
        os.close(self._read)


def begin(http: httpx2.Client, prompt: str) -> str:
    """Start a search; return its id."""
    found: str = http.post("/v1/searches", json={"tasks": [prompt], **ASKED}).json()["id"]
    return found


def strip(events: Told) -> list[tuple[Any, ...]]:
    """Return each step's events without times, and without latents, whose last digits depend on the batch."""
    return [
        (
            *(data["task"], data["image"], data["step"], data["text"], data["best"]["step"]),
            *(data["finished"], data["drawings"], *(one["reward"] for one in data["images"])),
        )
        for _, kind, data in events
        if kind in ("step", "image")
    ]


def follow(http: httpx2.Client, search: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yield a search's events from the first on."""
    return read_events(http, f"/v1/searches/{search}/events")


def kill_often(folder: Path, kills: int, seed: int) -> list[str]:
    """Kill this many servers; return what was lost, and a line that sums up the kills."""
    chance = random.Random(seed)
    prompts = [f"a dog number {number}" for number in range(3)]
    whole = Process(folder / "whole")
    with httpx2.Client(base_url=whole.url(600) or "", timeout=600, trust_env=False) as http:
        expected = {prompt: strip(list(follow(http, begin(http, prompt)))) for prompt in prompts}
    whole.end()

    searches: dict[str, str] = {}  # id -> prompt
    told: dict[str, Told] = {}  # id -> what its readers saw
    starting = 0
    for kill in range(kills):
        process = Process(folder / "killed")
        if kill % 4 == 3:  # while it starts, and takes up what is unfinished
            starting += 1
            process.url(chance.uniform(0, 0.2))
            process.end()
            continue
        with httpx2.Client(base_url=process.url(600) or "", timeout=600, trust_env=False) as http:
            prompt = chance.choice(prompts)
            search = begin(http, prompt)
            searches[search] = prompt
            seen, most = told.setdefault(search, []), chance.randrange(STEPS + 2)
            with suppress(httpx2.HTTPError):
                for event in follow(http, search) if most else ():
                    seen.append(event)
                    if len(seen) >= most:
                        break
            process.end()

    faults: list[str] = []
    last = Process(folder / "killed")
    with httpx2.Client(base_url=last.url(600) or "", timeout=600, trust_env=False) as http:
        for search, prompt in searches.items():
            events = list(follow(http, search))
            state = http.get(f"/v1/searches/{search}").json()["state"]
            if state != "finished":
                faults.append(f"{search} is {state}")
            if strip(events) != expected[prompt]:
                faults.append(f"{search} has other steps than without a kill")
            if [number for number, _, _ in events] != list(range(1, len(events) + 1)):
                faults.append(f"{search} has numbers left out, or twice")
            if events[: len(told[search])] != told[search]:
                faults.append(f"{search} tells other events than before")
            image = http.get(f"/v1/searches/{search}/cover")
            if image.status_code != 200:
                faults.append(f"{search} has no image")
    last.end(signal.SIGTERM)
    print(f"{kills} kills, {starting} of them at the start; {len(searches)} searches; {len(faults)} faults")
    return faults


def main(argv: Sequence[str] | None = None) -> int:
    """Kill, print, and say by the exit code whether anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "whole").mkdir()
        faults = kill_often(Path(folder), given.kills, given.seed)
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
