"""The anomaly map as DICOM parametric map."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
from monai.deploy.core import Fragment, Operator, OperatorSpec
from pydicom import Dataset
from pydicom.sr.codedict import codes

SERIES_NUMBER = 9001


class ParametricMapWriterOperator(Operator):
    """Writes floats as a DICOM parametric map that refers to the series they were made from.

    Named inputs:
        study_selected_series_list: the first series of the first study is what the frames lie on.
        anomaly_map: Image of float32 (slices, rows, columns), a slice an instance of that series.
    File output:
        ``<SOPInstanceUID>.dcm`` in the output folder.

    Args:
        fragment: the application.
        bundle_metadata: its name, version and authors are noted as the equipment.
        series_description: SeriesDescription, at most 64 characters.
        output_folder: where the file goes.
    """

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        bundle_metadata: Mapping[str, Any],
        series_description: str,
        output_folder: Path,
        **kwargs: Any,
    ) -> None:
        self.bundle_metadata, self.series_description = bundle_metadata, series_description
        self.output_folder = output_folder
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Declare the ports."""
        spec.input("study_selected_series_list")
        spec.input("anomaly_map")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Write the file."""
        series = op_input.receive("study_selected_series_list")[0].selected_series[0].series
        images = [sop.get_native_sop_instance() for sop in series.get_sop_instances()]
        values = op_input.receive("anomaly_map").asnumpy()
        result = parametric_map(images, values, self.series_description, self.bundle_metadata)
        self.output_folder.mkdir(parents=True, exist_ok=True)
        result.save_as(self.output_folder / f"{result.SOPInstanceUID}.dcm")


def parametric_map(
    images: list[Dataset], values: np.ndarray, description: str, metadata: Mapping[str, Any]
) -> hd.pm.ParametricMap:
    """A parametric map, stored as 32-bit floats.

    Args:
        images: the source images, one a slice.
        values: (slices, rows, columns), float32, at least 0, without unit.
        description: SeriesDescription.
        metadata: name, version and authors.
    """
    highest = max(float(values.max()), float(np.finfo(np.float32).tiny))
    mapping = hd.pm.RealWorldValueMapping(
        lut_label="ANOMALY",
        lut_explanation="anomaly score without unit",
        unit=codes.UCUM.NoUnits,
        value_range=(0.0, highest),
        slope=1.0,
        intercept=0.0,
    )
    return hd.pm.ParametricMap(
        images,
        values,
        series_instance_uid=hd.UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=metadata["authors"][:64],
        manufacturer_model_name=metadata["name"][:64],
        software_versions=metadata["version"],
        device_serial_number="none",
        # The map of a head may show its face.
        contains_recognizable_visual_features=True,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[hd.VOILUTTransformation(window_center=highest / 2, window_width=highest)],
        content_label="ANOMALY_MAP",
        content_description="Anomaly map, for research only",
        series_description=description,
    )
