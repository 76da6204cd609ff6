"""Linear layers in the layout of the CPU's kernels: results, and which layout is chosen."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from milr.decode import packed_linear
from milr.decode.packed_linear import PackedLinear, TransposedLinear, can_transpose, pack
from milr.decode.processor import Processor, this_processor

XEON = Processor(intel=True, avx512=True, mkl=True)
EPYC = Processor(intel=False, avx512=True, mkl=True)
needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch has no oneDNN here")


def layer(inputs: int, outputs: int, *, bias: bool = False) -> nn.Linear:
    """Return a frozen layer."""
    with torch.random.fork_rng():
        torch.manual_seed(inputs + outputs)
        return nn.Linear(inputs, outputs, bias=bias).requires_grad_(False)


def packed(dense: nn.Linear, *, differentiable: bool = False) -> nn.Module:
    """Pack one layer."""
    holder = nn.Sequential(dense)
    pack(holder, differentiable=differentiable)
    return holder[0]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("vendor_id\t: GenuineIntel\nflags\t\t: fpu avx512f avx512bw\n", Processor(True, True, True)),
        ("vendor_id\t: GenuineIntel\nflags\t\t: fpu avx2\n", Processor(True, False, True)),
        ("vendor_id\t: AuthenticAMD\nflags\t\t: fpu avx512bw\n", Processor(False, True, True)),
        ("CPU implementer\t: 0x41\nFeatures\t: fp asimd\n", Processor(False, False, True)),
        ("", Processor(False, False, True)),
    ],
)
def test_a_processor_is_read_from_the_systems_description(content: str, expected: Processor) -> None:
    assert Processor.read(content, mkl=True) == expected


def test_a_processor_is_read_once() -> None:
    assert this_processor() is this_processor()


@pytest.mark.parametrize(
    ("dense", "processor", "expected"),
    [
        (layer(256, 704), XEON, True),
        (layer(768, 1365), XEON, True),
        (layer(768, 1366), XEON, False),  # too many numbers
        (layer(769, 16), XEON, False),  # with many rows MKL would add in another order
        (layer(256, 704).bfloat16(), XEON, False),
        (layer(256, 704), EPYC, False),
        (layer(256, 704), Processor(intel=True, avx512=False, mkl=True), False),
        (layer(256, 704), Processor(intel=True, avx512=True, mkl=False), False),
    ],
)
def test_only_small_float32_layers_are_transposed_and_only_for_mkls_avx512_kernels(
    dense: nn.Linear, processor: Processor, expected: bool
) -> None:
    assert can_transpose(dense, processor) is expected


@needs_onednn
def test_every_layer_inside_gets_the_layout_of_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    for processor, small in ((XEON, TransposedLinear), (EPYC, PackedLinear)):
        monkeypatch.setattr(packed_linear, "this_processor", lambda one=processor: one)
        network = nn.Sequential(layer(16, 24), nn.ModuleDict({"inner": layer(1024, 16)}))
        pack(network)
        assert type(network[0]) is small
        assert type(network[1].get_submodule("inner")) is PackedLinear


@needs_onednn
@pytest.mark.parametrize("processor", [XEON, EPYC])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1,), (1, 1), (2, 1), (3, 5), (2, 3, 4)])
def test_every_layout_computes_what_the_layer_does(
    processor: Processor, bias: bool, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_linear, "this_processor", lambda: processor)
    dense = layer(48, 40, bias=bias)
    states = torch.randn(*shape, 48, generator=torch.Generator().manual_seed(0))
    found = packed(dense)(states)
    assert found.shape == (*shape, 40)
    torch.testing.assert_close(found, dense(states))


@needs_onednn
@pytest.mark.parametrize("processor", [XEON, EPYC])
def test_a_gradient_passes_through_every_layout(processor: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_linear, "this_processor", lambda: processor)
    dense = layer(48, 40)
    for rows in (1, 3):
        states = torch.randn(rows, 48, generator=torch.Generator().manual_seed(0)).requires_grad_()
        (found,) = torch.autograd.grad(packed(dense, differentiable=True)(states).sin().sum(), states)
        (expected,) = torch.autograd.grad(dense(states).sin().sum(), states)
        torch.testing.assert_close(found, expected)


@pytest.mark.skipif(this_processor() != XEON, reason="known of MKL's AVX-512 kernels alone")
@pytest.mark.parametrize(("inputs", "outputs"), [(24, 40), (256, 704), (704, 256), (768, 1024)])
def test_in_float32_a_row_does_not_depend_on_its_neighbours(inputs: int, outputs: int) -> None:
    """Results are equal to the bit for every number of rows, so that a batch draws what single images are."""
    one = packed(layer(inputs, outputs))
    states = torch.randn(256, inputs, generator=torch.Generator().manual_seed(0))
    whole = one(states)
    for rows in (1, 2, 3, 16, 64, 200):
        assert torch.equal(one(states[:rows]), whole[:rows]), f"{rows} rows"
