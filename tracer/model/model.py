"""`Model`, an opened language model with its transcoders, and `load`, which opens one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Final, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tracer.catalog.registry import listed
from tracer.catalog.resolve import ModelSource, obtain
from tracer.errors import (
    ChatNeededError,
    EmptyPromptError,
    ModelError,
    PromptError,
    PromptTooLongError,
    TargetError,
)
from tracer.model.block import Block, Norm
from tracer.model.bridge import Bridge
from tracer.model.chat import chat_text, is_chat, template_of
from tracer.model.device import DeviceChoice, choose_device
from tracer.model.failures import as_tracer_errors
from tracer.model.text import beginning, joined_text, text_ids, token_of, token_text
from tracer.transcoders.config import ReadPoint, WritePoint
from tracer.transcoders.load import load_transcoders
from tracer.transcoders.transcoder import TranscoderSet
from tracer.types import Message, Progress, Prompt

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_GEMMA_BEGINS: Final = ("<bos>", "<start_of_turn>", "user", "\n")
_CONTENT: Final = "TRACER"
"""Stands for what a user writes, to see what a chat template writes before it."""
_VALUES_AT_ONCE: Final = 2**24
"""Bounds the memory of sums over the vocabulary in float32."""


class Model:
    """A language model with the transcoders that replace its MLPs.

    Use a model from one thread at a time (see :class:`tracer.model.bridge.Bridge`).

    >>> import tracer
    >>> model = tracer.load("atlas", device="cpu")
    >>> model.token_strings(model.encode("The capital of France is"))
    ('<bos>', ' The', ' capital', ' of', ' France', ' is')
    """

    def __init__(
        self,
        source: ModelSource,
        bridge: Bridge,
        transcoders: TranscoderSet,
        device_choice: DeviceChoice | None = None,
    ) -> None:
        self.source = source
        self.bridge = bridge
        self.transcoders = transcoders
        self.device_choice = device_choice or choose_device(str(bridge.device))

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
        """The mean column of the unembedding, which is subtracted from a token's own column."""
        columns = self.unembedding
        if columns.dtype == torch.float32:
            return columns.mean(dim=1)
        step = max(1, _VALUES_AT_ONCE // len(columns))
        parts = [part.float().sum(dim=1) for part in columns.split(step, dim=1)]
        return torch.stack(parts).sum(dim=0) / columns.shape[1]

    @property
    def forward_is_exact(self) -> bool:
        """Whether the forward pass computes in float32 throughout."""
        return self.bridge.forward_dtype == torch.float32 and not self.bridge.tf32

    @contextmanager
    def offloaded(self, offload: bool) -> Iterator[None]:
        """With ``offload``, keep on the device only what backward walks need while it lasts.

        Raises :class:`tracer.errors.MemoryLimitError` if the weights do not fit back at exit.
        """
        if not offload:
            yield
            return
        needed = [tensor for block in self.blocks for tensor in (block.W_V, block.W_O)]
        # A cached view would keep the weights that it shows on the device.
        self.__dict__.pop("unembedding", None)
        with self.bridge.offloaded(keep=needed):
            yield

    @cached_property
    def first_position(self) -> int:
        """The first position with features and errors, as in circuit-tracer.

        It follows the beginning-of-text token. In an instruction-tuned Gemma 3 it follows the four
        tokens of ``<bos><start_of_turn>user\\n``. It is 0 for a model without any
        beginning-of-text token, whose prompts begin with a word.
        """
        names = (self.source.name, self.transcoders.model_name)
        instruction_tuned = any("gemma-3" in name and name.endswith("-it") for name in names)
        if instruction_tuned:
            return len(_GEMMA_BEGINS)
        return 0 if beginning(self.bridge.tokenizer, self.vocab_size) is None else 1

    def read_hook(self, layer: int) -> str:
        """Return the hook point where the transcoder of ``layer`` reads."""
        block, point = self.blocks[layer], self.transcoders.read_point
        if point is ReadPoint.MLP_INPUT or block.mlp_norm is None:
            return f"blocks.{layer}.mlp.hook_in"
        suffix = "hook_in" if point is ReadPoint.RESIDUAL else "hook_normalized"
        return f"blocks.{layer}.ln2.{suffix}"

    def write_hook(self, layer: int) -> str:
        """Return the hook point of the output that the transcoder of ``layer`` replaces."""
        after_norm = self.transcoders.write_point is WritePoint.RESIDUAL_UPDATE
        if after_norm and self.blocks[layer].mlp_post_norm is not None:
            return f"blocks.{layer}.ln2_post.hook_out"
        return f"blocks.{layer}.mlp.hook_out"

    @property
    def chat_template(self) -> str | None:
        """The template that turns a chat into text, in Jinja; None if the tokenizer has none."""
        return template_of(self.bridge.tokenizer)

    @cached_property
    def needs_chat(self) -> bool:
        """Whether the transcoders were trained on chats only, so that other text loses features."""
        entry = listed(self.source.name, self.source.transcoders)
        return self.first_position > 1 or (entry is not None and entry[1].chat)

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """Return the token ids of a prompt, beginning-of-text token first.

        Token ids are taken unchanged. A chat becomes text by the tokenizer's chat template
        (:func:`tracer.chat_prompt`). Text is tokenized without special tokens. Unless its first
        token is a special one, BOS (or else PAD, or else EOS) is prepended, as in circuit-tracer;
        one outside the vocabulary is passed over.

        Raises :class:`EmptyPromptError`, :class:`PromptTooLongError`, :class:`UnknownTokenError`,
        or :class:`PromptError` for a chat without a template, ids outside the vocabulary, text that
        gives no token, and text that is not valid Unicode.
        """
        if is_chat(prompt):
            prompt = chat_text(self.bridge.tokenizer, self.source.name, prompt, True)
        ids = self._text_ids(prompt) if isinstance(prompt, str) else self._checked_ids(prompt)
        if len(ids) > self.bridge.n_context:
            raise PromptTooLongError(
                f"the prompt has {len(ids)} tokens including the beginning-of-text token, "
                f"{self.source.name} reads at most {self.bridge.n_context}: shorten it"
            )
        return ids

    def prompt_text(self, prompt: Prompt) -> str:
        """Return a prompt as text: a chat with its template, token ids decoded."""
        if is_chat(prompt):
            return chat_text(self.bridge.tokenizer, self.source.name, prompt, True)
        if isinstance(prompt, str):
            return prompt
        return joined_text(self.bridge.tokenizer, self._checked_ids(prompt))

    def check_chat(self, token_ids: Sequence[int]) -> None:
        """Raise :class:`ChatNeededError` if the model needs a chat and these tokens begin none.

        They begin one if they begin with the special tokens of the chat template, and with all that
        it writes in positions without features.
        """
        if not self.needs_chat:
            return
        if self.chat_template is None:
            begins = self.token_strings(token_ids[: len(_GEMMA_BEGINS)]) == _GEMMA_BEGINS
        else:
            message = {"role": "user", "content": _CONTENT}
            chat = chat_text(self.bridge.tokenizer, self.source.name, [message], True)
            ids = self.encode(chat.partition(_CONTENT)[0])
            special = self.bridge.tokenizer.all_special_ids
            n_special = next((n for n, token in enumerate(ids) if token not in special), len(ids))
            first = max(n_special, self.first_position)
            begins = tuple(token_ids[:first]) == ids[:first]
        if not begins:
            raise ChatNeededError(
                f"the transcoders of {self.source.name} were trained on chats, and this prompt "
                "does not begin one, so that features of its first words would be lost; give a "
                "chat ([{'role': 'user', 'content': …}], or --chat), or force=True (--force) to "
                "trace it as it is"
            )

    def _checked_ids(self, prompt: Sequence[Any]) -> tuple[int, ...]:
        ids = tuple(int(token) for token in prompt)
        if len(ids) < 1:
            raise EmptyPromptError("the prompt has no tokens: give at least one")
        for token in ids:
            if not 0 <= token < self.vocab_size:
                raise PromptError(
                    f"token {token} does not exist: {self.source.name} has token ids 0 to "
                    f"{self.vocab_size - 1}"
                )
        return ids

    def _text_ids(self, prompt: str) -> tuple[int, ...]:
        if not prompt.strip():
            raise EmptyPromptError(
                "the prompt is empty: write a sentence for the model to continue"
            )
        ids = text_ids(self.bridge.tokenizer, prompt, self.source.name, self.vocab_size)
        return self.with_beginning(ids)

    def with_beginning(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Return token ids that begin with a special token.

        BOS (or else PAD, or else EOS) is prepended unless the first id is a special token already,
        or the tokenizer has no special token in the model's vocabulary.
        """
        tokenizer = self.bridge.tokenizer
        first = beginning(tokenizer, self.vocab_size)
        if first is None or (ids and ids[0] in tokenizer.all_special_ids):
            return tuple(ids)
        return (first, *ids)

    def token_string(self, token_id: int) -> str:
        """Return a token as text, including its leading space.

        Bytes that are only part of a character are escaped: ``\\xe2\\x82``.
        """
        return token_text(self.bridge.tokenizer, token_id)

    def token_strings(self, token_ids: Iterable[int]) -> tuple[str, ...]:
        """Return every token as text, including leading spaces."""
        return tuple(self.token_string(token) for token in token_ids)

    def token_id(self, token: str | int) -> int:
        """Return the id of one token, given as text or as an id.

        Raises :class:`TargetError` if the text is not exactly one token, or the id does not exist.
        """
        if isinstance(token, int):
            if not 0 <= token < self.vocab_size:
                raise TargetError(
                    f"token {token} does not exist: {self.source.name} has token ids 0 to "
                    f"{self.vocab_size - 1}"
                )
            return token
        return token_of(self.bridge.tokenizer, token, self.source.name)


def chat_prompt(model: Model, messages: Sequence[Message], generation_prompt: bool = True) -> str:
    """Return messages as the text that the model's chat template makes of them.

    The text has the template's special tokens and can be given to :func:`tracer.trace` and
    :func:`tracer.intervene`, which also take the messages themselves. With ``generation_prompt``
    it ends where the model's answer begins, or continues the last message if that is the
    assistant's.

    Raises :class:`PromptError` when the tokenizer has no chat template, a message has no ``role``
    or ``content``, or the template refuses the messages.

    >>> import tracer
    >>> tracer.chat_prompt(tracer.load("atlas"), [{"role": "user", "content": "Hello"}])
    Traceback (most recent call last):
    tracer.errors.PromptError: the tokenizer of atlas has no chat template: give the prompt as \
text, in the form that the model was trained on
    """
    return chat_text(model.bridge.tokenizer, model.source.name, messages, generation_prompt)


def load(
    name: str = "atlas",
    transcoders: str | None = None,
    device: str = "auto",
    dtype: Literal["float32", "bfloat16"] = "float32",
    lazy_decoders: bool | None = None,
    lazy_encoders: bool = False,
    progress: Progress | None = None,
    forward_dtype: Literal["float32", "bfloat16"] = "float32",
    tf32: bool = False,
) -> Model:
    """Open a model with its transcoders, downloading what is not on this disk.

    ``name`` is one of:

    - ``"atlas"`` or ``"novels"``, the embedded models (the second reads any English); their
      ``transcoders`` are ``"per-layer"`` (default) or ``"cross-layer"``;
    - a name of :func:`tracer.catalog.registry.registry` such as ``"gemma-2-2b"``, with one of its
      sets as ``transcoders`` (the first by default);
    - ``org/name[@revision]`` on the Hugging Face Hub, or the folder of a Hugging Face model.

    ``transcoders`` can also be ``org/name[/folder][@revision]`` on the Hub, or a folder. The
    commits that were opened are in ``model.source.revisions`` and in the provenance of every graph.

    ``device`` is ``"cpu"``, ``"cuda"``, ``"cuda:N"``, ``"mps"`` or ``"auto"``
    (:func:`tracer.model.device.choose_device`); ``model.device_choice`` says what was chosen, and
    why. ``progress`` counts downloaded bytes, then layers of transcoders.

    Three options trade precision for speed. Every graph reports what they cost, measured on a
    sample of its rows (:attr:`AttributionGraph.rounding_error`).

    - ``dtype="bfloat16"`` stores the weights in bfloat16, half the memory, and multiplies in
      bfloat16 during attribution. The forward pass still computes in float32.
    - ``forward_dtype="bfloat16"`` runs the forward pass in bfloat16, too. It needs
      ``dtype="bfloat16"``.
    - ``tf32`` allows TF32 for float32 matrix products of forward passes and attribution on CUDA.

    The lazy options leave transcoder matrices in their files (:func:`load_transcoders`).

    Raises :class:`ModelError` or :class:`tracer.errors.TranscoderError` if something cannot be
    opened or does not fit together, :class:`tracer.errors.HubError` if it cannot be downloaded, and
    :class:`tracer.errors.MemoryLimitError` if it does not fit on the device.

    >>> import tracer
    >>> model = tracer.load("atlas", device="cpu")
    >>> model.n_layers, model.transcoders[0].n_features
    (5, 1024)
    >>> model.device_choice.reason
    'requested'
    """
    for option, value in (("dtype", dtype), ("forward_dtype", forward_dtype)):
        if value not in DTYPES:
            raise ModelError(f"{option} is {value!r}: expected one of {', '.join(DTYPES)}")
    if forward_dtype != "float32" and forward_dtype != dtype:
        raise ModelError(
            f"forward_dtype is {forward_dtype!r} and dtype {dtype!r}: a bfloat16 forward pass "
            "needs weights in bfloat16; set both"
        )
    choice = choose_device(device)
    advice = (
        "use dtype='bfloat16', lazy_decoders=True and lazy_encoders=True, a smaller model, or "
        "another device"
    )
    lazy = lazy_decoders, lazy_encoders
    with as_tracer_errors(f"opening {name}", choice.device, advice):
        source = obtain(name, transcoders, progress)
        return _open(source, choice, DTYPES[dtype], DTYPES[forward_dtype], tf32, lazy, progress)


def _open(
    source: ModelSource,
    choice: DeviceChoice,
    dtype: torch.dtype,
    forward_dtype: torch.dtype,
    tf32: bool,
    lazy: tuple[bool | None, bool],
    progress: Progress | None,
) -> Model:
    """Open what is on this disk. Its own frame, so that a failure keeps no weights alive."""
    if progress is not None:
        progress(0, 0, "reading the model")
    bridge = Bridge(source.model_folder, choice.device, dtype, forward_dtype, tf32)
    transcoders = load_transcoders(
        source.transcoder_folder,
        bridge.n_layers,
        bridge.d_model,
        bridge.device,
        bridge.dtype,
        *lazy,
        source.transcoder_files,
        progress,
    )
    return Model(source, bridge, transcoders, choice)
