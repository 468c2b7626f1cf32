"""MONAI Deploy application of the bundle: DICOM study or folder of NIfTI in, results of the same kind out."""
