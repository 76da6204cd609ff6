"""The engine against a plain loop: same weights, one process, one after the other.

    python -m bench.compare --model embedded --batch 32 --json bench/results/embedded-32.json
    python -m bench.compare --model janus-1b-random --batch 16 --json bench/results/1b-16.json
    python -m bench.compare --model janus-1b-random --batch 16 --full        # every token, as a check of the sums

One optimisation step of one drawing is measured: new text behind its latents, a new drawing behind its own, its
picture. The plain loop (bench/plain.py) does it for one drawing, the engine for a batch. Of a long drawing, some tokens
at three context lengths are timed and summed (a step's time grows with the context, so by Simpson's rule). The limit
beside the figures is what this machine's memory and arithmetic allow, measured by the same program (bench/machine.py).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch

from bench.machine import Machine, measure_machine, seconds
from bench.plain import PlainLoop
from bench.random_weights import write_janus
from milr import load_model, tasks_from_prompts
from milr.decode.kv_cache import CachedPrefix
from milr.decode.sampling import open_stream
from milr.files import write_text
from milr.models.base import ImagePrompt, ImageRequest
from milr.models.janus import Janus, _Manner

PROMPT = "a photo of a red apple left of a blue clock"
GUIDANCE = 5.0
OPERATORS = 8  # that a profile names


@dataclass(frozen=True)
class Sizes:
    """Tokens of one optimisation step."""

    asked: int
    """Of the prompt that asks for the text."""
    text: int
    text_latents: int
    told: int
    """Of the prompt that asks for the drawing."""
    image: int
    image_latents: int


class FixedPrompts:
    """Stands in for a model's prompts: random token ids of the lengths that Janus-Pro's prompts have."""

    ends: frozenset[int] = frozenset()
    blank = 0

    def __init__(self, sizes: Sizes, vocabulary: int) -> None:
        """Args: the lengths, and how many token ids there are."""
        self.sizes, self.vocabulary = sizes, vocabulary

    def reasoning(self, prompt: str, critique: str = "") -> list[int]:
        """The same ids for every prompt."""
        return self._ids(self.sizes.asked, 0)

    def drawing(self, prompt: str, reasoning: object) -> list[int]:
        """The same ids for every text."""
        return self._ids(self.sizes.told, 1)

    def up_to_end(self, tokens: list[int]) -> list[int]:
        """No token ends a text."""
        return tokens

    def without_end(self, tokens: list[int]) -> list[int]:
        """As `up_to_end`."""
        return tokens

    def _ids(self, count: int, seed: int) -> list[int]:
        stream = torch.Generator().manual_seed(seed)
        return cast("list[int]", torch.randint(8, self.vocabulary, (count,), generator=stream).tolist())


@dataclass
class Bench:
    """A model, the plain loop over the same weights, and the lengths of a step."""

    model: Janus
    plain: PlainLoop
    sizes: Sizes

    @property
    def prompts(self) -> Any:
        """The model's, or what stands in for them."""
        return self.model.prompts


