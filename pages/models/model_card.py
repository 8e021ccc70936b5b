"""One model: what it is, the memory it needs, and buttons to download or use it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, get_args

import streamlit as st

from cache import Dtype, Job, Machine, ModelChoice, ToDownload
from charts.text import count_text
from pages.models import add_model
from pages.shared import model_choices, progress, resources
from pages.shared.escape import plain, sentence
from pages.shared.navigation import page_script
from pages.shared.session import visitor_id
from pages.shared.session_state import Session
from pages.shared.use_model import use_model
from tracer.catalog.embedded import EMBEDDED_SETS, EmbeddedModel, installed
from tracer.catalog.registry import KINDS, ListedModel, ListedSet, disk, memory
from tracer.errors import TracerError
from tracer.files import format_bytes
from tracer.hub import network_allowed

_HUB: Final = "https://huggingface.co"


def draw(name: str, session: Session, machine: Machine) -> None:
    """Draw the card of the model ``name``, with the session's choices if it is in use."""
    own = next((model for model in installed() if model.name == name), None)
    if own is not None:
        _embedded(own, session)
        return
    model = model_choices.listed_model(name)
    if model is None:
        _unlisted(session if name == session.choice.model else None, name)
        return
    st.markdown(f"##### {plain(model.name)}")
    facts = [f"{count_text(model.parameters)} parameters"] if model.parameters else []
    facts += [f"{model.layers} layers"] if model.layers else []
    facts += [f"width {model.d_model}"] if model.d_model else []
    st.caption(plain(" · ".join([model.reference, *facts])))
    if not model.sets:
        st.warning("No transcoder set is listed for this model.")
        return
    entry, dtype = _chosen(model, session)
    choice = ModelChoice(model.name, entry.name, dtype)
    _about(model, entry)
    downloaded = resources.backend().library.is_here(choice)
    if entry.features is None:
        entry = replace(entry, features=_features(choice, downloaded))
    _needs(model, entry, dtype, machine)
    if downloaded:
        _open_button(choice, session)
    else:
        _fetch(model, entry, choice, machine)
    if model.own:
        add_model.draw_remove(model)


def _embedded(model: EmbeddedModel, session: Session) -> None:
    st.markdown(f"##### {model.name}")
    st.caption(model.summary)
    st.markdown(model.about)
    in_use = session.choice.model == model.name
    chosen = st.segmented_control(
        "Transcoders",
        EMBEDDED_SETS,
        default=session.choice.transcoders if in_use else EMBEDDED_SETS[0],
        required=True,
        key=f"{model.name} set",
    )
    _open_button(ModelChoice(model.name, chosen), session)


def _unlisted(session: Session | None, name: str) -> None:
    """Draw a model from a link that is not on the list."""
    st.markdown(f"##### {plain(model_choices.short(name))}")
    if session is None:
        st.info("This model is not on the list: choose one on the left, or add it below.")
        return
    st.caption(plain(f"In use with {session.choice.transcoders}. It is not on the list."))
    if not resources.backend().library.is_here(session.choice):
        _download(session.choice, "")


def _chosen(model: ListedModel, session: Session) -> tuple[ListedSet, Dtype]:
    used = session.choice if session.choice.model in (model.name, model.reference) else None
    first = (model_choices.listed_set(model, used.transcoders) if used else None) or model.sets[0]
    name = st.segmented_control(
        "Transcoders",
        [entry.name for entry in model.sets],
        default=first.name,
        required=True,
        key=f"set of {model.name}",
    )
    dtype: Dtype = st.segmented_control(
        "Data type",
        get_args(Dtype),
        default=used.dtype if used else "float32",
        required=True,
        key=f"dtype of {model.name}",
        help="bfloat16 needs half the memory. Every graph then records how far its edges are from "
        "float32: well below one percent of their weight in our measurements.",
    )
    return model_choices.listed_set(model, name) or first, dtype


def _about(model: ListedModel, entry: ListedSet) -> None:
    features = f"{entry.features:,} features per layer" if entry.features else ""
    examples = "examples in its repository" if entry.examples else "no published examples"
    if entry.neuronpedia:
        examples += ", labels from Neuronpedia"
    facts = [entry.reference, KINDS[entry.cross_layer], features, examples]
    st.caption(plain(" · ".join(fact for fact in facts if fact)))
    if model.gated:
        address = f"{_HUB}/{model.reference.partition('@')[0]}"
        st.info(
            f"Gated ({plain(model.licence)}): accept the licence on [its page]({address}), then "
            "log in on this machine with `hf auth login`, or set `HF_TOKEN`.",
            icon=":material/lock:",
        )


def _needs(model: ListedModel, entry: ListedSet, dtype: Dtype, machine: Machine) -> None:
    """Draw the memory the model needs, line by line, and whether it fits."""
    needs = memory(model, entry, dtype)
    place = "the GPU" if machine.gpu is not None else "this machine"
    if needs.least is None:
        known = f"{format_bytes(needs.model)} in {dtype}" if needs.model else "unknown"
        st.markdown(
            f"Memory for the model's weights: **{known}**. The transcoders' encoders come on top; "
            "ask the Hub for their number of features."
        )
        if needs.model and needs.model > machine.room:
            st.error(f"Does not fit: {format_bytes(machine.room)} free on {place}.")
        return
    decoders = ("transcoder decoders", format_bytes(needs.decoders or 0))
    stay = ("transcoder decoders, read from disk", f":gray[{format_bytes(needs.decoders or 0)}]")
    rows = [
        ("model weights", format_bytes(needs.model or 0)),
        ("transcoder encoders", format_bytes(needs.encoders or 0)),
        *([] if needs.decoders_stay else [decoders]),
        ("**total memory**", f"**{format_bytes(needs.least)}**"),
        *([stay] if needs.decoders_stay else []),
    ]
    lines = "\n".join(f"| {what} | {size} |" for what, size in rows)
    st.markdown(f"| in {dtype} | |\n|:--|--:|\n{lines}")
    if not needs.decoders_stay:
        st.caption(
            "This layout can only be loaded completely. To read decoders from disk instead, "
            f"convert it once: `python -m tracer convert {entry.reference} FOLDER`, then add the "
            "folder below."
        )
    room = machine.room
    if needs.least > room:
        st.error(
            f"Does not fit: {format_bytes(needs.least)} needed, {format_bytes(room)} free on "
            f"{place}. {_remedy(model, entry, dtype, room)}"
        )
    else:
        left = room - needs.least
        st.success(f"Fits: {format_bytes(left)} remain free on {place} for prompts.")


