"""A folder with a Janus checkpoint: its description, read from the config alone, and its parts, loaded one by one.

transformers' modules hold the weights, from safetensors only; no remote code runs. A folder has transformers' layout
(`transformers.models.janus`: JanusForConditionalGeneration, JanusProcessor) or DeepSeek's layout
(`milr.models.deepseek_layout`), and is read as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from milr.errors import UsageError, unknown_name
from milr.models.base import Capabilities, Description, ModelSize
from milr.models.janus_config import check_dimensions, make_config
from milr.models.prompts import PROFILES, PromptProfile, recognise_profile
from milr.models.received import check_sizes, read_json, read_tokenizer, refusing
from milr.models.weight_files import is_finite, read_safetensors, refuse_faults
from milr.settings import OLD_NAMES, all_fields
from milr.untrusted import UntrustedError, first_fault, read_file
from milr.weights import identify_weights

if TYPE_CHECKING:
    import torch

SETTINGS_FILE = "milr.json"
SPECIAL_TOKENS = {
    "bos_token": "<｜begin▁of▁sentence｜>",
    "eos_token": "<｜end▁of▁sentence｜>",
    "pad_token": "<｜▁pad▁｜>",
    "boi_token": "<begin_of_image>",
    "eoi_token": "<end_of_image>",
    "image_token": "<image_placeholder>",
}
"""Name -> special token of the family; a checkpoint's own tokenizer has all of them."""
_STANDARD_TOKENS = ("bos_token", "eos_token", "pad_token")
_IMAGE_SETTINGS = ("do_normalize", "image_mean", "image_std", "min_size", "rescale_factor")
PROMPT_TOKENS = 256
"""Tokens assumed for a prompt and its template."""
_VERIFIED = (
    "logits, answers and images of random weights in float32 equal a plain PyTorch implementation of the original "
    "architecture to 1e-5; names and shapes of the full 1B model fit; published weights were not run"
)


class CheckpointSettings(BaseModel):
    """The contents of `milr.json`: milr's own settings beside a checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    profile: str | None = None
    """One of `PROFILES`; None selects it by the checkpoint's name and tokens."""
    grammar: Literal["free", "icons"] = "free"
    """"icons" if the model only reads prompts of `milr.tasks`, and draws icons."""
    best: dict[str, str] = {}
    """The best measured method and its strategy, which commands take by default; {} means the paper's."""
    search: dict[str, float | int | str] = {}
    """Settings of methods whose best values depend on the model, by name."""

    @field_validator("search")
    @classmethod
    def _know_names(cls, search: dict[str, float | int | str]) -> dict[str, float | int | str]:
        """Refuse unknown names of settings; give old names their new ones."""
        named = {OLD_NAMES.get(name, name): value for name, value in search.items()}
        for name in named:
            if name not in (known := all_fields()):
                raise ValueError(str(unknown_name("setting", name, known)))
        return named


