"""The decoding loop: equal tokens eagerly and replayed, on a CPU and on a pretended device, which never waits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from milr import search
from milr.decode.buffers import Recorded
from milr.decode.engine import Engine
from milr.decode.llama import Llama
from milr.decode.loop import DecodeLoop, LoopRequest
from milr.decode.sampling import open_stream
from milr.models import embedded_folder, load_model
from milr.models.base import ImageOutput, ImageRequest, TextOutput, TextRequest
from milr.models.janus import Janus
from milr.settings import SamplingParams
from milr.testing import FakeReward
from milr.types import Task
from tests.support.pretended_device import DEVICE, DeviceTensor, load_janus, pretended_device, watch

FOLDER = embedded_folder("embedded-small")  # the code of the embedded model, at half its width
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no embedded model: `make train` makes one")

TASKS = [Task(prompt=prompt) for prompt in ("two dogs", "a red apple left of a blue clock", "three green cups")]
DRAWN = 20  # image tokens: enough to use several buckets of 8
GUIDED = SamplingParams(guidance=4.0)
Work = tuple[list[TextOutput], list[ImageOutput]]


class Replayer:
    """A replacement for CUDA graphs: it repeats the recorded step with the tensors of that time."""

    def __init__(self) -> None:
        self.replayed = self.dropped = 0

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        def replay() -> None:
            self.replayed += 1
            step()

        return replay

    def drop(self) -> None:
        self.dropped += 1

    def used_bytes(self) -> int:
        return 0


class Tape(TorchDispatchMode):
    """Operators with the tensors of one run: as in a CUDA graph, whatever the host decided then is repeated."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, found))
        return found

    def play(self) -> None:
        """Call every operator again; each result goes to the address that it had."""
        for func, args, kwargs, found in self.calls:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(found), tree_leaves(again), strict=True):
                if isinstance(new, torch.Tensor) and new.data_ptr() != old.data_ptr():
                    old.copy_(new)


class TapeRecorder(Replayer):
    """A replacement for CUDA graphs that does not call the step again."""

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        tape = Tape()

        def replay() -> None:
            self.replayed += 1
            if tape.calls:
                tape.play()
            else:  # unlike a CUDA graph, a tape is recorded by a run
                with tape:
                    step()

        return replay


def make_model(recorder: Replayer | None = None, **options: int) -> Janus:
    """Load the small embedded model with another engine."""
    model = cast("Janus", load_model("embedded-small"))
    if recorder or options:
        model.engine = Engine(Llama(model.network.model.language_model), recorder=recorder, **options)
    return model


def work(model: Janus, round_: int = 0) -> Work:
    """Write and draw with every kind of request, in batches of rows with different lengths."""
    states, make = model.start(TASKS), partial(open_stream, 0, "any", step=round_)
    texts = model.reason([TextRequest(state) for state in states])
    pull = 0.5 * torch.randn(2, model.capabilities.width, generator=torch.Generator().manual_seed(1)).to(model.device)
    again = [
        TextRequest(states[0], texts[0].tokens[:2], stream=make(0, purpose="text")),
        TextRequest(states[1], stream=make(1, purpose="text")),
        TextRequest(states[2], texts[2].tokens[:1], offsets=pull),
        TextRequest(states[1], texts[1].tokens[:3]),
    ]
    found = [*texts, *model.reason(again)]
    logits = torch.randn(3, 4096, generator=torch.Generator().manual_seed(2)).to(model.device)
    requests = [
        ImageRequest(states[0], texts[0].reasoning, make(0), until=DRAWN, keep_hidden=2),
        ImageRequest(states[1], texts[1].reasoning, make(1), until=DRAWN, prefix=3 * logits),
        ImageRequest(states[2], None, make(2), until=DRAWN - 7, tokens=(5, None, 7)),
        ImageRequest(states[2], texts[2].reasoning, make(3), until=4, tokens=(1, 2, 3, 4)),
    ]
    images = model.draw(requests, GUIDED)
    images += model.draw([replace(request, keep_hidden=0) for request in requests], SamplingParams(guidance=1.0))
    return found, images + model.draw(requests, replace_sampler("race"))


def replace_sampler(name: str) -> SamplingParams:
    return GUIDED.model_copy(update={"sampler": name})


