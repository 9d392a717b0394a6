"""Values of the configuration that are right each for itself and cannot hold together."""
