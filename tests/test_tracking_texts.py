"""Names, parameters and the address of the server, as the tracked workflows share them."""

from __future__ import annotations

import http.server
import re
import socket
import threading
import time

import pytest

from scripts.tracking import LONGEST_VALUE, as_parameters, check_server, run_name


def test_a_run_is_named_after_what_ran():
    assert re.fullmatch(r"diffusion t1\+flair \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", run_name("diffusion", ["t1", "flair"]))


def test_parameters_can_be_read():
    settings = {
        "none": None,
        "flag": True,
        "rate": 1e-4,
        "weights": [-0.5, 1.0],
        "range": (80, None),
        "empty": {},
        "score": {"name": "signed", "inner": {"sigma": 2.0}},
        "steps": [{"name": "Smooth", "size": 5}, {"size": 2}],
        "long": "y" * 900,
    }
    assert as_parameters(settings, "masked/") == {
        "masked/none": "none",
        "masked/flag": "true",
        "masked/rate": "0.0001",
        "masked/weights": "-0.5, 1",
        "masked/range": "80, none",
        "masked/empty": "{}",
        "masked/score.name": "signed",
        "masked/score.inner.sigma": "2",
        "masked/steps.Smooth.name": "Smooth",
        "masked/steps.Smooth.size": "5",
        "masked/steps.1.size": "2",
        "masked/long": "y" * LONGEST_VALUE,
    }


def test_a_server_that_does_not_answer_is_named_at_once():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(ConnectionError, match=f"tracking_uri: no server answers at '{uri}'"):
            check_server(uri)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("status", [200, 401, 404])
def test_a_server_that_answers_is_there(status: int):
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        check_server(f"http://127.0.0.1:{server.server_port}")
        thread.join()


def test_a_local_store_is_not_asked(tmp_path):
    check_server(f"sqlite:///{tmp_path}/none/mlruns.db")
