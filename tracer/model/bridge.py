"""The only module that knows transformer-lens: open a model, run it, capture, hand out weights.

Everything downstream works on plain tensors. A norm is found by its presence in a block, never by
configuration flags or the architecture's name: the flags are wrong for some families.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

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
from tracer.model.block import Block, Norm
from tracer.model.failures import is_device_lost, is_out_of_memory, to_device
from tracer.model.precision import float32_products
from tracer.model.upcast import Upcast

# Without torchvision, booting a multimodal model would run pip and replace torch. Never here.
if not hasattr(_boot_helpers, "_ensure_torchvision"):  # pragma: no cover
    raise ImportError(
        "this transformer-lens has no _ensure_torchvision to switch off: check whether it still "
        "installs packages at run time before raising the pin"
    )
_boot_helpers._ensure_torchvision = lambda: False

# The bridge warns of every hook that edits a norm's scale. Freezing scales is what we want.
warnings.filterwarnings("ignore", message="A forward hook edited hook_scale/hook_normalized")

_AROUND_THE_BLOCKS: Final = ("embed", "pos_embed", "ln_final", "unembed")
_BEFORE_UNEMBEDDING: Final = "unembed.hook_in"

_MISSING_PARTS: Final = (AttributeError, KeyError, RuntimeError, TypeError, ValueError)
"""Errors of the library if a block lacks parts of the expected names and shapes."""

Hook = Callable[[Tensor, Any], Tensor | None]


_SHAPES_DIFFER: Final = (
    "its weights have other shapes than its config.json says; fetch both from the same place"
)
_CAUSAL_CLASSES: Final = ("AutoModelForCausalLM", "AutoModelForImageTextToText")


class _CheckedLoader:
    """Takes the place of the model class in the loader, to learn which weights were missing.

    The loader would fill them with random numbers and continue.
    """

    def __init__(self) -> None:
        self._missing: list[str] = []

    def from_pretrained(self, folder: str, **options: Any) -> Any:
        """Open the model with the class that the loader would have chosen."""
        architecture = determine_architecture_from_hf_config(AutoConfig.from_pretrained(folder))
        model_class = get_hf_model_class_for_architecture(architecture)
        if model_class.__name__ not in _CAUSAL_CLASSES:
            raise ModelError(f"{architecture} is not a supported causal language model")
        model, report = model_class.from_pretrained(folder, output_loading_info=True, **options)
        parameters = {name for name, _ in model.named_parameters()}
        self._missing = sorted(parameters & set(report["missing_keys"]))
        return model

    def check(self, folder: Path) -> None:
        """Raise :class:`ModelError` if the files lacked a weight."""
        if self._missing:
            others = f" and {len(self._missing) - 1} others" if self._missing[1:] else ""
            verb = "are" if others else "is"
            raise ModelError(
                f"the model in {folder} cannot be opened: weight {self._missing[0]}{others} {verb} "
                "missing from the checkpoint; fetch the model again"
            )


class _AllCaptured(Exception):
    """Ends a forward pass after the last requested hook point."""


class Bridge:
    """A model opened through ``TransformerBridge``.

    Not safe for several threads at once, because hooks are shared state: one owner at a time.
    """

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        dtype: torch.dtype,
        forward_dtype: torch.dtype = torch.float32,
        tf32: bool = False,
    ) -> None:
        self._folder = folder
        loader = _CheckedLoader()
        try:
            self._bridge = TransformerBridge.boot_transformers(
                str(folder), device=device, dtype=dtype, model_class=loader
            )
        except Exception as error:  # the loader has no error tree of its own
            if is_out_of_memory(error) or is_device_lost(error):
                raise
            reason = _SHAPES_DIFFER if "ignore_mismatched_sizes" in str(error) else one_line(error)
            raise ModelError(f"the model in {folder} cannot be opened: {reason}") from error
        loader.check(folder)
        self._bridge.eval()
        for parameter in self._bridge.parameters():
            parameter.requires_grad_(False)
        others = [m for name, m in self._bridge.named_children() if name in _AROUND_THE_BLOCKS]
        self._upcast = Upcast(self._bridge.blocks, others)
        self._upcast.enabled = forward_dtype == torch.float32
        self._stranded: list[tuple[Tensor, Tensor]] = []
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
        """Data type the weights are stored in."""
        self.forward_dtype = forward_dtype
        """Data type the forward pass computes in."""
        self.tf32 = tf32 and device.type == "cuda"
        """Whether float32 matrix products may use TF32."""
        self.tokenizer = self._bridge.tokenizer

    @property
    def weight_bytes(self) -> int:
        """Memory of the model's own weights; tied weights count once."""
        stored = {p.untyped_storage().data_ptr(): p.nbytes for p in self._bridge.parameters()}
        return sum(stored.values())

    def blocks(self) -> tuple[Block, ...]:
        """Return the weights that the frozen residual stream runs through, block by block.

        Raises :class:`ModelError` if the architecture is not made of such blocks.
        """
        try:
            return tuple(self._block(layer) for layer in range(self.n_layers))
        except _MISSING_PARTS as error:
            if is_out_of_memory(error) or is_device_lost(error):
                raise
            raise ModelError(
                f"the model in {self._folder} cannot be traced: its architecture "
                f"{self._bridge.cfg.architecture} is not supported ({one_line(error)}); choose a "
                "causal language model of a family that `python -m tracer models` lists"
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
        """Return the norm before the unembedding."""
        return self._norm("ln_final", self._bridge.ln_final)

    def _norm(self, name: str, module: Any) -> Norm:
        gain = module.w.detach().float()
        return Norm(
            name=name,
            gain=1 + gain if module.uses_weight_offset else gain,
            centred=not module.uses_rms_norm,
        )

    def module(self, name: str) -> Any:
        """Return a part of the library's model by its path, for :mod:`tracer.model.attention`."""
        return self._bridge.get_submodule(name)

    @property
    def architecture(self) -> str:
        """The name of the architecture, as its configuration gives it."""
        return str(self._bridge.cfg.architecture)

    def has_hook(self, name: str) -> bool:
        """Return whether the architecture has a hook point of this name."""
        return name in self._bridge.hook_dict

    def unembedding(self) -> Float[Tensor, "d_model vocab"]:
        """Return one column per token: the direction whose dot product is its logit."""
        columns: Tensor = self._bridge.W_U
        return columns.detach()

    @contextmanager
    def offloaded(self, keep: Iterable[Tensor]) -> Iterator[None]:
        """Move weights to the CPU, except those that share memory with ``keep``, and back at exit.

        The model cannot run in between. Raises :class:`MemoryLimitError` if the weights no longer
        fit on the device at exit. They then remain on the CPU, and the next forward pass tries
        again to move them.
        """
        kept = {tensor.untyped_storage().data_ptr() for tensor in keep}
        moved: list[tuple[Tensor, Tensor]] = []
        try:
            for weight in (*self._bridge.parameters(), *self._bridge.buffers()):
                if weight.untyped_storage().data_ptr() not in kept:
                    moved.append((weight, weight.data.cpu()))
                    weight.data = weight.data.new_empty(0)
            yield
        finally:
            self._bring_back(moved)

    def _bring_back(self, moved: list[tuple[Tensor, Tensor]]) -> None:
        """Give weights their data back: on the device, or on the CPU if the device has no room."""
        # The largest first: a gap that a small weight fills may be the only one they fit into.
        waiting = sorted(moved, key=lambda pair: pair[1].nbytes)
        try:
            while waiting:
                weight, data = waiting[-1]
                weight.data = to_device(data, self.device)
                waiting.pop()
        finally:
            for weight, data in waiting:
                weight.data = data
            self._stranded = waiting

    @contextmanager
    def exact(self) -> Iterator[None]:
        """Run forward passes in float32 without TF32, whatever the options of the model."""
        before = self._upcast.enabled, self.tf32
        self._upcast.enabled, self.tf32 = True, False
        try:
            yield
        finally:
            self._upcast.enabled, self.tf32 = before

    @torch.no_grad()
    def run_batch(
        self,
        token_ids: Int[Tensor, "batch pos"],
        hooks: Iterable[tuple[str, Hook]] = (),
        last_only: bool = False,
    ) -> Float[Tensor, "batch pos vocab"]:
        """Return the final logits (float32, soft cap included) of prompts of the same length.

        ``hooks`` are forward hooks. With ``last_only``, only the last position is unembedded and
        ``pos`` is 1.
        """
        with self._ready(hooks, last_only) as all_hooks:
            logits: Tensor = self._bridge.run_with_hooks(token_ids, fwd_hooks=all_hooks)
        return logits.float()

    @torch.no_grad()
    def step(
        self,
        token_ids: Int[Tensor, "batch pos"],
        hooks: Iterable[tuple[str, Hook]],
        cache: Any,
        last_only: bool = False,
    ) -> tuple[Float[Tensor, "batch pos vocab"], Any]:
        """Return the final logits of tokens that follow those in ``cache``, and the new cache.

        ``cache`` is None at first. The new one includes the keys and values of ``token_ids``.
        """
        with self._ready(hooks, last_only) as all_hooks:
            logits, cache = self._bridge.run_with_hooks(
                token_ids,
                fwd_hooks=all_hooks,
                return_type="logits_and_cache",
                use_cache=True,
                past_key_values=cache,
            )
        return logits.float(), cache

    @contextmanager
    def _ready(
        self, hooks: Iterable[tuple[str, Hook]], last_only: bool
    ) -> Iterator[list[tuple[str, Hook]]]:
        """Prepare a forward pass: weights on the device, the precision of products, all hooks."""
        if self._stranded:
            self._bring_back(self._stranded)
        last: list[tuple[str, Hook]] = [(_BEFORE_UNEMBEDDING, lambda value, hook: value[:, -1:])]
        with float32_products(self.tf32):
            yield [*hooks, *(last if last_only else ())]

    def run(
        self, token_ids: Int[Tensor, " pos"], hooks: Iterable[tuple[str, Hook]] = ()
    ) -> Float[Tensor, "pos vocab"]:
        """Return the final logits of one prompt; its hooks see a batch of one."""
        return self.run_batch(token_ids[None], hooks)[0]

    def capture_batch(
        self,
        token_ids: Int[Tensor, "batch pos"],
        names: Iterable[str],
        last_only: bool = False,
    ) -> tuple[Float[Tensor, "batch pos vocab"], dict[str, Tensor]]:
        """Return the final logits, and the values at the named hook points, batch axis first.

        Raises :class:`ModelError` if the architecture does not have a hook point.
        """
        captured: dict[str, Tensor] = {}

        def keep(name: str) -> Hook:
            def hook(value: Tensor, hook: Any) -> None:
                captured[name] = value.detach()

            return hook

        names = list(names)
        self._check_hook_points(names, self._bridge.hook_dict)
        logits = self.run_batch(token_ids, [(name, keep(name)) for name in names], last_only)
        self._check_hook_points(names, captured)
        return logits, captured

    def _check_hook_points(self, names: Iterable[str], known: Mapping[str, Any]) -> None:
        missing = set(names) - known.keys()
        if missing:
            raise ModelError(
                f"the model in {self._folder} has no hook point {min(missing)}: its architecture "
                f"{self._bridge.cfg.architecture} is not supported"
            )

    def run_with_gradients(
        self, token_ids: Int[Tensor, "batch pos"], hooks: Iterable[tuple[str, Hook]] = ()
    ) -> Float[Tensor, "batch pos vocab"]:
        """Return final logits with gradients to the values that ``hooks`` insert.

        The model's weights are constants. They must be float32: bfloat16 weights are upcast only
        while their part runs, so a backward pass would not find them.
        """
        with self._ready(hooks, last_only=False) as all_hooks:
            logits: Tensor = self._bridge.run_with_hooks(token_ids, fwd_hooks=all_hooks)
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
        captured: dict[str, Tensor] = {}

        def keep(name: str) -> Hook:
            def hook(value: Tensor, hook: Any) -> None:
                captured[name] = value.detach()
                if len(captured) == len(names):
                    raise _AllCaptured

            return hook

        self._check_hook_points(names, self._bridge.hook_dict)
        hooks = [(name, keep(name)) for name in names]
        with self._ready(hooks, last_only=False) as all_hooks, suppress(_AllCaptured):
            self._bridge.run_with_hooks(token_ids, fwd_hooks=all_hooks)
        self._check_hook_points(names, captured)
        return captured

    def capture(
        self, token_ids: Int[Tensor, " pos"], names: Iterable[str], last_only: bool = False
    ) -> tuple[Float[Tensor, "pos vocab"], dict[str, Tensor]]:
        """Return what :meth:`capture_batch` returns for one prompt, without the batch axis."""
        logits, captured = self.capture_batch(token_ids[None], names, last_only)
        return logits[0], {name: value[0] for name, value in captured.items()}
