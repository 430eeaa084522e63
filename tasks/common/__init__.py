"""Files, values and JSON from outside; temporary files."""
