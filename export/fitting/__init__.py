"""Training DINO-MVR's probes on the frozen features of a backbone."""
