"""`milr report` and `milr compare` find the runs in a folder, whatever else it contains."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from milr.cli.main import main
from milr.errors import UsageError
from milr.report.inputs import find_runs
from milr.report.sections import make_sections
from milr.report.summary import summarise
from milr.report.tables import Cell, Row, Table, write_tables
from milr.runs import read_run
from milr.types import Task
from tests.support.report_runs import make_run, make_tasks


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder as a user's `runs` after a day."""
    root = tmp_path_factory.mktemp("home") / "runs"
    dogs, cats = [Task(prompt="two dogs")], [Task(prompt="two cats"), Task(prompt="a dog")]
    make_run(root / "dogs", tasks=dogs, steps=1, benchmark=None, evaluator=None)
    make_run(root / "cats", tasks=cats, steps=1, benchmark=None, evaluator=None)
    make_run(root / "cats-again", tasks=cats, steps=1, benchmark=None, evaluator=None)
    make_run(root / "sweep" / "joint", tasks=make_tasks(6), steps=1)
    make_run(root / "sweep" / "zero", tasks=make_tasks(6), steps=1, gradient="zero")
    make_run(root / "begun", tasks=[])
    assert main(["pack", str(root / "sweep" / "joint"), "--out", str(root)]) == 0
    (root / "notes.txt").write_text("mine")
    (root / "empty").mkdir()
    shutil.copytree(root / "dogs", root / "broken")
    (root / "broken" / "run.json").write_text("{}")
    return root


@pytest.mark.parametrize("pattern", [".", "*", "*/*"])
def test_runs_are_reported_in_whichever_way_they_are_named(
    home: Path, pattern: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [home] if pattern == "." else sorted(home.glob(pattern))
    assert main(["report", *map(str, given), "--format", "json", "--out", str(tmp_path / "r.json")]) == 0
    tables = json.loads((tmp_path / "r.json").read_text())
    runs = {Path(row["cells"][0]["value"]).name for row in tables[-1]["rows"]}
    said = capsys.readouterr().err
    if pattern == "*/*":
        assert runs == {"joint", "zero"}
        return
    assert runs == {"dogs", "cats", "joint", "zero"}
    for note in ("begun has no finished task yet", "broken holds a run that this milr cannot read", "joint once more"):
        assert said.count(note) == 1
    assert "cats-again repeats searches of" in said
    assert ("left out, no run:" in said) == (pattern == "*")


def test_own_prompts_are_distinguished_by_content(home: Path) -> None:
    runs = [read_run(home / name) for name in ("dogs", "cats")]
    assert [section.benchmark.partition(" (")[0] for section in make_sections(runs)] == [
        "own prompts: two dogs",
        "own prompts: two cats and 1 more",
    ]


def test_a_single_folder_without_a_run_is_refused(home: Path) -> None:
    with pytest.raises(UsageError, match="notes.txt holds no run"):
        find_runs([home / "notes.txt"])
    with pytest.raises(UsageError, match="nowhere does not exist"):
        find_runs([home / "nowhere"])
    with pytest.raises(UsageError, match="cannot read"):
        find_runs([home / "broken"])


@pytest.mark.slow
def test_the_summary_calls_best_only_what_the_interval_calls_so(tmp_path: Path) -> None:
    few = [make_run(tmp_path / name, tasks=make_tasks(6), method=name) for name in ("one-shot", "best-of-n")]
    assert summarise(make_sections([read_run(folder) for folder in few])[0]) == ""  # six prompts prove nothing
    settings = {"one-shot": {}, "best-of-n": {"stop_at": 1.0}, "parm": {}}
    many = {
        name: read_run(
            make_run(tmp_path / f"{name}-40", tasks=make_tasks(40), method=name, evaluator="bright@1", **own)  # type: ignore[arg-type]
        )
        for name, own in settings.items()
    }
    (section,) = make_sections(list(many.values()))
    said = summarise(section)
    best = max(section.entries, key=lambda entry: section.at_end(entry, "overall").value)  # type: ignore[union-attr]
    assert best.label in said and f"{section.at_end(best, 'overall').value:.2f} [" in said  # type: ignore[union-attr]
    assert ("is best" in said) != ("no method is shown to be best" in said)
    pool = make_run(
        tmp_path / "pool", tasks=make_tasks(40), method="best-of-n-sampled", evaluator="bright@1", steps=15, stop_at=1.0
    )
    (with_pool,) = make_sections([*many.values(), read_run(pool)])
    assert summarise(with_pool) == said  # 16 images are not a better method than 4
    (alike,) = make_sections([many["one-shot"]])
    assert summarise(alike) == ""  # nothing to be better than


WIDE = Table(
    "A table with a title that goes on and on, longer than any terminal of forty columns is wide",
    tuple(f"column {number}" for number in range(6)),
    (
        Row(
            "a long name of an entry, text ratio 0.2",
            tuple(Cell(0.5, 0.25, 0.75) for _ in range(6)),
            group="ours & more",
        ),
        Row("50% of_it {x} #1 ~", tuple(Cell(0.25, 0.1, 0.3, signed=True, prompts=40) for _ in range(6))),
    ),
    notes=("a note " * 20,),
    key="wide",
)


@pytest.mark.parametrize("width", [30, 40, 72])
def test_tables_are_as_wide_as_the_terminal(width: int) -> None:
    lines = write_tables([WIDE], "text", width).splitlines()
    assert max(map(len, lines)) <= max(width, 20 + 2 + len("+0.25 [+0.10, +0.30]"))
    text = "\n".join(lines)
    assert all(f"column {number}" in text for number in range(6)) and text.count("+0.25 [+0.10, +0.30]") == 6
    assert max(map(len, write_tables([WIDE], "text").splitlines())) > 72  # a file is as wide as necessary


def test_latex_has_every_number_and_escapes_special_characters() -> None:
    text = write_tables([WIDE], "latex")
    assert text.count(r"\textbf{+0.25} [+0.10, +0.30]") == 6 and text.count("0.50 [0.25, 0.75]") == 6
    assert r"50\% of\_it \{x\} \#1 \textasciitilde{}" in text and r"\emph{ours \& more}" in text
    rows = [line for line in text.splitlines() if line.endswith(r" \\") and "multicolumn" not in line]
    assert {line.replace(r"\&", "").count("&") for line in rows} == {7}  # prompts and six columns
    words = Table("Summary", (), (), ("nothing & all",))
    assert write_tables([words], "latex").endswith("\\paragraph{Summary}\n\nnothing \\& all\n")
    assert write_tables([words], "text") == "Summary\nnothing & all\n" and "|" not in write_tables([words], "md")
    assert text.count(r"\begin{tabular}{llllllll}") == text.count(r"\end{tabular}") == 1