@dataclass(frozen=True)
class Checkpoint:
    """The description of a folder; nothing is loaded yet."""

    folder: Path
    settings: CheckpointSettings
    profile: PromptProfile
    profile_name: str
    config: Any
    """A `JanusConfig`, for either layout."""
    layout: Literal["transformers", "deepseek"]

    @property
    def capabilities(self) -> Capabilities:
        """Return the model's capabilities."""
        vision, text = self.config.vision_config, self.config.text_config
        able = Capabilities(
            image_size=vision.image_size,
            image_tokens=vision.num_image_tokens,
            width=text.hidden_size,
            latents="both",
            passes=self.profile.passes,
            image_language="icons" if self.settings.grammar == "icons" else "natural",
            prompt_limit=text.max_position_embeddings - self.profile.max_reasoning_tokens - vision.num_image_tokens,
            family="janus",
            licence=self.profile.licence,
            verification=_VERIFIED,
        )
        return replace(able, image_bytes=self._size({}).image_bytes(able, 2))

    @property
    def description(self) -> Description:
        """Return everything that is known before the weights are loaded; counting them takes about a second."""
        return Description(
            capabilities=self.capabilities,
            defaults=self.settings.search,
            profile=self.profile_name,
            summary=self.profile.summary,
            size=self._size(self._count_parameters()),
            reads_free_prompts=self.settings.grammar == "free",
            best=self.settings.best,
        )

    def _size(self, parameters: Mapping[str, int]) -> ModelSize:
        """Return the model's memory; without `parameters`, that of the network is left out."""
        text = self.config.text_config
        heads = text.num_key_value_heads or text.num_attention_heads
        head_width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        table = text.vocab_size * text.hidden_size  # the word embeddings, which a step does not read
        return ModelSize(
            parameters=parameters,
            prompt_tokens=PROMPT_TOKENS,
            reasoning_tokens=self.profile.max_reasoning_tokens,
            numbers_per_token=2 * text.num_hidden_layers * heads * head_width,
            int8_weights=parameters["decoder"] - table if parameters else 0,
            read_per_token=parameters["decoder"] - table + parameters["image head"] if parameters else 0,
        )

    def _count_parameters(self) -> dict[str, int]:
        import torch
        from transformers.models.janus.modeling_janus import JanusForConditionalGeneration

        with torch.device("meta"):
            network: Any = JanusForConditionalGeneration(self.config)
        inner = network.model
        parts = {
            "decoder": inner.language_model,
            "text head": network.lm_head,
            "image head": inner.generation_head,
            "image tokens": torch.nn.ModuleList([inner.generation_embeddings, inner.generation_aligner]),
            "image decoder": inner.vqmodel,
            "vision tower": torch.nn.ModuleList([inner.vision_model, inner.aligner]),
        }
        return {name: sum(parameter.numel() for parameter in part.parameters()) for name, part in parts.items()}

    @property
    def version(self) -> str:
        """Return eight hexadecimal digits that distinguish these weights from others in a folder of the same name."""
        return identify_weights(self.folder)

    def load_tokenizer(self) -> Any:
        """Load the tokenizer of `tokenizer.json`, with the profile's added tokens and named special tokens.

        Raises:
            UsageError: There is none, or it lacks one of `SPECIAL_TOKENS`.
        """
        from tokenizers.processors import TemplateProcessing
        from transformers.tokenization_utils_tokenizers import PreTrainedTokenizerFast

        path = self.folder / "tokenizer.json"
        if not path.is_file():
            raise UsageError(f"{str(self.folder)!r} has no tokenizer.json: fetch the checkpoint's tokenizer files too")
        backend = read_tokenizer(path)
        missing = [token for token in SPECIAL_TOKENS.values() if backend.token_to_id(token) is None]
        if missing:
            raise UsageError(f"{str(path)!r} lacks {', '.join(missing)}: it is no tokenizer of a Janus checkpoint")
        # some tokenizer files of this family add the first token, others leave it to their class
        first = SPECIAL_TOKENS["bos_token"]
        backend.post_processor = TemplateProcessing(
            single=f"{first} $A", pair=f"{first} $A $B", special_tokens=[(first, backend.token_to_id(first))]
        )
        # the class that such a folder's config names (LlamaTokenizer) would split words differently from the file,
        # so this class takes the file unchanged
        tokenizer: Any = PreTrainedTokenizerFast(
            tokenizer_object=backend,
            **{name: token for name, token in SPECIAL_TOKENS.items() if name in _STANDARD_TOKENS},
            extra_special_tokens={
                name: token for name, token in SPECIAL_TOKENS.items() if name not in _STANDARD_TOKENS
            },
            clean_up_tokenization_spaces=False,
        )
        tokenizer.add_tokens([token for token in self.profile.added_tokens if backend.token_to_id(token) is None])
        room: int = self.config.text_config.vocab_size
        if len(tokenizer) > room:
            raise UsageError(
                f"the tokenizer of profile {self.profile_name!r} has {len(tokenizer)} tokens, but the vocabulary of "
                f"{str(self.folder)!r} (vocab_size in its config.json) has {room}: choose another with --profile"
            )
        return tokenizer

    def load_image_processor(self) -> Any:
        """Load the image processor: it resizes to fit, pads to a square and normalises.

        Raises:
            UsageError: The folder does not describe it.
        """
        from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil

        path = self.folder / "preprocessor_config.json"
        with refusing(repr(str(path))):
            if self.layout == "transformers":
                check_sizes(self.folder)
                return JanusImageProcessorPil.from_pretrained(
                    self.folder, local_files_only=True, trust_remote_code=False
                )
            described = read_json(path)
            settings = {name: described[name] for name in _IMAGE_SETTINGS if name in described}
            side = described.get("image_size", self.config.vision_config.image_size)
            return JanusImageProcessorPil(size={"height": side, "width": side}, **settings)

    def load_network(
        self,
        dtype: torch.dtype,
        device: torch.device | None = None,
        *,
        tensors: Mapping[str, torch.Tensor] | None = None,
    ) -> Any:
        """Load the weights into transformers' `JanusForConditionalGeneration`.

        Each weight is moved to the device by itself, in its final dtype, so the host needs memory for one weight at a
        time.

        Args:
            dtype: The dtype of the weights.
            device: The device; None is the CPU.
            tensors: The weights under the names of the folder's layout; None reads its safetensors.

        Raises:
            UsageError: A weight is missing, left over, of another shape, or milr does not know its name.
        """
        with refusing(repr(str(self.folder))):
            return self._load_network(dtype, device, tensors)

    def _load_network(
        self, dtype: torch.dtype, device: torch.device | None, tensors: Mapping[str, torch.Tensor] | None
    ) -> Any:
        network = self._make_empty()
        known: dict[str, torch.Tensor] = network.state_dict(keep_vars=True)
        pairs = tensors.items() if tensors is not None else read_safetensors(self.folder)
        left: list[str] = []
        shapes: list[str] = []
        broken: list[str] = []
        for name, tensor in self._translate(pairs) if self.layout == "deepseek" else pairs:
            weight = known.pop(name, None)
            if weight is None:
                left.append(name)
            elif weight.shape != tensor.shape:
                shapes.append(name)
            else:
                weight.data = tensor.to(device, dtype if tensor.is_floating_point() else None)
                if not is_finite(weight.data):
                    broken.append(name)
        faults = {"missing": known, "left over": left, "of another shape": shapes, "with NaN or infinity": broken}
        refuse_faults(str(self.folder), faults)
        return network.to(device)

    def make_network(self, dtype: torch.dtype, device: torch.device | None = None) -> Any:
        """Make a network of the same shape with random weights, to measure time and memory.

        Args:
            dtype: The dtype of the weights.
            device: The device on which the weights are made; None is the CPU.
        """
        import torch

        network = self._make_empty()
        place = device or torch.device("cpu")
        stream = torch.Generator(place).manual_seed(0)
        for parameter in network.parameters():
            random = torch.empty(parameter.shape, dtype=dtype, device=place)
            parameter.data = random.uniform_(-0.03, 0.03, generator=stream)
        return network.to(place)

    def _make_empty(self) -> Any:
        """Return the network with unwritten weights, for which the system allocates no memory yet."""
        from transformers.initialization import no_init_weights
        from transformers.models.janus.modeling_janus import JanusForConditionalGeneration

        with no_init_weights():
            return JanusForConditionalGeneration(self.config)

    def _translate(self, pairs: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield DeepSeek's tensors under transformers' names."""
        from milr.models import deepseek_layout

        unknown: list[str] = []
        for key, tensor in pairs:
            converted = deepseek_layout.convert(key, tensor)
            if converted is None:
                unknown.append(key)
            yield from (converted or {}).items()
        refuse_faults(str(self.folder), {"that milr does not know": unknown})


def open_checkpoint(folder: Path, *, profile: str | None = None, weights: bool = True) -> Checkpoint:
    """Describe a folder; its weights are not read.

    Args:
        folder: Holds config.json, tokenizer files, preprocessor_config.json and *.safetensors.
        profile: One of `PROFILES`; None takes the one of `milr.json`, or selects it by name and tokens.
        weights: If true, there must be safetensors.

    Raises:
        UsageError: The folder is not a Janus checkpoint in safetensors, or there is no such profile.
    """
    if not folder.is_dir():
        raise UsageError(f"no model folder {str(folder)!r}: give 'embedded' or a folder with a Janus checkpoint")
    described = read_json(folder / "config.json")
    if weights and not any(folder.glob("*.safetensors")):
        pickles = any(folder.glob("*.bin")) or any(folder.glob("*.pth"))
        raise UsageError(
            f"{str(folder)!r} has no *.safetensors: "
            + (
                f"milr opens no pickles; type milr convert janus {folder} NEW_FOLDER"
                if pickles
                else "copy its weights there, or type milr fetch NAME with its name at the hub"
            )
        )
    settings = _read_settings(folder)
    wanted = profile or settings.profile
    if wanted is not None and wanted not in PROFILES:
        where = "profile" if profile else f"profile in {folder / SETTINGS_FILE}:"
        raise unknown_name(where, wanted, PROFILES)
    token_ids = _read_added_tokens(folder)
    name = wanted or recognise_profile(_names(folder, described), token_ids)
    config, layout = make_config(folder, described, token_ids)
    check_dimensions(folder, config)
    return Checkpoint(folder, settings, PROFILES[name], name, config, layout)


def _names(folder: Path, described: dict[str, Any]) -> list[str]:
    """Return a checkpoint's names: the ends of its path (the hub's cache has its name there) and its config's name."""
    return [*folder.resolve().parts[-3:], str(described.get("_name_or_path", ""))]


def _read_added_tokens(folder: Path) -> dict[str, int]:
    """Return the tokenizer's added tokens and their ids; none if there is no tokenizer."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return {}
    added: Mapping[int, Any] = read_tokenizer(path).get_added_tokens_decoder()
    return {str(token.content): number for number, token in added.items()}


def _read_settings(folder: Path) -> CheckpointSettings:
    path = folder / SETTINGS_FILE
    if not path.exists():
        return CheckpointSettings()
    try:
        return CheckpointSettings.model_validate_json(read_file(path))
    except ValidationError as error:
        raise UsageError(f"{path}: {first_fault(error)}") from error
    except UntrustedError as error:
        raise UsageError(f"{path}: {error}") from error
