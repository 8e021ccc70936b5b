"""`Model`, an opened language model with its transcoders, and `load`, which opens one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tracer.catalog.resolve import ModelSource, obtain
from tracer.errors import (
    EmptyPromptError,
    ModelError,
    PromptError,
    PromptTooLongError,
    TargetError,
    UnknownTokenError,
)
from tracer.model.bridge import Block, Bridge, Norm
from tracer.transcoders.config import ReadPoint, WritePoint
from tracer.transcoders.load import load_transcoders
from tracer.transcoders.transcoder import TranscoderSet
from tracer.types import Progress

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Model:
    """A language model with the transcoders that explain its MLPs.

    Use one model from one thread at a time (see :class:`tracer.model.bridge.Bridge`).
    """

    def __init__(self, source: ModelSource, bridge: Bridge, transcoders: TranscoderSet) -> None:
        self.source = source
        self.bridge = bridge
        self.transcoders = transcoders

    @property
    def n_layers(self) -> int:
        return self.bridge.n_layers

    @property
    def device(self) -> torch.device:
        return self.bridge.device

    @property
    def vocab_size(self) -> int:
        return self.bridge.vocab_size

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        return self.bridge.blocks()

    @cached_property
    def final_norm(self) -> Norm:
        return self.bridge.final_norm()

    @cached_property
    def unembedding(self) -> Float[Tensor, "d_model vocab"]:
        return self.bridge.unembedding()

    @cached_property
    def mean_unembedding(self) -> Float[Tensor, " d_model"]:
        """The column that a logit target is measured against."""
        return self.unembedding.float().mean(dim=1)

    @contextmanager
    def offloaded(self, offload: bool) -> Iterator[None]:
        """While backward walks run; with ``offload``, with what they do not need on the CPU."""
        if not offload:
            yield
            return
        needed = [tensor for block in self.blocks for tensor in (block.W_V, block.W_O)]
        self.__dict__.pop(
            "unembedding", None
        )  # would keep the weights it is made of where they are
        with self.bridge.offloaded(keep=needed):
            yield

    @cached_property
    def first_position(self) -> int:
        """Where features and errors begin; what comes before carries none, as in circuit-tracer.

        That is the beginning-of-text token and, where Gemma 3 is tuned to instructions, all of
        ``<bos><start_of_turn>user\n``, four tokens.
        """
        names = (self.source.name, self.transcoders.model_name)
        tuned = any("gemma-3" in name and name.endswith("-it") for name in names)
        return 4 if tuned else 1

    def read_hook(self, layer: int) -> str:
        """Hook point where the transcoder of ``layer`` reads."""
        block, point = self.blocks[layer], self.transcoders.read_point
        if point is ReadPoint.MLP_INPUT or block.mlp_norm is None:
            return f"blocks.{layer}.mlp.hook_in"
        suffix = "hook_in" if point is ReadPoint.RESIDUAL else "hook_normalized"
        return f"blocks.{layer}.ln2.{suffix}"

    def write_hook(self, layer: int) -> str:
        """Hook point of the output that the transcoder of ``layer`` stands in for."""
        after_norm = self.transcoders.write_point is WritePoint.RESIDUAL_UPDATE
        if after_norm and self.blocks[layer].mlp_post_norm is not None:
            return f"blocks.{layer}.ln2_post.hook_out"
        return f"blocks.{layer}.mlp.hook_out"

    def encode(self, prompt: str | Sequence[int]) -> tuple[int, ...]:
        """Token ids of a prompt, beginning-of-text token first.

        Token ids are taken as they are. Text is tokenized without special tokens; then, unless its
        first token is a special one, BOS (or else PAD, or else EOS) is prepended, as circuit-tracer
        does.

        Raises :class:`EmptyPromptError`, :class:`PromptTooLongError`, :class:`UnknownTokenError`,
        or :class:`PromptError` for ids outside the vocabulary and text that gives no token.
        """
        ids = self._text_ids(prompt) if isinstance(prompt, str) else self._checked_ids(prompt)
        if len(ids) > self.bridge.n_context:
            raise PromptTooLongError(
                f"the prompt has {len(ids)} tokens with the beginning-of-text token, "
                f"{self.source.name} reads at most {self.bridge.n_context}: shorten it"
            )
        return ids

    def _checked_ids(self, prompt: Sequence[int]) -> tuple[int, ...]:
        ids = tuple(int(token) for token in prompt)
        if len(ids) < 1:
            raise EmptyPromptError("the prompt has no tokens: give at least one")
        for token in ids:
            if not 0 <= token < self.vocab_size:
                raise PromptError(
                    f"there is no token {token}: {self.source.name} has ids 0 to "
                    f"{self.vocab_size - 1}"
                )
        return ids

    def _text_ids(self, prompt: str) -> tuple[int, ...]:
        if not prompt.strip():
            raise EmptyPromptError(
                "the prompt is empty: write a sentence for the model to continue"
            )
        tokenizer = self.bridge.tokenizer
        encoding = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)
        ids: list[int] = encoding["input_ids"]
        unknown = [
            prompt[start:stop].strip()
            for token, (start, stop) in zip(ids, encoding["offset_mapping"], strict=True)
            if token == tokenizer.unk_token_id
        ]
        if unknown:
            words = list(dict.fromkeys(unknown))
            shown = ", ".join(f"“{word}”" for word in words[:5]) + (", …" if words[5:] else "")
            raise UnknownTokenError(
                f"{self.source.name} has no token for {shown}: it knows a vocabulary of "
                f"{self.vocab_size} tokens; use other words"
            )
        if max(ids, default=0) >= self.vocab_size:
            raise ModelError(
                f"the tokenizer of {self.source.name} gives token {max(ids)}, the model has ids 0 "
                f"to {self.vocab_size - 1}: its files belong to another model; fetch it again"
            )
        if not ids:
            raise PromptError(
                f"the tokenizer of {self.source.name} makes no token of this prompt: its files "
                "may belong to another kind of tokenizer; give token ids instead of text"
            )
        return self.with_beginning(ids)

    def with_beginning(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Token ids that begin with a special token: BOS (or else PAD, or else EOS) is prepended
        unless one stands there already. Raises :class:`ModelError` when there is no such token."""
        tokenizer = self.bridge.tokenizer
        if ids and ids[0] in tokenizer.all_special_ids:
            return tuple(ids)
        specials = (tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id)
        first = next((token for token in specials if token is not None), None)
        if first is None:
            raise ModelError(
                f"the tokenizer of {self.source.name} has no special token to begin a text with: "
                "give token ids instead of text"
            )
        return (first, *ids)

    def token_string(self, token_id: int) -> str:
        """A token as text, with the space it begins with."""
        tokenizer = self.bridge.tokenizer
        piece = tokenizer.convert_ids_to_tokens(int(token_id))
        if isinstance(piece, str) and "▁" in piece:
            return piece.replace("▁", " ")
        return str(tokenizer.decode([int(token_id)]))

    def token_strings(self, token_ids: Iterable[int]) -> tuple[str, ...]:
        return tuple(self.token_string(token) for token in token_ids)

    def token_id(self, token: str | int) -> int:
        """The id of one token, given as text or as an id.

        Raises :class:`TargetError` when the text is not exactly one token, or the id too large.
        """
        if isinstance(token, int):
            if not 0 <= token < self.vocab_size:
                raise TargetError(
                    f"there is no token {token}: {self.source.name} has ids 0 to "
                    f"{self.vocab_size - 1}"
                )
            return token
        tokenizer = self.bridge.tokenizer
        vocabulary = tokenizer.get_vocab()
        for piece in (token.replace(" ", "▁"), token.replace(" ", "Ġ"), token):
            if piece in vocabulary:
                return int(vocabulary[piece])
        ids = tokenizer(token, add_special_tokens=False)["input_ids"]
        if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
            return int(ids[0])
        raise TargetError(
            f"{token!r} is not one token of {self.source.name} but {len(ids)}"
            f"{' unknown' if tokenizer.unk_token_id in ids else ''}: mind the leading space, "
            "and choose a single token"
        )


