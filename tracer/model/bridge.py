"""The only module that knows transformer-lens: open a model, capture a pass, hand out weights.

Everything downstream works on plain tensors. Norms are found by their presence in a block, never
by configuration flags or the architecture's name (the flags are wrong for some families).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources._hf_format import determine_architecture_from_hf_config
from transformer_lens.model_bridge.sources.transformers import helpers as _boot_helpers
from transformer_lens.model_bridge.sources.transformers.helpers import (
    get_hf_model_class_for_architecture,
)
from transformers import AutoConfig

from tracer.errors import ModelError, one_line
from tracer.model.upcast import widen_while_running

# Without torchvision, booting a multimodal model would run pip and replace torch. Never here.
if not hasattr(_boot_helpers, "_ensure_torchvision"):  # pragma: no cover
    raise ImportError(
        "this transformer-lens has no _ensure_torchvision to switch off: check whether it still "
        "installs packages at run time before raising the pin"
    )
_boot_helpers._ensure_torchvision = lambda: False

# Freezing a norm's scale is an edit the bridge remarks upon each time; it is what we ask for.
warnings.filterwarnings("ignore", message="A forward hook edited hook_scale/hook_normalized")

_AROUND_THE_BLOCKS = ("embed", "pos_embed", "ln_final", "unembed")

_ODDLY_BUILT = (AttributeError, KeyError, RuntimeError, TypeError, ValueError)
"""What the library raises where a block has no parts of the names and shapes that are read."""

Hook = Callable[[Tensor, Any], Tensor | None]


@dataclass(frozen=True)
class Norm:
    """A LayerNorm or RMSNorm; linear once its scale is frozen (its bias moves no gradient)."""

    name: str
    """Hook prefix, e.g. ``blocks.3.ln2``."""
    gain: Float[Tensor, " d_model"]
    centred: bool

    def pull_back(
        self, gradient: Float[Tensor, "... d_model"], scale: Float[Tensor, "... 1"]
    ) -> Float[Tensor, "... d_model"]:
        """Gradient on the norm's input from the gradient on its output, at a frozen ``scale``."""
        return self.pull_back_normalized(gradient * self.gain, scale)

    def pull_back_normalized(
        self, gradient: Float[Tensor, "... d_model"], scale: Float[Tensor, "... 1"]
    ) -> Float[Tensor, "... d_model"]:
        """The same from the gradient on the normalised value, before the gain."""
        if self.centred:
            gradient = gradient - gradient.mean(-1, keepdim=True)
        return gradient / scale

    def push_forward(
        self, vectors: Float[Tensor, "... d_model"], scale: Float[Tensor, "... 1"]
    ) -> Float[Tensor, "... d_model"]:
        """What the norm makes of vectors on its input, at a frozen ``scale``."""
        if self.centred:
            vectors = vectors - vectors.mean(-1, keepdim=True)
        return vectors / scale * self.gain


@dataclass(frozen=True)
class Block:
    """The linear parts of one block. A norm is None where the architecture has none."""

    attn_norm: Norm | None
    attn_post_norm: Norm | None
    mlp_norm: Norm | None
    mlp_post_norm: Norm | None
    query_key_norms: tuple[str, ...]
    """Hook prefixes of the norms of queries and keys, their scales ``(…, pos, 1)``. No gradient
    runs through them."""
    W_V: Float[Tensor, "kv_heads d_model d_head"]
    W_O: Float[Tensor, "heads d_head d_model"]
    parallel: bool
    """Attention and MLP both read the residual stream before the block."""


_OTHER_SHAPES = (
    "its weights have other shapes than its config.json says; fetch both from the same place"
)


_CONTINUING = ("AutoModelForCausalLM", "AutoModelForImageTextToText")


class _Weights:
    """Stands where the loader expects a model class, to learn which weights it did not find.

    Those it would fill with random numbers, and go on.
    """

    def __init__(self) -> None:
        self._absent: list[str] = []

    def from_pretrained(self, folder: str, **options: Any) -> Any:
        """What the loader calls; it would choose the class in the same way."""
        architecture = determine_architecture_from_hf_config(AutoConfig.from_pretrained(folder))
        kind = get_hf_model_class_for_architecture(architecture)
        if kind.__name__ not in _CONTINUING:
            raise ModelError(f"a {architecture} is no language model that continues a text")
        model, said = kind.from_pretrained(folder, output_loading_info=True, **options)
        parameters = {name for name, _ in model.named_parameters()}
        self._absent = sorted(parameters & set(said["missing_keys"]))
        return model

    def check(self, folder: Path) -> None:
        """Raises :class:`ModelError` when a weight was not there."""
        if self._absent:
            more = f" and {len(self._absent) - 1} more" if len(self._absent) > 1 else ""
            raise ModelError(
                f"the model in {folder} cannot be opened: its files hold no {self._absent[0]}{more}"
                ", which its config.json tells of; fetch the model again"
            )


