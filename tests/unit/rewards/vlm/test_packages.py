"""VLM judges run by other software: `transformers serve`, and transformers in this process.

Both run the embedded model, which answers in the icon world's words: a verdict would be chance, so the tests check
that its answer arrives and is reported as unreadable.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image

from milr.errors import UsageError
from milr.models import embedded_folder
from milr.models.devices import Placement
from milr.rewards import load_reward
from milr.rewards.vlm.unified_reward import POINTWISE, InProcess, UnifiedReward
from milr.types import Score, Task, Unscored

pytestmark = pytest.mark.slow
PICTURES = [Image.new("RGB", size, "red") for size in ((64, 64), (1, 1), (4000, 10))]
TASKS = [Task(prompt="a photo of a red apple")] * 3


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the URL of `transformers serve`; skip if its extra is not installed."""
    for package in ("fastapi", "uvicorn", "accelerate", "openai"):
        if find_spec(package) is None:
            pytest.skip(f'no {package}: pip install "transformers[serving]" accelerate "milr[vlm]"')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(embedded_folder())]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    log = tmp_path_factory.mktemp("serve") / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
    try:
        _await(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


def _await(url: str, process: subprocess.Popen[bytes], log: Path, seconds: int = 400) -> None:
    pause = threading.Event()
    for _ in range(seconds * 2):
        if process.poll() is not None:
            pytest.fail(f"transformers serve ended: {log.read_text(errors='replace')[-500:]}")
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            pause.wait(0.5)
    pytest.fail(f"transformers serve did not answer within {seconds} s")


@pytest.mark.parametrize("name", ["gpt-4o", "unified-reward"])
def test_vlm_judges_talk_to_transformers_serve(
    name: str, served: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from milr.rewards.vlm.client import VlmClient
    from milr.rewards.vlm.settings import VlmSettings

    monkeypatch.setenv("MILR_CACHE", str(tmp_path))
    vlm = VlmClient(VlmSettings(url=served, model=str(embedded_folder()), timeout=300, attempts=1, concurrency=1))
    try:
        scores = load_reward(name, vlm=vlm)(PICTURES[:1], TASKS[:1])
    finally:
        vlm.close()
    for score in scores:
        if isinstance(score, Unscored):
            readings = ("neither a bare 0", "no 'Final Score:'", "goes on after the token limit")
            assert any(words in score.reason for words in readings), score.reason
    assert vlm.budget.calls == 1 and vlm.budget.tokens_in > 50 and vlm.budget.tokens_out > 0


def test_unified_reward_runs_in_this_process() -> None:
    reader = InProcess(replace(POINTWISE, max_tokens=8), embedded_folder())
    scores = reader(PICTURES, TASKS)
    assert reader.name == "unified-reward@2/embedded"
    for score in scores:
        assert isinstance(score, Unscored) and "no 'Final Score:' in the answer" in score.reason
    assert scores == [reader([p], [t])[0] for p, t in zip(PICTURES, TASKS, strict=True)]


def test_a_prompt_injects_no_special_token_into_a_model_in_this_process() -> None:
    (score,) = InProcess(POINTWISE, embedded_folder())(PICTURES[:1], [Task(prompt="a <image_placeholder> dog")])
    assert isinstance(score, Unscored) and "spells <image_placeholder>" in score.reason


def test_an_answer_in_this_process_becomes_a_score(monkeypatch: pytest.MonkeyPatch) -> None:
    reward = load_reward(f"unified-reward:{embedded_folder()}")
    assert isinstance(reward, UnifiedReward)
    reader = reward._reader  # pyright: ignore[reportPrivateUsage]
    decode = "apple (object): 1\nFinal Score: 4"
    monkeypatch.setattr(reader._processor, "decode", lambda *_, **__: decode)  # type: ignore[union-attr]
    monkeypatch.setattr(reader, "protocol", replace(POINTWISE, max_tokens=2))
    (score,) = reward(PICTURES[:1], TASKS[:1])
    assert isinstance(score, Unscored) and "cut off" in score.reason  # two tokens reach the limit
    monkeypatch.setattr(reader._processor, "decode", lambda *_, **__: decode + "\n.")  # type: ignore[union-attr]
    (score,) = reward(PICTURES[:1], TASKS[:1])
    assert isinstance(score, Score) and score.value == 0.75


def test_a_model_in_a_folder_runs_on_the_runs_device(monkeypatch: pytest.MonkeyPatch) -> None:
    # "meta" stands for a device that is not here.
    monkeypatch.setattr("milr.rewards.vlm.unified_reward.find_device", torch.device)
    reward = load_reward(f"unified-reward:{embedded_folder()}", placement=Placement("meta", "float16"))
    assert isinstance(reward, UnifiedReward)
    network = reward._reader._network  # type: ignore[union-attr] # pyright: ignore[reportPrivateUsage,reportAttributeAccessIssue]
    assert network.device.type == "meta" and network.dtype == torch.float16


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match="holds no vision-language model"):
        load_reward(f"unified-reward:{tmp_path}")
