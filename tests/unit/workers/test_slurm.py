"""The recipes for Slurm, by a dry run: programs that record their arguments replace srun, ray and milr."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import ROOT

FOLDER = ROOT / "examples" / "slurm"
ASKED = ["benchmark", "geneval", "--images-per-prompt", "4", "--device", "cuda"]
PROGRAMS = {
    "scontrol": 'echo "node1"; echo "node2"',
    # every task of a step, one after another
    "srun": 'shift 4; for ((i = 0; i < 2; i++)); do SLURM_PROCID=$i SLURM_NTASKS=2 "$@"; done',
    # the head runs the command after --
    "ray": (
        'echo "ray $*" >> "$NOTES"; [[ $SLURM_PROCID == 0 ]] || exit 0; while [[ $1 != -- ]]; do shift; done; "${@:2}"'
    ),
    "milr": 'echo "milr $*" >> "$NOTES"',
}


def submit(script: str, where: Path) -> list[str]:
    """Run a script as Slurm would on two nodes of eight GPUs; return the programs that it ran."""
    for name, text in PROGRAMS.items():
        (where / "bin").mkdir(exist_ok=True)
        (where / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (where / "bin" / name).chmod(0o755)
    (where / "notes").unlink(missing_ok=True)
    facts = {
        "JOB_ID": "7",
        "JOB_NODELIST": "node[1-2]",
        "JOB_NUM_NODES": "2",
        "GPUS_ON_NODE": "8",
        "CPUS_ON_NODE": "64",
    }
    environment = {f"SLURM_{name}": value for name, value in facts.items()}
    environment |= {"PATH": f"{where / 'bin'}:{os.environ['PATH']}", "NOTES": str(where / "notes")}
    done = subprocess.run(
        ["bash", str(FOLDER / script), *ASKED], cwd=where, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return (where / "notes").read_text().splitlines()


@pytest.mark.parametrize("script", ["ray.sbatch", "processes.sbatch"])
def test_a_script_is_valid_bash(script: str) -> None:
    subprocess.run(["bash", "-n", str(FOLDER / script)], check=True)


def test_one_run_uses_all_nodes_and_resumes_when_it_is_requeued(tmp_path: Path) -> None:
    ray = "ray symmetric-run --address node1:6379 --min-nodes 2 --num-cpus 64 --num-gpus 8 -- milr"
    asked = f"{' '.join(ASKED)} --out runs/slurm-7 --workers ray"
    assert submit("ray.sbatch", tmp_path) == [f"{ray} {asked}", f"milr {asked}", f"{ray} {asked}"]
    (tmp_path / "runs/slurm-7").mkdir(parents=True)
    (tmp_path / "runs/slurm-7/run.json").touch()
    assert submit("ray.sbatch", tmp_path)[1] == "milr benchmark --resume runs/slurm-7 --workers ray"


def test_every_node_draws_its_share(tmp_path: Path) -> None:
    assert submit("processes.sbatch", tmp_path) == [
        f"milr {' '.join(ASKED)} --shard {share}/2 --out runs/slurm-7/{share} --workers 8" for share in (1, 2)
    ]
    (tmp_path / "runs/slurm-7/2").mkdir(parents=True)
    (tmp_path / "runs/slurm-7/2/run.json").touch()
    assert submit("processes.sbatch", tmp_path)[1] == "milr benchmark --resume runs/slurm-7/2 --workers 8"
