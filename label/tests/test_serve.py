"""The parts of the launcher that need no server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from bundle_runner import BUNDLE, ROOT


@pytest.fixture(scope="module")
def serve_module() -> ModuleType:
    sys.path.insert(0, str(ROOT / "label"))
    try:
        import serve
    finally:
        sys.path.remove(str(ROOT / "label"))
    return serve


def test_a_bundle_that_the_server_would_leave_out_is_refused(serve_module: ModuleType, tmp_path: Path):
    serve_module.check_bundle(BUNDLE, "masked_bernoulli")
    (tmp_path / "configs").mkdir()
    for name in ("inference.json", "metadata.json"):
        (tmp_path / "configs" / name).write_text("{}")
    with pytest.raises(SystemExit, match=r"models/model\.pt missing"):
        serve_module.check_bundle(tmp_path, "name")
    with pytest.raises(SystemExit, match="'anomaly_detection' holds 'detection'"):
        serve_module.check_bundle(BUNDLE, "anomaly_detection")


def test_the_command_line_says_what_is_missing(tmp_path: Path):
    command = [sys.executable, ROOT / "label" / "serve.py", "--bundle", tmp_path, "--studies", tmp_path]
    result = subprocess.run([str(word) for word in command], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1 and "configs/inference.json" in result.stderr and "Traceback" not in result.stderr


def test_the_link_is_renewed_and_nothing_else_replaced(serve_module: ModuleType, tmp_path: Path):
    app = tmp_path / "app"
    (app / "model").mkdir(parents=True)
    (app / "main.py").touch()
    for bundle in (tmp_path / "first", tmp_path / "second"):
        bundle.mkdir()
        serve_module.make_app(app, bundle, "name")
        assert (app / "model" / "name").resolve() == bundle
    (app / "model" / "folder").mkdir()
    with pytest.raises(SystemExit, match="folder is not a link"):
        serve_module.make_app(app, tmp_path / "first", "folder")


@pytest.mark.parametrize(
    ("value", "allowed"),
    [
        *[(value, True) for value in (3, 0.5, None, "", "0.5")],
        *[(value, False) for value in ("$1", "@seed", "%a", " $1", {"_target_": "os.system"}, ["$1"])],
    ],
)
def test_settings_that_the_parser_would_run_are_refused(serve_module: ModuleType, value: object, allowed: bool):
    app = SimpleNamespace(_infers={"model": SimpleNamespace(displayable_configs={"level": 1})})
    infer = serve_module.guarded(lambda self, request, datastore=None: "answer")
    if allowed:
        assert infer(app, {"model": "model", "level": value, "device": ["cpu"], "other": "$1"}) == "answer"
        return
    for key in ("level", "device"):
        with pytest.raises(ValueError, match=f"{key}: a number or a plain word is wanted"):
            infer(app, {"model": "model", key: value})


def test_the_reason_is_the_first_cause(serve_module: ModuleType):
    def wrapped(error: Exception) -> Exception:
        outer = RuntimeError("outer")
        outer.__cause__ = error
        return outer

    assert serve_module.reason(wrapped(ValueError("wrong"))) == (400, "wrong")
    assert serve_module.reason(wrapped(FileNotFoundError("no file"))) == (500, "no file")
    assert serve_module.reason(KeyError("key")) == (500, "KeyError: 'key'")
    with pytest.raises(json.JSONDecodeError) as caught:
        json.loads("{")
    assert serve_module.reason(caught.value)[1].startswith("params: not JSON")
