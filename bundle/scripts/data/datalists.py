"""From folders to data lists: one dictionary a subject, which the loading transforms understand.

Every function returns dictionaries with ``subject`` (the name results carry), ``patient`` (what splits keep
together), ``image`` (one file or one a sequence) and, where there is one, ``label``; image folders carry
``healthy`` instead. A subject that cannot be loaded gets ``problem``, a sentence, so that the others go on: a file
is missing or none (a folder, FIFO, device, broken link), a folder cannot be listed, the name cannot be that of a folder
of results (:mod:`scripts.data.names`). Nothing is opened here.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..texts import printable
from .names import check_names
from .scanning import files_below, files_of, files_problem, is_folder, listing_problem, visible, walk

VOLUME_EXTENSIONS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
BRATS_PATIENT = r"^(BraTS-[A-Za-z]+-\d+)-\d+$"
"""BraTS since 2023 names a subject after patient and time point."""


def find_volumes(
    dataset_dir: str,
    sequences: Sequence[str],
    sequence_suffixes: Mapping[str, Sequence[str]],
    label_suffixes: Sequence[str] = ("seg",),
    patient_pattern: str = BRATS_PATIENT,
) -> list[dict]:
    """Subjects of a folder: sub-folders with one file a sequence, and files that hold all sequences.

    A sub-folder ``S`` is a subject when it holds volumes: ``S_t1.nii.gz`` or ``S-t1n.nii.gz`` and so on, one for
    each sequence, and maybe ``S_seg.nii.gz``. A file ``S.nii.gz`` beside the folders is a subject whose last axis
    is the sequences in the configured order; its label is ``S_seg.nii.gz``.

    Args:
        dataset_dir: the folder.
        sequences: names, in the order of the image channels.
        sequence_suffixes: for each name the file name endings it may have, without separator.
        label_suffixes: file name endings of the label.
        patient_pattern: regular expression on the subject's name; its first group is the patient. Names that do not
            match are a patient each.

    Raises:
        FileNotFoundError: when the folder is missing or holds no subject.
    """
    folder = _existing_folder(dataset_dir)
    named: list[Path] = []
    others: list[Path] = []
    for path in visible(folder):
        (named if path.name.lower().endswith(VOLUME_EXTENSIONS) and not is_folder(path) else others).append(path)
    items = []
    for sub in others:
        files, problem = files_of(sub, VOLUME_EXTENSIONS)
        if problem:
            items.append({"subject": sub.name, "problem": f"{sub}: {problem}."})
        elif files:
            items.append(_subject_of_folder(sub, files, sequences, sequence_suffixes, label_suffixes))
    items += _subjects_of_files(named, label_suffixes)
    for item in items:
        item["patient"] = _patient(item["subject"], patient_pattern)
    return _finished(items, folder, f"sub-folders or files ending in {', '.join(VOLUME_EXTENSIONS)}")


def find_images(
    dataset_dir: str, healthy_folders: Sequence[str] = ("normal",), patient_pattern: str = r"^[A-Za-z]+-(\d+)-\d+$"
) -> list[dict]:
    """2D images below a folder, e.g. of OCT2017: ``normal/NORMAL-1384-2.jpeg``.

    Args:
        dataset_dir: the folder, searched at any depth.
        healthy_folders: names (case does not matter) of folders whose images are healthy.
        patient_pattern: regular expression on the name without extension; its first group is the patient. Names
            that do not match are a patient each.

    Raises:
        FileNotFoundError: when the folder is missing or holds no image.
    """
    folder = _existing_folder(dataset_dir)
    paths, problems = files_below(folder, IMAGE_EXTENSIONS)
    healthy = {name.lower() for name in healthy_folders}
    items = [
        {
            "subject": name,
            "patient": _patient(path.stem, patient_pattern),
            "image": str(path),
            # The folder may be given as "."
            "healthy": os.path.basename(os.path.dirname(os.path.abspath(path))).lower() in healthy,
        }
        for path, name in zip(paths, _unique_names(paths, folder), strict=True)
    ]
    return _finished(items + problems, folder, f"images ending in {', '.join(IMAGE_EXTENSIONS)}")


def find_prepared_slices(dataset_dir: str) -> list[dict]:
    """Slices prepared as NIfTI arrays (channel, 256, 256), at any depth below a folder.

    Their names do not tell the patient, so each is one of its own: a split that keeps patients apart has to be given.

    Raises:
        FileNotFoundError: when the folder is missing or holds none.
    """
    folder = _existing_folder(dataset_dir)
    paths, problems = files_below(folder, (".nii.gz", ".nii"))
    names = _unique_names(paths, folder)
    items = [{"subject": n, "patient": n, "image": str(p)} for p, n in zip(paths, names, strict=True)]
    return _finished(items + problems, folder, "files ending in .nii.gz or .nii")


def find_studies(dataset_dir: str, patient_pattern: str = BRATS_PATIENT) -> list[dict]:
    """DICOM studies: every sub-folder with files at any depth, e.g. a folder a series, is a subject.

    ``image`` is all of these files; which of them are the subject's sequences is found when they are loaded.

    Args:
        dataset_dir: the folder.
        patient_pattern: as in :func:`find_volumes`.

    Raises:
        FileNotFoundError: when the folder is missing or no sub-folder holds a file.
    """
    folder = _existing_folder(dataset_dir)
    items = []
    for sub in filter(is_folder, visible(folder)):
        found = list(walk(sub))
        problem = next((f"{path}: {problem}." for path, problem in found if problem), None)
        if found:
            item = {"subject": sub.name, "patient": _patient(sub.name, patient_pattern), "folder": str(sub)}
            # What a study lacks would be missed by nobody.
            items.append({**item, **({"problem": problem} if problem else {"image": [str(path) for path, _ in found]})})
    return _finished(items, folder, "sub-folders, one a subject, with DICOM files")


def _existing_folder(path: str) -> Path:
    folder = Path(path)
    if not is_folder(folder):
        raise FileNotFoundError(f"dataset_dir {path!r} is not a folder.")
    try:
        visible(folder)
    except OSError as error:
        raise OSError(f"dataset_dir {path!r} {listing_problem(error)}.") from None
    return folder


def _finished(items: list[dict], folder: Path, wanted: str) -> list[dict]:
    """The items, with a ``problem`` where a file is none or the name cannot be a subject's."""
    if not items:
        raise FileNotFoundError(f"no subjects in {str(folder)!r}: wanted {wanted}.")
    for item in items:
        image = item.get("image", [])
        paths = [image] if isinstance(image, str) else [*image]
        if "problem" not in item and (problem := files_problem([*paths, *filter(None, [item.get("label")])])):
            item["problem"] = problem
    check_names(items, str(folder))
    for item in items:
        if "problem" in item:
            item["problem"] = printable(item["problem"])
    return items


