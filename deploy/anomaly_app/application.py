"""The graph of operators."""

from __future__ import annotations

import logging
from pathlib import Path

from monai.deploy.conditions import CountCondition
from monai.deploy.core import Application
from monai.deploy.operators.dicom_data_loader_operator import DICOMDataLoaderOperator
from monai.deploy.operators.dicom_seg_writer_operator import DICOMSegmentationWriterOperator, SegmentDescription
from monai.deploy.operators.dicom_utils import ModelInfo
from pydicom.sr.codedict import codes

from .bundle import Bundle, find_bundle
from .dicom_operators import DicomInferenceOperator, SequenceSelectorOperator
from .map_writer import ParametricMapWriterOperator
from .nifti_operator import NiftiInferenceOperator

logger = logging.getLogger(__name__)

SEGMENTATION_DESCRIPTION = "Anomaly segmentation - research only"
MAP_DESCRIPTION = "Anomaly map - research only"


class AnomalyApplication(Application):
    """Anomaly detection by the bundle.

    DICOM in: the study's series are selected by ``configs/data/dicom.json`` and become a DICOM SEG of the segmentation,
    a DICOM parametric map of the anomaly map, and ``scores.csv``. NIfTI in: what ``run inference`` writes.

    Paths come from the command line (``-i``, ``-o``, ``-m``) or the SDK's environment variables; ``bundle: settings:``
    of ``app.yaml`` changes settings of the bundle's configuration.
    """

    def compose(self) -> None:
        """Connect the operators that the input needs.

        Raises:
            ValueError: when the model path holds no bundle.
            FileNotFoundError: when there is no input folder.
        """
        context = Application.init_app_context(self.argv)
        source, target = Path(context.input_path).resolve(), Path(context.output_path).resolve()
        if not source.is_dir():
            raise FileNotFoundError(f"input: {str(source)!r} is not a folder.")
        # The SDK takes every file under the model path for a TorchScript model; this is a bundle's folder.
        context.models = None
        bundle = Bundle(find_bundle(Path(context.model_path)), self.kwargs("bundle").get("settings") or {})
        if bundle.holds_volumes(source):
            self._compose_nifti(bundle, source, target)
        else:
            self._compose_dicom(bundle, source, target)

    def _compose_nifti(self, bundle: Bundle, source: Path, target: Path) -> None:
        logger.info("NIfTI in %s", source)
        once = CountCondition(self, 1)
        self.add_operator(NiftiInferenceOperator(self, once, bundle=bundle, source=source, target=target, name="nifti"))

    def _compose_dicom(self, bundle: Bundle, source: Path, target: Path) -> None:
        logger.info("DICOM in %s", source)
        loader = DICOMDataLoaderOperator(self, CountCondition(self, 1), input_folder=source, name="loader")
        selector = SequenceSelectorOperator(self, bundle=bundle, source=source, name="selector")
        inference = DicomInferenceOperator(self, bundle=bundle, source=source, target=target, name="inference")
        segmentation = self._segmentation_writer(bundle, target)
        maps = ParametricMapWriterOperator(
            self,
            bundle_metadata=bundle.metadata,
            series_description=MAP_DESCRIPTION,
            output_folder=target,
            name="map_writer",
        )
        series = ("study_selected_series_list", "study_selected_series_list")
        self.add_flow(loader, selector, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(selector, inference, {series})
        self.add_flow(inference, segmentation, {series, ("seg_image", "seg_image")})
        self.add_flow(inference, maps, {series, ("anomaly_map", "anomaly_map")})

    def _segmentation_writer(self, bundle: Bundle, target: Path) -> DICOMSegmentationWriterOperator:
        metadata = bundle.metadata
        anomaly = SegmentDescription(
            segment_label="anomaly",
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.MorphologicallyAbnormalStructure,
            algorithm_name=metadata["name"][:64],
            algorithm_version=metadata["version"],
        )
        return DICOMSegmentationWriterOperator(
            self,
            segment_descriptions=[anomaly],
            output_folder=target,
            model_info=ModelInfo(metadata["authors"][:64], metadata["name"][:64], metadata["version"]),
            custom_tags={"SeriesDescription": SEGMENTATION_DESCRIPTION},
            name="segmentation_writer",
        )
