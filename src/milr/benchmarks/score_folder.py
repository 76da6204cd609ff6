"""Scores the images of a folder over several processes, so that an interruption loses nothing.

Every score is first written to a journal. An image that is scored and unchanged is not scored again. The official files
are written from the journal in the layout's order, so they do not depend on interruptions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from multiprocessing import current_process
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pydantic import BaseModel, ConfigDict, ValidationError

from milr._version import __version__
from milr.benchmarks.intervals import estimate_mean, pool, write_interval, write_number
from milr.benchmarks.layouts import FoundPicture, Scored, load_layout
from milr.benchmarks.scoring import Pool, Setup, Worker
from milr.errors import UsageError
from milr.files import LOCK, PART, hold, write_text
from milr.models.devices import Placement
from milr.rewards import check_reward, check_scorable, needs_model
from milr.types import Region, Score, Unscored
from milr.weights import hash_file

if TYPE_CHECKING:
    from milr.rewards.vlm.settings import VlmSettings

JOURNAL, UNSCORED, SUMMARY = "journal.jsonl", "unscored.jsonl", "summary.txt"
_BEGUN = (LOCK, f"{JOURNAL}{PART}")
"""Files that may be left by an interruption before there is a journal."""
_NAMED = 5
"""Most unscored images that the summary names; the file has them all."""


class _Header(BaseModel):
    """The journal's first line: the settings of all other lines."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    benchmark: str
    reward: str
    self_test: bool
    milr: str


