"""Workers that score a folder's images: in this process, or in several of their own."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from milr.benchmarks.layouts import FoundPicture, Scored
from milr.errors import MilrError
from milr.models.devices import Placement
from milr.rewards import Reward, load_reward
from milr.rewards.base import start_scoring
from milr.rewards.images.files import UnreadableImage, read_image
from milr.types import Score, Task, Unscored

if TYPE_CHECKING:
    from milr.rewards.vlm.settings import VlmSettings


@dataclass(frozen=True)
class Setup:
    """The data that a process needs to make its reward."""

    reward: str
    options: tuple[tuple[str, Any], ...]
    placement: Placement | None
    processes: int
    vlm: VlmSettings | None


class Worker:
    """A worker process: a reward and its clients."""

    def __init__(self, setup: Setup) -> None:
        """Load the reward."""
        if setup.processes > 1:
            import torch

            torch.set_num_threads(max(torch.get_num_threads() // setup.processes, 1))
        self._vlm = None
        if setup.vlm is not None:
            from milr.rewards.vlm.client import VlmClient

            self._vlm = VlmClient(setup.vlm)
        self.reward: Reward = load_reward(setup.reward, vlm=self._vlm, placement=setup.placement, **dict(setup.options))

    @property
    def name(self) -> str:
        """Return the reward's name, with its versions."""
        return self.reward.name

    def score_all(self, folder: Path, pictures: Sequence[FoundPicture]) -> Iterator[Scored]:
        """Yield each image with its score."""
        yield from ((picture, self.score(folder / picture.key, picture.task)) for picture in pictures)

    def score(self, path: Path, task: Task) -> Score | Unscored:
        """Return the image's score; a file that is not an image is unscored."""
        try:
            image = read_image(path)
        except UnreadableImage as error:
            return Unscored(str(error), self.reward.name)
        (score,) = start_scoring(self.reward, [image], [task])()
        return score

    def close(self) -> None:
        """Close the connections to VLM judges."""
        if self._vlm is not None:
            self._vlm.close()


class Pool:
    """Several worker processes; each has its own reward."""

    def __init__(self, setup: Setup, processes: int) -> None:
        """Begin the processes; each loads its reward with its first image."""
        self._setup = setup
        self._pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_follow_parent)

    @property
    def name(self) -> str:
        """Return the reward's name, with its versions."""
        with _named_death():
            return self._pool.submit(_name_in_pool, self._setup).result()

    def score_all(self, folder: Path, pictures: Sequence[FoundPicture]) -> Iterator[Scored]:
        """Yield each image with its score, in the order in which they end."""
        futures: dict[Future[Score | Unscored], FoundPicture] = {}
        with _named_death():
            for picture in pictures:
                futures[self._pool.submit(_score_in_pool, self._setup, folder / picture.key, picture.task)] = picture
            for future in as_completed(futures):
                yield futures[future], future.result()

    def close(self) -> None:
        """Drop images that have not been started, and wait for the processes."""
        self._pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _named_death() -> Generator[None]:
    """Say what to do about a process that died."""
    try:
        yield
    except BrokenProcessPool as error:
        raise MilrError(
            "a scoring process died, most likely for want of memory; what was scored is kept: type the same command "
            "again, with fewer --processes (in a program of your own, call this below "
            "`if __name__ == '__main__':`, since each process runs the program's top again)"
        ) from error


@cache
def _pool_worker(setup: Setup) -> Worker:
    return Worker(setup)


def _name_in_pool(setup: Setup) -> str:
    return _pool_worker(setup).name


def _score_in_pool(setup: Setup, path: Path, task: Task) -> Score | Unscored:
    return _pool_worker(setup).score(path, task)


def _follow_parent() -> None:
    """Ignore Ctrl-C, which the parent handles: the current image is finished. If the parent is killed, end too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None, "a process of a pool has a parent"
    Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    """End this process with its parent: otherwise it would wait for its next image for ever, with all its weights."""
    parent.join()
    os._exit(1)
