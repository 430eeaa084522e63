"""Segmentation of volumes: files, presets, trainers, inferers and the scoring pass."""
