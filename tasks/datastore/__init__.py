"""Where images and labels are kept: folders and archives that take only what fits, and lose nothing."""
