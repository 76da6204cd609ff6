"""A simplified VQ decoder decodes the same images."""

import pytest
import torch
from torch import nn
from transformers.models.janus.configuration_janus import JanusVQVAEConfig
from transformers.models.janus.modeling_janus import JanusVQVAE

from milr.models.vq_decoder import fold_upsampling, leave_out_idle_blocks


def _decoder() -> nn.Module:
    torch.manual_seed(0)
    config = JanusVQVAEConfig(
        embed_dim=8,
        num_embeddings=16,
        latent_channels=32,
        base_channels=32,
        channel_multiplier=[1, 2],
        num_res_blocks=1,
        projection_dim=8,
        image_token_embed_dim=8,
        num_hidden_layers=1,
    )
    return JanusVQVAE(config).eval().decoder


def test_blocks_that_add_nothing_are_left_out_and_pixels_stay() -> None:
    decoder = _decoder()
    chosen = [decoder.up[1].block[1], decoder.mid.block_1]
    for block in chosen:
        nn.init.zeros_(block.conv2.weight)
        nn.init.zeros_(block.conv2.bias)
    nn.init.zeros_(decoder.up[0].attn[0].proj_out.weight)
    nn.init.zeros_(decoder.up[0].attn[0].proj_out.bias)
    latents = torch.randn(2, 32, 5, 5)
    with torch.inference_mode():
        before = decoder(latents)
        assert leave_out_idle_blocks(decoder) == 3
        assert torch.equal(decoder(latents), before)
    assert isinstance(decoder.up[1].block[1], nn.Identity)


def test_blocks_that_change_anything_stay() -> None:
    decoder = _decoder()
    nn.init.zeros_(decoder.up[1].block[1].conv2.weight)
    nn.init.ones_(decoder.up[1].block[1].conv2.bias)
    shortcut = decoder.up[1].block[0]  # it changes the number of channels
    nn.init.zeros_(shortcut.conv2.weight)
    nn.init.zeros_(shortcut.conv2.bias)
    assert leave_out_idle_blocks(decoder) == 0


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 0.03)])
@torch.inference_mode()
def test_folded_upsampling_decodes_the_same_images(dtype: torch.dtype, tolerance: float) -> None:
    decoder, latents = _decoder(), torch.randn(3, 32, 5, 7)
    exact = decoder(latents)
    scale = exact.abs().max()
    decoder.to(dtype)
    plain = decoder(latents.to(dtype)).float()
    assert fold_upsampling(decoder) == 1 and fold_upsampling(decoder) == 0
    folded = decoder(latents.to(dtype)).float()
    assert folded.shape == exact.shape and folded.dtype == torch.float32
    assert (folded - plain).abs().max() <= tolerance * scale
    assert (folded - exact).abs().mean() <= 1.2 * (plain - exact).abs().mean() + 1e-6 * scale, "as near to float32"
    singles = torch.cat([decoder(one[None].to(dtype)) for one in latents]).float()
    torch.testing.assert_close(singles, folded, rtol=0, atol=float(2e-6 * scale))
