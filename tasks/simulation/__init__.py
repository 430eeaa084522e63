"""Plays the annotator on images with true labels."""
