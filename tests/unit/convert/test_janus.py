"""`milr convert janus`: pickles and DeepSeek's layout become a folder that milr and plain transformers load."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import JanusForConditionalGeneration, JanusProcessor

from milr.cli.main import main
from milr.errors import UsageError
from milr.models.janus import Janus
from tests.support.janus_folders import tiny_sizes, write_deepseek, write_settings


@pytest.fixture(scope="module", autouse=True)
def tables() -> Iterator[None]:
    with tiny_sizes():
        yield


@pytest.mark.slow
def test_pickled_shards_become_transformers_safetensors(tmp_path: Path) -> None:
    source, target = tmp_path / "T2I-R1", tmp_path / "made"
    plain = write_deepseek(source)
    expected = Janus(source)
    (source / "model.safetensors").unlink()
    weights = list(plain.state_dict().items())
    for place in range(2):
        torch.save(dict(weights[place::2]), source / f"pytorch_model-0000{place + 1}-of-00002.bin")
    with pytest.raises(UsageError, match=r"milr opens no pickles; type milr convert janus"):
        Janus(source)
    assert main(["convert", "janus", str(source), str(target)]) == 0
    made = Janus(target)
    assert made.profile is expected.profile  # kept, although the new folder's name does not show it
    assert made.network.dtype == torch.float32
    loaded = made.network.state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in expected.network.state_dict().items())
    assert made.prompts.reasoning("two dogs") == expected.prompts.reasoning("two dogs")
    assert not list(target.glob("*.bin"))
    record = json.loads((target / "conversion.json").read_text())
    assert sorted(record["sources"]) == [f"pytorch_model-0000{place}-of-00002.bin" for place in (1, 2)]
    theirs = JanusForConditionalGeneration.from_pretrained(target)
    assert torch.equal(theirs.lm_head.weight, made.network.lm_head.weight)
    processor = JanusProcessor.from_pretrained(target)
    assert processor(text="a cat", return_tensors="pt")["input_ids"][0, 0] == made.tokenizer.bos_token_id


@pytest.mark.slow
def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_settings(tmp_path / "in")
    (tmp_path / "out").mkdir()
    assert main(["convert", "janus", str(tmp_path / "in"), str(tmp_path / "out")]) == 2
    assert "nothing was overwritten" in capsys.readouterr().err
    assert main(["convert", "janus", str(tmp_path / "in")]) == 2
    assert "NEW_FOLDER" in capsys.readouterr().err


class Planted:
    """An object that runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("planted"),))


def test_a_pickle_that_holds_more_than_tensors_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_settings(Path("in"))
    torch.save({"weight": Planted()}, "in/pytorch_model.bin")
    assert main(["convert", "janus", "in", "out"]) == 2
    assert "nothing but tensors" in capsys.readouterr().err
    assert not Path("planted").exists() and not Path("out").exists()


@pytest.mark.slow
def test_an_untied_head_is_loaded_if_the_config_does_not_mention_it(tmp_path: Path) -> None:
    """Without an entry, transformers ties the head to the embeddings; such files have both."""
    source, target = tmp_path / "in", tmp_path / "out"
    plain = write_deepseek(source)
    assert main(["convert", "janus", str(source), str(target)]) == 0
    config = json.loads((target / "config.json").read_text())
    for part in (config, config["text_config"]):
        part.pop("tie_word_embeddings", None)
    (target / "config.json").write_text(json.dumps(config))
    network = Janus(target).network
    assert torch.equal(network.lm_head.weight, plain.language_model.lm_head.weight)
    assert torch.equal(network.get_input_embeddings().weight, plain.language_model.model.embed_tokens.weight)