class _Line(BaseModel):
    """One image's line of the journal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    picture: str
    sha256: str
    task: str
    reward: str
    value: float | None = None
    stop_at: float = 0.0
    parts: dict[str, float] = {}
    explanation: str = ""
    """Reason why the image has no value."""
    evidence: dict[str, Any] = {}
    regions: tuple[Region, ...] = ()

    @classmethod
    def of(cls, picture: FoundPicture, sha256: str, score: Score | Unscored) -> _Line:
        known = {"picture": picture.key, "sha256": sha256, "task": picture.task.key, "reward": score.reward}
        if isinstance(score, Unscored):
            return cls.model_validate({**known, "explanation": score.reason})
        return cls.model_validate(
            {
                **known,
                "value": score.value,
                "stop_at": score.stop_at,
                "parts": dict(score.parts),
                "explanation": score.explanation,
                "evidence": dict(score.evidence),
                "regions": score.regions,
            }
        )

    @property
    def score(self) -> Score | Unscored:
        if self.value is None:
            return Unscored(reason=self.explanation, reward=self.reward)
        known = self.parts, self.explanation, self.evidence
        return Score(self.value, self.reward, self.stop_at, *known, regions=self.regions)


class FolderJob:
    """The scoring of one folder.

    The constructor finds the images and refuses wrong input; `run` scores the remaining images; `conclude` writes the
    official files.
    """

    def __init__(
        self,
        folder: Path,
        benchmark: str,
        *,
        reward: str | None = None,
        out: Path | None = None,
        prompts: Path | None = None,
        processes: int = 1,
        options: Mapping[str, object] | None = None,
        placement: Placement | None = None,
        vlm: VlmSettings | None = None,
    ) -> None:
        """Find the images and read earlier scores.

        Args:
            folder: In the benchmark's official layout.
            benchmark: One of `milr.benchmarks.layouts.LAYOUTS`.
            reward: One of `milr.rewards.REWARDS`; None takes the benchmark's own.
            out: Folder for the results; None takes one next to ``folder``.
            prompts: The benchmark's prompt file, if the layout needs one.
            processes: Images scored at the same time. Each process holds the reward's weights, and they share the
                threads that torch would use.
            options: Settings of the reward.
            placement: Device and dtype of the reward; None is the CPU.
            vlm: Settings of VLM judges; each process has its own client. None takes the defaults.

        Raises:
            UsageError: An unknown name, a reward that cannot score these prompts, a folder or an image that cannot be
                read, results of another scorer in ``out``, or a budget with several processes.
        """
        if getattr(current_process(), "_inheriting", False):  # the top level of a program without a guard, run again
            raise SystemExit(1)  # silently: the parent process reports the error
        self.layout = load_layout(benchmark)
        self.reward = reward or self.layout.reward
        check_reward(self.reward)
        if needs_model(self.reward):
            raise UsageError(
                f"the reward {self.reward!r} asks the model that drew, and a folder does not say which did: "
                f"type milr score PICTURE --prompt TEXT --reward {self.reward} --model NAME"
            )
        if processes < 1:
            raise UsageError(f"{processes} processes score nothing: give 1 or more")
        if processes > 1 and vlm is not None and vlm.budget is not None:
            raise UsageError(f"a VLM budget is counted in one process, not in {processes}: give --processes 1")
        self.folder = folder
        # a reward's argument may contain characters that no file name may: "mix:icons*0.5+http://..."
        named = re.sub(r"[^\w.+-]+", "-", self.reward)
        self.out = out or folder.resolve().with_name(f"{folder.resolve().name}-{named}")
        self.pictures = self.layout.find(folder, prompts)
        self.layout.check_reward(self.pictures, self.reward)
        check_scorable(self.reward, [picture.task for picture in self.pictures])
        self._processes = processes
        self._setup = Setup(self.reward, tuple((options or {}).items()), placement, processes, vlm)
        self._header = _Header(
            benchmark=benchmark,
            reward=self.reward,
            self_test=(options or {}).get("self_test", True) is not False,
            milr=__version__,
        )
        self._lines = {line.picture: line for line in self._read()}
        self._left = [(picture, digest) for picture in self.pictures if (digest := self._stale(picture)) is not None]

    @property
    def done(self) -> int:
        """Return the number of images that need no more scoring."""
        return len(self.pictures) - len(self._left)

    @property
    def unscored(self) -> int:
        """Return the number of images that were tried and have no score."""
        return sum(line.value is None for line in self._lines.values())

    def run(self) -> Iterator[Scored]:
        """Score the remaining images, in no fixed order; each score is stored before it is yielded.

        Raises:
            MilrError: The reward cannot be loaded or fails its self-test, the folder holds scores of other weights, a
                process died, or another program scores into the same folder.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        digests = {picture.key: digest for picture, digest in self._left}
        with _hold(self.out), closing(self._make_scorer()) as scorer:
            self._refuse_others(scorer.name)
            with self._open_journal() as journal:
                for picture, score in scorer.score_all(self.folder, [picture for picture, _ in self._left]):
                    line = _Line.of(picture, digests[picture.key], score)
                    journal.write(line.model_dump_json().encode() + b"\n")
                    journal.flush()
                    self._lines[picture.key] = line
                    yield picture, score
        self._left = []

    def _make_scorer(self) -> Worker | Pool:
        several = min(self._processes, len(self._left)) > 1
        return Pool(self._setup, min(self._processes, len(self._left))) if several else Worker(self._setup)

    def _refuse_others(self, name: str) -> None:
        """Refuse scores of the same reward with other weights, or of the same VLM judge with another model."""
        left = {picture.key for picture, _ in self._left}
        found = sorted({line.reward for key, line in self._lines.items() if key not in left} - {name})
        if found:
            raise UsageError(
                f"{self.out} holds scores of {' and '.join(found)}, and here is {name}: give another --out, or remove "
                f"{JOURNAL} there to score all again"
            )

    def conclude(self) -> str:
        """Write the official result files, the list of unscored images and the summary; return the summary."""
        scored = [(picture, self._lines[picture.key].score) for picture in self.pictures]
        names = sorted({score.reward for _, score in scored})
        if len(names) > 1:
            raise UsageError(
                f"{self.out} holds scores of {' and '.join(names)}, which do not belong together: remove "
                f"{JOURNAL} there, or give another --out"
            )
        official = self.layout.write(self.out, self.folder, scored, names[0])
        unscored = [(picture.key, score.reason) for picture, score in scored if isinstance(score, Unscored)]
        rows = [json.dumps({"picture": key, "reason": reason}, ensure_ascii=False) + "\n" for key, reason in unscored]
        write_text(self.out / UNSCORED, "".join(rows))
        text = "\n".join([*self._preface(names[0]), "", official + self._intervals(scored) + self._afterword(unscored)])
        write_text(self.out / SUMMARY, text)
        return text

    def _preface(self, name: str) -> list[str]:
        lines = [f"Scored by {name}, milr {__version__}"]
        if self.reward != self.layout.reward:
            lines.append(f"Not this benchmark's own scorer: compare only with numbers of {name}.")
        if not self._header.self_test:
            lines.append("The self-test was skipped: these numbers prove nothing.")
        prompts = len({picture.task.key for picture in self.pictures})
        if prompts != self.layout.prompts:
            lines.append(f"{prompts} prompts are here; the whole benchmark has {self.layout.prompts}.")
        return lines

    def _intervals(self, scored: Sequence[Scored]) -> str:
        """Return lines that no official summary has: intervals as in milr's own tables, and the number of prompts."""
        groups: dict[str, list[tuple[str, float]]] = {}
        for picture, score in scored:
            if isinstance(score, Score):
                value = float(score.value == 1) if self.layout.right_or_wrong else score.value
                groups.setdefault(picture.task.tag or "all", []).append((picture.task.key, value))
        found = {
            tag: estimate_mean([value for _, value in pairs], len({key for key, _ in pairs}))
            for tag, pairs in groups.items()
        }
        if len(found) > 1:
            found["Overall"] = pool(list(found.values()), [1.0] * len(found))
        lines = [
            f"{name:<16} = {write_number(one.value, 4)} {write_interval(one.low, one.high, 4)}, n = {one.prompts}"
            for name, one in found.items()
        ]
        head = "\n95 % intervals by milr, with the prompt as the unit (n prompts):\n"
        return head + "\n".join(lines) + "\n" if lines else ""

    def _afterword(self, unscored: Sequence[tuple[str, str]]) -> str:
        if not unscored:
            return ""
        lines = [f"Unscored, left out above: {len(unscored)} of {len(self.pictures)} pictures"]
        lines += [f"  {key}: {reason}" for key, reason in unscored[:_NAMED]]
        lines += [f"  all of them: {self.out / UNSCORED}"] if len(unscored) > _NAMED else []
        return "\n" + "\n".join(lines) + "\n"

    def _stale(self, picture: FoundPicture) -> str | None:
        """Return the image's hash if it must be scored (again); None if its line is still valid."""
        try:
            digest = hash_file(self.folder / picture.key)
        except OSError as error:
            raise UsageError(
                f"cannot read {self.folder / picture.key} ({error.strerror}): remove it, or make it a file to be read"
            ) from error
        line = self._lines.get(picture.key)
        holds = line is not None and (line.sha256, line.task) == (digest, picture.task.key) and line.value is not None
        return None if holds else digest

    def _read(self) -> Iterator[_Line]:
        """Yield the journal's lines; skip a line that an interruption cut off."""
        path = self.out / JOURNAL
        if not path.is_file():
            if self.out.exists() and (
                not self.out.is_dir() or any(one.name not in _BEGUN for one in self.out.iterdir())
            ):
                raise UsageError(f"{self.out} holds other files; nothing was overwritten: give another --out")
            return
        whole = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        try:
            header = _Header.model_validate_json(whole[0]) if whole else self._header
            if header != self._header:
                raise UsageError(
                    f"{self.out} holds scores of {header.reward} for {header.benchmark} (milr {header.milr}, self-test "
                    f"{'passed' if header.self_test else 'skipped'}): give another --out"
                )
            yield from (_Line.model_validate_json(line) for line in whole[1:])
        except ValidationError as error:
            raise UsageError(f"{path} cannot be read: give another --out, or remove the file to begin again") from error

    def _open_journal(self) -> BinaryIO:
        """Rewrite the journal with the header and the valid lines, without lines that were cut off."""
        left = {picture.key for picture, _ in self._left}
        kept = [self._lines[picture.key] for picture in self.pictures if picture.key not in left]
        write_text(self.out / JOURNAL, "".join(f"{line.model_dump_json()}\n" for line in (self._header, *kept)))
        return (self.out / JOURNAL).open("ab")


def _hold(out: Path) -> AbstractContextManager[None]:
    """Lock the results against a second program."""
    return hold(
        out, lambda: UsageError(f"another program scores into {out}: wait until it ends, or give another --out")
    )
