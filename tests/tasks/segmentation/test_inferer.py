"""Sliding windows."""

from tasks.segmentation.inferer import window_size


def test_windows_are_no_larger_than_the_image_needs():
    assert window_size((35, 52, 34), (64, 64, 48), 4) == [36, 52, 36]
    assert window_size((100, 52, 3), (64, 64, 48), 16) == [64, 64, 16]
