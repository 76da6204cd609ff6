"""`milr doctor` on the rewards that come with milr and on VLM judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from milr.cli.main import main
from milr.models import embedded_folder, read_capabilities
from milr.models.janus import Janus
from milr.rewards import REWARDS
from milr.rewards.icons.golden import check_golden, golden_set
from milr.rewards.icons.reward import Icons
from milr.selftest import embedded as examination
from milr.selftest import icons
from milr.selftest.doctor import examine
from milr.selftest.icons import check_labelled, labelled_drawings
from milr.testing import FakeModel, FakeReward
from milr.types import Score, Task, Unscored
from tests.support.wise_words import use_made_up_words

VLM_REWARDS = ["gpt-4o", "wise-legacy", "wise", "unified-reward"]


@pytest.mark.slow
def test_both_icon_detectors_pass(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    some = labelled_drawings()[::4]  # `milr doctor icons` decodes them all, in a minute
    monkeypatch.setattr(icons, "labelled_drawings", lambda: some)
    assert main(["doctor", "icons"]) == 0
    *findings, blank, last = capsys.readouterr().out.splitlines()
    assert len(findings) == 2 * (2 + 8 + 2)
    assert {finding[:6].strip() for finding in findings} <= {"ok", "?"} and not blank and last == "icons: ready"


@pytest.mark.slow
def test_labelled_images_reveal_a_reward_that_accepts_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens_of_an_image = read_capabilities(embedded_folder()).image_tokens
    blank = Image.new("RGB", (16, 16))
    monkeypatch.setattr(icons, "draw_labelled", lambda: [blank] * len(labelled_drawings()))
    labelled = labelled_drawings()
    wrong = sum(not one.right for one in labelled)
    assert wrong >= 140 and all(len(one.tokens) == tokens_of_an_image for one in labelled)
    passed, _, lost, kept = check_labelled([FakeReward(lambda p, t, v=v: v) for v in (1.0, 0.0)])
    assert passed.fine is False and f"calls {wrong} of {wrong} right" in passed.said
    assert lost.fine is True and kept.fine is None and f"calls 0 of {len(labelled) - wrong} right" in kept.said


def test_golden_images_reveal_a_reward_that_ignores_the_image() -> None:
    for always in (0.0, 1.0):
        findings = list(check_golden(FakeReward(lambda image, task, value=always: value)))
        assert [finding.fine for finding in findings].count(False) == 4
    assert not any(finding.fine for finding in check_golden(FakeReward(unscored_calls=range(9))))


def test_golden_answers_need_the_image() -> None:
    class Mirrored(Icons):
        def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
            return super().__call__([p.transpose(Image.Transpose.ROTATE_180) for p in images], tasks)

    assert any(finding.fine is False for finding in check_golden(Mirrored()))
    assert {right for _, _, _, right in golden_set()} == {True, False}


@pytest.mark.parametrize("name", VLM_REWARDS)
def test_vlm_judges_are_examined_without_being_asked(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("openai", reason='VLM judges need pip install "milr[vlm]"')
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-0123456789")
    monkeypatch.setenv("MILR_DATA", str(tmp_path / "empty"))
    assert name in REWARDS
    if name.startswith("wise"):
        assert main(["doctor", name]) == 1
        assert f"milr data get {name}" in capsys.readouterr().out
        use_made_up_words(monkeypatch, tmp_path / "data")
    assert main(["doctor", name]) == 0
    out = capsys.readouterr().out
    assert "secret" not in out and "refuses" in out and f"{name}: ready" in out


def test_missing_packages_are_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import PackageNotFoundError

    import milr.selftest.vlm as module

    def absent(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(module, "version", absent)
    missing = [finding for finding in examine("gpt-4o") if finding.fine is False]
    assert [finding.subject for finding in missing] == ["openai", "stamina", "httpx2"]
    assert all(finding.mend == ('pip install "milr[vlm]"',) for finding in missing)


@pytest.mark.slow
def test_the_embedded_model_is_examined(embedded: Janus) -> None:
    scores, agreement = examine("self")
    assert scores.fine is True
    assert agreement.fine is None and "of 8 golden answers" in agreement.said


@pytest.mark.parametrize(("right", "fine"), [(30, True), (27, True), (10, False), (55, False)])
def test_the_embedded_model_must_score_about_as_its_card_says(
    right: int, fine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other images of the same quality pass; a model that became much worse or better does not."""
    said = examination.Figures(
        benchmark="icons", evaluator="icons-judge", prompts=60, seed=1, right={"one-shot": 30}, seen=50
    )
    asked: list[tuple[object, ...]] = []

    def measure(model: object, *settings: object) -> examination.Figures:
        asked.append(settings)
        return said.model_copy(update={"right": {"one-shot": right}})

    monkeypatch.setattr("milr.models.load_model", lambda name, **options: None)
    monkeypatch.setattr(examination.Card, "model_validate_json", lambda text: examination.Card(figures=(said,)))
    monkeypatch.setattr(examination, "measure", measure)
    found, seen = examine("embedded")
    assert found.fine is fine and seen.fine is True
    assert f"{right} of 60" in found.said and "the card says 30" in found.said
    assert asked == [("icons", "icons-judge", 60, 1)]


@pytest.mark.slow
def test_the_card_has_the_figures_of_each_benchmark() -> None:
    wanted = {"evaluator": "icons", "prompts": 6, "seed": 1}
    model = FakeModel()
    model.capabilities = replace(
        model.capabilities, image_language="icons"
    )  # only models that draw icons have such a card
    card = examination.measure_card(model, [{"benchmark": name, **wanted} for name in ("icons", "icons-hard")])
    assert [one.benchmark for one in card.figures] == ["icons", "icons-hard"]
    for one in card.figures:
        assert one.prompts == 6
        assert set(one.right) == {"one-shot", "text-reasoning"}
        assert all(0 <= right <= 6 for right in (*one.right.values(), one.seen))
