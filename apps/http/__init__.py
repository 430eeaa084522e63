"""What stands between the network and the routes: bodies, files, errors, and what may run at once."""
