"""`python -m training report`: every row of the property table of issue 27, measured on the exported folder.

Everything goes through milr's own API, as a user would have it. Prompts come from GenEval, from `icons-hard` and from
worlds of seeds that training never used; verdicts come from `icons-judge`, which nothing was optimised for. Finished
parts are kept in a JSON file, and a second start goes on after them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from milr import load_model
from milr.benchmarks import load_benchmark
from milr.types import Task
from training.properties import (
    beginnings,
    codes,
    generality,
    looking,
    obedience,
    pools,
    reading,
    sampling,
    surroundings,
)
from training.properties.ledger import Ledger, open_ledger
from training.properties.sizes import MOST_CHUNKS, explain, scaled
from training.properties.studio import SEED, Studio, open_studio
from training.scenes import Bank, Library
from training.stage import Settings, log
from training.world import World, open_world

CHUNK = 40  # prompts of a part
SHARES = (0.1, 0.02)  # first image tokens that are kept


def measure(
    settings: Settings,
    library: Library,
    bank: Bank,
    folder: Path,
    benchmark: Path | None,
    scale: float,
    state_file: Path | None = None,
) -> dict[str, Any]:
    """Return all figures.

    Args:
        settings: Settings of all stages.
        library: The generator's icons.
        bank: Their tokens.
        folder: Holds the state file if none is given.
        benchmark: GenEval's `evaluation_metadata.jsonl`; None takes the prompts of `icons` instead.
        scale: Scale of all numbers; 1 takes about a core-hour if 4 images are drawn in a second.
        state_file: File of finished parts; its name gets a hash of the model, and the scale.
    """
    torch.manual_seed(0)
    model = load_model(settings["export"]["folder"], dtype="bfloat16")
    ledger = open_ledger(state_file or folder / "properties.json", Path(settings["export"]["folder"]), scale)
    studio = open_studio(settings, model)
    ledger.count_drawings = lambda: studio.drawings
    for line in explain(scale):
        log(f"report: fewer than asked: {line}")
    report = Report(settings, studio, ledger, library, bank, scale, read_geneval(benchmark))
    figures = report.figures()
    return {
        "model": model.name,
        "evaluator": studio.evaluator.name,
        "reward": studio.reward.name,
        "scale": scale,
        "GenEval's prompts": "evaluation_metadata.jsonl" if benchmark else "icons",
        **figures,
        "fewer than asked": explain(scale),
        "cost": ledger.cost(""),
    }


def read_geneval(benchmark: Path | None) -> list[Task]:
    """Return GenEval's prompts, or those of `icons` as a stand-in."""
    if benchmark is None:
        return list(load_benchmark("icons").read(None))
    return [Task.model_validate_json(line) for line in benchmark.read_text().splitlines()]


