"""A stand-in for Neuronpedia's feature API that answers what a test tells it to."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler
from typing import Any

from local_server import LocalServer


class NeuronpediaServer(LocalServer):
    """Answers ``GET /api/feature/<model>/<layer>-<source set>/<index>`` from ``answers``."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        """``"model/3-set/417"`` -> value to send as JSON, or bytes to send unchanged."""
        self.status = 200
        self.headers: dict[str, str] = {}
        self.requests: list[str] = []
        super().__init__(_handler(self))


def _handler(neuronpedia: NeuronpediaServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):  # HTTP/1.0: one connection per request
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            feature = self.path.removeprefix("/api/feature/")
            neuronpedia.requests.append(feature)
            answer = neuronpedia.answers.get(feature)
            status = neuronpedia.status
            if status == 200 and answer is None:
                status = 404
            self.send_response(status)
            for name, value in neuronpedia.headers.items():
                self.send_header(name, value)
            self.end_headers()
            content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            try:
                self.wfile.write(content)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the client has read enough

    return Handler


def feature(**changes: Any) -> dict[str, Any]:
    """Return an answer in the API's form, with ``changes``."""
    answer = {
        "explanations": [{"description": "Texan cities", "typeName": "np_acts-logits-general"}],
        "activations": [
            {"tokens": [" in", " Dallas"], "values": [0.0, 2.5], "maxValue": 2.5},
            {"tokens": [" in", " Austin"], "values": [0.5, 9.5], "maxValue": 9.5},
        ],
        "pos_str": [" Texas", " TX"],
        "pos_values": [1.5, 1.0],
        "neg_str": [" Paris"],
        "neg_values": [-0.5],
        "maxActApprox": 9.5,
        "frac_nonzero": 0.002,
        "freq_hist_data_bar_heights": [5, 2],
        "freq_hist_data_bar_values": [2.0, 7.0],
    }
    return answer | changes
