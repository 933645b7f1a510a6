"""Numbers: partition functions and evidence, with errors that hold."""
