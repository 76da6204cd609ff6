"""One command that checks and measures milr on a GPU: at most nine minutes, no network, random weights made there.

    python -m bench.gpu --json gpu.json --page gpu.md        # on a machine with CUDA
    python -m bench.gpu --pretend                            # every part at tiny size, on a CPU

First the checks: the device draws the CPU's tokens, recorded steps give the eager ones, no step waits for the host,
pixels of the second stream equal those of the first, memory that runs out is survived, `deterministic` holds. Then the
figures, at the dimensions of Janus-Pro-1B and 7B and of LlamaGen's GPT-XL with random weights and of the embedded model
with its own: a decode step, eager and recorded, beside the plain loop's (bench/plain.py) and the limit, which is
computed from the bandwidth and the arithmetic measured on the same device; attention alone, by each of torch's kernels;
text, image decoding, update and reward apart; and the largest batch of the longest prompts, whose peak memory stands
beside that of `milr plan`.
Everything is printed as it is found, the files are written after every part, and what there is no time for is left out.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.compare import FixedPrompts, Sizes
from bench.plain import PlainLoop
from bench.random_weights import JANUS_SIZES, LLAMAGEN_SIZES, JanusSize, write_janus_config, write_llamagen_config
from milr import search
from milr.decode import engine as engine_module
from milr.decode.attention import attend
from milr.decode.batching import usable
from milr.decode.buffers import CudaRecorder, Fresh, Recorder
from milr.decode.engine import Engine
from milr.decode.sampling import SAMPLE, open_stream
from milr.decode.side_stream import Inline
from milr.files import write_text
from milr.methods.latents import Latents, Update, take_steps
from milr.models import describe_model, embedded_folder
from milr.models.base import ImageRequest, TaskState, TextRequest
from milr.models.devices import Placement
from milr.models.janus import Janus
from milr.models.llamagen import LlamaGen
from milr.models.sizing import make_plan
from milr.rewards import load_reward
from milr.settings import MilrSettings, SamplingParams
from milr.testing import FakeReward
from milr.types import Task

SAMPLING = SamplingParams(guidance=5.0)
PROMPTS = (
    "a photo of a red apple left of a blue clock",
    "two dogs",
    "three green cups",
    "a photo of a bus above a chair",
)
TIE = 1e-5
"""Distance in probability between a random number and a token's border, below which devices may choose different
tokens."""
TARGETS = {"janus-7b": {1: 1.6, 32: 1.7}, "janus-1b": {1: 2.5, 32: 2.0}}
"""Most milliseconds of a recorded step, as a multiple of the limit: by size and batch."""
PLAIN_TARGETS = {1: 3.0, 32: 25.0}
"""Least speed of an image of Janus-Pro-7B, as a multiple of the plain loop's: by batch."""
PLAN_ERROR = 0.1
"""Largest difference of the peak memory of the largest batch from that of `milr plan`, as a share."""


LEAST = 20.0
"""Seconds that must be left to begin a part of a model."""
Measured: TypeAlias = tuple[str, Callable[[], Any]]
"""A part's name, and the call that measures it."""


class Repeater:
    """A substitute for CUDA graphs on a CPU: it repeats the recorded step."""

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        """Return the step itself."""
        return step

    def drop(self) -> None:
        """Drop nothing."""

    def used_bytes(self) -> int:
        """Return 0, because a CPU's allocator does not report it."""
        return 0


