"""Everything that decides what to label next: acquisition, selection, store, rounds."""
