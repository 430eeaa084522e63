"""Pages, their scripts and styles, and what a browser may do with them."""
