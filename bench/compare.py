"""The engine against a plain loop: same weights, one process, one after the other.

    python -m bench.compare --model embedded --batch 32 --json bench/results/embedded-32.json
    python -m bench.compare --model janus-1b-random --batch 16 --json bench/results/1b-16.json
    python -m bench.compare --model janus-1b-random --batch 16 --full        # every token, as a check of the sums
    python -m bench.compare --model janus-tiny-random --tokens 2             # tries out the program

One optimisation step of one task is measured: new text after its latents, new image tokens after theirs, and their
decoding. The plain loop (bench/plain.py) does it for one image, the engine for a batch. Of a long image, some tokens
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
from bench.random_weights import JANUS_SIZES, JanusSize, write_janus_config
from milr import load_model, tasks_from_prompts
from milr.decode.kv_cache import CachedPrefix
from milr.decode.sampling import open_stream
from milr.files import write_text
from milr.models.base import ImagePrompt, ImageRequest, TextRequest
from milr.models.checkpoint import open_checkpoint
from milr.models.janus import Janus
from milr.settings import SamplingParams

PROMPT = "a photo of a red apple left of a blue clock"
SAMPLING = SamplingParams(guidance=5.0)
OPERATORS = 8  # that a profile names


@dataclass(frozen=True)
class Sizes:
    """Tokens of one optimisation step."""

    text_prompt: int
    text: int
    text_latents: int
    image_prompt: int
    image: int
    image_latents: int


class FixedPrompts:
    """A substitute for a model's prompts: random token ids with the lengths of Janus-Pro's prompts."""

    ends: frozenset[int] = frozenset()
    padding = 0

    def __init__(self, sizes: Sizes, vocabulary: int) -> None:
        """Take the lengths and the number of token ids."""
        self.sizes, self.vocabulary = sizes, vocabulary

    def reasoning(self, prompt: str, critique: str = "") -> list[int]:
        """Return the same ids for every prompt."""
        return self._ids(self.sizes.text_prompt, 0)

    def image(self, prompt: str, reasoning: object) -> list[int]:
        """Return the same ids for every text."""
        return self._ids(self.sizes.image_prompt, 1)

    def up_to_end(self, tokens: list[int]) -> list[int]:
        """Return all tokens, because none ends a text."""
        return tokens

    def without_end(self, tokens: list[int]) -> list[int]:
        """Return all tokens, as `up_to_end`."""
        return tokens

    def _ids(self, count: int, seed: int) -> list[int]:
        stream = torch.Generator().manual_seed(seed)
        return cast("list[int]", torch.randint(8, self.vocabulary, (count,), generator=stream).tolist())


@dataclass
class Bench:
    """A model, the plain loop with the same weights, and the lengths of a step."""

    model: Janus
    plain: PlainLoop
    sizes: Sizes

    @property
    def prompts(self) -> Any:
        """Return the model's prompts, or their substitute."""
        return self.model.prompts


