"""Measure on a machine without a GPU what needs none: kernels, copies and waits of a drawing on CUDA, and its memory.

    python -m bench.no_gpu --memory 8 24 80 --json bench/results/substitute.json

torch's CUDA build runs on a substitute for CUDA's runtime library (`bench/cuda_substitute.cpp`), which computes nothing
and counts everything. All code of milr and of torch on the host is that of a card, torch's allocator among it. Numbers
and times are not: sampled tokens are zeros, images are black, and cuDNN is off.

It needs Linux on x86-64, a CUDA build of torch with its cuBLAS headers, the headers of the CUDA toolkit of the same
version (`--cuda`), g++ and nm. A program of its own runs on the substitute too, for instance the measurement of a card:

    python -m bench.no_gpu --memory 24 --run bench.gpu --models janus-1b
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from milr.files import write_text

SOURCE = Path(__file__).with_name("cuda_substitute.cpp")
CARD = "CARD_GIB"
"""Name of the environment variable with the memory of the substitute's card; set in the measuring process alone."""
COUNTS = (
    "kernels",
    "products",
    "copies to the card",
    "copies to the host",
    "copies within the card",
    "waits",
    "recordings",
    "replays",
    "replayed kernels",
    "broken recordings",
)
"""The fields of `Counts` in the substitute, in its order."""
MODELS = ("janus-7b", "janus-1b", "llamagen-xl-512", "embedded")
BATCHES = (1, 32)


class MissingPart(SystemExit):
    """The exit if a part that is needed is not there."""


def build(folder: Path, cuda: Path) -> dict[str, str]:
    """Compile the substitute; return the environment of a process that uses it."""
    spec = find_spec("torch")
    libraries = Path(str(spec and spec.origin)).parent / "lib"
    if not (libraries / "libtorch_cuda.so").exists():
        raise MissingPart("this needs a CUDA build of torch, and the installed one is for a CPU alone")
    headers = [cuda / "include", *libraries.parents[1].glob("nvidia/*/include")]
    if not (headers[0] / "cuda_runtime_api.h").exists():
        raise MissingPart(f"no CUDA headers in {headers[0]}: give --cuda the folder of a CUDA toolkit")
    substitute = folder / "substitute.so"
    include = [f"-I{one}" for one in headers]
    compile_ = ["g++", "-O1", "-fPIC", "-shared", "-std=c++17", *include, "-o", str(substitute)]
    subprocess.run([*compile_, str(SOURCE)], check=True)
    known = _symbols(substitute, "--defined-only")
    wanted = {name for one in libraries.glob("lib*cuda*.so") for name in _symbols(one, "--undefined-only")}
    rest = sorted(name for name in wanted - known if re.match(r"(__)?cuda|cublas", name))
    _write_stubs(folder / "rest.cpp", rest)  # functions that milr never needs: they do nothing and succeed
    subprocess.run([*compile_, str(SOURCE), str(folder / "rest.cpp")], check=True)
    _write_stubs(folder / "driver.cpp", sorted(_symbols(libraries / "libcaffe2_nvrtc.so", "--undefined-only", "cu")))
    driver = folder / "libcuda.so.1"
    subprocess.run(["g++", "-fPIC", "-shared", "-o", str(driver), str(folder / "driver.cpp")], check=True)
    before = {name: os.environ.get(name) for name in ("LD_PRELOAD", "LD_LIBRARY_PATH")}
    ours = {"LD_PRELOAD": str(substitute), "LD_LIBRARY_PATH": str(folder)}
    return {**os.environ, **{name: ":".join(filter(None, (path, before[name]))) for name, path in ours.items()}}


def _symbols(library: Path, kind: str, beginning: str = "") -> set[str]:
    """Return the names of a library's dynamic symbols."""
    listed = subprocess.run(["nm", "-D", kind, str(library)], check=True, capture_output=True, text=True).stdout
    names = {line.split()[-1].split("@")[0] for line in listed.splitlines()}
    return {name for name in names if name.startswith(beginning)}


def _write_stubs(path: Path, names: Sequence[str]) -> None:
    path.write_text("".join(f'extern "C" int {name}(...) {{ return 0; }}\n' for name in names))


