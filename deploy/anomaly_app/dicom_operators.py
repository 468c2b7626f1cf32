"""From a DICOM study to arrays whose first axis is the slices of the first sequence's series."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.deploy.core import Fragment, Image, Operator, OperatorSpec
from monai.deploy.core.domain.dicom_series import DICOMSeries
from monai.deploy.core.domain.dicom_series_selection import SelectedSeries, StudySelectedSeries
from monai.deploy.core.domain.dicom_study import DICOMStudy
from monai.deploy.operators.dicom_series_selector_operator import DICOMSeriesSelectorOperator

from .bundle import Bundle

logger = logging.getLogger(__name__)

SERIES = "study_selected_series_list"

DICOM = "data/dicom"
"""The bundle's overlay for DICOM."""


class SequenceSelectorOperator(DICOMSeriesSelectorOperator):
    """Selects one series a sequence by the rules of the bundle's ``configs/data/dicom.json``; checks their geometry.

    Named input:
        dicom_study_list: a list of one DICOMStudy.
    Named output:
        study_selected_series_list: a list of one StudySelectedSeries, its series in the order of the sequences, their
            instances in the order of the slices.

    Args:
        fragment: the application.
        bundle: the bundle.
        source: folder of the study.

    Raises (when run):
        ValueError: when there are several studies, or as :class:`LoadDicomSubjectd` of the bundle does.
    """

    def __init__(self, fragment: Fragment, *args: Any, bundle: Bundle, source: Path, **kwargs: Any) -> None:
        self.bundle, self.source = bundle, source
        super().__init__(fragment, *args, **kwargs)

    def filter(
        self, selection_rules: Any, dicom_study_list: Sequence[DICOMStudy], *args: Any, **kwargs: Any
    ) -> list[StudySelectedSeries]:
        """The selected series of the one study."""
        if len(dicom_study_list) != 1:
            raise ValueError(f"{self.source}: {len(dicom_study_list)} DICOM studies, wanted one.")
        study = dicom_study_list[0]
        loader = self.bundle.workflow([DICOM]).parser.get_parsed_content("load")
        result = StudySelectedSeries(study)
        for sequence, images in loader.select(dicom_files(self.source), str(self.source)).items():
            result.add_selected_series(SelectedSeries(sequence, _ordered(images, study.get_all_series())))
        return [result]


class DicomInferenceOperator(Operator):
    """Runs the bundle over the study.

    Named input:
        study_selected_series_list: as :class:`SequenceSelectorOperator` puts out.
    Named outputs:
        study_selected_series_list: the same.
        seg_image: Image of uint8 (slices, rows, columns), 0 or 1.
        anomaly_map: Image of float32 (slices, rows, columns), at least 0.
    File output:
        scores.csv: a row a slice.
    """

    def __init__(self, fragment: Fragment, *args: Any, bundle: Bundle, source: Path, target: Path, **kwargs: Any):
        self.bundle, self.source, self.target = bundle, source, target
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Declare the ports."""
        spec.input(SERIES)
        for name in (SERIES, "seg_image", "anomaly_map"):
            spec.output(name)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Process the study."""
        studies = op_input.receive(SERIES)
        files = [
            sop.get_native_sop_instance().filename
            for selected in studies[0].selected_series
            for sop in selected.series.get_sop_instances()
        ]
        output = self._infer([str(path) for path in files])
        op_output.emit(studies, SERIES)
        op_output.emit(Image(_frames(output["pred"]).astype(np.uint8)), "seg_image")
        op_output.emit(Image(_frames(output["anomaly_map"])), "anomaly_map")

    def _infer(self, files: list[str]) -> dict[str, Any]:
        item = {"subject": "study", "patient": "study", "folder": str(self.source), "image": files}
        with tempfile.TemporaryDirectory() as folder:
            outputs = self.bundle.run([DICOM], datalist=[item], output_dir=folder)
            self.target.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path(folder) / "scores.csv", self.target / "scores.csv")
        return outputs[0]


def dicom_files(folder: Path) -> list[str]:
    """Every file at any depth."""
    return sorted(str(path) for path in folder.rglob("*") if path.is_file())


def _ordered(images: Sequence[Any], loaded: Sequence[DICOMSeries]) -> DICOMSeries:
    """The SDK's series of the bundle's ``images``, with these alone and in their order.

    Raises:
        ValueError: when the SDK has left out an image.
    """
    instances = {
        sop.get_native_sop_instance().SOPInstanceUID: (series, sop.get_native_sop_instance())
        for series in loaded
        for sop in series.get_sop_instances()
    }
    lacking = [str(image.path) for image in images if image.uid not in instances]
    if lacking:
        raise ValueError(f"{lacking[0]}: MONAI Deploy could not load it; its warning is above.")
    series, _ = instances[images[0].uid]
    result = DICOMSeries(series.SeriesInstanceUID)
    result.SeriesDescription, result.Modality = series.SeriesDescription, series.Modality
    for image in images:
        result.add_sop_instance(instances[image.uid][1])
    return result


def _frames(volume: Any) -> np.ndarray:
    """(slices, rows, columns) of a volume (1, columns, rows, slices)."""
    return np.ascontiguousarray(np.asarray(volume[0].detach().cpu().numpy(), dtype=np.float32).T)
