"""NIfTI in, NIfTI out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai.deploy.core import Fragment, Operator

from .bundle import Bundle


class NiftiInferenceOperator(Operator):
    """Run the bundle's inference over a folder of subjects, as its ``dataset_dir``.

    Args:
        fragment: the application.
        bundle: the bundle.
        source: folder of subjects, in a layout that the bundle reads.
        target: folder of the results.

    Raises (when run):
        ValueError: naming the subjects that failed and why; the others are finished.
    """

    def __init__(self, fragment: Fragment, *args: Any, bundle: Bundle, source: Path, target: Path, **kwargs: Any):
        self.bundle, self.source, self.target = bundle, source, target
        super().__init__(fragment, *args, **kwargs)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Process all subjects."""
        self.bundle.run([], dataset_dir=str(self.source), output_dir=str(self.target))
