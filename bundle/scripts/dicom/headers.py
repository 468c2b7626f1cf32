"""What the headers of DICOM files say; no pixel is read here."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai.utils import optional_import

from ..reading import check_file

pydicom, _ = optional_import("pydicom")
InvalidDicomError, _ = optional_import("pydicom.errors", name="InvalidDicomError")

logger = logging.getLogger(__name__)

TAGS = [
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "SpecificCharacterSet",
    "SeriesDescription",
    "Modality",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "PixelSpacing",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "FrameOfReferenceUID",
    "PhotometricInterpretation",
    "SamplesPerPixel",
    "BitsAllocated",
    "PixelData",
]

DEFERRED = 1024
"""Values longer than this, in bytes, are passed over: pixels."""

UNDEFINED_LENGTH = 0xFFFFFFFF
"""Length of compressed pixels, which come in parts."""


@dataclass(frozen=True)
class DicomImage:
    """One DICOM file.

    Attributes:
        path: the file.
        uid: its SOPInstanceUID.
        description: of its series.
        size: rows and columns.
        frames: number of frames; 1 in classic DICOM.
        spacing: mm between rows and between columns; ``None`` where the header has none.
        position: of the first pixel's centre in mm, x to the left, y to the back, z to the head; or ``None``.
        orientation: direction cosines along a row, then along a column; or ``None``.
        frame: FrameOfReferenceUID, what positions are relative to; empty where the header has none.
        photometric: PhotometricInterpretation, e.g. ``MONOCHROME2``: grey values, the largest is white.
        missing_bytes: of the pixels, against rows, columns and bits of the header; 0 also where they are compressed.
    """

    path: Path
    uid: str
    description: str
    size: tuple[int, int]
    frames: int
    spacing: tuple[float, ...] | None
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    frame: str = ""
    photometric: str = ""
    missing_bytes: int = 0


@dataclass
class DicomSeries:
    """The images of one series, in no order."""

    uid: str
    study_uid: str
    description: str
    modality: str
    images: list[DicomImage] = field(default_factory=list)

    def __str__(self) -> str:
        """What errors say of the series."""
        return f"{self.description!r} ({self.modality}, {len(self.images)} images)"


def read_series(files: Iterable[str | Path]) -> list[DicomSeries]:
    """The series that the files belong to, ordered by description.

    Files that are no DICOM, and DICOM files without an image, such as DICOMDIR or reports, are passed over.

    Raises:
        ValueError: naming the file, when it is DICOM and its header is broken.
    """
    series: dict[str, DicomSeries] = {}
    for path in map(Path, files):
        header = _read_header(path)
        if header is None or "Rows" not in header:
            logger.debug("%s holds no DICOM image, passed over", path)
            continue
        try:
            uid = str(header.SeriesInstanceUID)
            if uid not in series:
                description, modality = (str(header.get(key) or "") for key in ("SeriesDescription", "Modality"))
                series[uid] = DicomSeries(uid, str(header.StudyInstanceUID), description, modality)
            series[uid].images.append(_image(path, header))
        except Exception as error:
            # pydicom decodes a value when it is asked for, and raises what the value makes it raise.
            raise ValueError(f"{path}: broken DICOM header ({error}).") from None
    return sorted(series.values(), key=lambda s: (s.description, s.uid))


def _read_header(path: Path) -> Any:
    """The tags of a DICOM file, ``None`` for any other file."""
    try:
        check_file(path)
        return pydicom.dcmread(path, defer_size=DEFERRED, specific_tags=TAGS)
    except InvalidDicomError:
        return None
    except Exception as error:
        raise ValueError(f"{path}: broken DICOM header ({type(error).__name__}: {error}).") from None


def _image(path: Path, header: Any) -> DicomImage:
    return DicomImage(
        path=path,
        uid=str(header.SOPInstanceUID),
        description=str(header.get("SeriesDescription") or ""),
        size=(int(header.Rows), int(header.Columns)),
        frames=int(header.get("NumberOfFrames") or 1),
        spacing=_numbers(header.get("PixelSpacing"), 2),
        position=_numbers(header.get("ImagePositionPatient"), 3),
        orientation=_numbers(header.get("ImageOrientationPatient"), 6),
        frame=str(header.get("FrameOfReferenceUID") or ""),
        photometric=str(header.get("PhotometricInterpretation") or ""),
        missing_bytes=_missing_bytes(path, header),
    )


def _missing_bytes(path: Path, header: Any) -> int:
    """How many bytes of pixels a file lacks; neither pydicom nor GDCM minds."""
    pixels = header.get_item("PixelData")
    bits = int(header.Rows) * int(header.Columns) * int(header.get("SamplesPerPixel") or 1) * int(header.BitsAllocated)
    wanted = int(header.get("NumberOfFrames") or 1) * bits // 8
    if pixels is None:
        return wanted
    if getattr(pixels, "is_undefined_length", False) or getattr(pixels, "length", None) == UNDEFINED_LENGTH:
        return 0
    if not hasattr(pixels, "length"):
        # pydicom has decoded the element already, and holds the bytes that there are.
        return max(wanted - len(pixels.value or b""), 0)
    held = path.stat().st_size - pixels.value_tell
    return max(wanted - min(int(pixels.length), held), 0)


def _numbers(values: Sequence | None, count: int) -> tuple[float, ...] | None:
    numbers = tuple(float(v) for v in values or ())
    return numbers if len(numbers) == count else None
