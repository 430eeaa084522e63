"""Trainings, scorings and batch inferences: which options a request may give, and how a job runs."""
