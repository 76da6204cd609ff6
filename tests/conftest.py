"""Fixtures and settings for all tests."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from multiprocessing import resource_tracker, spawn
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import settings

from milr.models import embedded_folder, load_model
from tests.support.forks import ForkServer

if TYPE_CHECKING:
    from milr.models.janus import Janus  # imports transformers, which most tests do not need

# A busy machine must not fail a test.
settings.register_profile("milr", deadline=None)
settings.register_profile("fast", deadline=None, max_examples=25)  # `make fast`
settings.load_profile("milr")


def pytest_configure(config: pytest.Config) -> None:
    """Give each worker process one torch thread, also in the programs that it starts."""
    gc.disable()  # until all tests are collected: imported objects stay, and scanning them again takes seconds
    if hasattr(config, "workerinput"):
        import torch

        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """Exclude the objects of torch, transformers and the tests from later garbage collection, garbage as well."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True, scope="session")
def _hasty_disk() -> Iterator[None]:
    """Turn fsync off: finished tasks would wait for the disk, and no test cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("milr.files.os.fsync", lambda file: None)
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of the benchmarks' data: `data` in $MILR_SHARED, or in ../shared beside the repository."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("MILR_SHARED", root.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"no benchmark data in {folder}: set MILR_SHARED to the shared folder")
    return folder


@pytest.fixture(scope="session")
def embedded() -> Janus:
    """Return the embedded model in float32."""
    if not embedded_folder().is_dir():
        pytest.skip(f"no embedded model in {embedded_folder()}: `make train` makes one")
    return cast("Janus", load_model())


@pytest.fixture(scope="session")
def sibling() -> Janus:
    """Return the embedded model's small sibling in float32, which draws twice as fast."""
    if not embedded_folder("embedded-small").is_dir():
        pytest.skip("no embedded-small: `make train` makes one")
    return cast("Janus", load_model("embedded-small"))


@pytest.fixture(scope="session")
def forks() -> Iterator[ForkServer]:
    """Return a server that runs programs in forks of one process: `forks.caller("milr", "milr")` starts at once."""
    if sys.platform != "linux":
        pytest.skip("needs Linux: elsewhere, libraries that are imported need not survive a fork")
    with TemporaryDirectory(prefix="milr-") as folder:
        server = ForkServer(Path(folder))
        yield server
        server.close()


@pytest.fixture
def forked_python(forks: ForkServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the Python programs that a test starts be forks, which need not import torch and transformers again."""
    resource_tracker.ensure_running()  # it stays for other tests
    monkeypatch.setattr(sys, "executable", str(forks.python))
    monkeypatch.setattr(spawn, "_python_exe", os.fsencode(forks.python))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Run torch on one thread, which is faster for tiny networks."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def geneval_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with all files of `geneval` and `geneval-hf`, tiny and random."""
    from bench.random_weights import tiny_clip, write_clip, write_detector
    from milr.rewards.geneval.known_answers import tiny_config
    from milr.rewards.geneval.weights import CLIP, DETECTOR, HUB_DETECTOR

    root = tmp_path_factory.mktemp("weights")
    write_detector(root / DETECTOR.name, tiny_config())
    write_detector(root / HUB_DETECTOR.name, tiny_config(), seed=1)
    write_clip(root / CLIP.name, tiny_clip())
    return root


@pytest.fixture
def geneval_weights(geneval_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the same files into the folder from which the rewards load them."""
    monkeypatch.setenv("MILR_WEIGHTS", str(geneval_root))
    return geneval_root