def load_bench(name: str, dtype: str, work: Path) -> Bench:
    """The embedded model, or Janus-Pro-1B's dimensions with random weights, written to a folder once."""
    from transformers import JanusForConditionalGeneration

    folder = work / name
    if name == "embedded":
        model = cast("Janus", load_model(dtype=dtype))
        folder = model.folder
    else:
        if not (folder / "config.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_janus(folder)
        model = cast("Janus", load_model(str(folder), dtype=dtype))
    # The engine's layers are packed; the plain loop gets plain ones and shares all the rest.
    network: Any = JanusForConditionalGeneration.from_pretrained(folder, dtype=model.network.dtype)
    network.eval().requires_grad_(False)
    network.lm_head, network.model.vqmodel = model.network.lm_head, model.network.model.vqmodel
    network.model.vision_model = network.model.aligner = None
    if name == "embedded":
        (row,) = model.start(tasks_from_prompts([PROMPT]))
        (thought,) = model.reason([row], [()])
        told = model.prompts.drawing(PROMPT, thought.reasoning)
        text = len(thought.written)
        image = model.capabilities.image_tokens
        sizes = Sizes(len(model.prompts.reasoning(PROMPT)), text, text // 5, len(told), image, image // 50)
        model.profile = replace(model.profile, max_reasoning_tokens=text)
    else:
        sizes = Sizes(asked=180, text=60, text_latents=12, told=120, image=576, image_latents=11)
        model.profile = replace(model.profile, max_reasoning_tokens=sizes.text)
        vocabulary = model.network.config.text_config.vocab_size
        model.prompts = cast("Any", FixedPrompts(sizes, min(vocabulary, 700)))  # ids that the tokenizer knows
    return Bench(model, PlainLoop(network), sizes)


@dataclass(frozen=True)
class Part:
    """Something to time, and how often it counts."""

    name: str
    work: Callable[[], object]
    weight: float


def simpson(first: int, last: int, tokens: int) -> list[tuple[int, float]]:
    """Three context lengths from first to last, and each one's share of that many tokens."""
    return [(first, tokens / 6), ((first + last) // 2, 4 * tokens / 6), (last, tokens / 6)]


def plain_parts(bench: Bench, chunk: int | None) -> list[Part]:
    """One step of one drawing; `chunk` image tokens at a time, or all of them."""
    loop, sizes = bench.plain, bench.sizes
    asked, told = bench.prompts.reasoning(PROMPT), bench.prompts.drawing(PROMPT, None)[: sizes.told]
    blank, stream = bench.prompts.blank, torch.Generator().manual_seed(0)
    prefix, words = [1] * sizes.image_latents, [9] * sizes.text
    rest = sizes.image - sizes.image_latents
    parts: list[Part] = []
    if chunk is None:
        parts.append(Part("text", lambda: loop.write(asked, words[: sizes.text_latents], sizes.text), 1))
        parts.append(
            Part("image", lambda: loop.draw(*loop.read(told, blank, prefix), rest, GUIDANCE, stream), 1),
        )
    else:
        for length, weight in simpson(sizes.text_latents, sizes.text - 1, sizes.text - sizes.text_latents):
            parts.append(Part("text", lambda n=length: loop.write(asked, words[:n], n + 1), weight))
        parts.append(Part("image prompt", lambda: loop.read(told, blank, prefix), 1))
        for length, weight in simpson(sizes.image_latents, sizes.image - chunk - 1, rest - 1):
            cache, states = loop.read(told, blank, [1] * length)
            begun = cast("Any", cache)
            kept = [(layer.keys, layer.values) for layer in begun.layers]

            def draw(cache: Any = begun, kept: Any = kept, states: torch.Tensor = states) -> None:
                for layer, (keys, values) in zip(cache.layers, kept, strict=True):
                    layer.keys, layer.values = keys, values
                loop.draw(cache, states, chunk + 1, GUIDANCE, stream)

            parts.append(Part("image", draw, weight / chunk))
    parts.append(Part("picture", lambda: bench.model._decode_some([[1] * sizes.image]), 1))
    return parts


def engine_parts(bench: Bench, batch: int, chunk: int | None) -> list[Part]:
    """The same step of a batch of drawings, whose texts have all changed."""
    model, sizes = bench.model, bench.sizes
    tasks = tasks_from_prompts([PROMPT]) * batch
    rows = model.start(tasks)
    thoughts = model.reason(rows, [()] * batch)
    prefix = [thought.written[: sizes.text_latents] for thought in thoughts]
    logits = torch.randn(sizes.image_latents, model.network.config.vq_config.num_embeddings)
    requests = [
        ImageRequest(row, thought.reasoning, open_stream(0, "speed", place, 0), logits)
        for place, (row, thought) in enumerate(zip(rows, thoughts, strict=True))
    ]
    manner = _Manner(GUIDANCE, 1.0, 0, "race")

    def write() -> None:
        for row in rows:
            row.thought = None
        model.reason(rows, prefix)

    def tell() -> list[ImagePrompt]:
        for row in rows:
            row.told = None
        return model._tell(requests)

    told = tell()
    parts = [Part("text", write, 1), Part("image prompt", tell, 1)]
    if chunk is None:
        parts.append(Part("image", lambda: _draw(model, list(zip(requests, told, strict=True)), manner), 1))
    else:
        begin = [(request, one) for request, one in zip(requests, told, strict=True)]
        only = sizes.image_latents + 1  # the prefix is read, one token is drawn, none is stepped
        parts.append(Part("image", lambda: _draw(model, begin, manner, only), 1))
        rest = sizes.image - sizes.image_latents - 1
        for length, weight in simpson(sizes.image_latents, sizes.image - chunk - 1, rest):
            whole = _pretend(told[0], sizes.told + length)
            some = [(replace(request, prefix=None), whole) for request in requests]
            # What it takes to begin there is taken off: it is not part of a step.
            parts.append(Part("image", lambda s=some: _draw(model, s, manner, chunk + 1), weight / chunk))
            parts.append(Part("image", lambda s=some: _draw(model, s, manner, 1), -weight / chunk))
    parts.append(Part("picture", lambda: model._decode_some([[1] * sizes.image]), batch))
    return parts


@torch.inference_mode()
def _draw(
    model: Janus, batch: Sequence[tuple[ImageRequest, ImagePrompt]], manner: _Manner, total: int | None = None
) -> None:
    """The image tokens of a batch, fewer than the model's where told."""
    whole = model.capabilities
    model.capabilities = replace(whole, image_tokens=total or whole.image_tokens)
    try:
        model._draw(batch, manner)
    finally:
        model.capabilities = whole


def _pretend(told: ImagePrompt, length: int) -> ImagePrompt:
    """As if that many tokens had been read: the numbers do not matter, where they lie does."""

    def stretch(kept: CachedPrefix) -> CachedPrefix:
        part = torch.cat(kept.parts, dim=-2)
        repeats = -(-length // part.shape[-2])
        return CachedPrefix((part.repeat(1, 1, 1, repeats, 1)[..., :length, :],), kept.last)

    return ImagePrompt(told.ids, stretch(told.conditional), stretch(told.unconditional))


@dataclass(frozen=True)
class Times:
    """Seconds of one drawing's step, by part."""

    text: float
    drawing: float
    picture: float

    @property
    def step(self) -> float:
        """All of it."""
        return self.text + self.drawing + self.picture


def time_parts(parts: Sequence[Part], drawings: int) -> Times:
    """Run every part once; seconds a drawing."""
    spent = {"text": 0.0, "image prompt": 0.0, "image": 0.0, "picture": 0.0}
    for part in parts:
        # Pictures are decoded one by one: one is timed, the weight says how many there are.
        spent[part.name] += part.weight * seconds(part.work) / drawings
    return Times(spent["text"], spent["image prompt"] + spent["image"], spent["picture"])


def middle(times: Sequence[Times]) -> Times:
    """The median of each part."""
    return Times(*(median(getattr(one, name) for one in times) for name in ("text", "drawing", "picture")))


@dataclass(frozen=True)
class Work:
    """What a step of one drawing takes."""

    tokens: float
    bytes: float
    """Weights and cache, moved between memory and processor."""
    operations: float


def weights_of(bench: Bench) -> tuple[int, int, int]:
    """Numbers in the decoder's layers, the text head and the image head."""
    inner = bench.plain.network.model
    return (
        sum(one.numel() for one in inner.language_model.layers.parameters()),
        bench.plain.network.lm_head.weight.numel(),
        sum(one.numel() for one in inner.generation_head.parameters()),
    )


def engine_work(bench: Bench, batch: int) -> list[Work]:
    """The passes of one step, all drawings of the batch together: what the limit is computed from.

    Each pass takes the longer of two times: to stream the weights and the cache, and to multiply.
    """
    sizes, decoder = bench.sizes, bench.model.engine.decoder
    item = decoder.like.element_size()
    layers, text_head, image_head = weights_of(bench)
    wide = 4 * decoder.layers * bench.plain.network.config.text_config.hidden_size  # operations a key that is seen

    def one(rows: int, tokens: int, before: int, head: int) -> Work:
        seen = before + tokens
        return Work(
            tokens=rows * tokens,
            bytes=item * (layers + head) + rows * seen * decoder.token_bytes,
            operations=rows * (tokens * (2 * layers + wide * (before + tokens / 2)) + 2 * head),
        )

    text = [one(batch, sizes.text_latents, sizes.asked, text_head)]
    text += [one(batch, 1, sizes.asked + n, text_head) for n in range(sizes.text_latents, sizes.text - 1)]
    drawing = [one(batch, sizes.told, 0, 0), one(batch, 1, sizes.told - 1, 0)]
    drawing.append(one(2 * batch, sizes.image_latents, sizes.told, image_head))
    places = range(sizes.image_latents, sizes.image - 1)
    return [*text, *drawing, *(one(2 * batch, 1, sizes.told + n, image_head) for n in places)]


def limit(passes: Sequence[Work], machine: Machine) -> float:
    """Seconds that this machine could do those passes in."""
    return sum(max(one.bytes / machine.bytes_a_second, one.operations / machine.operations_a_second) for one in passes)


def count_plain(bench: Bench) -> Work:
    """Tokens and bytes of the plain loop's step, by its description."""
    sizes, decoder = bench.sizes, bench.model.engine.decoder
    item = decoder.like.element_size()
    layers, text_head, image_head = weights_of(bench)
    lengths = [sizes.asked + n for n in range(sizes.text_latents, sizes.text)]
    begin, end = sizes.told + sizes.image_latents, sizes.told + sizes.image - 1
    tokens = sum(lengths) + 2 * end
    read = 2 * decoder.token_bytes * (begin + 3 * sum(range(begin + 1, end + 1)))
    passes = item * (len(lengths) * (layers + text_head) + (end - begin + 1) * (layers + image_head))
    return Work(tokens, passes + read, 2 * layers * tokens)


def compare(bench: Bench, batch: int, machine: Machine, chunk: int | None, repeats: int) -> dict[str, object]:
    """Alternate the two, and say what each took."""
    plain, engine = plain_parts(bench, chunk), engine_parts(bench, batch, chunk)
    times: list[tuple[Times, Times]] = []
    for _ in range(repeats):
        times.append((time_parts(plain, 1), time_parts(engine, batch)))
    slow, fast = middle([one for one, _ in times]), middle([one for _, one in times])
    passes = engine_work(bench, batch)
    floor = limit(passes, machine) / batch
    kept = replace(fast, text=0.0)  # the text did not change: its prompt's reading falls away too, but is left in
    return {
        "batch": batch,
        "repeats": repeats,
        "chunk": chunk,
        "sizes": asdict(bench.sizes),
        "plain": {**asdict(slow), "step": slow.step, **_plain_figures(count_plain(bench))},
        "engine": {
            **asdict(fast),
            "step": fast.step,
            "tokens": sum(one.tokens for one in passes) / batch,
            "bytes": sum(one.bytes for one in passes) / batch,
        },
        "limit": floor,
        "over_limit": (fast.text + fast.drawing) / floor,
        "ratio_drawing": (slow.drawing + slow.picture) / (fast.drawing + fast.picture),
        "ratio_step": slow.step / fast.step,
        "ratio_step_text_kept": slow.step / kept.step,
        "ratio_spread": [round(a.step / b.step, 3) for a, b in times],
    }


def profile(bench: Bench, batch: int, chunk: int | None) -> dict[str, float]:
    """Where the engine's image tokens go: each torch operator's own share of the thread's time, largest first.

    The pass is the one in the middle of a drawing, where it is timed in pieces; else a whole drawing.
    """
    work = max((one for one in engine_parts(bench, batch, chunk) if one.name == "image"), key=lambda one: one.weight)
    work.work()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as watched:
        work.work()
    own = {one.key: one.self_cpu_time_total for one in watched.key_averages()}
    total = sum(own.values())
    most = sorted(own.items(), key=lambda item: -item[1])[:OPERATORS]
    return {name: round(time / total, 4) for name, time in most}


def _plain_figures(work: Work) -> dict[str, float]:
    return {"tokens": work.tokens, "bytes": work.bytes}


def main() -> None:
    """Measure one or more batches and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["embedded", "janus-1b-random"], default="embedded")
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32, help="image tokens that are timed at each context length")
    parser.add_argument("--full", action="store_true", help="time every token")
    parser.add_argument("--profile", action="store_true", help="say as well where the engine's time goes")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()), help="where random weights lie")
    parser.add_argument("--json", type=Path, help="a file to write as well")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    bench = load_bench(given.model, given.dtype, given.work)
    machine = measure_machine(bench.model.network.dtype)
    # A small model's whole step takes seconds: nothing has to be summed from pieces.
    chunk = None if given.full or given.model == "embedded" else given.tokens
    results: list[dict[str, object]] = []
    for batch in given.batch:
        results.append(compare(bench, batch, machine, chunk, given.repeats))
        if given.profile:
            results[-1]["profile"] = profile(bench, batch, chunk)
        report = {"model": given.model, "dtype": given.dtype, "machine": asdict(machine), "batches": results}
        text = json.dumps(report, indent=1)
        if given.json:
            write_text(given.json, text + "\n")
        print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
