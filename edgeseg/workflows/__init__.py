"""One API function a module: what the command line's verbs do."""
