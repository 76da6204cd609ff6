"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import settings

from milr.models import embedded_folder, load_model

if TYPE_CHECKING:
    from milr.models.janus import Janus  # brings transformers, which most tests do without

# A busy machine is no defect.
settings.register_profile("milr", deadline=None)
settings.load_profile("milr")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The benchmarks' data: `data` in $MILR_SHARED, or in ../shared as seen from the repository."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("MILR_SHARED", root.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"no benchmark data in {folder}: set MILR_SHARED to the shared folder")
    return folder


@pytest.fixture(scope="session")
def embedded() -> Janus:
    """The embedded model in float32."""
    if not embedded_folder().is_dir():
        pytest.skip(f"no embedded model in {embedded_folder()}: `make train` makes one")
    return cast("Janus", load_model())