def _patient(name: str, pattern: str) -> str:
    match = re.match(pattern, name)
    return match.group(1) if match else name


def _unique_names(paths: Sequence[Path], folder: Path) -> list[str]:
    """File names without extension; where several are the same, with the folders below ``folder`` or the extension."""

    def below(path: Path) -> str:
        return "_".join((*path.relative_to(folder).parts[:-1], _stem(path)))

    short, long = Counter(map(_stem, paths)), Counter(map(below, paths))
    return [
        _stem(p) if short[_stem(p)] == 1 else below(p) if long[below(p)] == 1 else f"{below(p)}_{p.suffix[1:]}"
        for p in paths
    ]


def _stem(path: Path) -> str:
    """File name without a volume extension."""
    extension = next((e for e in VOLUME_EXTENSIONS if path.name.lower().endswith(e)), path.suffix)
    return path.name[: len(path.name) - len(extension)]


def _matching(files: Sequence[Path], suffixes: Sequence[str]) -> list[Path]:
    """Files whose name ends in one of the suffixes after ``_`` or ``-``, whatever the case."""
    endings = tuple(f"{separator}{suffix}".lower() for suffix in suffixes for separator in "_-")
    return [p for p in files if _stem(p).lower().endswith(endings)]


def _subject_of_folder(
    folder: Path,
    files: Sequence[Path],
    sequences: Sequence[str],
    sequence_suffixes: Mapping[str, Sequence[str]],
    label_suffixes: Sequence[str],
) -> dict:
    item: dict = {"subject": folder.name}
    image = []
    for name in sequences:
        found = _matching(files, sequence_suffixes[name])
        if len(found) != 1:
            wanted = " or ".join(f"*_{suffix}" for suffix in sequence_suffixes[name])
            what = f"several files ({', '.join(p.name for p in found)})" if found else "no file"
            return {**item, "problem": f"{folder}: {what} for sequence {name!r}, wanted one named {wanted}."}
        image.append(str(found[0]))
    return {**item, "image": image, **_label(folder, _matching(files, label_suffixes))}


def _label(place: Path, labels: Sequence[Path]) -> dict[str, str]:
    if len(labels) > 1:
        return {"problem": f"{place}: several labels ({', '.join(p.name for p in labels)}), wanted one."}
    return {"label": str(labels[0])} if labels else {}


def _subjects_of_files(files: Sequence[Path], label_suffixes: Sequence[str]) -> list[dict]:
    labels = _matching(files, label_suffixes)
    items = []
    for path in (p for p in files if p not in labels):
        names = {f"{_stem(path)}{separator}{suffix}".lower() for suffix in label_suffixes for separator in "_-"}
        own = [p for p in labels if _stem(p).lower() in names]
        items.append({"subject": _stem(path), "image": str(path), **_label(path, own)})
    return items
