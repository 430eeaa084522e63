"""Segmentation of images: files, networks, presets, trainers, inferers, the scoring pass and pseudo-labels."""
