"""Changes of what is looked for, and tables whose cells open a feature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import pandas as pd
import streamlit as st

from pages.shared.session import read_session, update_session
from tracer.types import FeatureId

_OPENED: Final = "features opened"


def change(**changes: Any) -> None:
    """Replace parts of what is looked for."""
    update_session(finding=replace(read_session().finding, **changes))


def open_feature(feature: FeatureId | None) -> None:
    """Show a feature's own page, or with None the page it was opened from."""
    st.session_state[_OPENED] = st.session_state.get(_OPENED, 0) + 1
    change(feature=feature)


def feature_table(
    table: pd.DataFrame,
    features: Sequence[FeatureId],
    key: str,
    columns: Mapping[str, Any],
    height: int | None = None,
) -> None:
    """Draw a table with a row for each of ``features``; a click on a row opens its feature."""
    # Another key after a feature was opened: the selected cell would open it again.
    event = st.dataframe(
        table,
        key=f"{key} {st.session_state.get(_OPENED, 0)}",
        hide_index=True,
        on_select="rerun",
        selection_mode="single-cell",
        column_config=dict(columns),
        height="auto" if height is None else height,
    )
    cells = event["selection"]["cells"]
    if cells and 0 <= int(cells[0][0]) < len(features):
        open_feature(features[int(cells[0][0])])
        st.rerun()