def load(
    name: str = "atlas",
    transcoders: str | None = None,
    device: str = "auto",
    dtype: Literal["float32", "bfloat16"] = "float32",
    lazy_decoders: bool | None = None,
    lazy_encoders: bool = False,
    progress: Progress | None = None,
) -> Model:
    """Open a model with its transcoders.

    ``name`` is ``"atlas"`` (the embedded model; ``transcoders`` then ``"per-layer"``, the default,
    or ``"cross-layer"``), a name from :func:`tracer.catalog.registry.registry` such as
    ``"gemma-2-2b"`` (``transcoders`` then one of its sets, the first by default),
    ``org/name[@revision]`` on the hub or the folder of a Hugging Face model; ``transcoders`` may be
    ``org/name[/sub][@revision]`` or a folder as well. What is not on this disk is downloaded;
    ``progress`` counts its bytes, then the
    layers whose transcoders are read. The commits that were opened are in
    ``model.source.revisions`` and in every graph's provenance.

    ``device="auto"`` takes CUDA, else Apple MPS, else the CPU. ``dtype="bfloat16"`` is the fast
    mode: it halves the memory of the weights and multiplies in bfloat16 while it attributes; how
    far that is from float32 is measured on every graph (:attr:`AttributionGraph.rounding_error`).
    The lazy options leave transcoder matrices in their files (:func:`load_transcoders`).

    Raises :class:`ModelError` or :class:`tracer.errors.TranscoderError` when something cannot be
    opened or does not fit together, :class:`tracer.errors.HubError` when it cannot be downloaded.
    """
    if dtype not in DTYPES:
        raise ModelError(f"dtype is {dtype!r}: expected one of {', '.join(DTYPES)}")
    source = obtain(name, transcoders, progress)
    if progress is not None:
        progress(0, 0, "reading the model")
    bridge = Bridge(source.model_folder, chosen_device(device), DTYPES[dtype])
    transcoder_set = load_transcoders(
        source.transcoder_folder,
        bridge.n_layers,
        bridge.d_model,
        bridge.device,
        bridge.dtype,
        lazy_decoders,
        lazy_encoders,
        source.transcoder_files,
        progress,
    )
    return Model(source, bridge, transcoder_set)


def chosen_device(name: str) -> torch.device:
    """The device of that name; ``auto`` is CUDA, else Apple MPS, else the CPU."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise _no_device(name) from error
    there = {
        "cpu": True,
        "cuda": (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(device.type, False):
        raise _no_device(name)
    return device


def _no_device(name: str) -> ModelError:
    return ModelError(f"there is no device {name!r} here: try auto, cpu, cuda or mps")
