"""Settings of siblings and folders, checkpoints, rates, and stages that run at the same time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from training import side_by_side, stage
from training.side_by_side import Planned, StageError, run_all


def test_the_small_model_has_the_same_recipe_with_its_own_sizes() -> None:
    shipped, small = stage.read_settings(), stage.read_settings(size="small")
    assert "sizes" not in shipped and shipped.keys() == small.keys()
    differ = {room for room in shipped if shipped[room] != small[room]}
    assert differ == {"paths", "vq", "model", "export"}
    assert small["unified"] == shipped["unified"] and small["vq"]["codebook"] == shipped["vq"]["codebook"]
    assert small["export"]["folder"] != shipped["export"]["folder"]


@pytest.mark.parametrize("size", [None, "small"])
def test_training_from_nothing_does_not_touch_shipped_files(size: str | None, tmp_path: Path) -> None:
    shipped, fresh = stage.read_settings(size=size), stage.read_settings(size=size, into=tmp_path)
    made = [fresh["paths"]["build"], fresh["paths"]["shapes"], fresh["export"]["folder"]]
    made += [critic["folder"] for critic in fresh["critics"].values()]
    assert len(set(made)) == len(made) and all(Path(path).parent == tmp_path for path in made)
    for place in (shipped, fresh):  # otherwise equal
        del place["paths"], place["export"]["folder"]
        for critic in place["critics"].values():
            del critic["folder"]
    assert fresh == shipped


def test_each_round_rises_and_falls_once() -> None:
    rates = [stage.rate(step % 600, 600, warm=200, floor=0.01) for step in range(1200)]
    assert rates[:600] == rates[600:] and max(rates) <= 1
    top = rates.index(max(rates[:600]))
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:600] == sorted(rates[top:600], reverse=True)
    assert rates[0] < 0.01 and rates[599] == pytest.approx(0.01, abs=1e-3)


def test_a_checkpoint_is_replaced_whole(tmp_path: Path) -> None:
    layer, checkpoint = torch.nn.Linear(2, 2), stage.Checkpoint(tmp_path / "a.pt")
    assert checkpoint.load(layer=layer) == 0 == checkpoint.step()
    checkpoint.save(3, layer=layer)
    before = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight.zero_()
    assert checkpoint.load(layer=layer) == 3 == checkpoint.step()
    assert torch.equal(layer.weight, before)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_shipped_weights_of_other_shapes_are_not_started_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import save_file

    layer = torch.nn.Linear(2, 2)
    assert not stage.start_from_shipped(layer, tmp_path)
    save_file({"own.weight": torch.ones(2, 2), "own.bias": torch.ones(2)}, tmp_path / "model.safetensors")
    assert stage.start_from_shipped(layer, tmp_path, "own.") and layer.weight.tolist() == [[1, 1], [1, 1]]
    assert not stage.start_from_shipped(torch.nn.Linear(3, 2), tmp_path, "own.")
    assert "shipped_weights_of_other_shapes=1" in capsys.readouterr().err


PYTHON = [sys.executable, "-S", "-E", "-c"]
NEVER_ENDS = "import time; time.sleep(3600)"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Return the processes of stages, which are polled without pauses of a second."""
    monkeypatch.setattr(side_by_side, "_POLL", 0.01)
    return []


def test_stages_run_after_those_that_they_need(tmp_path: Path, started: list[subprocess.Popen[bytes]]) -> None:
    def plan(name: str, *after: str) -> Planned:
        needs = "; ".join(f"open({str(tmp_path / one)!r})" for one in after) or "0"
        return Planned([*PYTHON, f"{needs}; open({str(tmp_path / name)!r}, 'w')"], after)

    run_all({"last": plan("last", "first", "other"), "other": plan("other", "first"), "first": plan("first")}, 2)
    assert {path.name for path in tmp_path.iterdir()} == {"first", "other", "last"}


class Pretended:
    """A process that ends after it was polled a number of times."""

    running = 0
    most = 0

    def __init__(self, command: Sequence[str]) -> None:
        self.left = int(command[0])
        Pretended.running += 1
        Pretended.most = max(Pretended.most, Pretended.running)

    def poll(self) -> int | None:
        self.left -= 1
        if self.left:
            return None
        Pretended.running -= 1
        return 0


def test_no_more_stages_run_at_a_time_than_allowed(started: list[subprocess.Popen[bytes]]) -> None:
    Pretended.running = Pretended.most = 0
    stages = {f"stage {number}": Planned([str(number % 3 + 1)]) for number in range(7)}
    run_all(stages, 3, start=Pretended)  # type: ignore[arg-type]
    assert (Pretended.running, Pretended.most) == (0, 3)


def test_a_stage_that_fails_ends_the_others(started: list[subprocess.Popen[bytes]]) -> None:
    def start(command: Sequence[str]) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(command))
        return started[-1]

    stages = {
        "long": Planned([*PYTHON, NEVER_ENDS]),
        "bad": Planned([*PYTHON, "raise SystemExit(3)"]),
        "later": Planned([*PYTHON, "0"], ("bad",)),
    }
    with pytest.raises(StageError, match="the stage 'bad' ended with status 3: start it again to go on"):
        run_all(stages, 2, start)
    assert [process.returncode for process in started] == [-signal.SIGTERM, 3]


def test_stages_end_with_the_program_that_runs_them(started: list[subprocess.Popen[bytes]]) -> None:
    class Asked(subprocess.Popen[bytes]):
        """A process; this program gets SIGTERM when it first polls the second one."""

        def poll(self) -> int | None:
            if len(started) == 2 and self is started[1] and not hasattr(self, "asked"):
                self.asked = True
                os.kill(os.getpid(), signal.SIGTERM)
            return super().poll()

    def start(command: Sequence[str]) -> subprocess.Popen[bytes]:
        started.append(Asked(command))
        return started[-1]

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        run_all({name: Planned([*PYTHON, NEVER_ENDS]) for name in ("a", "b")}, 2, start)
    assert ended.value.code == 128 + signal.SIGTERM
    assert [process.returncode for process in started] == [-signal.SIGTERM] * 2
    assert signal.getsignal(signal.SIGTERM) == before