@dataclass
class Bench:
    """The device, the remaining time, and the findings so far."""

    device: torch.device
    until: float
    pretend: bool
    json: Path | None
    page: Path | None
    found: dict[str, Any]

    @property
    def dtype(self) -> str:
        """Return the weights' dtype: many CPUs are slow in bfloat16."""
        return "float32" if self.pretend else "bfloat16"

    def part(self, name: str, work: Callable[[], Any], *, needs: float = 0.0) -> None:
        """Run one part if enough seconds are left; an error is a finding, not the end."""
        left = self.until - time.monotonic()
        if left < needs:
            value: Any = f"left out: {left:.0f} s left, {needs:.0f} s needed"
        else:
            began = time.monotonic()
            try:
                value = work()
            except Exception as error:  # if a part fails on an unknown device, the others are still worth having
                value = write_error(error)
            print(f"[{time.monotonic() - began:6.1f} s] ", end="")
        self.note(name, value)

    def parts(self, name: str, measured: Iterator[Measured]) -> None:
        """Run the parts of a model until no time is left. The next part may load the model; if this fails, it ends."""
        while (left := self.until - time.monotonic()) > LEAST:
            try:
                title, work = next(measured)
            except StopIteration:
                return
            except Exception as error:  # as in `part`
                self.note(name, write_error(error))
                return
            self.part(f"{name}: {title}", work)
        self.note(name, f"the rest is left out: {left:.0f} s left, {LEAST:.0f} s needed")

    def note(self, name: str, value: Any) -> None:
        """Print a finding, and write it to the files."""
        print(f"{name}: {json.dumps(value, default=str)}", flush=True)
        self.found[name] = value
        self.save()

    def save(self) -> None:
        """Write both files, whole."""
        if self.json:
            write_text(self.json, json.dumps(self.found, indent=2, default=str) + "\n")
        if self.page:
            write_text(self.page, write_page(self.found))

    def recorder(self) -> Recorder:
        """Return the recorder of steps for this device."""
        return CudaRecorder(self.device) if self.device.type == "cuda" else Repeater()

    def engine(self, model: Janus | LlamaGen, *, recorded: bool) -> None:
        """Give a model an engine whose steps are recorded or run eagerly, with equal shapes."""
        model.engine = Engine(
            model.engine.decoder.architecture,
            recorder=self.recorder() if recorded else None,
            bucket=64,
            check_every=16,
        )

    def seconds(self, work: Callable[[], object]) -> float:
        """Return the seconds of one run, the device's work included."""
        self.wait()
        began = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - began

    def wait(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def free(self) -> None:
        """Release unused memory and reset the peak."""
        gc.collect()  # a model refers to itself
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> int | None:
        """Return the most bytes that were allocated since `free`; None on a CPU."""
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None


def describe(bench: Bench) -> dict[str, Any]:
    """Name the machine and the versions."""
    import transformers

    on_cuda = bench.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(bench.device) if on_cuda else "pretended, on a CPU",
        "memory": torch.cuda.get_device_properties(bench.device).total_memory if on_cuda else None,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "float32 products": torch.get_float32_matmul_precision(),
    }


def measure_limits(bench: Bench) -> dict[str, float]:
    """Measure bytes read per second and bfloat16 operations per second."""
    numbers, width = (2**16, 64) if bench.pretend else (2**29, 8192)
    much = torch.ones(numbers, dtype=torch.bfloat16, device=bench.device)
    square = torch.ones(width, width, dtype=torch.bfloat16, device=bench.device)
    read, product = (repeat(bench, work) for work in (much.sum, lambda: square @ square))
    return {"bytes a second": 2 * numbers / read, "operations a second": 2 * width**3 / product}


def repeat(bench: Bench, work: Callable[[], object], times: int = 10) -> float:
    """Return the seconds of one call, the least of three measurements of several calls."""
    work()

    def several() -> None:
        for _ in range(times):
            work()

    return min(bench.seconds(several) for _ in range(3)) / times


def load_embedded(
    bench: Bench, dtype: str, *, device: torch.device | None = None, deterministic: bool = False
) -> Janus:
    """Load the embedded model."""
    place = str(device or bench.device)
    return Janus(embedded_folder(), device=place, dtype=dtype, deterministic=deterministic, graphs=False)


def requests_of(model: Janus | LlamaGen, count: int, until: int | None = None) -> list[ImageRequest]:
    """Return requests for images from the prompts alone."""
    return requests_after(model.start([Task(prompt=PROMPTS[place % len(PROMPTS)]) for place in range(count)]), until)


def requests_after(states: Sequence[TaskState], until: int | None = None) -> list[ImageRequest]:
    """Return requests for images from tasks' states."""
    return [
        ImageRequest(state, None, open_stream(0, "gpu", place, 0), until=until) for place, state in enumerate(states)
    ]