def load_embedded(dtype: str) -> Bench:
    """Load the embedded model; a step has the lengths of one of its prompts."""
    from transformers import JanusForConditionalGeneration

    model = cast("Janus", load_model(dtype=dtype))
    network: Any = JanusForConditionalGeneration.from_pretrained(model.folder, dtype=model.network.dtype)
    (state,) = model.start(tasks_from_prompts([PROMPT]))
    (output,) = model.reason([TextRequest(state)])
    text, image = len(output.tokens), model.capabilities.image_tokens
    text_prompt, image_prompt = model.prompts.reasoning(PROMPT), model.prompts.image(PROMPT, output.reasoning)
    sizes = Sizes(len(text_prompt), text, text // 5, len(image_prompt), image, image // 50)
    return _share_weights(model, network, sizes)


def load_random(size: JanusSize, dtype: str, text: int = 60) -> Bench:
    """Make a Janus of that size with random weights; a step has the lengths of Janus-Pro's prompts."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "janus-random"
        write_janus_config(folder, size)
        model = Janus(folder, dtype=dtype, random=True)
        # The same random numbers once more.
        network: Any = open_checkpoint(folder, weights=False).make_network(model.network.dtype)
    image = model.capabilities.image_tokens
    sizes = Sizes(180, text, text // 5, 120, image, max(1, image // 50))
    model.prompts = cast("Any", FixedPrompts(sizes, 700))  # ids that the tokenizer knows
    return _share_weights(model, network, sizes)


def _share_weights(model: Janus, network: Any, sizes: Sizes) -> Bench:
    """Give the plain loop plain layers, because the engine's are packed; all else is shared."""
    network.eval().requires_grad_(False)
    network.lm_head, network.model.vqmodel = model.network.lm_head, model.network.model.vqmodel
    network.model.vision_model = network.model.aligner = None
    model.profile = replace(model.profile, max_reasoning_tokens=sizes.text)
    return Bench(model, PlainLoop(network), sizes)


@dataclass(frozen=True)
class Part:
    """A timed part, and the number of times that it counts."""

    name: str
    work: Callable[[], object]
    weight: float


def simpson(first: int, last: int, tokens: int) -> list[tuple[int, float]]:
    """Return three context lengths from first to last, and each one's share of that many tokens."""
    return [(first, tokens / 6), ((first + last) // 2, 4 * tokens / 6), (last, tokens / 6)]


def plain_parts(bench: Bench, chunk: int | None) -> list[Part]:
    """Return the parts of one step of one task; `chunk` image tokens at a time, or all of them."""
    loop, sizes = bench.plain, bench.sizes
    text_prompt, image_prompt = bench.prompts.reasoning(PROMPT), bench.prompts.image(PROMPT, None)[: sizes.image_prompt]
    padding, stream, guidance = bench.prompts.padding, torch.Generator().manual_seed(0), SAMPLING.guidance
    prefix, words = [1] * sizes.image_latents, [9] * sizes.text
    rest = sizes.image - sizes.image_latents
    parts: list[Part] = []
    if chunk is None:
        parts.append(Part("text", lambda: loop.write(text_prompt, words[: sizes.text_latents], sizes.text), 1))
        parts.append(
            Part("image", lambda: loop.draw(*loop.read(image_prompt, padding, prefix), rest, guidance, stream), 1),
        )
    else:
        for length, weight in simpson(sizes.text_latents, sizes.text - 1, sizes.text - sizes.text_latents):
            parts.append(Part("text", lambda n=length: loop.write(text_prompt, words[:n], n + 1), weight))
        parts.append(Part("image prompt", lambda: loop.read(image_prompt, padding, prefix), 1))
        for length, weight in simpson(sizes.image_latents, sizes.image - chunk - 1, rest - 1):
            cache, states = loop.read(image_prompt, padding, [1] * length)
            filled = cast("Any", cache)
            stored = [(layer.keys, layer.values) for layer in filled.layers]

            def draw(cache: Any = filled, stored: Any = stored, states: torch.Tensor = states) -> None:
                for layer, (keys, values) in zip(cache.layers, stored, strict=True):
                    layer.keys, layer.values = keys, values
                loop.draw(cache, states, chunk + 1, guidance, stream)

            parts.append(Part("image", draw, weight / chunk))
    parts.append(Part("decoding", lambda: bench.model._decode_pixels(torch.ones(1, sizes.image, dtype=torch.long)), 1))
    return parts


def engine_parts(bench: Bench, batch: int, chunk: int | None) -> list[Part]:
    """Measure the same step of a batch of tasks, whose texts have all changed."""
    model, sizes = bench.model, bench.sizes
    states = model.start(tasks_from_prompts([PROMPT]) * batch)
    texts = model.reason([TextRequest(state) for state in states])
    rewrites = [
        TextRequest(state, text.tokens[: sizes.text_latents]) for state, text in zip(states, texts, strict=True)
    ]
    logits = torch.randn(sizes.image_latents, model.network.config.vq_config.num_embeddings)
    requests = [
        ImageRequest(state, text.reasoning, open_stream(0, "bench", place, 0), logits)
        for place, (state, text) in enumerate(zip(states, texts, strict=True))
    ]

    def write() -> None:
        for state in states:
            state.text = None
        model.reason(rewrites)

    def read_prompts() -> list[ImagePrompt]:
        for state in states:
            state.image_prompt = None
        return model._read_image_prompts(requests)

    prompts = read_prompts()
    parts = [Part("text", write, 1), Part("image prompt", read_prompts, 1)]
    begin = list(zip(requests, prompts, strict=True))
    if chunk is None:
        parts.append(Part("image", lambda: _draw(model, begin), 1))
    else:
        only = sizes.image_latents + 1  # the prefix is read, one token is sampled, no step is made
        parts.append(Part("image", lambda: _draw(model, begin, only), 1))
        rest = sizes.image - sizes.image_latents - 1
        for length, weight in simpson(sizes.image_latents, sizes.image - chunk - 1, rest):
            whole = _pretend(prompts[0], sizes.image_prompt + length)
            some = [(replace(request, prefix=None), whole) for request in requests]
            # What it takes to begin there is taken off: it is not part of a step.
            parts.append(Part("image", lambda s=some: _draw(model, s, chunk + 1), weight / chunk))
            parts.append(Part("image", lambda s=some: _draw(model, s, 1), -weight / chunk))
    parts.append(Part("decoding", lambda: model._decode_pixels(torch.ones(1, sizes.image, dtype=torch.long)), batch))
    return parts


def _draw(model: Janus, batch: Sequence[tuple[ImageRequest, ImagePrompt]], total: int | None = None) -> None:
    """Sample the image tokens of a batch: this many of each image, or all."""
    for request, prompt in batch:
        request.state.image_prompt = prompt  # so that no prompt is read
    model.sample_tokens([replace(request, until=total) for request, _ in batch], SAMPLING)


def _pretend(prompt: ImagePrompt, length: int) -> ImagePrompt:
    """Return a prompt as if that many tokens had been read: its numbers do not matter, its size does."""

    def stretch(prefix: CachedPrefix) -> CachedPrefix:
        part = torch.cat(prefix.parts, dim=-2)
        repeats = -(-length // part.shape[-2])
        return CachedPrefix((part.repeat(1, 1, 1, repeats, 1)[..., :length, :],), prefix.last)

    return ImagePrompt(prompt.ids, stretch(prompt.conditional), stretch(prompt.unconditional))


@dataclass(frozen=True)
class Times:
    """Seconds of one task's step, by part."""

    text: float
    image: float
    decoding: float

    @property
    def step(self) -> float:
        """All of it."""
        return self.text + self.image + self.decoding


def time_parts(parts: Sequence[Part], batch: int) -> Times:
    """Run every part once; seconds per image of the batch."""
    spent = {"text": 0.0, "image prompt": 0.0, "image": 0.0, "decoding": 0.0}
    for part in parts:
        # Images are decoded one by one: one is timed, the weight says how many there are.
        spent[part.name] += part.weight * seconds(part.work) / batch
    return Times(spent["text"], spent["image prompt"] + spent["image"], spent["decoding"])


def middle(times: Sequence[Times]) -> Times:
    """Return the median of each part."""
    return Times(*(median(getattr(one, name) for one in times) for name in ("text", "image", "decoding")))


@dataclass(frozen=True)
class Work:
    """Costs of one task's step."""

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
    """Return the passes of one step for all images of the batch, from which the limit is computed.

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

    text = [one(batch, sizes.text_latents, sizes.text_prompt, text_head)]
    text += [one(batch, 1, sizes.text_prompt + n, text_head) for n in range(sizes.text_latents, sizes.text - 1)]
    image = [one(batch, sizes.image_prompt, 0, 0), one(batch, 1, sizes.image_prompt - 1, 0)]
    image.append(one(2 * batch, sizes.image_latents, sizes.image_prompt, image_head))
    places = range(sizes.image_latents, sizes.image - 1)
    return [*text, *image, *(one(2 * batch, 1, sizes.image_prompt + n, image_head) for n in places)]


def limit(passes: Sequence[Work], machine: Machine) -> float:
    """Seconds that this machine could do those passes in."""
    return sum(max(one.bytes / machine.bytes_a_second, one.operations / machine.operations_a_second) for one in passes)


def count_plain(bench: Bench) -> Work:
    """Tokens and bytes of the plain loop's step, by its description."""
    sizes, decoder = bench.sizes, bench.model.engine.decoder
    item = decoder.like.element_size()
    layers, text_head, image_head = weights_of(bench)
    lengths = [sizes.text_prompt + n for n in range(sizes.text_latents, sizes.text)]
    begin, end = sizes.image_prompt + sizes.image_latents, sizes.image_prompt + sizes.image - 1
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
    unchanged = replace(fast, text=0.0)  # the image prompt would not be prefilled again either, but that is counted
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
        "over_limit": (fast.text + fast.image) / floor,
        "ratio_image": (slow.image + slow.decoding) / (fast.image + fast.decoding),
        "ratio_step": slow.step / fast.step,
        "ratio_step_text_unchanged": slow.step / unchanged.step,
        "ratio_spread": [round(a.step / b.step, 3) for a, b in times],
    }


def profile(bench: Bench, batch: int, chunk: int | None) -> dict[str, float]:
    """Return each torch operator's share of the thread's time for image tokens, largest first.

    The pass is the one in the middle of an image if it is timed in pieces, else a whole image.
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


def main(argv: Sequence[str] | None = None) -> None:
    """Measure one or more batches and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {f"{name}-random": size for name, size in JANUS_SIZES.items()}
    parser.add_argument("--model", choices=["embedded", *sizes], default="embedded")
    parser.add_argument("--layers", type=int, help="of a random model, in place of its size's own")
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--text", type=int, default=60, help="text tokens of a random model")
    parser.add_argument("--tokens", type=int, default=32, help="image tokens that are timed at each context length")
    parser.add_argument("--full", action="store_true", help="time every token")
    parser.add_argument("--profile", action="store_true", help="say as well where the engine's time goes")
    parser.add_argument("--json", type=Path, help="a file to write as well")
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    if given.model == "embedded":
        bench = load_embedded(given.dtype)
    else:
        size = sizes[given.model]
        bench = load_random(replace(size, layers=given.layers or size.layers), given.dtype, given.text)
    machine = measure_machine(bench.model.network.dtype)
    # a small model's whole step takes seconds, so nothing has to be extrapolated
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
