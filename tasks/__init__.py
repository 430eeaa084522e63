"""Everything that runs a network or touches image files."""
