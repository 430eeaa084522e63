"""What all trainings, inferences and scoring passes share."""
