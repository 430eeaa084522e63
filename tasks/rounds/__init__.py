"""Rounds, leases, answers, plans, pseudo-labels, and the loop."""
