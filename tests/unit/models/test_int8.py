"""Weight-only int8: it loads, draws and writes, and `milr plan` counts its memory."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from milr.decode.sampling import open_stream
from milr.errors import UsageError
from milr.models import describe_model, embedded_folder, load_model
from milr.models.base import ImageRequest, TextRequest
from milr.models.janus import Janus
from milr.models.sizing import make_plan
from milr.settings import SamplingParams
from milr.types import Task

pytestmark = pytest.mark.skipif(not embedded_folder().is_dir(), reason="no embedded model: `make train` makes one")


def test_a_plan_counts_one_byte_a_weight_of_the_language_model() -> None:
    described = describe_model(embedded_folder())
    plain, small = (make_plan(described, dtype=dtype) for dtype in (None, "int8"))
    assert plain is not None and small is not None and described.size is not None
    assert small.dtype == "int8" and plain.dtype == "float32"
    assert plain.weights - small.weights == 3 * described.size.int8_weights > 0
    assert small.row == plain.row, "the cache keeps the device's own dtype"


def test_without_torchao_int8_is_refused_before_weights_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("milr.decode.int8.find_spec", lambda name: None if name == "torchao" else find(name))
    monkeypatch.setattr("milr.models.checkpoint.read_safetensors", lambda folder: pytest.fail("weights were read"))
    with pytest.raises(UsageError, match=r"pip install .milr\[int8\]"):
        load_model(dtype="int8")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed")
def test_int8_writes_and_draws() -> None:
    model = load_model(dtype="int8")
    assert isinstance(model, Janus)
    linear = model.network.model.language_model.layers[0].mlp.gate_up_proj.weight
    assert linear.qdata.dtype == torch.int8
    (state,) = model.start([Task(prompt="two dogs")])
    (text,) = model.reason([TextRequest(state)])
    assert text.tokens
    request = ImageRequest(state, text.reasoning, open_stream(0, "any", 0, 0), until=6, keep_hidden=2)
    (image,) = model.draw([request], SamplingParams(guidance=4.0))
    assert len(image.sample.tokens) == 6 and image.hidden is not None and bool(torch.isfinite(image.hidden).all())