def prepare() -> None:
    """Switch off what the substitute cannot serve."""
    import torch

    if not hasattr(ctypes.CDLL(None), "read_counts"):
        raise MissingPart(f"{CARD} is set, but the substitute is not there: unset it")

    def is_finite(numbers: torch.Tensor) -> torch.Tensor:
        return torch.tensor(True)

    torch.backends.cudnn.enabled = False  # cuDNN asks the driver itself
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.isfinite = torch.Tensor.isfinite = is_finite  # type: ignore[assignment]  # every number that is read is 0


def read(name: str, count: int) -> list[int]:
    """Return numbers of the substitute."""
    numbers = (ctypes.c_long * count)()
    getattr(ctypes.CDLL(None), name)(numbers)
    return list(numbers)


def count(work: Callable[[], object]) -> dict[str, int]:
    """Return what a piece of work did on the card."""
    before = read("read_counts", len(COUNTS))
    work()
    return {name: now - then for name, now, then in zip(COUNTS, read("read_counts", len(COUNTS)), before, strict=True)}


def measure(models: Sequence[str], counts: bool) -> dict[str, Any]:
    """Measure the models on the substitute, in this process."""
    prepare()
    import torch

    from bench import gpu

    bench = gpu.Bench(torch.device("cuda"), time.monotonic() + 3600, False, None, None, {})
    limits = {"bytes a second": 1.0, "operations a second": 1.0}  # no time is meant
    found: dict[str, Any] = {"torch": torch.__version__, "memory": torch.cuda.get_device_properties(0).total_memory}
    for name in models:
        with tempfile.TemporaryDirectory() as folder:
            planned = gpu.plan_size(bench, name, Path(folder))
            if planned.weights > found["memory"]:
                found[name] = {"does not fit": planned.weights}
                continue
            model, sizes = gpu.load_size(bench, name, Path(folder))
            own = dict(count_drawings(bench, model)) if counts else {}
            if sizes is not None or name in gpu.LLAMAGEN_SIZES:
                largest = gpu.measure_largest(bench, model, sizes, planned, limits)
                own["largest"] = {key: largest[key] for key in ("peak bytes", "planned bytes")} | {
                    "batch": planned.batch,
                    "batch that fitted": largest["images at a time after"],
                }
            found[name] = own
            del model
        bench.free()
    return found


def count_drawings(bench: Any, model: Any) -> Iterator[tuple[str, dict[str, int]]]:
    """Yield what a recorded decode step, a drawing and a step of a search do."""
    from bench import gpu
    from milr.models.janus import Janus

    bench.engine(model, recorded=True)
    for batch in BATCHES:

        def draw(batch: int = batch) -> None:
            gpu.sample_tokens(model, gpu.requests_of(model, batch))

        draw()
        draw()
        kernels, products = read("read_last_recording", 2)
        yield f"a decode step, batch {batch}", {"kernels": kernels, "products": products}
        yield f"a drawing, batch {batch}", count(draw)
    if isinstance(model, Janus):
        records = gpu.open_search(model, 1, 0.02)
        for _ in range(3):
            next(records)
        yield "a step of a search", count(lambda: next(records))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure in one process per memory size, or run another program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuda", type=Path, default=Path("/usr/local/cuda"), help="folder of the CUDA toolkit")
    parser.add_argument("--memory", type=float, nargs="+", default=[8, 24, 80], help="of the cards, in GiB")
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--run", nargs=argparse.REMAINDER, help="run this module with these arguments instead")
    given = parser.parse_args(argv)
    if CARD in os.environ:  # in the measuring process
        if given.run:
            prepare()
            sys.argv = given.run
            runpy.run_module(given.run[0], run_name="__main__")
        else:
            print(json.dumps(measure(given.models, counts=given.json is not None)))
        return
    with tempfile.TemporaryDirectory() as folder:
        surroundings = build(Path(folder), given.cuda)
        command = [sys.executable, "-m", "bench.no_gpu"]
        if given.run:
            card = {CARD: str(given.memory[0])}
            sys.exit(subprocess.run([*command, "--run", *given.run], env=surroundings | card, check=False).returncode)
        found: list[Any] = []
        for memory in given.memory:
            counted = ["--json", "-"] if memory == max(given.memory) else []  # where every batch fits
            done = subprocess.run(
                [*command, "--models", *given.models, *counted],
                env=surroundings | {CARD: str(memory)},
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            found.append(json.loads(done.stdout.splitlines()[-1]))
            print(json.dumps(found[-1], indent=2), flush=True)
    if given.json:
        write_text(given.json, json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
