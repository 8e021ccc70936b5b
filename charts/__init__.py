"""Plotly figures, layouts and sentences from tracer's dataclasses. No Streamlit, no torch."""