class Report:
    """All rows, each from parts of the ledger."""

    def __init__(
        self,
        settings: Settings,
        studio: Studio,
        ledger: Ledger,
        library: Library,
        bank: Bank,
        scale: float,
        geneval: Sequence[Task],
    ) -> None:
        self.settings, self.studio, self.ledger = settings, studio, ledger
        self.library, self.bank, self.scale = library, bank, scale
        self.tasks = {"GenEval": list(geneval), "icons-hard": list(load_benchmark("icons-hard").read(None))}

    def figures(self) -> dict[str, Any]:
        """Return all rows by name, each with its seconds and drawings."""
        rows: dict[str, tuple[Callable[[], dict[str, Any]], tuple[str, ...]]] = {
            "one shot": (self.one_shot, ("greedy", "plain")),
            "image chance": (self.image_chance, ("greedy",)),
            "text alone": (self.text_alone, ("sampled",)),
            "the image shows its text": (self.named, ("named", "contradicting")),
            "first image tokens": (self.first_tokens, ("fresh", "redrawn")),
            "reading a text": (self.reading, ("own texts", "made texts")),
            "looking": (self.looking, ("looking",)),
            "held-out combinations": (self.combinations, ("combinations",)),
            "codebook": (self.codebook, ("codebook",)),
            "temperature and guidance": (self.sweep, ("sweep",)),
            "grounds and styles": (self.grounds, ("surroundings",)),
            "search step": (self.step, ("search step",)),
            "riddles": (self.riddles, ("riddles",)),
        }
        return {name: {**make(), "cost": self.ledger.cost(*parts)} for name, (make, parts) in rows.items()}

    def world(self, number: int) -> World:
        """Open the world of a row's prompts; training never used its seed."""
        return open_world(SEED + number, **self.settings["unified"]["world"])

    def size(self, name: str) -> int:
        """Return a size at this scale."""
        return scaled(name, self.scale)

    def pools(self, benchmark: str, kind: str, size: str, most: int = pools.BEST_OF) -> dict[int, pools.Pool]:
        """Return pools of drawings by the place of their prompt."""
        places = spread_places(len(self.tasks[benchmark]), self.size(size))
        return self._draw(benchmark, kind, places, most)

    def _draw(self, benchmark: str, kind: str, places: Sequence[int], most: int) -> dict[int, pools.Pool]:
        name = f"{kind} {benchmark} best of {most}"
        stored = self.ledger.take_chunks(
            name,
            [self.tasks[benchmark][place] for place in places],
            CHUNK,
            lambda chunk, start: pools.draw_pools(self.studio, chunk, f"{name} {start}", kind, most),
        )
        return dict(zip(places, pools.read_pools(stored), strict=True))

    def first_drawings(self, benchmark: str) -> dict[int, pools.Pool]:
        """Return the greedy pools and, for the other prompts of the one-shot row, one drawing each."""
        found = self.pools(benchmark, "greedy", f"pools, {benchmark}")
        wanted = spread_places(len(self.tasks[benchmark]), self.size(f"one shot, {benchmark}"))
        return found | self._draw(benchmark, "greedy", [place for place in wanted if place not in found], 1)

    def one_shot(self) -> dict[str, Any]:
        """Measure row 1: first drawings after greedy reasoning and from the plain prompt."""
        return {
            benchmark: pools.describe_one_shot(
                list(self.first_drawings(benchmark).values()),
                list(self.pools(benchmark, "plain", f"plain, {benchmark}", 1).values()),
            )
            for benchmark in self.tasks
        }

    def image_chance(self) -> dict[str, Any]:
        """Measure row 2: chance in the image, after the greedy text."""
        return {
            benchmark: pools.describe_chance(list(self.pools(benchmark, "greedy", f"pools, {benchmark}").values()))
            for benchmark in self.tasks
        }

    def text_alone(self) -> dict[str, Any]:
        """Measure row 3: chance in the text, on the prompts of both pools."""
        greedy = self.pools("icons-hard", "greedy", "pools, icons-hard")
        sampled = self.pools("icons-hard", "sampled", "sampled, icons-hard")
        both = [place for place in greedy if place in sampled]
        return {"icons-hard": pools.describe_text([greedy[p] for p in both], [sampled[p] for p in both])}

    def named(self) -> dict[str, Any]:
        """Measure row 4: the image shows what its text names."""
        studio = self.studio
        number, pairs = self.size("named"), self.size("contradicting")
        drawn = self.ledger.take("named", lambda: obedience.draw_named(studio, self.world(1), number, "named"))
        contradicting = self.ledger.take(
            "contradicting", lambda: obedience.draw_contradicting(studio, self.world(2), pairs, "contradicting")
        )
        greedy = {
            benchmark: self.ledger.take(
                f"named, {benchmark}",
                lambda benchmark=benchmark: obedience.show_greedy(
                    studio, list(self.first_drawings(benchmark).values())
                ),
            )
            for benchmark in self.tasks
        }
        return {
            **{benchmark: obedience.describe_named(shown) for benchmark, shown in greedy.items()},
            "fresh prompts": obedience.describe_named(drawn),
            "contradicting": obedience.describe_contradicting(contradicting),
        }

    def first_tokens(self) -> dict[str, Any]:
        """Measure row 5: the first image tokens of right and of wrong drawings."""
        wanted = self.size("first tokens")
        mixed: list[beginnings.Mixed] = []
        for benchmark, tasks in self.tasks.items():
            greedy = self.pools(benchmark, "greedy", f"pools, {benchmark}")
            mixed += beginnings.take_mixed(list(greedy.values()), [tasks[place] for place in greedy])
        of_greedy = min(len(mixed), wanted)
        for number in range(MOST_CHUNKS):
            if len(mixed) >= wanted:
                break
            many, label = self.size("fresh prompts a chunk"), f"fresh {number}"
            draw = partial(beginnings.draw_mixed, self.studio, self.world(100 + number), many, label)
            mixed += self.ledger.take(label, draw)
        mixed = mixed[:wanted]
        figures: dict[str, Any] = {"texts": len(mixed), "texts that are greedy texts of benchmarks": of_greedy}
        if len(mixed) < wanted:
            figures["fewer"] = f"{MOST_CHUNKS} chunks of fresh prompts gave no more texts with right and wrong drawings"
        total = self.studio.model.capabilities.image_tokens
        for part, name in zip(SHARES, ("first tokens", "first tokens, 2 %"), strict=True):
            kept = max(1, round(part * total))
            # Texts of both kinds, however few are redrawn.
            chosen = [mixed[place] for place in spread_places(len(mixed), self.size(name))]
            redrawn = self.ledger.take_chunks(
                f"redrawn {kept}",
                chosen,
                CHUNK,
                lambda chunk, start, kept=kept: beginnings.redraw(self.studio, chunk, kept, f"redrawn {kept} {start}"),
            )
            figures[f"{part:.0%} kept, {kept} tokens"] = beginnings.describe_beginnings(redrawn)
        return figures

    def reading(self) -> dict[str, Any]:
        """Measure row 6: questions whether a text meets a prompt."""
        studio, own, made = self.studio, self.size("own texts"), self.size("made texts")
        answers = self.ledger.take("own texts", lambda: reading.check_own_texts(studio, self.world(3), own, "read"))
        taught = self.ledger.take("made texts", lambda: reading.check_made_texts(studio, self.world(4), made))
        return {"own sampled texts": reading.describe_checks(answers), "made texts": reading.describe_checks(taught)}

    def looking(self) -> dict[str, Any]:
        """Measure row 7: questions about scenes and about own drawings."""
        studio, scenes, drawings = self.studio, self.size("looking, scenes"), self.size("looking, drawings")
        rendered = self.ledger.take(
            "looking, scenes", lambda: looking.look_at_scenes(studio, self.world(5), self.library, scenes)
        )
        drawn = self.ledger.take(
            "looking, drawings", lambda: looking.look_at_drawings(studio, self.world(6), drawings, "looking")
        )
        return {"scenes": looking.describe_looks(rendered), "own drawings": looking.describe_looks(drawn)}

    def combinations(self) -> dict[str, Any]:
        """Measure row 8: combinations that were held out from training."""
        drawn = self.ledger.take_chunks(
            "combinations",
            generality.ask_combinations(self.size("combinations")),
            4 * CHUNK,
            lambda chunk, start: generality.draw_combinations(self.studio, chunk, f"combinations {start}"),
        )
        return generality.describe_combinations(drawn)

    def codebook(self) -> dict[str, Any]:
        """Measure row 9: use of the codebook and PSNR."""
        number = self.size("codes")
        return self.ledger.take(
            "codebook", lambda: codes.measure_codes(self.studio, self.world(7), self.library, self.bank, number)
        )

    def sweep(self) -> dict[str, Any]:
        """Measure row 10: temperature and guidance, after the greedy texts of the first row."""
        points = sampling.grid_points(self.studio)
        figures: dict[str, Any] = {}
        together: list[list[bool]] = [[] for _ in points]
        for benchmark in self.tasks:
            tasks, texts = self._write_greedy(benchmark, f"sweep, {benchmark}")
            right = [
                self.ledger.take(
                    f"sweep {benchmark} {point}",
                    partial(sampling.draw_point, self.studio, tasks, texts, point, f"sweep {benchmark}"),
                )
                for point in points
            ]
            figures[benchmark] = sampling.describe_sweep(points, right)
            for all_right, own in zip(together, right, strict=True):
                all_right += own
        both = sampling.describe_sweep(points, together)
        return {"both": both, "check": self._check_sweep(points[0], both["best"]), **figures}

    def _check_sweep(self, default: tuple[float, float], best: dict[str, Any]) -> dict[str, Any]:
        """Compare the default with the best point of the sweep on new drawings, which did not choose that point."""
        points = [default, (best["temperature"], best["guidance"])]
        right: list[list[bool]] = [[], []]
        for benchmark in self.tasks:
            tasks, texts = self._write_greedy(benchmark, f"sweep check, {benchmark}")
            for all_right, point in zip(right, points, strict=True):
                all_right += self.ledger.take(
                    f"sweep check {benchmark} {point}",
                    partial(sampling.draw_point, self.studio, tasks, texts, point, f"sweep check {benchmark}"),
                )
        return sampling.describe_check(points, right)

    def _write_greedy(self, benchmark: str, size: str) -> tuple[list[Task], list[str]]:
        """Return so many tasks of a benchmark, spread evenly, and their greedy texts."""
        every = self.tasks[benchmark]
        tasks = [every[place] for place in spread_places(len(every), self.size(size))]
        return tasks, self.ledger.take(f"{size} texts", lambda: [text.text for text in self.studio.write(tasks)])

    def grounds(self) -> dict[str, Any]:
        """Measure row 11: success by ground and by style, named in the same texts and chosen by the texts."""
        drawn: dict[str, dict[str, list[bool]]] = {}
        for benchmark in self.tasks:
            tasks, texts = self._write_greedy(benchmark, f"surroundings, {benchmark}")
            found = self.ledger.take(
                f"surroundings {benchmark}",
                partial(surroundings.draw_surroundings, self.studio, tasks, texts, f"surroundings {benchmark}"),
            )
            for kind, by_name in found.items():
                for name, right in by_name.items():
                    drawn.setdefault(kind, {}).setdefault(name, []).extend(right)
        chosen = [pool for benchmark in self.tasks for pool in self.first_drawings(benchmark).values()]
        return {**surroundings.describe_surroundings(drawn), "as the texts chose": pools.describe_grounds(chosen)}

    def step(self) -> dict[str, Any]:
        """Measure row 12: the seconds of a search step; beside the shipped model if another one is measured."""
        figures = self.ledger.take("search step", lambda: sampling.time_step(self.studio.model, self.world(8)))
        before = self.ledger.take("search step of the shipped model", self._time_shipped)
        return figures | {"shipped": before}

    def _time_shipped(self) -> dict[str, Any] | None:
        shipped = load_model("embedded", dtype="bfloat16")
        if shipped.name == self.studio.model.name:
            return None
        return sampling.time_step(shipped, self.world(8))

    def riddles(self) -> dict[str, Any]:
        """Measure row 13: riddles solved by the text."""
        return reading.describe_riddles(self.ledger.take("riddles", lambda: reading.solve_riddles(self.studio)))


def spread_places(total: int, number: int) -> list[int]:
    """Return places in a list of that length, spread evenly: so many, or all if there are fewer."""
    if number >= total:
        return list(range(total))
    return [int(place) for place in (np.arange(number) + 0.5) * total / number]
