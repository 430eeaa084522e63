"""What ``monailabel start_server --app apps/<name>`` loads: wiring, no algorithms."""
