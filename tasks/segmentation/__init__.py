"""Segmentation of volumes: networks, trainers, inferers and the scoring pass."""