class _AllSeen(Exception):
    """Ends a forward pass after the last requested hook point."""


class Bridge:
    """A model opened through ``TransformerBridge``.

    Not safe for several threads at once: hooks are shared state. One owner at a time.
    """

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        self._folder = folder
        weights = _Weights()
        try:
            self._bridge = TransformerBridge.boot_transformers(
                str(folder), device=device, dtype=dtype, model_class=weights
            )
        except Exception as error:  # the loader has no error tree of its own
            reason = _OTHER_SHAPES if "ignore_mismatched_sizes" in str(error) else one_line(error)
            raise ModelError(f"the model in {folder} cannot be opened: {reason}") from error
        weights.check(folder)
        self._bridge.eval()
        for parameter in self._bridge.parameters():
            parameter.requires_grad_(False)
        others = [m for name, m in self._bridge.named_children() if name in _AROUND_THE_BLOCKS]
        widen_while_running(self._bridge.blocks, others)
        config = self._bridge.cfg
        self.n_layers = int(config.n_layers)
        self.d_model = int(config.d_model)
        self.n_context = int(config.n_ctx)
        cap = getattr(config, "output_logits_soft_cap", -1.0)
        self.logit_soft_cap: float | None = float(cap) if cap and cap > 0 else None
        """Final logits are ``cap * tanh(logit / cap)``; None without a cap."""
        self.vocab_size = int(config.d_vocab)
        self.device = device
        self.dtype = dtype
        self.tokenizer = self._bridge.tokenizer

    @property
    def weight_bytes(self) -> int:
        """Memory of the model's own weights; those that are tied count once."""
        stored = {p.untyped_storage().data_ptr(): p.nbytes for p in self._bridge.parameters()}
        return sum(stored.values())

    def blocks(self) -> tuple[Block, ...]:
        """The weights that the frozen residual stream runs through, block by block.

        Raises :class:`ModelError` for an architecture that is not built of such blocks.
        """
        try:
            return tuple(self._block(layer) for layer in range(self.n_layers))
        except torch.OutOfMemoryError:
            raise
        except _ODDLY_BUILT as error:
            raise ModelError(
                f"the model in {self._folder} cannot be traced: its architecture "
                f"({self._bridge.cfg.architecture}) is not supported ({one_line(error)}); choose "
                "a language model that continues a text, of a family that is listed by "
                "`python -m tracer models`"
            ) from error

    def _block(self, layer: int) -> Block:
        block = self._bridge.blocks[layer]
        norms = {
            name: self._norm(f"blocks.{layer}.{name}", block._modules[name])
            for name in ("ln1", "ln1_post", "ln2", "ln2_post")
            if name in block._modules
        }
        return Block(
            attn_norm=norms.get("ln1"),
            attn_post_norm=norms.get("ln1_post"),
            mlp_norm=norms.get("ln2"),
            mlp_post_norm=norms.get("ln2_post"),
            query_key_norms=tuple(
                f"blocks.{layer}.attn.{name}"
                for name in ("q_norm", "k_norm")
                if name in block.attn._modules
            ),
            W_V=block.attn.W_V.detach(),
            W_O=block.attn.W_O.detach(),
            parallel=bool(getattr(self._bridge.cfg, "parallel_attn_mlp", False)),
        )

    def final_norm(self) -> Norm:
        """The norm before the unembedding."""
        return self._norm("ln_final", self._bridge.ln_final)

    def _norm(self, name: str, module: Any) -> Norm:
        gain = module.w.detach().float()
        return Norm(
            name=name,
            gain=1 + gain if module.uses_weight_offset else gain,
            centred=not module.uses_rms_norm,
        )

    def unembedding(self) -> Float[Tensor, "d_model vocab"]:
        """One column per token: the direction whose dot product is its logit."""
        columns: Tensor = self._bridge.W_U
        return columns.detach()

    @contextmanager
    def offloaded(self, keep: Iterable[Tensor]) -> Iterator[None]:
        """While it lasts, weights rest on the CPU; but those that share memory with ``keep``.

        Nothing can be run meanwhile.
        """
        kept = {tensor.untyped_storage().data_ptr() for tensor in keep}
        parked = []
        try:
            for held in (*self._bridge.parameters(), *self._bridge.buffers()):
                if held.untyped_storage().data_ptr() not in kept:
                    parked.append((held, held.data.cpu()))
                    held.data = held.data.new_empty(0)
            yield
        finally:
            for held, data in parked:
                held.data = data.to(self.device)

    @torch.no_grad()
    def run_batch(
        self, token_ids: Int[Tensor, "batch pos"], hooks: Iterable[tuple[str, Hook]] = ()
    ) -> Float[Tensor, "batch pos vocab"]:
        """Final logits (soft cap included) of prompts of one length, under forward ``hooks``."""
        logits: Tensor = self._bridge.run_with_hooks(token_ids, fwd_hooks=list(hooks))
        return logits

    @torch.no_grad()
    def step(
        self, token_ids: Int[Tensor, "batch pos"], hooks: Iterable[tuple[str, Hook]], cache: Any
    ) -> tuple[Float[Tensor, "batch pos vocab"], Any]:
        """Final logits of tokens that follow those in ``cache`` (None at first), and the cache
        with their keys and values added."""
        logits, cache = self._bridge.run_with_hooks(
            token_ids,
            fwd_hooks=list(hooks),
            return_type="logits_and_cache",
            use_cache=True,
            past_key_values=cache,
        )
        return logits, cache

    def run(
        self, token_ids: Int[Tensor, " pos"], hooks: Iterable[tuple[str, Hook]] = ()
    ) -> Float[Tensor, "pos vocab"]:
        """Final logits of one prompt; its hooks see a batch of one."""
        return self.run_batch(token_ids[None], hooks)[0]

    def capture_batch(
        self, token_ids: Int[Tensor, "batch pos"], names: Iterable[str]
    ) -> tuple[Float[Tensor, "batch pos vocab"], dict[str, Tensor]]:
        """Final logits, and what passed the named hook points; a batch axis first."""
        seen: dict[str, Tensor] = {}

        def keep(name: str) -> Hook:
            def hook(value: Tensor, hook: Any) -> None:
                seen[name] = value.detach()

            return hook

        names = list(names)
        logits = self.run_batch(token_ids, [(name, keep(name)) for name in names])
        missing = [name for name in names if name not in seen]
        if missing:
            raise ModelError(
                f"the model has no hook point {missing[0]}: its architecture is not supported"
            )
        return logits, seen

    def run_with_gradients(
        self, token_ids: Int[Tensor, "batch pos"], hooks: Iterable[tuple[str, Hook]] = ()
    ) -> Float[Tensor, "batch pos vocab"]:
        """Return final logits with gradients to the values that ``hooks`` insert.

        The model's weights are constants. They must be float32: bfloat16 weights are widened only
        while their part runs, so a backward pass would not find them.
        """
        logits: Tensor = self._bridge.run_with_hooks(token_ids, fwd_hooks=list(hooks))
        return logits

    @torch.no_grad()
    def capture_inside(
        self, token_ids: Int[Tensor, "batch pos"], names: Iterable[str]
    ) -> dict[str, Tensor]:
        """Return the values at the named hook points, batch axis first, and stop the forward pass.

        Nothing after the last of them is computed, so there are no logits, which take most of the
        memory if the vocabulary is large. Raises :class:`ModelError` for a missing hook point.
        """
        names = list(names)
        seen: dict[str, Tensor] = {}

        def keep(name: str) -> Hook:
            def hook(value: Tensor, hook: Any) -> None:
                seen[name] = value.detach()
                if len(seen) == len(names):
                    raise _AllSeen

            return hook

        with suppress(_AllSeen):
            self._bridge.run_with_hooks(token_ids, fwd_hooks=[(name, keep(name)) for name in names])
        missing = [name for name in names if name not in seen]
        if missing:
            raise ModelError(
                f"the model has no hook point {missing[0]}: its architecture is not supported"
            )
        return seen

    def capture(
        self, token_ids: Int[Tensor, " pos"], names: Iterable[str]
    ) -> tuple[Float[Tensor, "pos vocab"], dict[str, Tensor]]:
        """The same for one prompt, without the batch axis."""
        logits, seen = self.capture_batch(token_ids[None], names)
        return logits[0], {name: value[0] for name, value in seen.items()}
