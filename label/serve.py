"""Start a MONAI Label server with one bundle, offline.

    .venv-label/bin/python label/serve.py --bundle bundle --studies my_volumes

Copies MONAI Label's own ``monaibundle`` application once, links the bundle into it, and starts the server's usual
command line. What it adds to that: the CPU build of torch works beside a CUDA build of torchvision, clients get the
reason of an error, and settings in a request cannot carry code.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import importlib.util
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger("label.serve")

NEEDED = ("configs/inference.json", "configs/metadata.json", "models/model.pt")
OTHER_TASKS = ("detection", "deepedit", "deepgrow", "classification")
"""Words in a model's name by which MONAI Label takes it for another task than segmentation."""

TORCHVISION_OPERATORS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
"""Operators that importing torchvision takes for granted."""

CODE = "$@%"
"""Characters by which MONAI's configuration parser knows expressions, references and macros."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True, help="the bundle's folder")
    parser.add_argument("--studies", required=True, help="folder of images, or the address of a DICOMweb server")
    parser.add_argument("--name", help="name of the model, by default the bundle folder's")
    parser.add_argument("--app", type=Path, default=Path("output/label_app"), help="where the application is kept")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in, without a password")
    parser.add_argument("--port", type=int, default=8000)
    return parser.parse_args()


def check_bundle(bundle: Path, name: str) -> None:
    """Refuse what the server would leave out in silence.

    Raises:
        SystemExit: naming the file that is missing, or the word in the name.
    """
    missing = [str(bundle / path) for path in NEEDED if not (bundle / path).is_file()]
    if missing:
        raise SystemExit(f"--bundle: {', '.join(missing)} missing.")
    words = [word for word in OTHER_TASKS if word in name.lower()]
    if words:
        raise SystemExit(f"--name: {name!r} holds {words[0]!r}, MONAI Label would take it for another kind of task.")


def make_app(app: Path, bundle: Path, name: str) -> None:
    """Copy MONAI Label's application for bundles to ``app``, once, and link ``bundle`` into it.

    Raises:
        SystemExit: when something else lies where the link goes.
    """
    if not (app / "main.py").is_file():
        source = Path(sys.prefix) / "monailabel" / "sample-apps" / "monaibundle"
        shutil.copytree(source, app, ignore=shutil.ignore_patterns("logs", "model", "__pycache__"), dirs_exist_ok=True)
    link = app / "model" / name
    link.parent.mkdir(exist_ok=True)
    if link.is_symlink():
        link.unlink()
    elif link.exists():
        raise SystemExit(f"--app: {link} is not a link, it would be replaced.")
    link.symlink_to(bundle.resolve(), target_is_directory=True)


def predefine_operators() -> None:
    """Let torchvision be imported where its compiled library cannot be loaded.

    Built for CUDA beside a CPU build of torch, it lacks the operators whose shapes it describes on import, and fails.
    MONAI Label uses nothing of it but pictures.
    """
    import torch

    spec = importlib.util.find_spec("torchvision")
    folder = Path(next(iter(spec.submodule_search_locations or []))) if spec else None
    try:
        ctypes.CDLL(str(next(folder.glob("_C*.so")))) if folder else None
    except (OSError, StopIteration):
        logger.info("torchvision's compiled library does not fit this torch, its operators stay undefined")
        for name, schema in TORCHVISION_OPERATORS.items():
            torch.library.define(f"torchvision::{name}", schema)


def guarded(infer: Callable[..., Any]) -> Callable[..., Any]:
    """``MONAILabelApp.infer`` that refuses settings which MONAI's configuration parser would run as code.

    The server writes a request's settings into the bundle's configuration, and that may hold expressions.

    Raises (when called):
        ValueError: naming the setting.
    """

    @functools.wraps(infer)
    def checked(self: Any, request: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        task = self._infers.get(request.get("model"))
        for key in ("device", *getattr(task, "displayable_configs", ())):
            value = request.get(key)
            values = value if key == "device" and isinstance(value, list) else [value]
            for one in values:
                if not isinstance(one, (int, float, str, type(None))) or (set(str(one)) & set(CODE)):
                    raise ValueError(f"{key}: a number or a plain word is wanted, got {one!r}.")
        return infer(self, request, *args, **kwargs)

    return checked


def reason(error: BaseException) -> tuple[int, str]:
    """HTTP status and message of an error: those of its first cause, since MONAI's parser and transforms wrap it.

    What a request can cause, a wrong setting or a wrong image, is 400; the rest is 500.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, json.JSONDecodeError):
        return 400, f"params: not JSON ({error})."
    if isinstance(error, ValueError):
        return 400, str(error)
    message = getattr(error, "msg", None) or str(error)
    return 500, message if isinstance(error, OSError) else f"{type(error).__name__}: {message}"


def answer_errors(app: Any) -> None:
    """Have the FastAPI application answer an error with its reason, where it would say ``Internal Server Error``."""
    from fastapi.responses import JSONResponse
    from monailabel.interfaces.exception import MONAILabelException

    async def answer(request: Any, error: Exception) -> JSONResponse:
        logger.error("%s failed", request.url.path, exc_info=error)
        status, message = reason(error)
        return JSONResponse({"detail": message}, status)

    # Not for Exception itself: that handler would sit outside the one that lets browsers read the answer.
    for kind in (ValueError, OSError, RuntimeError, LookupError, AttributeError, TypeError, MONAILabelException):
        app.add_exception_handler(kind, answer)


def main() -> None:
    """Start the server; ends with it."""
    options = arguments()
    name = options.name or options.bundle.resolve().name
    check_bundle(options.bundle, name)
    make_app(options.app, options.bundle, name)
    # Read when mlflow is imported, which MONAI does.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    predefine_operators()
    import monailabel.app
    from monailabel.interfaces.app import MONAILabelApp
    from monailabel.main import Main

    MONAILabelApp.infer = guarded(MONAILabelApp.infer)
    answer_errors(monailabel.app.app)
    settings = {"models": name, "zoo_source": "local", "skip_trainers": "true", "sam2": "false"}
    command = ["start_server", "--app", str(options.app), "--studies", options.studies]
    command += ["--host", options.host, "--port", str(options.port)]
    sys.argv[1:] = command + [word for pair in settings.items() for word in ("--conf", *pair)]
    status = 0
    try:
        Main().run()
    except KeyboardInterrupt:
        pass
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    logging.shutdown()
    # A timer of the server's would keep the process for another half minute.
    os._exit(status)


if __name__ == "__main__":
    main()
