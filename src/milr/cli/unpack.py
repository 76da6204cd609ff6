"""`milr unpack`: packed runs to run folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer
from PIL import Image

from milr.cli.options import Device
from milr.cli.screen import Screen, echo
from milr.errors import UsageError
from milr.png import decode_png, encode_png
from milr.types import say_count

if TYPE_CHECKING:
    from milr.models.base import Model
    from milr.runs import Manifest, Run
    from milr.runs.packing import Redraw
    from milr.types import Task


def unpack(
    files: Annotated[
        list[Path], typer.Argument(help="Files that milr pack made; FILE/NAME for one run of a file of several.")
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the unpacked runs, a run folder for each.")],
    data: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The benchmark's own files, where its prompts are not milr's.")
    ] = None,
    pictures: Annotated[
        str,
        typer.Option(
            help="Images to draw again: none, ends (first, best and last of a search, enough for a report), or all."
        ),
    ] = "ends",
    device: Device = "cpu",
) -> None:
    """Write packed runs as run folders again, for report, compare and evaluate.

    Compact results have no images: their folder has the settings and prompts, from which the run is drawn again.
    """
    from milr.runs import begin_anew, check_folder, is_compact, plain_name, say_resume, unpack_run
    from milr.runs.packing import Which

    if pictures not in get_args(Which):
        raise UsageError(f"--pictures {pictures}: give one of {', '.join(get_args(Which))}")
    which: Which = pictures  # pyright: ignore[reportAssignmentType]
    screen = Screen(stderr=True)
    packed = [one for file in files for one in _read(file, data)]
    paths = [run.folder for run, _ in packed]
    folders = [out / plain_name(path) for path in paths]
    for folder, times in Counter(folders).items():
        if times > 1:
            both = " and ".join(str(path) for path, own in zip(paths, folders, strict=True) if own == folder)
            raise UsageError(f"{both} would both be {folder}; nothing was written: give each its own --out")
        check_folder(folder)
    artist = _Artist(device)
    for (run, digests), folder in zip(packed, folders, strict=True):
        with _writing(folder):
            if is_compact(run.folder):
                begin_anew(run.manifest, folder)
                go_on = say_resume(folder, benchmark=run.manifest.benchmark is not None)
                echo(f"{folder}: settings and prompts; {go_on} draws it again")
                continue
            redraw = None if which == "none" else artist.for_run(run)
            found = [same for _, _, same in unpack_run(run, digests, folder, redraw, which)]
        seen = [same for same in found if same is not None]
        same = f", {sum(seen)} of {len(seen)} best images as they were, to the pixel" if seen else ", no images"
        echo(f"{folder}: {say_count(len(found), 'task')}{same}")
        if not all(seen):
            screen.print(
                "milr: other pixels: this machine's arithmetic is not the packed run's; the scores stay its own"
            )


@contextmanager
def _writing(folder: Path) -> Generator[None]:
    """Turn errors of writing into one line."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"cannot write {folder} ({error.strerror or error}): make room, or give an --out that you may write to"
        ) from error


def _read(file: Path, data: Path | None) -> list[tuple[Run, dict[tuple[int, int], str]]]:
    from milr.report.inputs import read_tasks
    from milr.runs import is_compact, read_compact, read_packed

    if is_compact(file):
        return [(run, {}) for run in read_compact(file, lambda manifest, tags: read_tasks(manifest, data))]
    return [read_packed(file, lambda manifest: read_tasks(manifest, data))]


class _Artist:
    """A decoder of image tokens by the models that sampled them; each image is decoded once."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._models: dict[tuple[str, str | None, bool], Model] = {}
        self._known: dict[tuple[str, str | None, tuple[int, ...]], bytes] = {}  # model, dtype, tokens -> PNG

    def for_run(self, run: Run) -> Redraw:
        """Return the function that decodes a run's tokens.

        Raises:
            UsageError: The run's model differs from the one here.
        """
        manifest = run.manifest
        model = self._load(manifest)

        def redraw(tasks: Sequence[Task], drawings: Sequence[Sequence[int]]) -> list[Image.Image]:
            keys = [(manifest.model, manifest.dtype, tuple(tokens)) for tokens in drawings]
            new = {key: task for key, task in zip(keys, tasks, strict=True) if key not in self._known}
            shown = _show(model, list(new.values()), [tokens for _, _, tokens in new])
            for key, image in zip(new, shown, strict=True):
                self._known[key] = encode_png(image)
            return [decode_png(self._known[key]) for key in keys]

        return redraw

    def _load(self, manifest: Manifest) -> Model:
        from milr.models import MODELS, load_model
        from milr.registry import check_stored

        check_stored("model", manifest.model_asked or manifest.model, MODELS, "the packed run")
        asked, dtype, deterministic = manifest.model_asked or manifest.model, manifest.dtype, manifest.deterministic
        model = self._models.get((asked, dtype, deterministic))
        if model is None:
            model = load_model(asked, device=self._device, dtype=dtype, deterministic=deterministic)
            self._models[asked, dtype, deterministic] = model
        if model.name != manifest.model:
            raise UsageError(
                f"the run was drawn by {manifest.model}, and here is {model.name}: its tokens would show something "
                "else; unpack it with --pictures none"
            )
        return model


def _show(model: Model, tasks: Sequence[Task], drawings: Sequence[Sequence[int]]) -> list[Image.Image]:
    """Decode complete token lists to images."""
    from milr.decode.sampling import open_stream
    from milr.models.base import ImageRequest
    from milr.settings import SamplingParams

    stream = open_stream(0, "", 0, 0)  # nothing is sampled: all tokens are given
    requests = [
        ImageRequest(state, None, stream, tokens=tokens, until=len(tokens))
        for state, tokens in zip(model.start(tasks), drawings, strict=True)
    ]
    return [one.sample.image for one in model.draw(requests, SamplingParams(guidance=1.0))]
