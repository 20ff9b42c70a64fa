"""What a scan may look like: limits that the check before the plan and the stages share."""

from collections.abc import Sequence

COVERED = 0.95  # share of the cortex that must lie within the grid of an MNI run, or of the T1w
LONGEST_TR_S = 60.0  # a header's TR above this is taken for milliseconds
TR_TOLERANCE = 0.01  # headers round
VOXEL_MM = (0.3, 10.0)  # sides of a voxel that a scan may have


def same_tr(found_s: float, expected_s: float) -> bool:
    """Whether a header's TR (s) is the expected one, but for rounding."""
    return abs(found_s - expected_s) <= TR_TOLERANCE * expected_s


def swapped(shape: Sequence[int], volumes: int) -> bool:
    """Whether another axis than the last one is as long as the run should be, and the last is not."""
    return shape[-1] != volumes and volumes in shape[:-1]
