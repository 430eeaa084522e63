"""The app class, options, start-up, error answers and limits."""