def draw_tokens(model: Janus, requests: Sequence[ImageRequest], batch: int) -> list[tuple[int, ...]]:
    """Draw in batches; return the tokens. The images are not decoded."""
    tokens: list[tuple[int, ...]] = []
    for start in range(0, len(requests), batch):
        tokens += [tuple(one) for one in sample_tokens(model, requests[start : start + batch])]
    return tokens


def sample_tokens(model: Janus | LlamaGen, requests: Sequence[ImageRequest]) -> list[list[int]]:
    """Sample the image tokens of one batch."""
    sampling = SAMPLING if isinstance(model, Janus) else model.settings("one-shot").sampling  # LlamaGen has a top-k
    return [tokens for tokens, _ in model.sample_tokens(requests, sampling)]


def check_tokens(bench: Bench) -> dict[str, Any]:
    """Draw the same images on the CPU and on the device, in float32 and in bfloat16; explain each first difference."""
    count, until = (2, 6) if bench.pretend else (64, None)
    host = load_embedded(bench, "float32", device=torch.device("cpu"))
    wanted = draw_tokens(host, requests_of(host, count, until), 32)
    found: dict[str, Any] = {"drawings": count}
    for dtype in ("float32", "bfloat16"):
        model = load_embedded(bench, dtype)
        bench.engine(model, recorded=True)
        drawn = draw_tokens(model, requests_of(model, count, until), 32)
        firsts = [first_difference(one, two) for one, two in zip(wanted, drawn, strict=True)]
        differ = [(place, first) for place, first in enumerate(firsts) if first is not None]
        before = [len(row) if first is None else first for row, first in zip(wanted, firsts, strict=True)]
        found[dtype] = {"equal": count - len(differ), "equal tokens before the first difference": sum(before) / count}
        if dtype == "float32":
            gaps = [
                measure_tie(host, requests_of(host, count, until)[place], wanted[place][:first])
                for place, first in differ
            ]
            found[dtype]["largest distance to a border at a difference"] = max(gaps, default=0.0)
            found[dtype]["all differences are ties"] = all(gap <= TIE for gap in gaps)
    return found


def first_difference(one: Sequence[int], two: Sequence[int]) -> int | None:
    """Return the first place where two sequences of one length differ."""
    return next((place for place, pair in enumerate(zip(one, two, strict=True)) if pair[0] != pair[1]), None)


@torch.inference_mode()
def measure_tie(model: Janus, request: ImageRequest, tokens: Sequence[int]) -> float:
    """Return how far the random number of the next token is from the nearest border between tokens, in probability."""
    asked = replace(request, tokens=tokens, until=len(tokens) + 1, keep_hidden=1)
    number = float(SAMPLE[SAMPLING.sampler].numbers(request.stream.clone_state(), len(tokens) + 1, 1)[-1])
    ((_, hidden),) = model.sample_tokens([asked], SAMPLING)
    borders = (
        torch.softmax(model.image_logits(hidden, SAMPLING.guidance)[0] / SAMPLING.temperature, -1).double().cumsum(0)
    )
    return float((borders / borders[-1] - number).abs().min())


def check_graphs(bench: Bench) -> dict[str, Any]:
    """Draw the same images eagerly and from recorded steps, twice each, in batches of equal size."""
    until = 6 if bench.pretend else None
    found: dict[str, Any] = {}
    for dtype in ("float32", "bfloat16"):
        model, drawn = load_embedded(bench, dtype), list[list[tuple[int, ...]]]()
        for recorded in (False, True):
            bench.engine(model, recorded=recorded)
            drawn.append([tokens for _ in range(2) for tokens in draw_tokens(model, requests_of(model, 4, until), 4)])
        found[dtype] = "equal" if drawn[0] == drawn[1] else "different"
        found[f"graphs in {dtype}"] = vars(model.engine.graph_counts)
    return found


class Strict(Fresh):
    """Buffers that run each step with an error if the host would wait for the device."""

    def run(self, key: object, step: Callable[[], None]) -> None:
        """Run a step (see `milr.decode.buffers.Buffers`)."""
        torch.cuda.set_sync_debug_mode("error")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def check_waiting(bench: Bench) -> str:
    """Run the steps of two drawings, and nothing else, under CUDA's errors of synchronisation."""
    if bench.device.type != "cuda":
        return "not checked: this is a CPU"
    model = load_embedded(bench, "float32")
    bench.engine(model, recorded=False)
    model.engine._fresh = Strict(bench.device, zero=True)
    sample_tokens(model, requests_of(model, 2, 5))
    return "no step waits"