def _remedy(model: ListedModel, entry: ListedSet, dtype: Dtype, room: int) -> str:
    narrow = memory(model, entry, "bfloat16").least
    if dtype == "float32" and narrow is not None and narrow <= room:
        return "It fits in bfloat16."
    return "Unload open models, choose a smaller one, or use a larger machine."


def _open_button(choice: ModelChoice, session: Session) -> None:
    if choice == session.choice:
        st.success("In use.", icon=":material/check:")
        if st.button("Go to Trace", key="to trace", type="primary"):
            st.switch_page(page_script("trace"))
        return
    if st.button("Use this model", key=f"use {choice}", type="primary"):
        use_model(choice)
        st.switch_page(page_script("trace"))


def _fetch(model: ListedModel, entry: ListedSet, choice: ModelChoice, machine: Machine) -> None:
    running = resources.backend().library.downloading(choice)
    if running is not None and running.state in ("queued", "running"):
        _progress(running)
        return
    if running is not None and running.state in ("failed", "cancelled"):
        _explain_failure(running)
    if not network_allowed():
        st.warning(
            "This model is not downloaded, and the app is offline: unset CIRCUIT_OFFLINE and "
            "HF_HUB_OFFLINE to download it."
        )
        return
    plan = _plan(choice)
    if plan is not None and plan.n_bytes > machine.free_disk:
        st.error(
            f"Not enough disk space: the download needs {format_bytes(plan.n_bytes)}, "
            f"{format_bytes(machine.free_disk)} are free. Free some space, or set HF_HOME to a "
            "folder on another disk."
        )
    estimate = disk(model, entry).whole
    size = f" about {format_bytes(estimate)}" if estimate else ""
    with st.container(horizontal=True, vertical_alignment="center"):
        _download(choice, f" {format_bytes(plan.n_bytes)}" if plan is not None else size)
        if plan is None:
            _ask(choice)


def _ask(choice: ModelChoice) -> None:
    """Draw the button that asks the Hub for the exact size, or that it is being asked."""
    key = _question(choice)
    if st.session_state.get(key) is not None:
        _asking(st.session_state[key])
    elif st.button("Ask the Hub for the exact size", key=f"ask {key}", type="tertiary"):
        st.session_state[key] = resources.backend().library.to_download(choice)
        st.rerun()


def _plan(choice: ModelChoice) -> ToDownload | None:
    """Return the Hub's answer about the download; None if it was not asked or has not answered."""
    key = _question(choice)
    job: Job[ToDownload] | None = st.session_state.get(key)
    if job is None or not progress.ends_within(job, progress.PATIENCE):
        return None
    try:
        return job.result()
    except TracerError as error:
        del st.session_state[key]
        st.error(plain(sentence(error)))
        return None


def _question(choice: ModelChoice) -> str:
    return f"size of {choice.model} {choice.transcoders}"


def _features(choice: ModelChoice, downloaded: bool) -> int | None:
    """Return the features per layer if the list does not say: from files here or on the Hub."""
    if downloaded:
        return resources.backend().library.features_here(choice)
    job: Job[ToDownload] | None = st.session_state.get(_question(choice))
    if job is None or job.state != "done":
        return None
    return job.result().features


@st.fragment(run_every=progress.POLL)
def _asking(job: Job[Any]) -> None:
    if not progress.is_active(job):
        st.rerun()
    st.caption("Asking the Hub …")


def _download(choice: ModelChoice, size: str) -> None:
    st.button(
        f"Download{size}",
        key=f"download {choice}",
        type="primary",
        on_click=_start_download,
        args=(choice,),
        help="From the Hugging Face Hub, at its current commit. An interrupted download resumes.",
    )


def _start_download(choice: ModelChoice) -> None:
    resources.backend().library.download(choice, visitor_id())


def _explain_failure(job: Job[Any]) -> None:
    try:
        job.result()
    except TracerError as error:
        if job.state == "cancelled":
            st.info("The download was stopped. It resumes from here when you start it again.")
        else:
            st.error(plain(sentence(error)))


@st.fragment(run_every=progress.POLL)
def _progress(job: Job[Any]) -> None:
    """Show how far a download is; redraw the page when it has ended."""
    if not progress.is_active(job):
        st.rerun()
    done, total, what = job.progress
    st.progress(min(done / total, 1.0) if total else 0.0, text=plain(f"{what} …"))
    if total:
        speed = f" · {format_bytes(int(done / job.seconds))}/s" if job.seconds and done else ""
        st.caption(f"{format_bytes(done)} of {format_bytes(total)}{speed}")
    if st.button("Stop", key="stop download"):
        progress.cancel(job)
        if not job.wait(progress.POLL):
            st.toast("The download continues: another visitor wants it too.")
        st.rerun()
