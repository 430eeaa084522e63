"""One database: images, labels, records, rounds, leases, history, models."""