def check_side(bench: Bench) -> dict[str, Any]:
    """Decode the same image tokens beside the decoding and in its order."""
    model = load_embedded(bench, "float32")
    requests = requests_of(model, 4, 6)
    beside = [one.sample.image.tobytes() for one in model.draw(requests, SAMPLING)]
    kind, model.side = type(model.side).__name__, Inline()
    requests = requests_of(model, 4, 6)
    inline = [one.sample.image.tobytes() for one in model.draw(requests, SAMPLING)]
    return {"side": kind, "images": "equal" if beside == inline else "different"}


def check_memory(bench: Bench) -> dict[str, Any]:
    """Draw a batch that does not fit: milr drops its recordings, halves the batch and gives the same tokens."""
    if bench.device.type != "cuda":
        return {"not checked": "this is a CPU"}
    model, count = load_embedded(bench, "float32"), 256
    bench.engine(model, recorded=True)
    wanted = draw_tokens(model, requests_of(model, count), count)
    cache = model.engine.buffers.held_bytes
    bench.engine(model, recorded=True)
    bench.free()  # the cache of the first engine, too
    free = torch.cuda.mem_get_info(bench.device)[0]
    ballast = torch.empty(free - cache * 3 // 4, dtype=torch.uint8, device=bench.device)
    fitting = engine_module.fitting
    try:
        engine_module.fitting = lambda *_: None  # type: ignore[assignment]
        found = draw_tokens(model, requests_of(model, count), count)
    finally:
        engine_module.fitting = fitting
        del ballast
        bench.free()
    after = model.engine._most
    said = "did not run out" if after is None else "equal" if found == wanted else "different"
    return {"tokens": said, "images at a time": count, "images at a time after": after}


def check_deterministic(bench: Bench) -> str:
    """Draw in bfloat16, alone and in a batch."""
    until = 6 if bench.pretend else None
    model = load_embedded(bench, "bfloat16", deterministic=True)
    together = draw_tokens(model, requests_of(model, 4, until), 4)
    alone = draw_tokens(model, requests_of(model, 4, until), 1)
    return "equal" if together == alone else "different"


def load_size(bench: Bench, name: str, work: Path) -> tuple[Any, Sizes | None]:
    """Load a size of `main`'s, and the lengths of its texts if they are made up."""
    if name in LLAMAGEN_SIZES:
        return LlamaGen(work, device=str(bench.device), dtype=bench.dtype, random=True, graphs=False), None
    if name in JANUS_SIZES:
        return load_random(bench, JANUS_SIZES["janus-tiny" if bench.pretend else name], work)
    return load_embedded(bench, bench.dtype), None


def load_random(bench: Bench, size: JanusSize, work: Path) -> tuple[Janus, Sizes]:
    """Make a Janus of a size with random weights on the device."""
    write_janus_config(work, size)
    model = Janus(work, device=str(bench.device), dtype=bench.dtype, random=True, graphs=False)
    image = model.capabilities.image_tokens
    text = 6 if bench.pretend else 60
    sizes = Sizes(180, text, text // 5, 120, image, max(1, image // 50))
    model.prompts = cast("Any", FixedPrompts(sizes, 700))  # ids that the tokenizer has
    model.profile = replace(model.profile, max_reasoning_tokens=text)
    return model, sizes


def measure_size(bench: Bench, name: str, limits: dict[str, float]) -> Iterator[Measured]:
    """Yield the parts of one size: names and what measures them. The model is loaded after the first."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "model"
        planned = plan_size(bench, name, work)
        yield "plan", lambda: vars(planned)
        batches = [one for one in ((1, 2) if bench.pretend else (1, 8, 32)) if one <= planned.usual]
        few = 2 if bench.pretend else 8
        model, sizes = load_size(bench, name, work)
        for batch in batches:
            yield f"batch {batch}", lambda batch=batch: measure_batch(bench, model, batch, limits)
            yield f"attention, batch {batch}", lambda batch=batch: measure_attention(bench, model, batch, limits)
        largest = f"batch {planned.batch}, longest prompts"
        if isinstance(model, LlamaGen):
            yield largest, lambda: measure_largest(bench, model, sizes, planned, limits)
            yield "image decoding, ms an image", lambda: measure_decoding(bench, model, few)
            return
        if sizes is not None:
            yield "plain loop", lambda: measure_plain(bench, model, sizes)
        yield f"text, {few} at a time, ms a text", lambda: measure_text(bench, model, few)
        yield "image decoding, ms an image", lambda: measure_decoding(bench, model, few)
        yield f"update, {few} at a time, ms a task", lambda: measure_update(bench, model, few)
        if sizes is None:
            yield "reward icons, ms an image", lambda: measure_reward(bench, model, few)
        for images in (2,) if bench.pretend else (1, 4, 8):
            yield f"search, {images} drawings a step", lambda images=images: measure_search(bench, model, images)
        if sizes is not None:
            yield largest, lambda: measure_largest(bench, model, sizes, planned, limits)


@dataclass(frozen=True)
class Planned:
    """The output of `milr plan` before the weights are loaded, in bytes unless a name says otherwise."""

    weights: int
    drawing: int
    """One drawing of the longest prompt, without the latents of a search."""
    prompt: int
    """Tokens of an image's longest prompt."""
    text_prompt: int
    """Tokens of the longest prompt that asks for a text."""
    batch: int
    """Drawings at a time: the largest power of 2 that fits by the plan."""
    usual: int
    """Drawings at a time that fit with prompts of at most 192 tokens."""


def plan_size(bench: Bench, name: str, work: Path) -> Planned:
    """Write the size's config and plan it."""
    if name in JANUS_SIZES:
        write_janus_config(work, JANUS_SIZES["janus-tiny" if bench.pretend else name])
    elif name in LLAMAGEN_SIZES:
        write_llamagen_config(work, LLAMAGEN_SIZES["llamagen-tiny" if bench.pretend else name])
    described = describe_model(embedded_folder() if name == "embedded" else work)
    made = make_plan(described, device=str(bench.device), dtype=bench.dtype)
    assert made is not None, "a checkpoint computes here"
    most = 2 if bench.pretend else 512
    batch = 1 << (min(made.rows or 1, most).bit_length() - 1)
    size = described.size
    assert size is not None
    prompt = made.tokens - described.capabilities.image_tokens
    able = described.capabilities
    each = (able.branches * (192 + able.image_tokens) + 192) * made.cache_per_token  # rows, and the cached prompt
    usual = int((usable(bench.device) * (made.free or 0) - made.weights) // each)
    return Planned(made.weights, made.row - made.latents, prompt, size.prompt_tokens, batch, usual)


def measure_batch(
    bench: Bench,
    model: Janus | LlamaGen,
    batch: int,
    limits: dict[str, float],
    states: Sequence[TaskState] = (),
    *,
    eager: bool = True,
) -> dict[str, Any]:
    """Measure a decode step near the beginning of an image, eager and recorded, and a whole image.

    A step is the difference between a long and a short drawing. Each length is drawn once before it is timed: lengths
    have recordings of their own. Without states, prompts are read with every drawing.
    """
    few, many = (2, 4) if bench.pretend else (8, 72)

    def requests(until: int | None) -> list[ImageRequest]:
        return requests_after(states, until) if states else requests_of(model, batch, until)

    def draw(until: int | None) -> None:
        sample_tokens(model, requests(until))

    found: dict[str, Any] = {}
    ways = {"eager": False, "recorded": True} if eager else {"recorded": True}
    for name, recorded in ways.items():
        bench.engine(model, recorded=recorded)
        short, long = (repeat(bench, lambda n=n: draw(n), 1) for n in (few, many))
        found[f"{name}, ms a step"] = 1e3 * (long - short) / (many - few)
    draw(None)
    found["recorded, s an image"] = bench.seconds(lambda: draw(None)) / batch
    found["graphs"] = vars(model.engine.graph_counts)
    read = max(len(prompt.ids) for prompt in model._read_image_prompts(requests(None)))
    found["limit, ms a step"] = 1e3 * limit_of_step(model, batch, read + (few + many) // 2, limits)
    found["recorded / limit"] = found["recorded, ms a step"] / found["limit, ms a step"]
    return found


class LongPrompts(FixedPrompts):
    """Prompts of the greatest length, each with other ids, so that nothing is shared."""

    def reasoning(self, prompt: str, critique: str = "") -> list[int]:
        """Return the ids of the prompt of this number."""
        return self._ids(self.sizes.text_prompt, 2 * int(prompt))

    def image(self, prompt: str, reasoning: object) -> list[int]:
        """Return the ids of the prompt of this number."""
        return self._ids(self.sizes.image_prompt, 2 * int(prompt) + 1)


def measure_largest(
    bench: Bench, model: Janus | LlamaGen, sizes: Sizes | None, planned: Planned, limits: dict[str, float]
) -> dict[str, Any]:
    """Measure the largest batch that fits by the plan, of the longest prompts, and its memory; recorded alone.

    Eager steps leave the allocator's memory in pieces, so that the whole batch may not fit afterwards.
    """
    bench.engine(model, recorded=True)  # the last engine's cache is released
    bench.free()
    if isinstance(model, Janus) and sizes is not None:
        longest = replace(sizes, image_prompt=planned.prompt, text_prompt=planned.text_prompt)
        model.prompts = cast("Any", LongPrompts(longest, 700))
    words = "" if isinstance(model, Janus) else " ".join(PROMPTS * 20)
    states = model.start([Task(prompt=f"{place} {words}") for place in range(planned.batch)])
    if isinstance(model, Janus):
        model.reason([TextRequest(state) for state in states])
    found = measure_batch(bench, model, planned.batch, limits, states, eager=False)
    found["images at a time after"] = model.engine._most or planned.batch
    found["peak bytes"] = bench.peak()
    found["planned bytes"] = planned.weights + planned.batch * planned.drawing
    return found


def limit_of_step(model: Janus | LlamaGen, batch: int, context: int, limits: dict[str, float]) -> float:
    """Return the least seconds of a step: those of reading weights and cache once, or of the arithmetic."""
    if isinstance(model, LlamaGen):
        parts = (model.gpt.layers, model.gpt.output)
    else:
        inner = model.network.model
        parts = (inner.language_model.layers, inner.generation_head, inner.generation_aligner)
    weights = sum(one.numel() * one.element_size() for part in parts for one in part.parameters())
    cache = 2 * batch * context * model.engine.decoder.token_bytes
    operations = 2 * (weights / model.engine.decoder.like.element_size()) * 2 * batch
    return max((weights + cache) / limits["bytes a second"], operations / limits["operations a second"])


def measure_attention(bench: Bench, model: Janus | LlamaGen, batch: int, limits: dict[str, float]) -> dict[str, Any]:
    """Measure attention of one token over a cache of 512, in milliseconds of all layers, by each of torch's kernels.

    "milr" is what decode steps call. The kernel that takes no mask is measured without one. The calls of all layers are
    recorded and replayed, because at small batches it takes longer to launch them than to compute them.
    """
    decoder, rows, seen = model.engine.decoder, 2 * batch, 64 if bench.pretend else 512
    kind: dict[str, Any] = {"dtype": decoder.like.dtype, "device": bench.device}
    query = torch.randn(rows, decoder.heads, 1, decoder.width, **kind)
    room = torch.randn(2, rows, decoder.heads, 2 * seen, decoder.width, **kind)
    keys, values = room[:, :, :, :seen]
    mask = torch.zeros(rows, 1, 1, 2 * seen, **kind)[..., :seen]
    every = F.scaled_dot_product_attention
    ways: dict[str, Callable[[], object]] = {"milr": lambda: attend(query, keys, values, mask)}
    for name, added in (("efficient", mask), ("cudnn", mask), ("math", mask), ("flash", None)):
        backend = getattr(SDPBackend, "MATH" if name == "math" else f"{name.upper()}_ATTENTION")

        def run(backend: Any = backend, added: torch.Tensor | None = added) -> object:
            with sdpa_kernel([backend]):
                return every(query, keys, values, added)

        ways[name] = run
    found: dict[str, Any] = {
        "to read the cache once": 1e3 * decoder.layers * 2 * keys.nbytes / limits["bytes a second"]
    }
    for name, way in ways.items():
        try:
            found[name] = 1e3 * repeat(bench, record_layers(bench, way, decoder.layers))
        except RuntimeError as error:  # this device has no such kernel
            found[name] = write_error(error)
    return found


@torch.inference_mode()
def record_layers(bench: Bench, way: Callable[[], object], layers: int) -> Callable[[], None]:
    """Return a call that repeats the recorded calls of all layers."""

    def work() -> None:
        for _ in range(layers):
            way()

    work()  # a kernel may be compiled or allocate at its first call
    return bench.recorder().record(work)


def measure_text(bench: Bench, model: Janus, batch: int) -> float:
    """Return the milliseconds of one text of the batch."""
    bench.engine(model, recorded=True)

    def write() -> None:
        model.reason([TextRequest(TaskState(Task(prompt=PROMPTS[place % 4]))) for place in range(batch)])

    write()
    write()
    return 1e3 * bench.seconds(write) / batch


def measure_decoding(bench: Bench, model: Janus | LlamaGen, batch: int) -> float:
    """Return the milliseconds of decoding an image from its tokens."""
    tokens = [[1] * model.capabilities.image_tokens] * batch
    decode = torch.inference_mode()(model._decode_all)
    decode(tokens)
    return 1e3 * bench.seconds(lambda: decode(tokens)) / batch


def measure_update(bench: Bench, model: Janus, batch: int) -> float:
    """Return the milliseconds of one task's optimisation step: 12 text latents and a fiftieth of the image's."""
    own = model.settings("milr", strategy="joint").own
    assert isinstance(own, MilrSettings)
    count, width = max(1, model.capabilities.image_tokens // 50), model.capabilities.width

    def make() -> Update:
        text = torch.randn(12, width, device=bench.device)
        latents = Latents(text, torch.randn(count, 2, width, device=bench.device))
        stream = open_stream(0, "gpu", 0, 0, "credit")
        return Update(latents, (1,) * 12, ((1,) * count,), (0.2,), ("text", "image"), stream)

    updates = [make() for _ in range(batch)]
    take_steps(model, updates, own, SAMPLING)
    return 1e3 * bench.seconds(lambda: take_steps(model, updates, own, SAMPLING)) / batch


def measure_reward(bench: Bench, model: Janus, batch: int) -> float:
    """Return the milliseconds of scoring an image by the detectors of the icon world; each image is a new one."""
    reward = load_reward("icons", model=model, placement=Placement(str(bench.device)))
    tasks = [Task(prompt=PROMPTS[place % len(PROMPTS)]) for place in range(batch)]
    until = 2 if bench.pretend else None
    images = [one.sample.image for one in model.draw(requests_of(model, 2 * batch, until), SAMPLING)]
    reward(images[:batch], tasks)
    return 1e3 * bench.seconds(lambda: reward(images[batch:], tasks)) / batch


def measure_plain(bench: Bench, model: Janus, sizes: Sizes) -> dict[str, float]:
    """Measure the plain loop's step on the same weights."""
    loop, count = PlainLoop(model.network), 2 if bench.pretend else 24
    prompt = model.prompts.image(PROMPTS[0], None)
    stream = torch.Generator(bench.device).manual_seed(0)

    def draw(many: int) -> float:
        cache, states = loop.read(prompt, 0, [1] * sizes.image_latents)
        return bench.seconds(lambda: loop.draw(cache, states, many, SAMPLING.guidance, stream))

    draw(2)
    first = draw(1)
    return {"ms a step": 1e3 * (draw(1 + count) - first) / count}


def measure_search(bench: Bench, model: Janus, images: int) -> dict[str, float]:
    """Measure a step of a search of one prompt: its latency, and drawings per second."""
    bench.engine(model, recorded=True)
    records = open_search(model, images, 0.05 if bench.pretend else 0.02)
    next(records)
    next(records)
    spent = bench.seconds(lambda: next(records))
    return {"s a step": spent, "drawings a second": images / spent}


def open_search(model: Janus, images: int, image_ratio: float) -> Iterator[Any]:
    """Begin a search of one prompt in the space of all latents, under a reward that is never met."""
    changes: dict[str, Any] = {"steps": 4, "drawings_per_step": images, "strategy": "joint"}
    own = model.settings("milr", image_ratio=image_ratio, **changes)
    return iter(search([Task(prompt=PROMPTS[0])], model, FakeReward(lambda image, task: 0.2), own))


def write_error(error: Exception) -> str:
    """Return an error in one line."""
    return f"failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def write_page(found: dict[str, Any]) -> str:
    """Return all findings as a page of Markdown."""
    lines = [f"# milr on {found.get('machine', {}).get('device', 'a device')}", ""]
    for name, value in found.items():
        lines += [f"## {name}", ""]
        rows = value.items() if isinstance(value, dict) else [("", value)]
        lines += [f"- {key}: {write_value(one)}" if key else f"- {write_value(one)}" for key, one in rows] + [""]
    return "\n".join(lines)


def write_value(value: Any) -> str:
    """Return a number with four digits; return anything else unchanged."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {write_value(one)}" for key, one in value.items())
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def judge_targets(found: dict[str, Any]) -> dict[str, str]:
    """Say for each target whether it is met."""
    if found["machine"]["cuda"] is None:
        return {"none": "this is a CPU"}
    said: dict[str, str] = {}
    for name, targets in TARGETS.items():
        for batch, most in targets.items():
            measured = found.get(f"{name}: batch {batch}")
            if isinstance(measured, dict):
                ratio = measured["recorded / limit"]
                said[f"{name}, batch {batch}"] = (
                    f"{ratio:.2f} x the limit, asked for {most}: {'met' if ratio <= most else 'missed'}"
                )
            else:
                said[f"{name}, batch {batch}"] = "not measured"
    for batch, least in PLAIN_TARGETS.items():
        measured, plain = found.get(f"janus-7b: batch {batch}"), found.get("janus-7b: plain loop")
        if isinstance(measured, dict) and isinstance(plain, dict):
            ratio = plain["ms a step"] / measured["recorded, ms a step"] * batch
            said[f"janus-7b, batch {batch}, an image"] = (
                f"{ratio:.1f} x the plain loop, asked for {least}: {'met' if ratio >= least else 'missed'}"
            )
    for name, measured in found.items():
        if isinstance(measured, dict) and measured.get("peak bytes"):
            share = measured["peak bytes"] / measured["planned bytes"] - 1
            said[f"{name}, memory"] = (
                f"{share:+.0%} of milr plan's, asked for at most {PLAN_ERROR:.0%}: "
                f"{'met' if abs(share) <= PLAN_ERROR else 'missed'}"
            )
    return said


def main(argv: Sequence[str] | None = None) -> None:
    """Check, then measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=9.0, help="how long it may take")
    parser.add_argument("--models", nargs="+", default=["janus-7b", "janus-1b", "embedded", "llamagen-xl-512"])
    parser.add_argument("--pretend", action="store_true", help="every part at tiny size, on a CPU")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--page", type=Path)
    given = parser.parse_args(argv)
    device = torch.device("cpu" if given.pretend else given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("this torch sees no CUDA device: give --pretend to try the program out")
    torch.set_float32_matmul_precision("highest")  # TF32 would give other tokens
    cudnn: Any = torch.backends.cudnn
    cudnn.conv.fp32_precision = "ieee"  # and other pixels
    # cuDNN compiles its attention again for every length: the plain loop, whose cache grows, would mostly compile
    torch.backends.cuda.enable_cudnn_sdp(False)
    bench = Bench(device, time.monotonic() + 60 * given.minutes, given.pretend, given.json, given.page, {})
    bench.part("machine", lambda: describe(bench))
    bench.part("limits", lambda: measure_limits(bench))
    for name, check in (
        ("tokens against the CPU's", check_tokens),
        ("recorded against eager", check_graphs),
        ("waiting for the host", check_waiting),
        ("pixels on a second stream", check_side),
        ("memory that runs out", check_memory),
        ("deterministic in bfloat16", check_deterministic),
    ):
        bench.part(name, lambda check=check: check(bench), needs=20)
    limits = bench.found["limits"]
    for name in given.models:
        bench.parts(name, measure_size(bench, name, limits))
        bench.free()
    bench.part("targets", lambda: judge_targets(bench.found))


if __name__ == "__main__":
    main()
