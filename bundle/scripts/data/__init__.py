"""From files to slices: data lists, splits, which slices of a volume are looked at, and the slices of a training."""
