"""Files of safetensors: a folder's tensors by name, and the faults of weights that do not fill a model."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from milr.errors import UsageError
from milr.models.received import read_index

if TYPE_CHECKING:
    import torch

_NAMED = 8  # most weights in an error


def read_safetensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield all tensors of a folder by name, one after another."""
    from safetensors import safe_open

    for path in find_shards(folder):
        shard = cast("Any", safe_open(path, framework="pt"))
        for key in shard.keys():  # noqa: SIM118 - not a dictionary
            yield key, shard.get_tensor(key)


def find_shards(folder: Path) -> list[Path]:
    """Return a folder's safetensors: those that its index names, or all.

    Raises:
        UsageError: A file that the index names is missing.
    """
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return sorted(folder.glob("*.safetensors"))
    names = read_index(index)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UsageError(
            f"{str(folder)!r} lacks {_some(missing)}, which its index names: fetch the rest of its weights"
        )
    return [folder / name for name in names]


def refuse_faults(origin: str, faults: Mapping[str, Collection[str]], what: str = "Janus checkpoint") -> None:
    """Raise an error that names the first weights of each fault; do nothing if there is none.

    Args:
        origin: Name of the checkpoint in the error.
        faults: Description of a fault -> names of weights.
        what: What it should hold.

    Raises:
        UsageError: There is a fault.
    """
    found = [f"{len(names)} {fault}: {_some(sorted(names))}" for fault, names in faults.items() if names]
    if found:
        raise UsageError(f"{origin!r} does not hold a whole {what}; weights {'; '.join(found)}")


def is_finite(weight: torch.Tensor) -> bool:
    """Return true if no element is NaN or infinite; the sum tells it in one pass for all but enormous weights."""
    if weight.is_meta or not weight.is_floating_point():
        return True
    import torch

    return bool(torch.isfinite(weight.sum(dtype=torch.float32))) or bool(torch.isfinite(weight).all())


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
