"""The weights of GenEval's detector and colour classifier: their files and the commands that get them."""

from __future__ import annotations

from collections.abc import Mapping

from milr.weights import WeightFile, Weights

SOURCES: Mapping[str, str] = {
    "743b7d99": "OpenMMLab's file for mmdet 2.x, which GenEval was published with",
    "c9d0c4f2": "OpenMMLab's file for mmdet 3.x, which GenEval's script downloads since: the same run, keys renamed",
}
"""First digits of a checkpoint's hash -> name. OpenMMLab's file names contain them:
mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco_20220504_001756-743b7d99.pth and
mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco_20220504_001756-c9d0c4f2.pth."""

UNUSED = (
    "model.pixel_level_module.encoder.swin.layernorm.weight",
    "model.pixel_level_module.encoder.swin.layernorm.bias",
    "criterion.empty_weight",
)
"""Weights of the network that a checkpoint may lack: norms that no backbone uses, and the loss's weights."""

_CHECKPOINT = "mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco_20220504_001756-743b7d99.pth"
_OPENMMLAB = "https://download.openmmlab.com/mmdetection/v2.0/mask2former/mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco"
_CLIP_REVISION = "32bd64288804d66eefd0ccbe215aa642df71cc41"

DETECTOR = Weights(
    name="geneval-detector",
    title="GenEval detector",
    files=(WeightFile("config.json"), WeightFile("model.safetensors"), WeightFile("conversion.json")),
    commands=(f"curl -LO {_OPENMMLAB}/{_CHECKPOINT}", f"milr convert geneval-detector {_CHECKPOINT}"),
    sources=SOURCES,
)
HUB_DETECTOR = Weights(
    name="mask2former-swin-small-coco-instance",
    title="substitute for GenEval's detector",
    files=(WeightFile("config.json"), WeightFile("model.safetensors")),
    commands=(
        "hf download facebook/mask2former-swin-small-coco-instance config.json model.safetensors --local-dir {folder}",
    ),
)
CLIP = Weights(
    name="clip-vit-large-patch14",
    title="CLIP ViT-L/14 for GenEval's colours",
    files=(
        WeightFile("config.json"),
        WeightFile(
            "model.safetensors",
            sha256="a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb",
            size=1710540580,
        ),
        WeightFile("tokenizer.json"),
        WeightFile("tokenizer_config.json"),
    ),
    commands=(
        "hf download openai/clip-vit-large-patch14 config.json model.safetensors tokenizer.json tokenizer_config.json "
        f"vocab.json merges.txt special_tokens_map.json --revision {_CLIP_REVISION} --local-dir {{folder}}",
    ),
)