def check_equal(found: Work, wanted: Work) -> None:
    """Check that tokens are equal, and hidden states up to rounding."""
    assert [one.tokens for one in found[0]] == [one.tokens for one in wanted[0]]
    assert [one.sample.tokens for one in found[1]] == [one.sample.tokens for one in wanted[1]]
    for ours, theirs in zip([*found[0], *found[1]], [*wanted[0], *wanted[1]], strict=True):
        assert (ours.hidden is None) == (theirs.hidden is None)
        if ours.hidden is not None and theirs.hidden is not None:
            hidden = ours.hidden.inner if isinstance(ours.hidden, DeviceTensor) else ours.hidden
            torch.testing.assert_close(hidden, theirs.hidden, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def wanted() -> list[Work]:
    """Return the CPU's results, two rounds."""
    model = make_model()
    return [work(model, round_) for round_ in (0, 1)]


@pytest.mark.slow
def test_replayed_steps_equal_eager_steps(wanted: list[Work]) -> None:
    """The second round replays the first round's recording, from tensors at the same addresses."""
    recorder = TapeRecorder()
    model = make_model(recorder, bucket=8, check_every=4)
    check_equal(work(model, 0), wanted[0])
    once, recorded = recorder.replayed, model.engine.graph_counts.recorded
    check_equal(work(model, 1), wanted[1])
    assert once and recorder.replayed > 2 * once, "each key's first step is eager, the second one is recorded"
    assert model.engine.graph_counts.recorded >= recorded > 0


def test_a_larger_cache_or_memory_that_ran_out_drops_every_record() -> None:
    recorder = Replayer()
    buffers = Recorded(torch.device("cpu"), recorder)
    small = buffers.take("cache", (2, 3), torch.float32)
    assert buffers.take("cache", (3, 2), torch.float32).data_ptr() == small.data_ptr(), "caches share one storage"
    for _ in range(3):
        buffers.run("key", lambda: None)
    assert recorder.replayed == 2 and buffers.counts.recorded == 1
    dropped = recorder.dropped
    buffers.take("cache", (2, 4), torch.float32)
    assert recorder.dropped == dropped + 1 and buffers.counts.dropped == 1
    buffers.run("key", lambda: None)
    assert recorder.replayed == 2, "recorded anew"


def test_a_cache_that_is_taken_again_has_no_nan_of_the_drawing_before() -> None:
    """A mask does not help: 0 times NaN is NaN."""
    buffers = Recorded(torch.device("cpu"), Replayer())
    buffers.take("cache", (2, 3), torch.float16).fill_(float("nan"))
    assert not buffers.take("cache", (2, 2), torch.float16).isnan().any()
    assert not buffers.take("cache", (2, 3), torch.float16).isnan().any()


@pytest.mark.slow
def test_memory_that_ran_out_drops_records_and_halves_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Replayer()
    model = make_model(recorder, bucket=8)
    whole, sizes = model._draw, list[int]()

    def draw(batch: Sequence[object], sampling: SamplingParams) -> object:
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(batch, sampling)  # type: ignore[arg-type]

    monkeypatch.setattr(model, "_draw", draw)
    states = model.start(TASKS)
    images = model.draw([ImageRequest(state, None, open_stream(0, "x", 0, 0), until=4) for state in states], GUIDED)
    assert len(images) == 3 and sizes == [4, 2, 1], "three are padded to four; the halves are two and one"
    assert recorder.dropped


@pytest.mark.slow
def test_a_pretended_device_gives_the_cpus_tokens(
    wanted: list[Work],
) -> None:
    with pretended_device():
        model = load_janus(FOLDER)
        assert model.engine.bucket == 64
        found = work(model)
    check_equal(found, wanted[0])
    assert [one.sample.image.tobytes() for one in found[1]] == [one.sample.image.tobytes() for one in wanted[0][1]]


@pytest.mark.slow
def test_a_drawing_of_any_length_waits_for_the_device_equally_often() -> None:
    with pretended_device():
        model = load_janus(FOLDER)
        (state,) = model.start(TASKS[:1])
        (text,) = model.reason([TextRequest(state)])
        found: list[tuple[int, int]] = []
        for until in (4, 8, 24):  # the first one also reads the beginning of all unconditional prompts
            request = ImageRequest(state, text.reasoning, open_stream(0, "x", until, 0), until=until, keep_hidden=2)
            state.image_prompt = None
            with watch() as traffic:
                model.draw([request], GUIDED)
            found.append((traffic.reads.total(), traffic.copies.total()))
    assert found[1] == found[2]
    assert found[1][0] + found[1][1] <= 8 and max(found[1]) <= 4, found


@pytest.mark.slow
def test_a_search_step_waits_for_the_device_a_few_times_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    with pretended_device():
        model = load_janus(FOLDER)
        monkeypatch.setattr(model, "_total", lambda request: 12)  # the rest of each image is plain
        waits = {batch: count_waits(model, TASKS[:batch]) for batch in (1, 3)}
    assert all(waits[3][kind] - waits[1][kind] <= 2 * 4 for kind in (0, 1)), waits
    assert waits[1][0] <= 8 and waits[1][1] <= 12, waits


def count_waits(model: Janus, tasks: Sequence[Task]) -> tuple[int, int]:
    """Count reads and copies in the second step of a search."""
    own = model.settings("milr", strategy="joint", image_ratio=0.05, steps=3)
    records = iter(search(tasks, model, FakeReward(lambda image, task: 0.2), own))
    for _ in range(2 * len(tasks)):
        next(records)
    with watch() as traffic:
        for _ in tasks:
            next(records)
    return traffic.reads.total(), traffic.copies.total()


@pytest.mark.slow
def test_steps_of_a_bucket_dispatch_the_same_operators() -> None:
    """All steps have the same shapes, strides and constants, and none of them waits."""
    with pretended_device():
        model = load_janus(FOLDER)
        loop = open_loop(model)
        traces: list[list[tuple[object, ...]]] = []
        for _ in range(2):
            seen = loop._batch.reserve()
            with watch(trace=True) as traffic:
                loop.step(seen)
            assert not traffic.reads and not traffic.copies
            traces.append(traffic.operators)
    assert len(traces[0]) > 100 and traces[0] == traces[1]


def open_loop(model: Janus, ends: frozenset[int] = frozenset({2})) -> DecodeLoop:
    """Return a loop over text with every kind of input, after its first token."""
    with torch.no_grad():
        (prefix,) = model.engine.prefill_all(model._embed_text([[1, 2, 3]]))
        rows = model.engine.open([prefix, prefix], 0, 8)
        none = torch.zeros(0, dtype=torch.long, device=model.device)
        request = LoopRequest(
            8,
            [none, none],
            streams=[open_stream(0, "x", place, 0) for place in range(2)],
            given=[(None, 5), ()],
            offsets=[torch.ones(2, 1, model.capabilities.width).to(model.device), None],
            keep=3,
            ends=ends,
        )
        loop = DecodeLoop(rows, model.text_head, request)
        loop._load_numbers(0)
        loop._sample()
    return loop


def test_steps_with_different_numbers_of_ends_are_recorded_separately() -> None:
    model = make_model(bucket=64)
    keys = [open_loop(model, frozenset(ends))._key for ends in ([2], [3], [2, 3])]
    assert keys[0] == keys[1] != keys[2], "the ends are copied to the same tensor, unless there are more of them"


def test_a_step_can_be_traced_with_fake_tensors() -> None:
    """Under torch's fake tensors, control flow that depends on data is an error."""
    model = make_model(bucket=64)
    loop = open_loop(model)
    seen = loop._batch.reserve()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        loop.step(seen)
        with pytest.raises(DataDependentOutputException):
            bool((loop._batch.newest + 0)[0, 0] > 0)


def test_the_pretended_device_counts_everything_that_waits() -> None:
    def plant(numbers: torch.Tensor, act: Callable[[torch.Tensor], object]) -> int:
        with watch() as traffic:
            act(numbers)
        return traffic.reads.total() + traffic.copies.total()

    waits: dict[str, Callable[[torch.Tensor], object]] = {
        "item": lambda x: x[0].item(),
        "tolist": lambda x: x.tolist(),
        "numpy": lambda x: x.numpy(),
        "bool": lambda x: bool(x[0] > 0),
        "int": lambda x: int(x[0]),
        "float": lambda x: float(x[0]),
        "index": lambda x: [0, 1][x.long()[0]],
        "iteration": list,
        "formatting": lambda x: f"{x[0]}",
        "mask": lambda x: x[x > 1],
        "nonzero": lambda x: x.nonzero(),
        "masked_select": lambda x: x.masked_select(x > 1),
        "equal": lambda x: torch.equal(x, x + 0),
        "to the host": lambda x: x.cpu(),
        "to the device": lambda x: torch.ones(3).to(DEVICE),
        "in place": lambda x: x.copy_(torch.ones(3)),
    }
    with pretended_device():
        numbers = torch.arange(3.0).to(DEVICE)
        missed = [name for name, act in waits.items() if plant(numbers, act) != 1]
        assert not missed
        assert plant(numbers, lambda x: (x + 1).cumsum(0).argmax()) == 0
        with pytest.raises(RuntimeError, match="both devices"):
            numbers + torch.ones(3)
