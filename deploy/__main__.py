"""Entry point: ``python deploy -i INPUT -o OUTPUT -m BUNDLE``, or the container that was packaged from this folder."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from anomaly_app.application import AnomalyApplication
from monai.deploy.exceptions import MONAIAppSdkError

logger = logging.getLogger("anomaly_app")


def main() -> int:
    """Run the application; the exit code is 1 when a subject could not be processed or the input cannot be used.

    What went wrong is the last line of the log; errors that nobody expected end with a traceback.
    """
    application = AnomalyApplication()
    # In a container the packager sets this variable.
    application.config(os.environ.get("HOLOSCAN_CONFIG_PATH", str(Path(__file__).with_name("app.yaml"))))
    try:
        application.run()
    except Exception as error:
        cause = first_cause(error)
        if not isinstance(cause, (ValueError, OSError, MONAIAppSdkError)):
            raise
        logger.error("%s", cause)
        return 1
    return 0


def first_cause(error: BaseException) -> BaseException:
    """What a chain of errors started with: MONAI's configuration wraps errors in its own."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


if __name__ == "__main__":
    sys.exit(main())
